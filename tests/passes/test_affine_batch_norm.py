"""BatchNormalization with what is before and behind it, where there is no convolution."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.batch_norm import FoldAddIntoBn, FoldBnAdd, FoldBnMul, FoldMulIntoBn, MergeBns, graphopt_passes

from graphopt.testing import apply, assert_unchanged, check_rule, model

V = np.linspace(0.5, 2.0, 4, dtype=np.float32)
BN = {"s": (4,), "t": (4,), "m": (4,), "v": V}
K = V.reshape(4, 1, 1)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("opset", [7, 9, 14, 17])
def test_two_in_a_row_are_one(opset):
    text = """g (float[N,4,H,W] x) => (float[N,4,H,W] y) {
        a = BatchNormalization<epsilon = 0.1>(x, s, t, m, v)
        y = BatchNormalization(a, t, m, s, v)
    }"""
    result = check_rule(MergeBns(), model(text, weights=BN, opset=opset), fires=1)
    assert operators(result) == ["BatchNormalization"]


@pytest.mark.parametrize("k", [np.float32(3), K], ids=["scalar", "channels"])
@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (FoldBnMul(), "a = BatchNormalization(x, s, t, m, v) y = Mul(k, a)"),
        (FoldBnAdd(), "a = BatchNormalization(x, s, t, m, v) y = Add(a, k)"),
        (FoldMulIntoBn(), "a = Mul(x, k) y = BatchNormalization(a, s, t, m, v)"),
        (FoldAddIntoBn(), "a = Add(k, x) y = BatchNormalization(a, s, t, m, v)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_constant_per_channel(rule, body, k):
    source = model(f"g (float[N,4,H,W] x) => (float[N,4,H,W] y) {{ {body} }}", weights={**BN, "k": k})
    assert operators(check_rule(rule, source, fires=1)) == ["BatchNormalization"]


def test_one_alone_stays():
    text = "g (float[N,4,H,W] x) => (float[N,4,H,W] y) { y = BatchNormalization(x, s, t, m, v) }"
    _, counts = apply(model(text, weights=BN), *graphopt_passes())
    assert set(counts.values()) == {0}


@pytest.mark.parametrize(
    ("why", "rule", "body", "extra"),
    [
        ("the first is read elsewhere", MergeBns(),
         "a = BatchNormalization(x, s, t, m, v) b = BatchNormalization(a, s, t, m, v) y = Add(a, b)", {}),
        ("the second trains", MergeBns(),
         "a = BatchNormalization(x, s, t, m, v) y, p, q = BatchNormalization<training_mode = 1>(a, s, t, m, v)", {}),
        ("the constant is per column", FoldBnMul(),
         "a = BatchNormalization(x, s, t, m, v) y = Mul(a, k)", {"k": V}),
        ("the constant is NaN", FoldBnMul(),
         "a = BatchNormalization(x, s, t, m, v) y = Mul(a, k)", {"k": K * np.float32(np.nan)}),
    ],
)  # fmt: skip
def test_it_stays(why, rule, body, extra):
    source = model(f"g (float[2,4,4,4] x) => (float[2,4,4,4] y) {{ {body} }}", weights={**BN, **extra})
    assert_unchanged(rule, source)


def test_channels_that_the_constant_would_broadcast_stay():
    text = "g (float[2,1,4,4] x) => (float[2,4,4,4] y) { a = Mul(x, k) y = BatchNormalization(a, s, t, m, v) }"
    assert_unchanged(FoldMulIntoBn(), model(text, weights={**BN, "k": K}))
