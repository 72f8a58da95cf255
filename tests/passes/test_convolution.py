"""BN, Mul, Add, Sub, Div and Neg behind Conv and ConvTranspose."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.convolution import (
    FoldConvAdd,
    FoldConvBn,
    FoldConvDiv,
    FoldConvMul,
    FoldConvNeg,
    FoldConvSub,
    FoldConvSubFrom,
    FoldConvTransposeAdd,
    FoldConvTransposeBn,
    FoldConvTransposeDiv,
    FoldConvTransposeMul,
    FoldConvTransposeNeg,
    FoldConvTransposeSub,
    FoldConvTransposeSubFrom,
    RemoveZeroBias,
    RemoveZeroBiasOfConvTranspose,
    graphopt_passes,
)
from onnx import numpy_helper

from graphopt.testing import apply, assert_unchanged, check_rule, model

BN = {"s": (6,), "t": (6,), "m": (6,), "v": np.linspace(0.5, 2.0, 6, dtype=np.float32)}
CONV = {"w": (6, 4, 3, 3), "b": (6,)}


def conv(behind: str, *, opset: int = 17, output: str = "float[N,6,7,7] y", **weights):
    """c = Conv(x, w, b), then `behind`."""
    text = f"g (float[N,4,9,9] x) => ({output}) {{ c = Conv(x, w, b) {behind} }}"
    return model(text, weights={**CONV, **weights}, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def weights_of(proto):
    arrays = {one.name: one for one in proto.graph.initializer}
    return [numpy_helper.to_array(arrays[name]) for name in proto.graph.node[0].input[1:]]


# -- BatchNormalization --------------------------------------------------------------------------------------------


def test_batch_norm_behind_conv_becomes_its_weights():
    result = check_rule(FoldConvBn(), conv("y = BatchNormalization(c, s, t, m, v)", **BN), fires=1)
    assert operators(result) == ["Conv"]


def test_the_folded_weights_are_the_equation():
    w, k, t, m = np.float32([[[3.0]], [[5.0]]]), np.float32([2, 4]), np.float32([1, 1]), np.float32([10, 20])
    before = model(
        "g (float[1,1,8] x) => (float[1,2,8] y) { c = Conv(x, w) y = BatchNormalization<epsilon=3.0>(c, s, t, m, v) }",
        weights={"w": w, "s": k, "t": t, "m": m, "v": np.float32([1, 13])},
    )
    new_w, new_b = weights_of(check_rule(FoldConvBn(), before, fires=1))
    np.testing.assert_allclose(new_w.ravel(), [3 * 2 / 2, 5 * 4 / 4])
    np.testing.assert_allclose(new_b, [1 - 10 * 2 / 2, 1 - 20 * 4 / 4])


def test_attributes_of_the_convolution_stay():
    text = """g (float[1,4,9,9] x) => (float[1,6,H,W] y) {{
        {} Conv<strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2], group = 2>(x, w) {}
    }}"""
    source = model(text.format("c =", "y = BatchNormalization(c, s, t, m, v)"), weights={"w": (6, 2, 3, 3), **BN})
    result = check_rule(FoldConvBn(), source, fires=1)
    assert {a.name for a in result.graph.node[0].attribute} == {"strides", "pads", "dilations", "group"}


def test_the_output_keeps_its_name():
    result, _ = apply(conv("y = BatchNormalization(c, s, t, m, v)", **BN), FoldConvBn())
    assert result.graph.node[0].output[0] == "y"


def test_behind_the_folded_norm_relu_follows_the_convolution():
    result = check_rule(FoldConvBn(), conv("d = BatchNormalization(c, s, t, m, v) y = Relu(d)", **BN))
    assert operators(result) == ["Conv", "Relu"]


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 21, 22])
def test_batch_norm_of_every_opset(opset):
    source = conv("y = BatchNormalization(c, s, t, m, v)", opset=opset, **BN)
    assert operators(check_rule(FoldConvBn(), source)) == ["Conv"]


def test_batch_norm_of_opset_6_says_that_it_is_a_test():
    result, counts = apply(conv("y = BatchNormalization<is_test = 1>(c, s, t, m, v)", opset=6, **BN), FoldConvBn())
    assert counts == {"fold-conv-bn": 1}
    assert operators(result) == ["Conv"]


def test_a_batch_norm_with_wider_statistics():
    wide = {name: np.asarray(value, np.float64) for name, value in {"m": np.ones(6), "v": np.full(6, 2.0)}.items()}
    text = "g (float[1,4,9,9] x) => (float[1,6,7,7] y) { c = Conv(x, w, b) y = BatchNormalization(c, s, t, m, v) }"
    assert operators(apply(model(text, weights={**CONV, **BN, **wide}), FoldConvBn())[0]) == ["Conv"]


@pytest.mark.parametrize(
    ("why", "behind", "opset", "extra"),
    [
        ("training mode", "y, p, q = BatchNormalization<training_mode = 1>(c, s, t, m, v)", 14, {}),
        ("training outputs", "y, p, q, r, u = BatchNormalization(c, s, t, m, v)", 9, {}),
        ("training by default", "y = BatchNormalization(c, s, t, m, v)", 6, {}),
        ("not per channel", "y = BatchNormalization<spatial = 0>(c, s, t, m, v)", 8, {}),
        ("negative variance", "y = BatchNormalization(c, s, t, m, v)", 17, {"v": np.full(6, -1, np.float32)}),
        ("zero over zero", "y = BatchNormalization<epsilon = 0.0>(c, s, t, m, v)", 17, {"v": np.zeros(6, np.float32)}),
        ("NaN", "y = BatchNormalization(c, s, t, m, v)", 17, {"m": np.full(6, np.nan, np.float32)}),
        ("infinity", "y = BatchNormalization(c, s, t, m, v)", 17, {"s": np.full(6, np.inf, np.float32)}),
        ("NaN weights", "y = BatchNormalization(c, s, t, m, v)", 17, {"w": np.full((6, 4, 3, 3), np.nan, np.float32)}),
        ("a computed mean", "q = Relu(m) y = BatchNormalization(c, s, t, q, v)", 17, {}),
        ("another reader", "z = Relu(c) d = BatchNormalization(c, s, t, m, v) y = Add(d, z)", 17, {}),
        ("overflow", "y = BatchNormalization(c, s, t, m, v)", 17, {"s": np.full(6, 3e38, np.float32), "w": np.full((6, 4, 3, 3), 1e5, np.float32)}),  # noqa: E501
    ],
)  # fmt: skip
def test_batch_norm_stays(why, behind, opset, extra):
    assert_unchanged(FoldConvBn(), conv(behind, opset=opset, **{**BN, **extra}))


def test_a_convolution_that_is_an_output_stays():
    source = conv("y = BatchNormalization(c, s, t, m, v)", output="float[N,6,7,7] y, float[N,6,7,7] c", **BN)
    assert_unchanged(FoldConvBn(), source)


def test_computed_weights_stay():
    text = """g (float[1,4,9,9] x, float[6,4,3,3] w) => (float[1,6,7,7] y) {
        c = Conv(x, w) y = BatchNormalization(c, s, t, m, v)
    }"""
    assert_unchanged(FoldConvBn(), model(text, weights=BN))


def test_weights_with_other_readers_are_not_changed():
    text = """g (float[1,4,9,9] x) => (float[1,6,7,7] y, float[1,6,7,7] z) {
        c = Conv(x, w, b) y = BatchNormalization(c, s, t, m, v) z = Conv(x, w, b)
    }"""
    source = model(text, weights={**CONV, **BN})
    result = check_rule(FoldConvBn(), source, fires=1)
    assert operators(result) == ["Conv", "Conv"]
    assert len({node.input[1] for node in result.graph.node}) == 2


def test_large_weights_with_other_readers_are_not_copied():
    text = """g (float[1,512,4,4] x) => (float[1,1024,4,4] y, float[1,1024,4,4] z) {
        c = Conv(x, w) y = Mul(c, k) z = Conv(x, w)
    }"""
    assert_unchanged(FoldConvMul(), model(text, weights={"w": (1024, 512, 1, 1), "k": np.float32([[[3.0]]])}))


def test_weights_beyond_64_mib_are_not_scaled():
    text = "g (float[1,4100,1] x) => (float[1,4100,1] y) { c = Conv(x, w) y = Mul(c, k) }"
    source = model(text, weights={"w": np.ones((4100, 4100, 1), np.float32), "k": np.float32(2)})
    assert_unchanged(FoldConvMul(), source)


def test_a_shift_copies_no_weights():
    text = """g (float[1,4,9,9] x) => (float[1,6,7,7] y, float[1,6,7,7] z) {
        c = Conv(x, w) y = Add(c, k) z = Conv(x, w)
    }"""
    result = check_rule(FoldConvAdd(), model(text, weights={"w": (6, 4, 3, 3), "k": (6, 1, 1)}), fires=1)
    assert len({node.input[1] for node in result.graph.node}) == 1


def test_constants_may_be_nodes():
    text = """g (float[1,1,4] x) => (float[1,1,4] y) {
        w = Constant<value = float[1,1,1] {2.0}>()
        k = Constant<value_float = 3.0>()
        c = Conv(x, w)
        y = Mul(c, k)
    }"""
    new_w = weights_of(check_rule(FoldConvMul(), text, fires=1))[0]
    assert new_w.ravel() == [6.0]


def test_inside_an_if():
    text = """g (float[1,4,9,9] x, bool f) => (float[1,6,7,7] y) {
        y = If (f) <
            then_branch = a () => (float[1,6,7,7] p) { c = Conv(x, w, b) p = BatchNormalization(c, s, t, m, v) },
            else_branch = e () => (float[1,6,7,7] q) { q = Conv(x, w, b) }
        >
    }"""
    check_rule(FoldConvBn(), model(text, weights={**CONV, **BN}), fires=1)


def function(body: str):
    """A model that calls a function with the attributes g = 2 and e = 0.1; its constants are nodes."""
    return f"""<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
        g (float[1,2,4] x) => (float[1,2,4] y) {{ y = f.block <g = 2, e = 0.1> (x) }}
        <domain: "f", opset_import: ["" : 17]>
        block <g, e> (x) => (y) {{
            w = Constant<value = float[2,1,1] {{3.0, 5.0}}>()
            s = Constant<value = float[2] {{1.0, 2.0}}>()
            v = Constant<value = float[2] {{1.0, 4.0}}>()
            k = Constant<value = float[2,1] {{1.0, 4.0}}>()
            {body}
        }}"""


def test_inside_a_function_its_parameters_stay():
    body = "c = Conv<group: int = @g>(x, w) y = BatchNormalization(c, s, s, s, v)"
    result = check_rule(FoldConvBn(), function(body), fires=1)
    conv = next(node for node in result.functions[0].node if node.op_type == "Conv")
    assert [(a.name, a.ref_attr_name) for a in conv.attribute] == [("group", "g")]


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (FoldConvBn(), "c = Conv<group = 2>(x, w) y = BatchNormalization<epsilon: float = @e>(c, s, s, s, v)"),
        (FoldConvBn(), "c = Conv<group = 2>(x, w) y = BatchNormalization<training_mode: int = @g>(c, s, s, s, v)"),
        (FoldConvTransposeMul(), "c = ConvTranspose<group: int = @g>(x, w) y = Mul(c, k)"),
    ],
)
def test_parameters_of_a_function_that_a_rule_must_know_stop_it(rule, body):
    assert_unchanged(rule, function(body))


# -- one constant per output channel -------------------------------------------------------------------------------

ONE_PER_CHANNEL = [(), (1,), (1, 1, 1), (1, 1, 1, 1), (6, 1, 1), (1, 6, 1, 1)]


@pytest.mark.parametrize("shape", ONE_PER_CHANNEL, ids=str)
@pytest.mark.parametrize(
    ("rule", "behind"),
    [
        (FoldConvMul(), "Mul(c, k)"),
        (FoldConvMul(), "Mul(k, c)"),
        (FoldConvDiv(), "Div(c, k)"),
        (FoldConvAdd(), "Add(c, k)"),
        (FoldConvAdd(), "Add(k, c)"),
        (FoldConvSub(), "Sub(c, k)"),
        (FoldConvSubFrom(), "Sub(k, c)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_constant_per_output_channel(rule, behind, shape):
    k = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    result = check_rule(rule, conv(f"y = {behind}", k=k), fires=1, seeds=1)
    assert operators(result) == ["Conv"]


def test_neg():
    assert operators(check_rule(FoldConvNeg(), conv("y = Neg(c)"), fires=1)) == ["Conv"]


def test_a_convolution_without_bias_gets_one_where_it_is_needed():
    text = "g (float[N,4,9,9] x) => (float[N,6,7,7] y) {{ c = Conv(x, w) y = {}(c, k) }}"
    weights = {"w": (6, 4, 3, 3), "k": (6, 1, 1)}
    shifted = check_rule(FoldConvAdd(), model(text.format("Add"), weights=weights), fires=1)
    scaled = check_rule(FoldConvMul(), model(text.format("Mul"), weights=weights), fires=1)
    assert [len(proto.graph.node[0].input) for proto in (shifted, scaled)] == [3, 2]


@pytest.mark.parametrize("opset", [6, 7, 13, 21])
@pytest.mark.parametrize("how", ["<broadcast = 1, axis = 1>", "<broadcast = 1, axis = -3>"])
def test_below_opset_7_operators_say_how_they_broadcast(opset, how):
    k = np.linspace(1, 2, 6, dtype=np.float32)
    if opset > 6:
        how, k = "", k.reshape(6, 1, 1)
    source = conv(f"y = Mul{how}(c, k)", opset=opset, k=k)
    result, counts = apply(source, FoldConvMul())
    assert counts == {"fold-conv-mul": 1}
    w, k6 = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32), k.reshape(6, 1, 1, 1)
    np.testing.assert_allclose(weights_of(result)[0], w * k6, rtol=1e-6)


def test_below_opset_7_a_vector_without_axis_belongs_to_the_last():
    assert_unchanged(FoldConvMul(), conv("y = Mul<broadcast = 1>(c, k)", opset=6, k=(6,)))


@pytest.mark.parametrize(
    ("why", "k", "output"),
    [
        ("it differs along the width", np.ones((1, 1, 1, 7)), "float[N,6,7,7] y"),
        ("it differs along both spatial axes", np.ones((1, 1, 7, 7)), "float[N,6,7,7] y"),
        ("a vector belongs to the width", np.ones(7), "float[N,6,7,7] y"),
        ("it raises the rank", np.ones((1, 1, 6, 1, 1)), "float[1,N,6,7,7] y"),
        ("one number that raises the rank", np.ones((1, 1, 1, 1, 1)), "float[1,N,6,7,7] y"),
        ("it enlarges the batch", np.ones((3, 6, 1, 1)), "float[3,6,7,7] y"),
        ("NaN", np.full((6, 1, 1), np.nan), "float[N,6,7,7] y"),
        ("infinity", np.full((), np.inf), "float[N,6,7,7] y"),
    ],
)
@pytest.mark.parametrize("rule", [FoldConvMul(), FoldConvAdd(), FoldConvSub(), FoldConvSubFrom(), FoldConvDiv()])
def test_other_constants_stay(why, k, output, rule):
    operator = rule.name.split("-")[2].capitalize()
    behind = f"{operator}(k, c)" if rule.name.endswith("from") else f"{operator}(c, k)"
    assert_unchanged(rule, conv(f"y = {behind}", output=output, k=k.astype(np.float32)))


def test_more_channels_than_the_convolution_has_would_enlarge_it():
    text = "g (float[1,4,9,9] x) => (float[1,5,7,7] y) { c = Conv(x, w) y = Mul(c, k) }"
    assert_unchanged(FoldConvMul(), model(text, weights={"w": (1, 4, 3, 3), "k": (5, 1, 1)}))


def test_division_by_zero_stays():
    assert_unchanged(FoldConvDiv(), conv("y = Div(c, k)", k=np.float32([1, 2, 0, 1, 1, 1]).reshape(6, 1, 1)))


def test_a_constant_divided_by_a_convolution_stays():
    assert_unchanged(FoldConvDiv(), conv("y = Div(k, c)", k=(6, 1, 1)))


def test_a_constant_that_makes_addition_round_stays():
    """(c + 1.5 * 2 ** 23) - 1.5 * 2 ** 23 rounds c to whole numbers."""
    magic = np.float32(1.5 * 2**23)
    source = conv("a = Add(c, k) y = Sub(a, k)", k=magic)
    _, counts = apply(source, *graphopt_passes())
    assert set(counts.values()) == {0}


def test_shared_results_stay():
    assert_unchanged(FoldConvMul(), conv("a = Mul(c, k) y = Add(a, c)", k=(6, 1, 1)))


def test_a_chain_folds_whole():
    weights = {"k": (6, 1, 1), "j": (1,), "i": (1, 6, 1, 1), **BN}
    source = conv("p = Mul(k, c) q = Add(p, j) r = Sub(i, q) u = Div(r, d) y = BatchNormalization(u, s, t, m, v)",
                  **weights, d=np.float32(4))  # fmt: skip
    result, counts = apply(source, *graphopt_passes())
    assert operators(result) == ["Conv"]
    assert sum(counts.values()) == 5


# -- float16 -------------------------------------------------------------------------------------------------------


def half(w, k):
    text = "g (float16[1,1,4] x) => (float16[1,1,4] y) { c = Conv(x, w) y = Mul(c, k) }"
    return model(text, weights={"w": np.full((1, 1, 1), w, np.float16), "k": np.full((1, 1), k, np.float16)})


def test_half_precision_weights_round_once():
    new_w = weights_of(apply(half(100, 0.1), FoldConvMul())[0])[0]
    assert new_w.dtype == np.float16
    assert new_w.ravel() == np.float16(100 * np.float64(np.float16(0.1)))


@pytest.mark.parametrize(("w", "k"), [(100, 1000), (0.3, 1e-6)])
def test_weights_that_would_overflow_or_fade_stay(w, k):
    assert_unchanged(FoldConvMul(), half(w, k))


# -- ConvTranspose -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rule", "behind"),
    [
        (FoldConvTransposeBn(), "BatchNormalization(c, s, t, m, v)"),
        (FoldConvTransposeMul(), "Mul(c, k)"),
        (FoldConvTransposeDiv(), "Div(c, k)"),
        (FoldConvTransposeAdd(), "Add(k, c)"),
        (FoldConvTransposeSub(), "Sub(c, k)"),
        (FoldConvTransposeSubFrom(), "Sub(k, c)"),
        (FoldConvTransposeNeg(), "Neg(c)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_behind_a_grouped_transposed_convolution(rule, behind, bias):
    """Its weights are (in, out / group, ...): output channel 4 of 6 is column 1 of the second group's rows."""
    text = f"""g (float[N,4,5,5] x) => (float[N,6,H,W] y) {{
        c = ConvTranspose<group = 2, strides = [2, 2], output_padding = [1, 0]>(x, w{", b" if bias else ""})
        y = {behind}
    }}"""
    k = np.linspace(1, 2, 6, dtype=np.float32).reshape(6, 1, 1)
    result = check_rule(rule, model(text, weights={"w": (4, 3, 3, 3), "b": (6,), "k": k, **BN}), fires=1)
    assert operators(result) == ["ConvTranspose"]


def test_per_channel_of_a_transposed_convolution_means_its_output_channels():
    text = "g (float[1,2,5] x) => (float[1,3,5] y) { c = ConvTranspose(x, w) y = Mul(c, k) }"
    check_rule(FoldConvTransposeMul(), model(text, weights={"w": (2, 3, 1), "k": (3, 1)}), fires=1)
    assert_unchanged(FoldConvTransposeMul(), model(text, weights={"w": (2, 3, 1), "k": (5,)}))


# -- zero bias -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "op", "shape"),
    [(RemoveZeroBias(), "Conv", (6, 4, 1)), (RemoveZeroBiasOfConvTranspose(), "ConvTranspose", (4, 6, 1))],
)
def test_a_zero_bias_goes(rule, op, shape):
    text = f"g (float[1,4,5] x) => (float[1,6,5] y) {{ y = {op}(x, w, b) }}"
    after = f"g (float[1,4,5] x) => (float[1,6,5] y) {{ y = {op}(x, w) }}"
    zeros = np.zeros(6, np.float32)
    check_rule(rule, model(text, weights={"w": shape, "b": zeros}), model(after, weights={"w": shape}), fires=1)
    assert_unchanged(rule, model(text, weights={"w": shape, "b": zeros + np.float32([0, 0, 0, 0, 0, 1e-30])}))
