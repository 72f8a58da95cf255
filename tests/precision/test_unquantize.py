"""Models in onnxruntime's quantized forms come back to float, and to TensorRT's form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import graphopt
from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.execute import execute
from graphopt.precision.lint import lint
from graphopt.precision.stage import Request, lower
from graphopt.precision.unquantize import OPERATORS, unquantize
from graphopt.testing import model

RNG = np.random.default_rng(3)
CONVS = """g (float[2,16,8,8] x) => (float[2,16,8,8] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1) r = Relu(a) m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    u = Sigmoid(m) c = Concat<axis = 1>(m, u) d = Conv(c, w2, b2) t = Reshape(d, s) y = Add(t, x) }"""
PRODUCTS = """g (float[4,32] x) => (float[4,32] y) {
    a = MatMul(x, w) b = Add(a, c) r = Relu(b) m = MatMul(r, v) y = Gemm<transB = 1>(m, w, e) }"""


def networks():
    weights = {n: (RNG.standard_normal(s) / 6).astype(np.float32)
               for n, s in {"w1": (16, 16, 3, 3), "b1": (16,), "w2": (64, 32, 1, 1), "b2": (64,)}.items()}  # fmt: skip
    yield model(CONVS, weights={**weights, "s": np.array([2, 16, 8, 8])}, opset=17)
    weights = {n: (RNG.standard_normal(s) / 6).astype(np.float32)
               for n, s in {"w": (32, 32), "c": (32,), "v": (32, 32), "e": (32,)}.items()}  # fmt: skip
    yield model(PRODUCTS, weights=weights, opset=17)


NETWORKS = list(networks())


class Data(CalibrationDataReader):
    def __init__(self, shape):
        self.left = [{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(4)]

    def get_next(self):
        return self.left.pop() if self.left else None


def quantized(number: int, form: str, path) -> onnx.ModelProto:
    source = NETWORKS[number]
    onnx.save(source, path / "float.onnx")
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    if form == "dynamic":
        quantize_dynamic(path / "float.onnx", path / "q.onnx", weight_type=QuantType.QInt8)
    else:
        kinds = {"unsigned": QuantType.QUInt8, "signed": QuantType.QInt8}
        layout = QuantFormat.QOperator if form.startswith("operator") else QuantFormat.QDQ
        quantize_static(path / "float.onnx", path / "q.onnx", Data(shape), quant_format=layout,
                        activation_type=kinds[form.split("-")[1]], weight_type=QuantType.QInt8,
                        per_channel=form.endswith("channel"))  # fmt: skip
    return onnx.load(path / "q.onnx")


CASES = [(0, "operator-unsigned"), (0, "qdq-signed"), (0, "dynamic"), (1, "operator-signed-channel"),
         (1, "qdq-unsigned-channel"), (1, "dynamic")]  # fmt: skip


@pytest.mark.parametrize(("number", "form"), CASES)
def test_every_form_comes_back_to_float(form, number, tmp_path):
    source = quantized(number, form, tmp_path)
    assert OPERATORS & {node.op_type for node in source.graph.node}
    feeds = {"x": RNG.standard_normal([d.dim_value for d in source.graph.input[0].type.tensor_type.shape.dim])}
    feeds["x"] = feeds["x"].astype(np.float32)
    graph = load(source)
    found = unquantize(graph)
    result = to_proto(graph)
    assert not OPERATORS & {node.op_type for node in result.graph.node}, found.left
    assert not found.left
    was = execute(NETWORKS[number].SerializeToString(), [feeds]).outputs[0]["y"]
    before = execute(source.SerializeToString(), [feeds]).outputs[0]["y"]
    after = execute(result.SerializeToString(), [feeds]).outputs[0]["y"]
    noise = np.linalg.norm(before - was)
    assert noise > 0
    assert np.linalg.norm(after - before) < 1.5 * noise, "no further from the source than its own rounding"
    assert np.linalg.norm(after - was) < 1.2 * noise, "and about as near to what was quantized"


@pytest.mark.parametrize("form", ["qdq-unsigned-channel"])
def test_its_own_ranges_serve_again(form, tmp_path):
    """No sample is needed: scales come from those of the source; the result is symmetric, and clean."""
    graph = load(quantized(1, form, tmp_path))
    graph.opset = 21
    for entry in graph.import_domains:
        entry.version = 21 if entry.domain in ("", "ai.onnx") else entry.version
    found = lower(graph, Request("int8"), Target(version="1.7.1"))
    assert found.plan.counts()["int8"] >= 4
    assert found.error["y"] < 0.05
    assert not lint(graph, "tensorrt_rtx", "1.7.1")


def test_a_weight_that_is_looked_up(tmp_path):
    text = "g (int64[4] i) => (float[4,8] y) { q = Gather(table, i) y = DequantizeLinear(q, s, z) }"
    table = RNG.integers(0, 255, (20, 8)).astype(np.uint8)
    source = model(text, weights={"table": table, "s": np.float32(0.1), "z": np.uint8(7)})
    graph = load(source)
    unquantize(graph)
    feeds = {"i": np.array([3, 1, 19, 0])}
    want = execute(source.SerializeToString(), [feeds]).outputs[0]["y"]
    got = execute(to_proto(graph).SerializeToString(), [feeds]).outputs[0]["y"]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert [node.op for node in graph.nodes] == ["Gather"]


def test_a_weight_that_is_turned():
    """DequantizeLinear(Transpose(q)): one table serves the look-up and the last product of a language model."""
    text = """g (float[4,8] x) => (float[4,20] y) {
        t = Transpose<perm = [1,0]>(table) w = DequantizeLinear(t, s, z) y = MatMul(x, w) }"""
    table = RNG.integers(0, 255, (20, 8)).astype(np.uint8)
    source = model(text, weights={"table": table, "s": np.float32(0.1), "z": np.uint8(7)})
    graph = load(source)
    found = unquantize(graph)
    assert not found.left
    feeds = {"x": RNG.standard_normal((4, 8)).astype(np.float32)}
    want = execute(source.SerializeToString(), [feeds]).outputs[0]["y"]
    got = execute(to_proto(graph).SerializeToString(), [feeds]).outputs[0]["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert [node.op for node in graph.nodes] == ["MatMul"]


STEPS = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
    q, sx, zx = DynamicQuantizeLinear(x) a = ConvInteger<pads = [1,1,1,1]>(q, w, zx, zw) s = Mul(sx, sw)
    d = Div(b, s) f = Floor(d) i = Cast<to = 6>(f) r = Reshape(i, to)
    t = Add(a, r) c = Cast<to = 1>(t) y = Mul(c, s) }"""


def stepped(**changes):
    weights = {"w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "zw": np.int8(0), "sw": np.float32(0.01),
               "b": np.array([1, -2, 0.5, 3], np.float32), "to": np.array([1, -1, 1, 1])}  # fmt: skip
    return model(STEPS, weights={**weights, **changes})


def test_a_bias_in_steps_of_the_scales():
    source = stepped()
    feeds = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    graph = load(source)
    unquantize(graph)
    assert [node.op for node in graph.nodes] == ["Conv"]
    assert np.array_equal(graph.nodes[0].inputs[2].values, [1, -2, 0.5, 3])
    want, got = (execute(one.SerializeToString(), [feeds]).outputs[0]["y"] for one in (source, to_proto(graph)))
    assert np.linalg.norm(want - got) < 0.02 * np.linalg.norm(want)


def test_what_is_added_along_another_axis_is_no_bias():
    """[1, 1, 1, 4] would broadcast over columns: it stays."""
    graph = load(stepped(to=np.array([1, 1, 1, -1]), b=np.ones(8, np.float32)))
    unquantize(graph)
    assert "ConvInteger" in {node.op for node in graph.nodes}


def lstm(scales, zeros):
    """Two directions, 3 inputs, 5 hidden."""
    ins = ["x", "w", "r", "b", "", "", "", "", "sw", "zw", "sr", "zr"]
    node = onnx.helper.make_node("DynamicQuantizeLSTM", ins, ["y", "", "c"], domain="com.microsoft", hidden_size=5,
                                 direction="bidirectional")  # fmt: skip
    held = {
        "w": RNG.integers(-127, 128, (2, 3, 20)).astype(np.int8),
        "r": RNG.integers(-127, 128, (2, 5, 20)).astype(np.int8),
        "b": RNG.standard_normal((2, 40)).astype(np.float32),
        "sw": np.full(scales, 0.01, np.float32) * (1 + RNG.random(scales, np.float32)),
        "sr": np.full(scales, 0.005, np.float32), "zw": np.zeros(zeros, np.int8), "zr": np.zeros(zeros, np.int8),
    }  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, [7, 2, 3])], [info("y", 1, [7, 2, 2, 5]), info("c", 1, [2, 2, 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("shape", [(2,), (2, 20)])
def test_a_quantized_lstm(shape):
    source = lstm(shape, shape)
    feeds = {"x": RNG.standard_normal((7, 2, 3)).astype(np.float32)}
    graph = load(source)
    found = unquantize(graph)
    assert [node.op for node in graph.nodes] == ["LSTM"]
    assert (found.nodes, found.left) == (1, {})
    want, got = (execute(one.SerializeToString(), [feeds]).outputs[0] for one in (source, to_proto(graph)))
    for name in ("y", "c"):
        assert np.linalg.norm(want[name] - got[name]) < 0.02 * np.linalg.norm(want[name])


def test_the_whole_run_keeps_the_eight_bits(tmp_path):
    """legalize spells out asymmetric quantization in float32; under a low precision the plan comes first."""
    source = quantized(1, "operator-unsigned", tmp_path)
    calib = [{"x": RNG.standard_normal((4, 32)).astype(np.float32)}]
    request = Request("int8", calib=calib)
    result = graphopt.optimize(source, precision=request, inputs=calib[0])
    found = [node.op_type for node in result.model.graph.node]
    assert found.count("QuantizeLinear") >= 3
    assert not lint(result.graph, "tensorrt_rtx", "1.7.1")
    assert result.report.precision["error"]["y"] < 0.1
