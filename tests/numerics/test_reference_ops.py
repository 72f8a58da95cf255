"""The operators that replace onnx's reference ones, against onnxruntime."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.numerics.reference_ops import REPLACED_OPS
from graphopt.testing import model

FORMS = list(itertools.product(("linear", "nearest"), ("zeros", "border", "reflection"), (0, 1), (2, 3)))


def both(text: str, opset: int, **feeds):
    proto = model(text, opset=opset)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0], ReferenceEvaluator(proto, new_ops=list(REPLACED_OPS)).run(None, feeds)[0]


@pytest.mark.parametrize(("mode", "padding", "corners", "axes"), FORMS)
def test_grid_sample_beyond_the_edges(mode, padding, corners, axes):
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(2, 3, 5, 4, 3)[: axes + 2]).astype(np.float32)
    grid = numbers.uniform(-1.7, 1.7, (2, *(6, 7, 5)[:axes], axes)).astype(np.float32)
    names = {"x": x, "grid": grid}
    ports = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in names.items())
    attrs = f'mode = "{mode}", padding_mode = "{padding}", align_corners = {corners}'
    for opset in (16, 20) if axes == 2 else (20,):
        told = attrs.replace("linear", "bilinear") if opset == 16 else attrs
        want, got = both(f"g ({ports}) => (y) {{ y = GridSample <{told}> (x, grid) }}", opset, **names)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_grid_sample_computes_in_the_wider_dtype():
    x, grid = np.arange(6, dtype=np.float16).reshape(1, 1, 1, 6), np.array([[[[0.1234, 0]]]])
    proto = model("g (float16[1,1,1,6] x, double[1,1,1,2] grid) => (y) { y = GridSample(x, grid) }", opset=20)
    got = ReferenceEvaluator(proto, new_ops=list(REPLACED_OPS)).run(None, {"x": x, "grid": grid})[0]
    assert got.dtype == np.float16
    assert got.item() == np.float16(((0.1234 + 1) * 6 - 1) / 2)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements_of_long_axes_and_partial_indices(axis):
    x = np.random.default_rng(0).normal(size=(70, 5, 80)).astype(np.float32)
    indices = np.random.default_rng(1).integers(-x.shape[axis], x.shape[axis], (60, 4, 60))
    text = f"g (float[70,5,80] x, int64[60,4,60] i) => (y) {{ y = GatherElements <axis = {axis}> (x, i) }}"
    want, got = both(text, 18, x=x, i=indices)
    np.testing.assert_array_equal(got, want)
