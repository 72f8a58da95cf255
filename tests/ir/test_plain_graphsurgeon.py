"""Code written for graphsurgeon works on a loaded graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from graphopt.ir.load import load
from graphopt.ir.save import to_proto

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
chain (float[2] x) => (float[2] y)
<float[2] k = {1, 2}>
{
    a = Add(x, k)
    b = Neg(a)
    y = Abs(b)
}
"""


def chain() -> gs.Graph:
    return load(onnx.parser.parse_model(TEXT))


def run(graph: gs.Graph) -> list[float]:
    model = to_proto(graph)
    onnx.checker.check_model(model, full_check=True)
    return ReferenceEvaluator(model).run(None, {"x": np.float32([3, -5])})[0].tolist()


def test_the_model_computes_what_it_should() -> None:
    assert run(chain()) == [4, 3]


def test_a_node_is_inserted() -> None:
    graph = chain()
    add = graph.nodes[0]
    new = gs.Variable("new", np.float32, [2])
    graph.nodes.append(gs.Node("Mul", inputs=[graph.inputs[0], graph.inputs[0]], outputs=[new]))
    add.inputs[0] = new
    assert [node.op for node in graph.inputs[0].outputs] == ["Mul", "Mul"]
    graph.cleanup().toposort()
    assert [node.op for node in graph.nodes] == ["Mul", "Add", "Neg", "Abs"]
    assert run(graph) == [10, 27]


def test_a_node_is_bypassed_and_cleaned_up() -> None:
    graph = chain()
    neg = graph.nodes[1]
    neg.o().inputs[0] = neg.inputs[0]
    graph.cleanup()
    assert [node.op for node in graph.nodes] == ["Add", "Abs"]
    assert run(graph) == [4, 3]


def test_a_tensor_is_disconnected() -> None:
    graph = chain()
    add, neg = graph.nodes[:2]
    add.outputs.clear()
    neg.inputs = [graph.inputs[0]]
    graph.cleanup()
    assert [node.op for node in graph.nodes] == ["Neg", "Abs"]
    assert run(graph) == [3, 5]


def test_values_are_replaced() -> None:
    graph = chain()
    constant = graph.nodes[0].inputs[1]
    constant.values = constant.values * 10
    assert run(graph) == [13, 15]


def test_a_tensor_becomes_a_constant() -> None:
    graph = chain()
    middle = graph.nodes[0].outputs[0]
    middle.inputs.clear()
    middle.to_constant(np.float32([7, -8]))
    graph.cleanup()
    assert [node.op for node in graph.nodes] == ["Neg", "Abs"]
    assert run(graph) == [7, 8]


def test_layers_are_added_by_name() -> None:
    graph = chain()
    (made,) = graph.layer(op="Relu", inputs=[graph.outputs[0]], outputs=["z"])
    made.dtype, made.shape = np.float32, (2,)
    graph.outputs = [made]
    assert run(graph.cleanup().toposort()) == [4, 3]


def test_tensors_and_copy_see_the_whole_graph() -> None:
    graph = chain()
    assert set(graph.tensors()) == {"x", "k", "a", "b", "y"}
    assert [node.op for node in graph.copy().nodes] == ["Add", "Neg", "Abs"]
    assert gs.export_onnx(graph).graph.node[0].op_type == "Add"


def test_a_graph_that_graphsurgeon_imported_is_taken() -> None:
    graph = load(gs.import_onnx(onnx.parser.parse_model(TEXT)))
    graph.nodes[1].op = "Identity"
    assert run(graph) == [4, 3]


def test_a_graph_that_is_built_from_nothing_is_written() -> None:
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    node = gs.Node("Add", inputs=[x, gs.Constant("k", np.float32([1, 1]))], outputs=[y])
    assert run(load(gs.Graph([node], [x], [y], opset=17))) == [4, -4]
