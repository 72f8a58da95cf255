"""float16 and bfloat16: what is written, what is kept in float32, and that the fewest casts are."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt.config import Target
from graphopt.errors import UsageError, VerificationError
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.manifest import nodes_of
from graphopt.numerics.execute import Runner, execute
from graphopt.numerics.rounding import execute_rounded, rounded
from graphopt.precision.plan import Entry, Plan
from graphopt.precision.stage import Precision, Request, lower
from graphopt.precision.write import write_plan
from graphopt.testing import model

RNG = np.random.default_rng(0)


def lowered(source: onnx.ModelProto, precision: str = "fp16", **words) -> tuple[onnx.ModelProto, Precision]:
    graph = load(source)
    found = lower(graph, Request(precision, **words), Target())
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=precision != "bf16")
    return result, found


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def dtype_of(proto: onnx.ModelProto, name: str) -> int:
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    return next(v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)
                if v.name == name)  # fmt: skip


MLP = "g (float[N,16] x) => (float[N,8] y) { a = MatMul(x, w) b = Add(a, c) d = Relu(b) y = MatMul(d, v) }"
MLP_WEIGHTS = {"w": (16, 32), "c": (32,), "v": (32, 8)}
RMS = """g (float[4,16] x) => (float[4,16] y) {
    a = MatMul(x, w) b = Mul(a, a) m = ReduceMean<axes = [1], keepdims = 1>(b) e = Add(m, eps) s = Sqrt(e)
    n = Div(a, s) y = MatMul(n, v)
}"""
RMS_WEIGHTS = {"w": (RNG.standard_normal((16, 16)) * 200).astype(np.float32), "eps": 1e-6, "v": (16, 16)}


def test_inputs_and_outputs_keep_their_types_for_two_casts():
    result, found = lowered(model(MLP, weights=MLP_WEIGHTS))
    assert ops(result) == ["Cast", "MatMul", "Add", "Relu", "MatMul", "Cast"]
    assert found.writes.casts == 2
    assert {t.data_type for t in result.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert found.error["y"] < 2e-3


def test_inputs_and_outputs_change_on_request():
    result, found = lowered(model(MLP, weights=MLP_WEIGHTS), io="change")
    assert ops(result) == ["MatMul", "Add", "Relu", "MatMul"]
    assert result.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert result.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert found.judged


def test_bfloat16():
    result, found = lowered(model(MLP, weights=MLP_WEIGHTS), "bf16")
    assert {t.data_type for t in result.graph.initializer} == {onnx.TensorProto.BFLOAT16}
    assert 1e-4 < found.error["y"] < 2e-2


def test_the_graph_that_onnxruntime_calls_right_though_it_overflows(tmp_path):
    """x*x of 1e6 is infinity in float16. onnxruntime's CPU provider runs the chain in float32 and never sees it."""
    source = model(RMS, weights=RMS_WEIGHTS)
    feeds = {"x": RNG.standard_normal((4, 16)).astype(np.float32)}
    want = execute(source.SerializeToString(), [feeds]).outputs[0]["y"]
    blind = load(source)
    all_low = Plan(tensors={t.name: Entry("float16") for node in blind.nodes for t in node.outputs})
    write_plan(blind, all_low, {})
    raw = to_proto(blind).SerializeToString()
    broken = execute_rounded(raw, [feeds]).outputs[0]["y"]
    assert not np.allclose(broken, want, rtol=0.1), "rounded after every operator, it is wrong"

    result, found = lowered(source, calib=[feeds])
    kept = {name for name, entry in found.plan.tensors.items() if entry.dtype == "float32"}
    assert kept == {"x", "b", "m", "e", "s"}
    assert "beyond float16" in found.plan.tensors["b"].why
    repaired = execute_rounded(result.SerializeToString(), [feeds]).outputs[0]["y"]
    assert np.linalg.norm(repaired - want) < 3e-3 * np.linalg.norm(want)
    assert _fewest(source, feeds, want, tmp_path / "m.onnx") == len(kept - {"x"})


def _fewest(source: onnx.ModelProto, feeds, want, path) -> int:
    """By trying all: the least number of nodes in float32 with which the rounded result is right."""
    names = ["a", "b", "m", "e", "s", "n"]
    with Runner() as runner:
        for count in range(len(names) + 1):
            for high in itertools.combinations(names, count):
                graph = load(source)
                plan = Plan(tensors={n: Entry("float32" if n in high else "float16") for n in [*names, "y"]})
                write_plan(graph, plan, {})
                onnx.save(rounded(to_proto(graph)), path)
                runner.open(path)
                if np.linalg.norm(runner.run(feeds)["y"] - want) < 1e-2 * np.linalg.norm(want):
                    return count
    raise AssertionError("not even all of them")


def test_a_masking_constant_becomes_one_that_float16_holds():
    text = """g (float[2,4,4] x, bool[2,4,4] mask) => (float[2,4,4] y) {
        s = MatMul(x, x) m = Where(mask, s, low) y = Softmax<axis = -1>(m) }"""
    source = model(text, weights={"low": np.float32(-3.4e38)})
    result, found = lowered(source)
    assert found.writes.casts == 2
    assert min(onnx.numpy_helper.to_array(t).min() for t in result.graph.initializer) == -32752
    assert found.error["y"] < 5e-3


def test_the_same_constant_stays_where_it_does_not_end_in_a_softmax():
    text = "g (float[2,4] x, bool[2,4] mask) => (float[2,4] y) { s = MatMul(x, w) y = Where(mask, s, low) }"
    source = model(text, weights={"w": (4, 4), "low": np.float32(-3.4e38)})
    _, found = lowered(source)
    assert found.plan.tensors["y"].dtype == "float32"
    assert "beyond float16" in found.plan.tensors["y"].why


def test_an_epsilon_does_not_become_zero():
    text = """g (float[4,8] x) => (float[4,8] y) {
        a = MatMul(x, w) s = ReduceMean<axes = [1]>(a) z = Sub(s, s) e = Add(z, eps) r = Sqrt(e) y = Div(a, r) }"""
    result, _ = lowered(model(text, weights={"w": (8, 8), "eps": np.float32(1e-8)}), max_error=1e9)
    small = [onnx.numpy_helper.to_array(t) for t in result.graph.initializer if not t.dims]
    assert all(value > 0 for value in small)


def test_index_arithmetic_stays():
    text = """g (float[4] x, float[5000,8] table) => (float[4,8] y) {
        p = Mul(x, scale) f = Floor(p) i = Cast<to = 7>(f) c = Clip(i, zero, top) y = Gather(table, c) }"""
    weights = {"scale": np.float32(4999), "zero": np.int64(0), "top": np.int64(4999)}
    result, found = lowered(model(text, weights=weights))
    assert {name for name, entry in found.plan.tensors.items() if entry.why == "index arithmetic"} == {"p", "f"}
    assert ops(result).count("Cast") == 1 + found.writes.casts


def test_keep_takes_operators_and_node_names():
    source = model(MLP, weights=MLP_WEIGHTS)
    for number, node in enumerate(source.graph.node):
        node.name = f"n{number}"
    result, found = lowered(source, keep=("n1", "Relu"))
    assert {n for n, e in found.plan.tensors.items() if e.dtype == "float32"} == {"x", "b", "d"}
    assert found.plan.tensors["b"].why == "--keep n1"
    assert ops(result) == ["Cast", "MatMul", "Cast", "Add", "Relu", "Cast", "MatMul", "Cast"]
    with pytest.raises(UsageError, match="matches no operator"):
        lowered(source, keep=("Conv",))


def test_cheap_nodes_between_kept_ones_are_kept_too():
    text = "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = Exp(a) c = Neg(b) d = Exp(c) y = MatMul(d, w) }"
    _, found = lowered(model(text, weights={"w": (8, 8)}), keep=("Exp",), max_error=1.0)
    assert found.plan.tensors["c"].why == "between float32 nodes: saves casts"
    assert found.writes.casts == 4


def test_a_weight_of_two_readers_of_different_dtypes_is_held_twice():
    text = "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = Exp(a) y = MatMul(b, w) }"
    source = model(text, weights={"w": RNG.standard_normal((8, 8)).astype(np.float32) * 0.1})
    source.graph.node[2].name = "last"
    result, _ = lowered(source, keep=("last",))
    kinds = sorted(t.data_type for t in result.graph.initializer)
    assert kinds == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16]


def test_control_flow_is_low_inside_and_out():
    text = """g (float[4,4] x, int64 n) => (float[4,4] y) {
        c = Constant<value: tensor = bool {1}>() z = Relu(x)
        y = Loop(n, c, z) <body = body (int64 i, bool go, float[4,4] s) => (bool go2, float[4,4] t) {
            go2 = Identity(go) u = MatMul(s, x) t = Sigmoid(u) }> }"""
    source = model(text)
    result, found = lowered(source, calib=[{"x": np.eye(4, dtype=np.float32), "n": np.int64(3)}])
    body = next(a.g for node in result.graph.node for a in node.attribute if a.name == "body")
    assert body.input[2].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert not [node for node in body.node if node.op_type == "Cast"], "what the body captures is cast outside"
    assert found.judged
    assert found.error["y"] < 2e-3


def test_both_branches_give_one_dtype():
    text = """g (float[4] x, bool p) => (float[4] y) {
        y = If(p) <then_branch = t () => (float[4] a) { a = Exp(x) },
                   else_branch = e () => (float[4] b) { b = Neg(x) }> }"""
    result, found = lowered(model(text), keep=("Exp",))
    assert dtype_of(result, "y") == onnx.TensorProto.FLOAT
    assert found.judged


@pytest.mark.parametrize("opset", [13, 16, 21])
def test_identity_passes_low_values_on(opset):
    """From opset 16 on its schema takes sequences and optional values, too: that is no reason to cast around it."""
    source = model(
        """g (float[4,16] x, bool p) => (float[4,16] y) {
        a = MatMul(x, w)
        b = If(p) <then_branch = t () => (float[4,16] c) { c = Relu(a) },
                   else_branch = e () => (float[4,16] d) { d = Identity(a) }>
        y = MatMul(b, w) }""",
        weights={"w": (16, 16)},
        opset=opset,
    )
    _, found = lowered(source)
    assert found.writes.casts == 2
    assert not any("Identity" in entry.why for entry in found.plan.tensors.values())


def test_functions_keep_their_dtypes():
    text = """<ir_version: 10, opset_import: ["" : 17, "my" : 1]>
    g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = my.f(a) y = MatMul(b, w) }
    <domain: "my", opset_import: ["" : 17]> f (a) => (b) { k = Constant<value: tensor = float {2}>() b = Mul(a, k) }"""
    result, found = lowered(model(text, weights={"w": (8, 8)}))
    assert found.plan.tensors["b"].dtype == "float32"
    assert ops(result) == ["Cast", "MatMul", "Cast", "f", "Cast", "MatMul", "Cast"]
    assert found.judged


def test_what_is_low_already_stays_as_it_is():
    text = """g (float16[4,8] x) => (float16[4,8] y) {
        a = MatMul(x, w) b = Cast<to = 1>(a) c = Exp(b) d = Cast<to = 10>(c) y = MatMul(d, w) }"""
    source = model(text, weights={"w": RNG.standard_normal((8, 8)).astype(np.float16) * np.float16(0.1)})
    result, found = lowered(source)
    assert ops(result) == ops(source)
    assert found.writes.casts == 0


def test_an_error_beyond_the_budget_is_an_error_that_says_what_to_do():
    with pytest.raises(VerificationError, match=r"'y' is off by .* 1e-06 are allowed") as caught:
        lowered(model(MLP, weights=MLP_WEIGHTS), max_error=1e-6)
    assert "--max-error" in caught.value.hint


def test_an_output_that_other_nodes_read_is_cast_once():
    text = "g (float[N,8] x) => (float[N,8] y, float[N,8] a) { a = MatMul(x, w) y = MatMul(a, w) }"
    result, found = lowered(model(text, weights={"w": (8, 8)}))
    assert found.writes.casts == 3
    assert [v.name for v in result.graph.output] == ["y", "a"]


def test_the_whole_run(tmp_path):
    """Command to file: verified in float32 first, then lowered, judged, and the plan replays to the same bytes."""
    path, again, plan = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "plan.json"
    onnx.save(model(MLP, weights=MLP_WEIGHTS), tmp_path / "m.onnx")
    result = graphopt.optimize(tmp_path / "m.onnx", output=path, precision=Request("fp16", plan_output=plan))
    assert result.status == "ok"
    assert result.report.precision["casts"] == 2
    graphopt.optimize(tmp_path / "m.onnx", output=again, precision=Request("fp16", plan=plan))
    assert path.read_bytes() == again.read_bytes()


def test_bfloat16_values_are_rounded_to_nearest():
    values = RNG.standard_normal((16, 16)).astype(np.float32)
    text = "g (float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }"
    result, _ = lowered(model(text, weights={"w": values}), "bf16")
    held = onnx.numpy_helper.to_array(result.graph.initializer[0]).astype(np.float32)
    np.testing.assert_array_equal(held, values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_written_stands_for_source_nodes(precision):
    """Casts and quantizing nodes beside a node that a rule made: the report and the profile name what was exported."""
    text = "g (float[64,64] x) => (float[64,64] y) { a = MatMul(x, w) b = Relu(a) y = Gemm(b, v, z) }"
    source = model(text, weights={"w": (64, 64), "v": (64, 64), "z": np.zeros(64, np.float32)})
    for number, node in enumerate(source.graph.node):
        node.name = f"source_{number}"
    feeds = {"x": RNG.standard_normal((64, 64)).astype(np.float32)}
    request = Request(precision, calib=[feeds], max_error=0.1)
    graph = graphopt.optimize(source, precision=request, inputs=feeds, target=Target("tensorrt_rtx", "1.7.1")).graph
    assert {"Cast", "QuantizeLinear"} & {node.op for node in graph.nodes}
    for name, node in nodes_of(graph).items():
        assert set(node["from"]) <= {"source_0", "source_1", "source_2"}, name
