"""--opset: the same numbers at another opset, with everything that the converter of ONNX loses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.errors import ModelError, UsageError, VerificationError
from graphopt.ir.convert import convert_opset
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.pipeline import optimize
from graphopt.testing import _same_numbers, model


def converted(source: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, dict[str, int]]:
    graph = load(source)
    counts = convert_opset(graph, opset)
    result = to_proto(graph)
    onnx.checker.check_model(result)
    assert [entry.version for entry in result.opset_import if entry.domain == ""] == [opset]
    return result, counts


OLD = """g (float[N,3,4] x) => (float[N,4] y, float[N,3,4] z) {
    a = ReduceSum<axes=[1]>(x) b = Squeeze<axes=[1]>(a) c = Unsqueeze<axes=[0]>(b) d = Squeeze<axes=[0]>(c)
    y = Relu(d) s = Softmax<axis=2>(x) z = Add(s, x) }"""


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_operands_move_and_the_numbers_stay(opset: int):
    source = model(OLD, opset=11)
    result, counts = converted(source, opset)
    assert counts.items() >= {"ReduceSum": 1, "Squeeze": 2, "Unsqueeze": 1, "Softmax": 1}.items()
    assert "Add" not in counts  # only its dtypes grew
    _same_numbers(source, result, None, 3)


def test_a_softmax_over_several_axes():
    source = model("g (float[N,3,4] x) => (float[N,3,4] y) { y = Softmax(x) }", opset=11)
    result, _ = converted(source, 13)
    _same_numbers(source, result, None, 3)


def test_bodies_are_converted_too():
    source = model(
        """g (float[N,3] x, bool c) => (float[N] y) { y = If (c) <
        then_branch = t () => (float[N] p) { p = ReduceMean<axes=[1], keepdims=0>(x) },
        else_branch = e () => (float[N] q) { q = ReduceMax<axes=[1], keepdims=0>(x) }> }"""
    )
    result, counts = converted(source, 18)
    assert counts == {"ReduceMean": 1, "ReduceMax": 1}
    _same_numbers(source, result, None, 3)


def test_what_the_converter_loses_stays():
    source = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 13, "l" : 1]> g (float[N,3] x) => (float[N] y) {
        a = ReduceMax<axes=[1], keepdims=0>(x) y = l.F(a) }
        <domain: "l", opset_import: ["" : 13]> F (p) => (r) { r = Exp(p) }"""
    )
    source.graph.node[1].metadata_props.add(key="k", value="v")
    source.metadata_props.add(key="about", value="it")
    result, _ = converted(source, 18)
    assert len(result.functions) == 1
    assert [(prop.key, prop.value) for prop in result.graph.node[1].metadata_props] == [("k", "v")]
    assert [prop.value for prop in result.metadata_props] == ["it"]
    _same_numbers(source, result, None, 3)


def test_weights_are_not_read(tmp_path, monkeypatch: pytest.MonkeyPatch):
    text = "g (float[N,64] x) => (float[N] y) { a = MatMul(x, w) y = ReduceMax<axes=[1], keepdims=0>(a) }"
    source = model(text, weights={"w": (64, 64)}, opset=13)
    onnx.save_model(source, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    graph = load(tmp_path / "m.onnx")
    monkeypatch.setattr("graphopt.ir.weights.ExternalValues.load", lambda self: pytest.fail("a weight was read"))
    convert_opset(graph, 18)


def test_a_node_that_cannot_be_said_is_named():
    with pytest.raises(ModelError, match="LayerNormalization cannot be said at opset 13") as caught:
        convert_opset(
            load(model("g (float[2,3] x, float[3] w) => (float[2,3] y) { y = LayerNormalization(x, w) }")), 13
        )
    assert "node 'LayerNormalization_0'" in str(caught.value)


def test_functions_whose_operators_change_are_named():
    text = """<ir_version: 10, opset_import: ["" : 13, "l" : 1]> g (float[N,3] x) => (float[N] y) { y = l.F(x) }
        <domain: "l", opset_import: ["" : 13]> F (p) => (r) { r = ReduceMax<axes=[1], keepdims=0>(p) }"""
    with pytest.raises(ModelError, match="ReduceMax is spelled otherwise at opset 18"):
        convert_opset(load(onnx.parser.parse_model(text)), 18)


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_that_do_not_exist(opset: int):
    with pytest.raises(UsageError, match="choose 7 to"):
        convert_opset(load(model(OLD, opset=11)), opset)


def test_the_result_is_held_against_the_source(monkeypatch: pytest.MonkeyPatch):
    """A conversion that is wrong is caught, as a wrong pass is."""
    result = optimize(model(OLD, opset=11), opset=18)
    assert result.report.status == "ok"
    assert result.report.opset is not None
    assert (result.report.opset["before"], result.report.opset["after"]) == (11, 18)
    assert result.graph.opset == 18

    def wrong(graph, opset):
        counts = convert_opset(graph, opset)
        next(node for node in graph.nodes if node.op == "Relu").op = "Neg"
        return counts

    monkeypatch.setattr("graphopt.job.convert_opset", wrong)
    with pytest.raises(VerificationError):
        optimize(model(OLD, opset=11), opset=18)


def test_downwards_where_nothing_new_is_used():
    text = "g (float[N,6] x) => (float[N,2,3] y) { a = Reshape(x, s) y = Add(a, a) }"
    source = model(text, weights={"s": np.array([0, 2, 3])}, opset=14)
    result, counts = converted(source, 13)
    assert counts == {}
    _same_numbers(source, result, None, 3)
