"""BN, Mul, Add, Sub and Div before Conv and ConvTranspose."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.conv_inputs import (
    FoldAddIntoConv,
    FoldBnIntoConv,
    FoldDivIntoConv,
    FoldDivIntoConvTranspose,
    FoldMulIntoConv,
    FoldMulIntoConvTranspose,
    FoldSubIntoConv,
    MoveScaleIntoPaddedConv,
)

from graphopt.testing import assert_unchanged, check_rule, model

BN = {"s": (4,), "t": (4,), "m": (4,), "v": np.linspace(0.5, 2.0, 4, dtype=np.float32)}
PER_CHANNEL = np.linspace(1, 2, 4, dtype=np.float32).reshape(4, 1, 1)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def before_conv(before: str, attrs: str = "", *, bias: bool = True, opset: int = 17, groups: int = 1, **weights):
    """y = Conv(c, w, b) after `before`, which makes c of x."""
    text = f"g (float[N,4,9,9] x) => (float[N,6,H,W] y) {{ {before} y = Conv{attrs}(c, w{', b' if bias else ''}) }}"
    constants = {"w": (6, 4 // groups, 3, 3), **({"b": (6,)} if bias else {}), **weights}
    return model(text, weights=constants, opset=opset)


RULES = [
    (FoldBnIntoConv(), "c = BatchNormalization(x, s, t, m, v)"),
    (FoldMulIntoConv(), "c = Mul(x, k)"),
    (FoldMulIntoConv(), "c = Mul(k, x)"),
    (FoldDivIntoConv(), "c = Div(x, k)"),
    (FoldAddIntoConv(), "c = Add(k, x)"),
    (FoldSubIntoConv(), "c = Sub(x, k)"),
]
SHIFTS = [pair for pair in RULES if pair[0].name not in ("fold-mul-into-conv", "fold-div-into-conv")]
SCALES = [pair for pair in RULES if pair not in SHIFTS]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attrs", ["", "<pads = [0, 0, 0, 0], strides = [2, 1]>", '<auto_pad = "VALID">'])
@pytest.mark.parametrize(("rule", "before"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_without_padding_all_fold(rule, before, attrs, bias):
    result = check_rule(rule, before_conv(before, attrs, bias=bias, k=PER_CHANNEL, **BN), fires=1, seeds=1)
    assert operators(result) == ["Conv"]


@pytest.mark.parametrize("groups", [2])
@pytest.mark.parametrize(("rule", "before"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_group_reads_its_own_channels(rule, before, groups):
    source = before_conv(before, f"<group = {groups}>", groups=groups, k=PER_CHANNEL, **BN)
    assert operators(check_rule(rule, source, fires=1, seeds=1)) == ["Conv"]


@pytest.mark.parametrize("attrs", ["<pads = [1, 1, 1, 1]>", '<auto_pad = "SAME_UPPER">'])
@pytest.mark.parametrize(("rule", "before"), SCALES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_scale_folds_under_padding_too(rule, before, attrs):
    assert operators(check_rule(rule, before_conv(before, attrs, k=PER_CHANNEL), fires=1, seeds=1)) == ["Conv"]


@pytest.mark.parametrize(
    "attrs", ["<pads = [0, 0, 1, 0]>", '<auto_pad = "SAME_UPPER">', '<auto_pad = "SAME_LOWER">', "<pads = [1,1,1,1]>"]
)
@pytest.mark.parametrize(("rule", "before"), SHIFTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_shift_before_padding_stays(rule, before, attrs):
    assert_unchanged(rule, before_conv(before, attrs, k=PER_CHANNEL, **BN))


def test_a_shift_of_zero_is_none():
    source = before_conv("c = Add(x, k)", "<pads = [1, 1, 1, 1]>", k=np.zeros((4, 1, 1), np.float32))
    assert operators(check_rule(FoldAddIntoConv(), source, fires=1)) == ["Conv"]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 1, 1), (4, 1, 1), (1, 4, 1, 1)], ids=str)
def test_one_number_or_one_per_input_channel(shape):
    k = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    check_rule(FoldMulIntoConv(), before_conv("c = Mul(x, k)", k=k), fires=1, seeds=1)
    check_rule(FoldAddIntoConv(), before_conv("c = Add(x, k)", k=k), fires=1, seeds=1)


@pytest.mark.parametrize(
    ("why", "k"),
    [
        ("it differs along the width", np.ones((1, 1, 1, 9))),
        ("a vector belongs to the width", np.ones(9)),
        ("NaN", np.full((4, 1, 1), np.nan)),
        ("it would enlarge the batch", np.ones((2, 1, 1, 1))),
    ],
)
def test_other_constants_stay(why, k):
    assert_unchanged(FoldMulIntoConv(), before_conv("c = Mul(x, k)", k=k.astype(np.float32)))
    assert_unchanged(FoldAddIntoConv(), before_conv("c = Add(x, k)", k=k.astype(np.float32)))


def test_a_constant_that_broadcasts_the_channels_stays():
    """x has 1 channel, x * k has 4."""
    text = "g (float[1,1,9,9] x) => (float[1,6,9,9] y) { c = Mul(x, k) y = Conv(c, w) }"
    assert_unchanged(FoldMulIntoConv(), model(text, weights={"w": (6, 4, 1, 1), "k": PER_CHANNEL}))


def test_a_constant_that_raises_the_rank_stays():
    text = "g (float[4,9,9] x) => (float[1,6,9,9] y) { c = Mul(x, k) y = Conv(c, w) }"
    assert_unchanged(
        FoldMulIntoConv(), model(text, weights={"w": (6, 4, 1, 1), "k": np.ones((1, 1, 1, 1), np.float32)})
    )


def test_division_by_zero_stays():
    assert_unchanged(FoldDivIntoConv(), before_conv("c = Div(x, k)", k=PER_CHANNEL * np.float32(0)))


@pytest.mark.parametrize(("rule", "before"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_values_with_other_readers_stay(rule, before):
    text = f"g (float[N,4,9,9] x) => (float[N,6,7,7] y, float[N,4,9,9] z) {{ {before} y = Conv(c, w) z = Relu(c) }}"
    assert_unchanged(rule, model(text, weights={"w": (6, 4, 3, 3), "k": PER_CHANNEL, **BN}))


def test_batch_norm_in_training_stays():
    text = """g (float[1,4,9,9] x) => (float[1,6,7,7] y) {
        c, p, q = BatchNormalization<training_mode = 1>(x, s, t, m, v)
        y = Conv(c, w)
    }"""
    assert_unchanged(FoldBnIntoConv(), model(text, weights={"w": (6, 4, 3, 3), **BN}))


# -- Mul and Add before a padded convolution -----------------------------------------------------------------------

PADDED = "<pads = [1, 1, 1, 1]>"


@pytest.mark.parametrize("attrs", [PADDED, '<auto_pad = "SAME_UPPER">'])
@pytest.mark.parametrize("s", [np.float32(3), np.float32([-0.5]), PER_CHANNEL], ids=["scalar", "vector", "channels"])
@pytest.mark.parametrize("t", [np.float32(3), np.float32([2]), PER_CHANNEL], ids=["scalar", "vector", "channels"])
def test_the_scale_of_a_map_before_padding_folds(attrs, s, t):
    source = before_conv("a = Mul(x, s) c = Add(a, t)", attrs, s=s, t=t)
    assert operators(check_rule(MoveScaleIntoPaddedConv(), source, fires=1, seeds=1)) == ["Add", "Conv"]


@pytest.mark.parametrize(
    ("why", "s", "attrs"),
    [
        ("the scale is zero", 0.0, PADDED),
        ("the shift would grow out of proportion", 1e-6, PADDED),
        ("without padding both fold", 2.0, ""),
        ("NaN", np.nan, PADDED),
    ],
)
def test_the_scale_stays(why, s, attrs):
    source = before_conv("a = Mul(x, s) c = Add(a, t)", attrs, s=np.float32(s), t=np.float32(3))
    assert_unchanged(MoveScaleIntoPaddedConv(), source)


def test_a_map_that_broadcasts_as_before_opset_7_stays():
    maps = "a = Mul<broadcast = 1>(x, s) c = Add<broadcast = 1>(a, s)"
    assert_unchanged(MoveScaleIntoPaddedConv(), before_conv(maps, PADDED, s=np.float32([2]), opset=6))


# -- ConvTranspose -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "before"), [(FoldMulIntoConvTranspose(), "Mul(x, k)"), (FoldDivIntoConvTranspose(), "Div(x, k)")]
)
@pytest.mark.parametrize("k", [np.float32(3), PER_CHANNEL], ids=["scalar", "channels"])
def test_before_a_grouped_transposed_convolution(rule, before, k):
    text = f"""g (float[N,4,5,5] x) => (float[N,6,H,W] y) {{
        c = {before}
        y = ConvTranspose<group = 2, strides = [2, 2], pads = [1, 0, 0, 1]>(c, w, b)
    }}"""
    result = check_rule(rule, model(text, weights={"w": (4, 3, 3, 3), "b": (6,), "k": k}), fires=1)
    assert operators(result) == ["ConvTranspose"]
