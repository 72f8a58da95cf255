"""A layer whose tensors are int8 or float8, and one that writes over its input: function, pattern, plugin."""

from __future__ import annotations

import types

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt import launch
from graphopt.conformance.check import check_layer
from graphopt.testing import model

requantize = graphopt.Kernel(
    r"""
    #include <graphopt.cuh>
    template <class T> __global__ void requantize(const T* x, const float* scale, const float* next, T* y, int count) {
        const int at = int(go::thread());
        if (at < count) y[at] = go::from_float<T>(fmaxf(go::to_float(x[at]) * *scale, 0.0f) / *next);
    }""",
    types=("T",),
)


class FusedQuantizedRelu(graphopt.Layer):
    """y = quantized(relu(dequantized(x))), in int8 or float8."""

    low: bool = False
    variants = ({"low": False}, {"low": True})
    dtypes = ("int8", "float8_e4m3fn")
    types = {"scale": "float32", "next": "float32"}
    cases = tuple({"x": shape, "scale": (), "next": ()} for shape in ((3, 7), (0, 4), (1,), (5, 1000)))

    def body(self, op, x, scale, next):
        zero = op.const(0, ml_dtypes.float8_e4m3fn if self.low else np.int8)
        return op.QuantizeLinear(op.Relu(op.DequantizeLinear(x, scale)), next, zero)

    def check(self, x, scale, next):
        return None if (x.dtype == np.int8) != self.low else "the zero point is of another dtype"

    def infer(self, x, scale, next):
        return x

    def sample(self, name, shape, rng):
        return rng.uniform(0.25, 0.5, shape) if name != "x" else rng.integers(-100, 100, shape)

    def enqueue(self, x, scale, next, y):
        requantize[x.dtype]((launch.blocks(x.size, 256),), (256,), (x, scale, next, y, x.size))


class FusedDouble(graphopt.Layer):
    """y = x + x, over x where TensorRT shares the buffer."""

    in_place = {"y": "x"}
    shapes = {"x": "... n"}

    def body(self, op, x):
        return x + x

    def infer(self, x):
        return x

    def enqueue(self, x, y):
        raise NotImplementedError


def plugin(*layers):
    made = types.ModuleType("low_precision")
    made.graphopt_layers = graphopt.hookimpl(lambda: list(layers), specname="graphopt_layers")
    return made


@pytest.mark.parametrize("layer", [FusedQuantizedRelu, FusedDouble])
def test_the_function_is_what_the_body_means(layer):
    outcome = check_layer(layer, gpu=False, quick=True)
    assert outcome.ok, [f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures[:5]]
    cases = [one.case for one in outcome.findings if one.check == "function"]
    assert len({case.split()[0] for case in cases}) == len(layer.dtypes)


@pytest.mark.gpu
def test_the_kernel_is_what_the_body_means():
    outcome = check_layer(FusedQuantizedRelu)
    assert outcome.ok, [f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures[:5]]


@pytest.mark.parametrize(("name", "kind"), [("int8", np.int8), ("float8e4m3fn", ml_dtypes.float8_e4m3fn)])
def test_it_is_found_between_quantized_tensors(name, kind):
    source = model(
        f"g ({name}[N,5] x) => ({name}[N,5] y) {{"
        " d = DequantizeLinear(x, s) r = Relu(d) y = QuantizeLinear(r, t, z) }",
        weights={"s": np.float32(0.5), "t": np.float32(0.25), "z": np.zeros((), kind)},
        opset=21,
    )
    result = graphopt.optimize(source, lower="always", plugins=[plugin(FusedQuantizedRelu)])
    assert [node.op_type.split("_")[0] for node in result.model.graph.node] == ["FusedQuantizedRelu"]
    onnx.checker.check_model(result.model, full_check=True)
    if kind == np.int8:
        x = np.arange(-10, 10, dtype=np.int8).reshape(4, 5)
        runs = [ort.InferenceSession(one.SerializeToString()).run(None, {"x": x})[0] for one in (source, result.model)]
        np.testing.assert_array_equal(*runs)
