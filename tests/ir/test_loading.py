"""A loaded graph: captures are the very objects, names resolve from the inside out, nothing is shared."""

from __future__ import annotations

import gc
import random
import time
import warnings

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import ModelError
from graphopt.ir.fingerprint import fingerprint, signature
from graphopt.ir.graph import extras, scopes
from graphopt.ir.load import load
from graphopt.ir.save import to_proto


def parsed(text: str) -> gs.Graph:
    return load(onnx.parser.parse_model(text))


NESTED = """
<ir_version: 9, opset_import: ["": 17]>
g (float[2] x, bool c) => (float[2] y)
<float[2] k = {1, 2}>
{
    a = Neg(x)
    y = If(c) <
        then_branch = then () => (float[2] t) {
            t = If(c) <
                then_branch = deep () => (float[2] d) { d = Add(a, k) },
                else_branch = flat () => (float[2] f) { f = Abs(a) }
            >
        },
        else_branch = other () => (float[2] e) { e = Sub(x, k) }
    >
}
"""


def test_a_body_captures_the_very_tensor() -> None:
    graph = parsed(NESTED)
    a, k = graph.nodes[0].outputs[0], graph.nodes[1].attrs["else_branch"].nodes[0].inputs[1]
    inner = graph.nodes[1].attrs["then_branch"].nodes[0]
    add, flat = inner.attrs["then_branch"].nodes[0], inner.attrs["else_branch"].nodes[0]
    assert add.inputs[0] is a
    assert flat.inputs[0] is a
    assert add.inputs[1] is k
    assert {id(node) for node in a.outputs} == {id(add), id(flat)}
    assert a.inputs[0] is graph.nodes[0]


def test_a_name_defined_inside_hides_the_one_outside() -> None:
    model = onnx.parser.parse_model(NESTED.replace("deep () => (float[2] d) { d = Add(a, k) }",
        "deep () => (float[2] d) { a = Abs(x) d = Add(a, k) }"))  # fmt: skip
    graph = load(model)
    deep = graph.nodes[1].attrs["then_branch"].nodes[0].attrs["then_branch"]
    assert deep.nodes[1].inputs[0] is deep.nodes[0].outputs[0]
    assert deep.nodes[1].inputs[0] is not graph.nodes[0].outputs[0]
    feeds = {"x": np.float32([1, -2]), "c": np.bool_(True)}
    assert ReferenceEvaluator(to_proto(graph)).run(None, feeds)[0].tolist() == [2, 4]


def test_omitted_operands_are_never_shared() -> None:
    graph = parsed("""
<ir_version: 9, opset_import: ["": 17]>
g (float[4] x, int64[1] e) => (float[n] y, float[n] z)
<int64[1] s = {0}> { y = Slice(x, s, e, , ) z = Slice(x, s, e, , ) }
""")
    empty = [tensor for node in graph.nodes for tensor in node.inputs if tensor.is_empty()]
    assert len({id(tensor) for tensor in empty}) == len(empty) == 2
    assert all(len(tensor.outputs) == 1 for tensor in empty)


def test_an_overridable_initializer_stays_an_input() -> None:
    model = onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["": 17]>
g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {1, 2}> { y = Add(x, k) }
""")
    graph = load(model)
    k = graph.inputs[1]
    assert type(k) is gs.Variable
    assert graph.nodes[0].inputs[1] is k
    default = extras(k).default
    assert default is not None
    assert default.values.tolist() == [1, 2]
    assert to_proto(graph).graph.initializer[0].name == "k"
    assert [port.name for port in to_proto(graph).graph.input] == ["x", "k"]


def test_attributes_are_plain_values() -> None:
    node = helper.make_node(
        "Foo", ["x"], ["y"], domain="d", i=1, f=0.5, s="text", ints=[1, 2], floats=[0.5], strings=["a"]
    )
    node.attribute.add(name="raw", type=AttributeProto.STRING, s=b"\xff")
    node.attribute.add(name="none", type=AttributeProto.FLOATS)
    node.attribute.add(name="t", type=AttributeProto.TENSOR).t.CopyFrom(numpy_helper.from_array(np.int64([7])))
    node.attribute.add(name="kind", type=AttributeProto.TYPE_PROTO).tp.CopyFrom(helper.make_tensor_type_proto(1, [2]))
    for number in (1, 2):
        many = node.attribute.add(name=f"many{number}", type=AttributeProto.TENSORS)
        many.tensors.extend([numpy_helper.from_array(np.float32([number]))] * number)
    port = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph([node], "g", [port("x", 1, [2])], [port("y", 1, [2])]))
    model.opset_import.add(domain="d", version=1)
    attrs = load(model).nodes[0].attrs
    assert {name: attrs[name] for name in ("i", "f", "s", "ints", "floats", "strings", "raw", "none")} == {
        "i": 1, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5], "strings": ["a"], "raw": b"\xff", "none": [],
    }  # fmt: skip
    assert attrs["t"].values.tolist() == [7]
    written = {attribute.name: attribute for attribute in to_proto(load(model)).graph.node[0].attribute}
    assert written == {attribute.name: attribute for attribute in node.attribute}


def test_shapes_are_tuples_of_numbers_symbols_and_unknowns() -> None:
    port = helper.make_tensor_value_info
    ports = [port("a", 1, [2, "n", None]), port("b", 16, None), port("c", 1, [])]
    graph = load(
        helper.make_model(
            helper.make_graph([helper.make_node("Identity", ["a"], ["y"])], "g", ports, [port("y", 1, None)])
        )
    )
    assert [tensor.shape for tensor in graph.inputs] == [(2, "n", None), None, ()]
    assert all(isinstance(tensor.dtype, np.dtype) for tensor in graph.inputs)


def test_node_names_are_unique_in_the_whole_model() -> None:
    model = onnx.parser.parse_model(NESTED)
    nodes = [*model.graph.node, *model.graph.node[1].attribute[1].g.node]
    for node in nodes:
        node.name = "same"
    names = [node.name for scope in scopes(load(model)) for node in scope.nodes]
    assert len(set(names)) == len(names)
    assert all(names)
    assert "same" in names
    assert [node.name for scope in scopes(load(to_proto(load(model)))) for node in scope.nodes] == names


def test_lineage_of_an_earlier_run_is_read_back() -> None:
    model = onnx.parser.parse_model(NESTED)
    for key, value in (("graphopt.origin", '["conv", "bn"]'), ("graphopt.rule", '["fold"]'), ("other", "kept")):
        model.graph.node[0].metadata_props.add(key=key, value=value)
    entry = extras(load(model).nodes[0])
    assert (entry.origin, entry.rules, entry.metadata) == (("conv", "bn"), ("fold",), {"other": "kept"})
    assert list(to_proto(load(model)).graph.node[0].metadata_props) != []


def test_functions_of_one_name_are_told_apart_by_overload() -> None:
    opset = [helper.make_opsetid("", 17)]
    functions = [
        helper.make_function("d", "F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], opset, overload=overload)
        for op, overload in (("Neg", "one"), ("Abs", "two"))
    ]  # fmt: skip
    port = helper.make_tensor_value_info
    nodes = [helper.make_node("F", ["x"], ["y"], domain="d", overload="two")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [port("x", 1, [2])], [port("y", 1, [2])]),
        functions=functions, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("d", 1)], ir_version=10,
    )  # fmt: skip
    again = to_proto(load(model))
    assert [(f.name, f.overload, f.node[0].op_type) for f in again.functions] == [
        ("F", "one", "Neg"),
        ("F", "two", "Abs"),
    ]
    assert again.graph.node[0].overload == "two"


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 30))
def test_nodes_in_any_order_are_sorted(rng: random.Random, count: int) -> None:
    nodes = [
        helper.make_node("Add", [f"v{rng.randrange(i + 1)}", f"v{rng.randrange(i + 1)}"], [f"v{i + 1}"], name=f"n{i}")
        for i in range(count)
    ]
    rng.shuffle(nodes)
    ports = [helper.make_tensor_value_info(name, 1, [1]) for name in ("v0", f"v{count}")]
    graph = load(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:])))
    known = {"v0"}
    for node in graph.nodes:
        assert {tensor.name for tensor in node.inputs} <= known
        known.update(tensor.name for tensor in node.outputs)
    onnx.checker.check_model(to_proto(graph))


def test_nodes_in_order_keep_it() -> None:
    nodes = [helper.make_node("Neg", ["x"], [name]) for name in "cab"] + [
        helper.make_node("Sum", ["a", "b", "c"], ["y"])
    ]
    ports = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = load(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:])))
    assert [node.outputs[0].name for node in graph.nodes] == ["c", "a", "b", "y"]


def test_loading_leaves_the_message_and_the_collector_as_they_were() -> None:
    model = onnx.parser.parse_model(NESTED)
    before = model.SerializeToString(deterministic=True)
    graph = load(model)
    graph.nodes[0].attrs["new"] = 1
    graph.nodes[1].attrs["else_branch"].nodes[0].op = "Add"
    to_proto(graph)
    assert model.SerializeToString(deterministic=True) == before
    assert gc.isenabled()
    with pytest.raises(ModelError):
        load(b"no model")
    assert gc.isenabled()


def edited(graph: gs.Graph, what: str) -> None:
    body = graph.nodes[1].attrs["else_branch"].nodes[0]
    if what == "operator":
        body.op = "Add"
    elif what == "attribute":
        body.attrs["new"] = 1
    elif what == "edge":
        body.inputs[0] = graph.nodes[0].outputs[0]
    elif what == "order of operands":
        body.inputs = list(reversed(body.inputs))
    elif what == "input name":
        graph.inputs[0].name = "z"
    elif what == "input shape":
        graph.inputs[0].shape = (3,)
    elif what == "output":
        graph.outputs = [graph.nodes[0].outputs[0]]
    elif what == "weight":
        body.inputs[1] = gs.Constant("k", np.float32([1, 3]))


EDITS = ["operator", "attribute", "edge", "order of operands", "input name", "input shape", "output", "weight"]


@pytest.mark.parametrize("what", EDITS)
def test_every_edit_is_seen(what: str) -> None:
    graph = parsed(NESTED)
    marks = fingerprint(graph), signature(graph)
    edited(graph, what)
    assert fingerprint(graph) != marks[0]
    assert signature(graph) != marks[1]


def test_inner_names_do_not_count() -> None:
    graph = parsed(NESTED)
    mark = fingerprint(graph)
    for scope in scopes(graph):
        for node in scope.nodes:
            node.name += "_"
            for tensor in node.outputs:
                if tensor is not graph.outputs[0]:
                    tensor.name += "_"
    assert fingerprint(graph) == mark


def chain(blocks: int) -> bytes:
    nodes, weights = [], []
    for i in range(blocks):
        names = [f"w{i}", f"s{i}", f"b{i}", f"m{i}", f"v{i}"]
        weights += [numpy_helper.from_array(np.ones((4, 4, 1, 1) if n[0] == "w" else 4, np.float32), n) for n in names]
        nodes += [
            helper.make_node("Conv", [f"r{i}", names[0]], [f"c{i}"]),
            helper.make_node("BatchNormalization", [f"c{i}", *names[1:]], [f"n{i}"]),
            helper.make_node("Relu", [f"n{i}"], [f"r{i + 1}"]),
        ]
    ports = [helper.make_tensor_value_info(name, 1, [1, 4, 8, 8]) for name in ("r0", f"r{blocks}")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def test_time_is_linear() -> None:
    def seconds(raw: bytes) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            graph = load(raw)
            to_proto(graph)
            fingerprint(graph)
            times.append(time.process_time() - start)
        return min(times)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small, large = seconds(chain(400)), seconds(chain(3200))
    assert large < 8 * small * 1.8, f"{small:.3f} s for 1,200 nodes, {large:.3f} s for 9,600"
