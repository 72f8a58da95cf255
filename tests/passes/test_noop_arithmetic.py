"""Neutral elements, involutions, and conditions that are known."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes import neutral

from graphopt.testing import apply, assert_unchanged, check_rule, model

RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def before(body: str, constants: str = "") -> object:
    initial = f"<{constants}>" if constants else ""
    return model(f"g (float[N,3] x) => (float[N,3] y) {initial} {{ {body} y = Relu(t) }}")


GOES = {
    "x + 0": (neutral.RemoveAddZero(), "t = Add(x, c)", "float c = {0}"),
    "0 + x": (neutral.RemoveAddZero(), "t = Add(c, x)", "float[3] c = {0, 0, 0}"),
    "x + -0": (neutral.RemoveAddZero(), "t = Add(x, c)", "float c = {-0.0}"),
    "x - 0": (neutral.RemoveSubZero(), "t = Sub(x, c)", "float[1] c = {0}"),
    "x * 1": (neutral.RemoveMulOne(), "t = Mul(x, c)", "float[1,1] c = {1}"),
    "1 * x": (neutral.RemoveMulOne(), "t = Mul(c, x)", "float[1,3] c = {1, 1, 1}"),
    "x / 1": (neutral.RemoveDivOne(), "t = Div(x, c)", "float c = {1}"),
    "x ** 1": (neutral.RemovePowOne(), "t = Pow(x, c)", "int64 c = {1}"),
    "max of one": (neutral.RemoveOperatorOfOne(), "t = Max(x)", ""),
    "mean of one": (neutral.RemoveOperatorOfOne(), "t = Mean(x)", ""),
    "min of twins": (neutral.RemoveOperatorOfTwins(), "t = Min(x, x)", ""),
    "-(-x)": (neutral.RemoveDoubleNeg(), "n = Neg(x) t = Neg(n)", ""),
    "where all": (neutral.ChooseKnownBranch(), "z = Neg(x) t = Where(c, x, z)", "bool[3] c = {1, 1, 1}"),
    "where none": (neutral.ChooseKnownBranch(), "z = Neg(x) t = Where(c, z, x)", "bool c = {0}"),
}


@pytest.mark.parametrize(("rule", "body", "constants"), GOES.values(), ids=GOES.keys())
def test_it_goes(rule, body, constants):
    check_rule(rule, before(body, constants), RELU)


@pytest.mark.parametrize("name", ["Relu", "Abs", "Sign", "Floor", "Ceil", "Round"])
def test_the_second_of_two_goes(name):
    rule = getattr(neutral, f"RemoveSecond{name}")()
    text = "g (float[N] x) => (float[N] y) {{ a = {0}(x) b = {0}(a) y = Neg(b) }}"
    after = "g (float[N] x) => (float[N] y) {{ a = {0}(x) y = Neg(a) }}"
    check_rule(rule, text.format(name), after.format(name))


def test_a_different_second_stays():
    assert_unchanged(neutral.RemoveSecondFloor(), "g (float[N] x) => (float[N] y) { a = Ceil(x) y = Floor(a) }")


def test_integers_too():
    text = "g (int32[N] x) => (int32[N] y) <int32 o = {1}, int32 z = {0}> { t = Mul(x, o) y = Sub(t, z) }"
    assert len(apply(text, neutral.RemoveMulOne(), neutral.RemoveSubZero())[0].graph.node) == 1
    check_rule(neutral.RemoveDivOne(), "g (int32[N] x) => (int32[N] y) <int32 o = {1}> { t = Div(x, o) y = Neg(t) }")


def test_booleans():
    text = "g (bool[N] x) => (bool[N] y) <bool o = {%d}> { t = %s(x, o) y = Not(t) }"
    check_rule(neutral.RemoveAndTrue(), text % (1, "And"))
    check_rule(neutral.RemoveOrFalse(), text % (0, "Or"))
    check_rule(neutral.RemoveOrFalse(), text % (0, "Xor"))
    assert_unchanged(neutral.RemoveAndTrue(), text % (0, "And"))
    assert_unchanged(neutral.RemoveOrFalse(), text % (1, "Or"))
    check_rule(
        neutral.RemoveDoubleNot(),
        "g (bool[N] x, bool[N] z) => (bool[N] y) { n = Not(x) t = Not(n) y = And(t, z) }",
        "g (bool[N] x, bool[N] z) => (bool[N] y) { y = And(x, z) }",
    )


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_at_every_opset(opset):
    text = "g (float[N,3] x) => (float[N,3] y) <float c = {1}> { t = Mul(x, c) y = Relu(t) }"
    check_rule(neutral.RemoveMulOne(), model(text, opset=opset), model(RELU, opset=opset))


STAYS = {
    "a constant that enlarges x": (neutral.RemoveAddZero(), "t = Add(x, c)", "float[2,1,3] c = {0,0,0,0,0,0}"),
    "a constant that may enlarge x": (neutral.RemoveMulOne(), "t = Mul(x, c)", "float[2,1] c = {1, 1}"),
    "an empty constant": (neutral.RemoveMulOne(), "t = Mul(x, c)", "float[0,1] c = {}"),
    "some ones": (neutral.RemoveMulOne(), "t = Mul(x, c)", "float[3] c = {1, 1, 2}"),
    "0 - x": (neutral.RemoveSubZero(), "t = Sub(c, x)", "float c = {0}"),
    "1 / x": (neutral.RemoveDivOne(), "t = Div(c, x)", "float c = {1}"),
    "1 ** x": (neutral.RemovePowOne(), "t = Pow(c, x)", "float c = {1}"),
    "almost 1": (neutral.RemoveMulOne(), "t = Mul(x, c)", "float c = {1.0000002}"),
    "where some": (neutral.ChooseKnownBranch(), "z = Neg(x) t = Where(c, x, z)", "bool[3] c = {1, 0, 1}"),
    "where a condition enlarges": (neutral.ChooseKnownBranch(), "t = Where(c, x, x)", "bool[2,1,1] c = {1, 1}"),
    "where the other enlarges": (
        neutral.ChooseKnownBranch(),
        "t = Where(c, x, z)",
        "bool c = {1}, float[2,1,1] z = {1, 2}",
    ),
}


@pytest.mark.parametrize(("rule", "body", "constants"), STAYS.values(), ids=STAYS.keys())
def test_it_stays(rule, body, constants):
    assert_unchanged(rule, f"g (float[N,3] x) => (int64 y) <{constants}> {{ {body} y = Size(t) }}")


def test_a_symbol_that_is_not_the_same_enlarges():
    text = "g (float[N] x, bool[M] c) => (int64 y) { t = Where(c, x, x) y = Size(t) }"
    assert_unchanged(neutral.ChooseBetweenTwins(), text)
    check_rule(
        neutral.ChooseBetweenTwins(),
        "g (float[N] x, bool[N] c) => (float[N] y) { t = Where(c, x, x) y = Relu(t) }",
        "g (float[N] x, bool[N] c) => (float[N] y) { y = Relu(x) }",
    )


def test_placeholder_names_are_no_symbols():
    """Paddle calls every unknown dimension '?': two of them are not one number."""
    proto = model("g (float[N] x, bool[M] c) => (int64 y) { t = Where(c, x, x) y = Size(t) }")
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "?"
    assert_unchanged(neutral.ChooseBetweenTwins(), proto)


def test_an_unknown_rank_proves_nothing():
    proto = model("g (float x) => (int64 y) <float[1] c = {1}> { t = Mul(x, c) y = Size(t) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert_unchanged(neutral.RemoveMulOne(), proto)


def test_zero_times_x_is_not_zero():
    """Of all first-party passes, none makes 0 of x * 0: it is NaN where x is NaN or infinite."""
    proto = model("g (float[N] x) => (float[N] y) <float c = {0}> { y = Mul(x, c) }")
    result, _ = apply(proto, *neutral.graphopt_passes())
    assert [node.op_type for node in result.graph.node] == ["Mul"]


@pytest.mark.parametrize("rule", neutral.graphopt_passes(), ids=lambda rule: rule.name)
def test_reciprocals_and_roots_stay(rule):
    body = "a = Reciprocal(x) t = Reciprocal(a) m = Mul(x, x) y = Sqrt(m)"
    assert_unchanged(rule, f"g (float[N] x) => (float[N] t, float[N] y) {{ {body} }}")


def test_nan_and_infinity_pass_through():
    import onnxruntime

    text = "g (float[N] x) => (float[N] y) <float c = {1}> { t = Mul(x, c) n = Neg(t) m = Neg(n) y = Identity(m) }"
    result, _ = apply(text, *neutral.graphopt_passes())
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    before, after = (
        onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": values})[0]
        for proto in (model(text), result)
    )
    assert len(result.graph.node) < 4
    np.testing.assert_array_equal(before, after)


def test_adding_a_negative_is_subtracting():
    check_rule(
        neutral.SubtractInsteadOfAddingNegative(),
        "g (float[N] x, float[N] z) => (float[N] y) { n = Neg(z) y = Add(n, x) }",
        "g (float[N] x, float[N] z) => (float[N] y) { y = Sub(x, z) }",
    )
    check_rule(
        neutral.AddInsteadOfSubtractingNegative(),
        "g (float[N] x, float[N] z) => (float[N] y) { n = Neg(z) y = Sub(x, n) }",
        "g (float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }",
    )
    shared = "g (float[N] x, float[N] z) => (float[N] y, float[N] n) { n = Neg(z) y = Add(n, x) }"
    assert_unchanged(neutral.SubtractInsteadOfAddingNegative(), shared)


def test_a_graph_output_keeps_its_name():
    result = check_rule(
        neutral.RemoveMulOne(),
        "g (float[N] x) => (float[N] y) <float c = {1}> { y = Mul(x, c) }",
        "g (float[N] x) => (float[N] y) { y = Identity(x) }",
    )
    assert [value.name for value in result.graph.output] == ["y"]
