"""On a GPU: engines of quantized products give numbers, however large the sums of their 8-bit operands are."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.precision.stage import Request
from graphopt.testing import model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("precision", "most"), [("fp16", 5e-3), ("int8", 0.05), ("fp8", 0.08)])
def test_sums_of_8_bit_products_are_finite_and_right(tmp_path, precision, most):
    """768 products of up to 127 * 127, or 448 * 448, are beyond float16."""
    rng = np.random.default_rng(0)
    weights = {"w": (0.02 * rng.normal(size=(768, 768))).astype(np.float32)}
    source = model(
        "g (float[64,768] x) => (float[64,768] y) { a = MatMul(x, w) y = Relu(a) }", weights=weights, opset=21
    )
    x = rng.normal(size=(64, 768)).astype(np.float32)
    request = Request(precision, calib=[{"x": x}], max_error=0.2)
    graphopt.optimize(source, engine=tmp_path / "m.engine", precision=request, inputs={"x": x})
    y = np.asarray(graphopt.Engine(tmp_path / "m.engine")({"x": x})["y"]).astype(np.float64)
    want = np.maximum(x.astype(np.float64) @ weights["w"], 0)
    assert np.isfinite(y).all()
    assert np.linalg.norm(y - want) / np.linalg.norm(want) < most
