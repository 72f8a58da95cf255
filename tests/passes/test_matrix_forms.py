"""A bias of zero goes; Flatten of what is not wholly known is a Reshape."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.matrix_forms import DropZeroGemmBias, ReshapeInsteadOfFlatten

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32


def gemm(c, how="", opset=17):
    return model(
        f"g (float[N,3] x) => (float[N,4] y) {{ y = Gemm{how}(x, w, c) }}", weights={"w": (3, 4), "c": c}, opset=opset
    )


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (1, 1)])
def test_zero_bias_of_gemm(shape):
    made = check_rule(DropZeroGemmBias(), gemm(np.zeros(shape, F), "<beta = 2.0, alpha = 0.5>"), fires=1)
    assert len(made.graph.node[0].input) == 2
    assert len(made.graph.initializer) == 1


def test_minus_zero_is_zero():
    check_rule(DropZeroGemmBias(), gemm(np.full(4, -0.0, F)), fires=1)


def test_other_biases_stay():
    assert_unchanged(DropZeroGemmBias(), gemm(F([0, 0, 1e-38, 0])))
    assert_unchanged(DropZeroGemmBias(), gemm(F([0, np.nan, 0, 0])))
    assert_unchanged(DropZeroGemmBias(), gemm(np.zeros(4, F), opset=9))
    computed = "g (float[2,3] x, float[3,4] w, float[4] c) => (float y) { y = Gemm(x, w, c) }"
    assert_unchanged(DropZeroGemmBias(), computed)


def flatten(shape, axis=1):
    return f"g (float[{shape}] x) => (float y) {{ y = Flatten<axis = {axis}>(x) }}"


@pytest.mark.parametrize(
    ("shape", "axis", "target"),
    [("N,3,4", 1, [0, 12]), ("N,3,4", -2, [0, 12]), ("N,M,3,4", 2, [-1, 12]), ("2,3,N", 2, [6, -1]),
     ("N,3", 0, [1, -1]), ("N,3", 2, [-1, 1])],
)  # fmt: skip
def test_flatten(shape, axis, target):
    made = check_rule(ReshapeInsteadOfFlatten(), flatten(shape, axis), fires=1)
    assert made.graph.node[0].op_type == "Reshape"
    np.testing.assert_array_equal(np.frombuffer(made.graph.initializer[0].raw_data, np.int64), target)


@pytest.mark.parametrize(("shape", "axis"), [("N,3,M", 1), ("2,3,4", 1), ("N,0,3", 1)])
def test_flatten_stays(shape, axis):
    assert_unchanged(ReshapeInsteadOfFlatten(), flatten(shape, axis))


def test_nothing_of_an_empty_batch():
    source = flatten("N,3,4")
    check_rule(ReshapeInsteadOfFlatten(), source, shapes={"x": (0, 3, 4)})
    check_rule(ReshapeInsteadOfFlatten(), flatten("N,M,3,4", 2), shapes={"x": (0, 2, 3, 4)})
