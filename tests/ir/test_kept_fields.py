"""Fields that are easily lost, and graphs that are easily confused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir.fingerprint import fingerprint, signature
from graphopt.ir.graph import extras, scopes
from graphopt.ir.load import load
from graphopt.ir.save import to_proto, write

OPSET = [helper.make_opsetid("", 17)]


def port(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, 1, [2])


def model(nodes: list[onnx.NodeProto], inputs: str = "x", weights: object = (), **more: object) -> onnx.ModelProto:
    ports = [port(name) if name != "c" else helper.make_tensor_value_info("c", 9, []) for name in inputs]
    graph = helper.make_graph(nodes, "g", ports, [port("y")], list(weights))  # type: ignore[call-overload]
    return helper.make_model(graph, **{"opset_imports": OPSET, "ir_version": 11, **more})  # type: ignore[arg-type]


def body(nodes: list[onnx.NodeProto], result: str, weights: object = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [port(result)], list(weights))  # type: ignore[call-overload]


def branch(then: onnx.GraphProto, result: str, other: str) -> onnx.NodeProto:
    rest = body([helper.make_node("Neg", ["x"], [other])], other)
    return helper.make_node("If", ["c"], [result], then_branch=then, else_branch=rest)


def test_documentation_of_attributes_and_device_configurations() -> None:
    source = model([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)])
    source.graph.node[0].attribute[0].doc_string = "why a half"
    source.graph.node[0].device_configurations.add(configuration_id="two gpus", pipeline_stage=1)
    source.configuration.add(name="two gpus", num_devices=2)
    written = to_proto(load(source))
    assert written.graph.node[0].attribute[0].doc_string == "why a half"
    assert written.graph.node[0].device_configurations == source.graph.node[0].device_configurations
    assert written.configuration == source.configuration


def test_scales_that_only_a_quantization_annotation_names() -> None:
    source = model([helper.make_node("Relu", ["x"], ["y"])], weights=[numpy_helper.from_array(np.float32(1), "scale")])
    note = source.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    written = to_proto(load(source))
    assert written.graph.quantization_annotation == source.graph.quantization_annotation
    assert written.graph.initializer == source.graph.initializer


def test_a_constant_goes_to_the_innermost_graph_that_holds_its_users() -> None:
    adds = [body([helper.make_node("Add", ["x", "k"], [name])], name) for name in ("p", "q")]
    inner = helper.make_node("If", ["c"], ["t"], then_branch=adds[0], else_branch=adds[1])
    source = model([branch(body([inner], "t", [numpy_helper.from_array(np.ones(2, "f"), "k")]), "y", "e")], "xc")
    written = to_proto(load(source))
    onnx.checker.check_model(written)
    assert not written.graph.initializer
    then = next(a.g for a in written.graph.node[0].attribute if a.name == "then_branch")
    assert [tensor.name for tensor in then.initializer] == ["k"]


def test_explicit_names_inside_bodies_win_over_made_up_ones() -> None:
    named = body([helper.make_node("Neg", ["x"], ["t"], name="Neg_0")], "t")
    graph = load(model([helper.make_node("Neg", ["x"], ["n"]), branch(named, "y", "e")], "xc"))
    names = [node.name for scope in scopes(graph) for node in scope.nodes]
    assert graph.nodes[1].attrs["then_branch"].nodes[0].name == "Neg_0"
    assert len(set(names)) == len(names)


def test_all_graphs_share_one_list_of_functions() -> None:
    function = helper.make_function("d", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], OPSET)
    called = body([helper.make_node("F", ["x"], ["t"], domain="d")], "t")
    imports = [*OPSET, helper.make_opsetid("d", 1)]
    graph = load(model([branch(called, "y", "e")], "xc", functions=[function], opset_imports=imports))
    assert all(scope.functions is graph.functions for scope in scopes(graph))


def test_nodes_made_of_constants_in_functions_have_names_of_their_own() -> None:
    functions = [
        helper.make_function("d", name, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], OPSET) for name in "FG"
    ]
    nodes = [helper.make_node("F", ["x"], ["h"], domain="d"), helper.make_node("G", ["h"], ["y"], domain="d")]
    graph = load(model(nodes, functions=functions, opset_imports=[*OPSET, helper.make_opsetid("d", 1)]))
    for made in graph.functions:
        made.nodes[0].op = "Add"
        made.nodes[0].inputs.append(gs.Constant("k", np.ones(2, np.float32)))
    names = [node.name for function in to_proto(graph).functions for node in function.node]
    assert len(set(names)) == 4


def test_metadata_of_values_raises_the_ir_version() -> None:
    graph = load(model([helper.make_node("Relu", ["x"], ["y"])], ir_version=8))
    extras(graph.inputs[0]).metadata["key"] = "value"
    assert to_proto(graph).ir_version == 10


def test_a_newer_ir_version_is_a_warning() -> None:
    source = model([helper.make_node("Relu", ["x"], ["y"])], ir_version=onnx.IR_VERSION + 1)
    with pytest.warns(UserWarning, match=r"IR version \d+ is newer"):
        load(source)


def test_a_model_too_deep_to_be_read_back_is_not_written(tmp_path: Path) -> None:
    def nested(depth: int) -> gs.Graph:
        x, c = gs.Variable("x", np.float32, [2]), gs.Variable("c", np.bool_, [])
        made: gs.Graph | None = None
        for i in range(depth + 1):
            out = gs.Variable(f"v{i}", np.float32, [2])
            rest = gs.Variable(f"e{i}", np.float32, [2])
            other = gs.Graph([gs.Node("Neg", f"neg{i}", inputs=[x], outputs=[rest])], outputs=[rest], opset=17)
            attrs = {} if made is None else {"then_branch": made, "else_branch": other}
            inputs = [x] if made is None else [c]
            node = gs.Node("Neg" if made is None else "If", f"node{i}", attrs, inputs, [out])
            made = gs.Graph([node], outputs=[out], opset=17)
        assert made is not None
        made.inputs = [x, c]
        return load(made)

    write(nested(31), tmp_path / "m.onnx")
    load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="nested"):
        write(nested(32), tmp_path / "m.onnx")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.int4])
def test_what_graphsurgeon_imported_is_the_same_model(dtype: type) -> None:
    weight = numpy_helper.from_array(np.ones(2).astype(dtype), "k")
    source = model([helper.make_node("Cast", ["k"], ["y"], to=1)], weights=[weight])
    assert fingerprint(load(gs.import_onnx(source))) == fingerprint(load(source))


def test_values_can_be_written_to_in_place_as_in_graphsurgeon() -> None:
    source = model(
        [helper.make_node("Add", ["x", "k"], ["y"])], weights=[numpy_helper.from_array(np.ones(2, "f"), "k")]
    )
    graph = load(source)
    before = fingerprint(graph)
    graph.nodes[0].inputs[1].values[0] = 5
    assert numpy_helper.to_array(to_proto(graph).graph.initializer[0]).tolist() == [5, 1]
    assert fingerprint(graph) != before
    assert fingerprint(load(source)) == before


def test_domains_and_bytes_are_part_of_the_signature() -> None:
    graph = load(model([helper.make_node("Foo", ["x"], ["y"])]))
    node = graph.nodes[0]
    mark = signature(graph)
    node.domain = "d"
    assert signature(graph) != mark
    node.attrs["raw"] = [b"\xff"]
    mark = signature(graph)
    node.attrs["raw"].append(b"\xfe")
    assert signature(graph) != mark


def test_types_of_sequences_are_part_of_the_fingerprint() -> None:
    marks = set()
    for number in (1, 7):
        source = model([helper.make_node("SequenceLength", ["s"], ["y"])])
        source.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("s", number, None))
        marks.add(fingerprint(load(source)))
    assert len(marks) == 2


def test_attributes_without_a_python_value_are_part_of_the_fingerprint() -> None:
    marks = set()
    for value in (1, 2):
        source = model([helper.make_node("Foo", ["x"], ["y"], domain="d")])
        many = source.graph.node[0].attribute.add(name="many", type=AttributeProto.TENSORS)
        many.tensors.append(numpy_helper.from_array(np.float32([value])))
        marks.add(fingerprint(load(source)))
    assert len(marks) == 2
