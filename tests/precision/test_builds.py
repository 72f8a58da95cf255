"""What the planner writes builds in TensorRT-RTX, on a CPU; and what it knows of the library is so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import backends
from graphopt.config import Limits, Target
from graphopt.errors import BackendError
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.precision.capability import REFUSED, quantizable
from graphopt.precision.stage import Request, lower
from graphopt.testing import model

RTX = backends.get("tensorrt_rtx", Limits(build_seconds=120))
VERSION = RTX.version() if RTX.available() is None else ""
pytestmark = pytest.mark.skipif(not VERSION, reason="TensorRT-RTX is not installed")

BLOCK = """g (float[1,32,8,8] x) => (float[1,32,8,8] y, float[1,64] z) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads = [1,1,1,1]>(r, w2, b2) s = Add(c, x) y = Relu(s)
    p = GlobalAveragePool(y) f = Flatten(p) m = MatMul(f, v) n = LayerNormalization(m, g1, g2) z = Softmax(n) }"""
WEIGHTS = {
    "w1": (32, 32, 3, 3),
    "b1": (32,),
    "w2": (32, 32, 3, 3),
    "b2": (32,),
    "v": (32, 64),
    "g1": (64,),
    "g2": (64,),
}


def build(proto: onnx.ModelProto, path) -> None:
    onnx.save(proto, path / "m.onnx")
    RTX.build(path / "m.onnx", path / "m.engine")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8", "int4"])
def test_every_precision_builds(precision, tmp_path):
    graph = load(model(BLOCK, weights=WEIGHTS, opset=21))
    calib = [{"x": np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)}]
    lower(graph, Request(precision, calib=calib, max_error=1.0), Target(version=VERSION))
    build(to_proto(graph), tmp_path)


def test_the_table_of_int8_convolutions_is_so(tmp_path):
    """Where the table says that they do not build, they do not."""
    graph = load(model(BLOCK, weights=WEIGHTS, opset=21))
    calib = [{"x": np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)}]
    lower(graph, Request("int8", calib=calib, max_error=1.0), Target(version="99.0"))
    if "Conv" in quantizable("tensorrt_rtx", VERSION, "int8"):
        build(to_proto(graph), tmp_path)
    else:
        with pytest.raises(BackendError):
            build(to_proto(graph), tmp_path)


REFUSED_MODELS = {
    "ConvTranspose": ("y = ConvTranspose(x, w)", {"w": (4, 4, 2, 2)}),
    "HardSwish": ("y = HardSwish(x)", {}),
    "Mish": ("y = Mish(x)", {}),
    "LpNormalization": ("y = LpNormalization(x)", {}),
}


@pytest.mark.parametrize(
    "op", [op if number < 2 else pytest.param(op, marks=pytest.mark.full) for number, op in enumerate(REFUSED_MODELS)]
)
def test_what_does_not_build_in_bfloat16_is_kept(op, tmp_path):
    assert op in REFUSED["tensorrt_rtx", "bfloat16"]
    body, weights = REFUSED_MODELS[op]
    text = f"g (float[1,4,8,8] x) => (float[1,4,M,N] z) {{ {body} z = Relu(y) }}"
    graph = load(model(text, weights=weights, opset=18))
    found = lower(graph, Request("bf16"), Target())
    assert found.plan.tensors["y"].dtype == "float32"
    build(to_proto(graph), tmp_path)


def test_a_custom_layer_follows_the_dtypes_that_it_declares(tmp_path):
    text = """g (float[4,64] x) => (float[4,64] y) {
        a = MatMul(x, w) s = Mul(a, a) m = ReduceMean<axes = [-1], keepdims = 1>(s) e = Add(m, eps) r = Sqrt(e)
        n = Div(a, r) k = Mul(n, weight) y = MatMul(k, w) }"""
    weights = {"w": (64, 64), "eps": np.float32(1e-6), "weight": (64,)}
    result = graphopt.optimize(model(text, weights=weights), precision=Request("fp16", max_error=1e-2), lower="always")
    (call,) = [node for node in result.graph.nodes if node.domain == "graphopt"]
    assert {tensor.dtype for tensor in (*call.inputs, *call.outputs)} == {np.dtype(np.float16)}
    assert result.report.precision["casts"] == 2
    build(result.model, tmp_path)
