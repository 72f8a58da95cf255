"""A factor and a summand per channel are one BatchNormalization."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.affine_maps import (
    BatchNormInsteadOfMulAdd,
    BatchNormInsteadOfSubDiv,
    BatchNormInsteadOfSubMul,
)

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32
K, B = np.linspace(0.5, 2, 3, dtype=F).reshape(3, 1, 1), np.linspace(-1, 1, 3, dtype=F).reshape(1, 3, 1, 1)
SPELLINGS = [
    (BatchNormInsteadOfMulAdd(), "t = Mul(x, k) y = Add(t, b)"),
    (BatchNormInsteadOfMulAdd(), "t = Mul(k, x) y = Add(b, t)"),
    (BatchNormInsteadOfSubMul(), "t = Sub(x, b) y = Mul(k, t)"),
    (BatchNormInsteadOfSubDiv(), "t = Sub(x, b) y = Div(t, k)"),
]


def graph(body, *, ports="(float[N,3,H,5] x) => (float[N,3,H,5] y)", opset=17, **weights):
    return model(f"g {ports} {{ {body} }}", weights={"k": K, "b": B, **weights}, opset=opset)


@pytest.mark.parametrize(("rule", "body"), SPELLINGS)
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_one_normalization(rule, body, opset):
    (node,) = check_rule(rule, graph(body, opset=opset), fires=1).graph.node
    assert node.op_type == "BatchNormalization"


@pytest.mark.parametrize(("rule", "body"), SPELLINGS)
def test_scalars_are_equal_for_all_channels(rule, body):
    check_rule(rule, graph(body, k=F(0.25), b=F([3])), fires=1)


WRONG = {
    "along the width": {"k": np.ones(5, F)},
    "per element": {"b": np.ones((3, 1, 5), F)},
    "not finite": {"b": F(np.inf)},
    "of another rank": {"ports": "(float[N,3,H] x) => (float[1,N,3,H] y)"},
    "of unknown channels": {"ports": "(float[N,C,H,5] x) => (float[N,3,H,5] y)"},
    "broadcast to more channels": {"ports": "(float[N,1,H,5] x) => (float[N,3,H,5] y)"},
}


@pytest.mark.parametrize(("rule", "body"), SPELLINGS)
@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_what_is_no_map_per_channel_stays(rule, body, changes):
    assert_unchanged(rule, graph(body, **changes))


def test_division_by_zero_integers_and_shared_products_stay():
    assert_unchanged(BatchNormInsteadOfSubDiv(), graph(SPELLINGS[3][1], k=F(0)))
    ports = "(int32[N,3,H,5] x) => (int32[N,3,H,5] y)"
    ints = {"k": K.astype(np.int32), "b": B.astype(np.int32)}
    assert_unchanged(BatchNormInsteadOfMulAdd(), graph(SPELLINGS[0][1], ports=ports, **ints))
    shared = "(float[N,3,H,5] x) => (float[N,3,H,5] y, float[N,3,H,5] t)"
    assert_unchanged(BatchNormInsteadOfMulAdd(), graph(SPELLINGS[0][1], ports=shared))
