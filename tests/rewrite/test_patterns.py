"""What a pattern says, and what it does not match."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import PluginError
from graphopt.rewrite.rule import entry
from graphopt.testing import apply, assert_unchanged, check_rule, model


class FoldDoubleTranspose(graphopt.Rule):
    """Transpose(Transpose(x, p), q) = Transpose(x, [p[i] for i in q])."""

    def pattern(self, op, x, p, q):
        return op.Transpose(op.Transpose(x, perm=p), perm=q)

    def rewrite(self, op, x, p, q):
        return op.Transpose(x, perm=[p[i] for i in q])


def test_a_rule_of_ten_lines():
    check_rule(
        FoldDoubleTranspose(),
        """g (float[2,3,4] x) => (float[4,2,3] y) {
            a = Transpose<perm = [1, 0, 2]>(x)
            y = Transpose<perm = [2, 1, 0]>(a)
        }""",
        """g (float[2,3,4] x) => (float[4,2,3] y) { y = Transpose<perm = [2, 0, 1]>(x) }""",
    )


def test_an_absent_attribute_is_what_the_operator_means():
    check_rule(
        FoldDoubleTranspose(),
        "g (float[2,3,4] x) => (float[4,3,2] y) { a = Transpose<perm = [0, 1, 2]>(x)  y = Transpose(a) }",
        "g (float[2,3,4] x) => (float[4,3,2] y) { y = Transpose<perm = [2, 1, 0]>(x) }",
    )


def test_a_long_chain_folds_to_one():
    text = "".join(f"t{i + 1} = Transpose<perm = [1, 2, 0]>(t{i})" for i in range(9))
    check_rule(FoldDoubleTranspose(), f"g (float[2,3,4] t0) => (float[2,3,4] t9) {{ {text} }}", fires=8)


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("the inner value is read elsewhere", "y = Transpose(a) z = Relu(a)"),
        ("the inner value is a graph output", "y = Transpose(a)"),
    ],
)
def test_inner_values_must_be_private(why, text):
    outputs = "float[3,4,2] y, float[2,4,3] z" if "Relu" in text else "float[3,4,2] y, float[2,4,3] a"
    assert_unchanged(
        FoldDoubleTranspose(),
        f"g (float[2,3,4] x) => ({outputs}) {{ a = Transpose<perm = [0, 2, 1]>(x) {text} }}",
    )


def test_unless_the_rule_says_so():
    class Shared(FoldDoubleTranspose):
        shared_inner = True

    check_rule(
        Shared(),
        """g (float[2,3,4] x) => (float[3,4,2] y, float[2,4,3] z) {
            a = Transpose<perm = [0, 2, 1]>(x)
            y = Transpose<perm = [2, 1, 0]>(a)
            z = Relu(a)
        }""",
        """g (float[2,3,4] x) => (float[3,4,2] y, float[2,4,3] z) {
            a = Transpose<perm = [0, 2, 1]>(x)
            y = Transpose<perm = [1, 2, 0]>(x)
            z = Relu(a)
        }""",
    )


class AddZero(graphopt.Rule):
    """x + 0 = x, where the shape stays."""

    def pattern(self, op, x):
        return op.Add(x, 0.0)

    def check(self, op, x):
        return None if x.shape is not None else "unknown shape"

    def rewrite(self, op, x):
        return op.Identity(x)


@pytest.mark.parametrize("order", ["x, c", "c, x"])
def test_commutative_operators_match_in_any_order(order):
    check_rule(AddZero(), model(f"g (float[3] x) => (float[3] y) {{ y = Add({order}) }}", weights={"c": np.float32(0)}))


def test_a_number_matches_only_itself():
    for value in (np.float32(1e-9), np.zeros(3, np.float32), np.float32("nan")):
        assert_unchanged(AddZero(), model("g (float[3] x) => (float[3] y) { y = Add(x, c) }", weights={"c": value}))


class Square(graphopt.Rule):
    """x * x = Pow(x, 2)."""

    def pattern(self, op, x):
        return op.Mul(x, x)

    def rewrite(self, op, x):
        return op.Pow(x, 2.0)


def test_a_repeated_variable_is_the_same_tensor():
    check_rule(Square(), "g (float[3] x) => (float[3] y) { y = Mul(x, x) }")
    assert_unchanged(Square(), "g (float[3] x, float[3] z) => (float[3] y) { y = Mul(x, z) }")


def test_a_python_number_takes_the_dtype_of_its_neighbour():
    result, _ = apply("g (float16[3] x) => (float16[3] y) { y = Mul(x, x) }", Square())
    assert [t.data_type for t in result.graph.initializer] == [onnx.TensorProto.FLOAT16]


class DropConvBias(graphopt.Rule):
    """Conv(x, w, 0) = Conv(x, w)."""

    def pattern(self, op, x, w, b, conv):
        return op.Conv(x, w, op.maybe(op.Const(b)), attrs=conv)

    def check(self, op, b):
        return "there is no bias" if b is None else None if not b.const.any() else "the bias is not zero"

    def rewrite(self, op, x, w, conv):
        return op.Conv(x, w, **conv)


CONV = "g (float[1,2,5,5] x) => (float[1,3,3,3] y) {{ y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>({args}) }}"


def test_optional_inputs_and_the_rest_of_the_attributes():
    weights = {"w": (3, 2, 3, 3), "b": np.zeros(3, np.float32)}
    after = model(CONV.format(args="x, w"), weights={"w": weights["w"]})
    check_rule(DropConvBias(), model(CONV.format(args="x, w, b"), weights=weights), after)
    assert_unchanged(DropConvBias(), after)


def test_attributes_that_the_pattern_does_not_name_must_be_at_their_defaults():
    class Blind(DropConvBias):
        def pattern(self, op, x, w, b):
            return op.Conv(x, w, op.maybe(op.Const(b)))

        def rewrite(self, op, x, w):
            return op.Conv(x, w)

    weights = {"w": (3, 2, 3, 3), "b": np.zeros(3, np.float32)}
    assert_unchanged(Blind(), model(CONV.format(args="x, w, b"), weights=weights))
    spelled = "g (float[1,2,5,5] x) => (float[1,3,3,3] y) { y = Conv<strides = [1, 1], group = 1>(x, w, b) }"
    check_rule(Blind(), model(spelled, weights=weights))


class Unsplit(graphopt.Rule):
    """Concat(Split(x, axis), axis) = x."""

    def pattern(self, op, x, split, axis):
        a, b = op.Split(x, op.maybe(split), axis=axis, outputs=2)
        return op.Concat(a, b, axis=axis)

    def rewrite(self, op, x):
        return x


@pytest.mark.parametrize("opset", [11, 13])
def test_several_outputs(opset):
    args, attribute = ("x, s", "") if opset >= 13 else ("x", ", split = [1, 3]")
    text = (
        "g (float[4,2] x) => (float[4,2] z) {{ a, b = Split<axis = 0{0}>({1}) y = Concat<axis = 0>(a, b) z = Relu(y) }}"
    )
    weights = {"s": np.array([1, 3])} if opset >= 13 else {}
    source = model(text.format(attribute, args), weights=weights, opset=opset)
    check_rule(Unsplit(), source, model("g (float[4,2] x) => (float[4,2] z) { z = Relu(x) }", opset=opset))
    swapped = model(text.replace("(a, b) z", "(b, a) z").format(attribute, args), weights=weights, opset=opset)
    assert_unchanged(Unsplit(), swapped)


class SqueezeOfUnsqueeze(graphopt.Rule):
    """Squeeze(Unsqueeze(x, a), a) = x."""

    def pattern(self, op, x, axes):
        return op.Squeeze(op.Unsqueeze(x, op.Const(axes)), op.Const(axes))

    def rewrite(self, op, x):
        return x


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
def test_operands_that_moved_from_attribute_to_input_are_written_once(opset):
    if opset < 13:
        text, weights = "a = Unsqueeze<axes = [0]>(x) b = Squeeze<axes = [0]>(a)", {}
    else:
        text, weights = "a = Unsqueeze(x, n) b = Squeeze(a, n)", {"n": np.array([0])}
    source = model(f"g (float[3] x) => (float[3] y) {{ {text} y = Relu(b) }}", weights=weights, opset=opset)
    check_rule(SqueezeOfUnsqueeze(), source, model("g (float[3] x) => (float[3] y) { y = Relu(x) }", opset=opset))


class MeanOfReduce(graphopt.Rule):
    """ReduceSum(x, a) / n = ReduceMean(x, a)."""

    def pattern(self, op, x, axes, n, keep):
        return op.ReduceSum(x, op.Const(axes), keepdims=keep) / op.Const(n)

    def check(self, op, x, axes, n):
        count = np.prod([x.shape[a] for a in axes.const])
        return None if n.size == 1 and float(n.const) == count else "not the number of elements"

    def rewrite(self, op, x, axes, keep):
        return op.ReduceMean(x, axes, keepdims=keep)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_rewrite_is_emitted_in_the_form_of_the_models_opset(opset):
    spelled, weights = ("<axes = [1]>(x)", {}) if opset < 13 else ("(x, a)", {"a": np.array([1])})
    source = model(
        f"g (float[2,4] x) => (float[2,1] y) {{ s = ReduceSum{spelled} y = Div(s, n) }}",
        weights={"n": np.float32(4), **weights},
        opset=opset,
    )
    result = check_rule(MeanOfReduce(), source)
    assert len(result.graph.node[0].input) == (2 if opset >= 18 else 1)


def test_what_cannot_be_said_at_the_models_opset_does_not_fire():
    class ToLayerNormalization(graphopt.Rule):
        """A function that came with opset 17."""

        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, x):
            return op.LayerNormalization(x, x)

    assert_unchanged(ToLayerNormalization(), model("g (float[3] x) => (float[3] y) { y = Relu(x) }", opset=13))


class EitherWay(graphopt.Rule):
    """Relu(x) = Clip(x, 0) = Max(x, 0)."""

    def pattern(self, op, x):
        return graphopt.alternatives(op.Clip(x, 0.0), op.Max(x, 0.0))

    def rewrite(self, op, x):
        return op.Relu(x)


@pytest.mark.parametrize("spelled", ["Clip(x, zero)", "Max(x, zero)", "Max(zero, x)"])
def test_alternatives(spelled):
    source = model(f"g (float[3] x) => (float[3] y) {{ y = {spelled} }}", weights={"zero": np.float32(0)})
    check_rule(EitherWay(), source, "g (float[3] x) => (float[3] y) { y = Relu(x) }")


class DropConcatOfOne(graphopt.Rule):
    """Concat(Concat(a...), b...) = Concat(a..., b...)."""

    def pattern(self, op, first, *rest, axis):
        return op.Concat(first, *rest, axis=axis)

    def check(self, op, first, *rest, axis):
        return None if not rest else f"{len(rest)} more"

    def rewrite(self, op, first, *rest, axis):
        return first


def test_variadic_inputs():
    check_rule(DropConcatOfOne(), "g (float[3] x) => (float[3] y) { a = Concat<axis = 0>(x) y = Relu(a) }")
    assert_unchanged(DropConcatOfOne(), "g (float[3] x) => (float[6] y) { a = Concat<axis = 0>(x, x) y = Relu(a) }")


class Foreign(graphopt.Rule):
    """com.x.Twice(x) = x + x."""

    def pattern(self, op, x):
        return op.domain("com.x").Twice(x)

    def rewrite(self, op, x):
        return x + x


def test_other_domains():
    source = model("g (float[3] x) => (float[3] y) { y = com.x.Twice(x) }", **{"com.x": 1})
    result, counts = apply(source, Foreign())
    assert counts["foreign"] == 1
    assert [node.op_type for node in result.graph.node] == ["Add"]
    assert_unchanged(Foreign(), model("g (float[3] x) => (float[3] y) { y = com.y.Twice(x) }", **{"com.y": 1}))


class BothHalves(graphopt.Rule):
    """(Sin(x), Cos(x)) = (Cos(x), Sin(x)) swapped twice: a pattern of two roots."""

    def pattern(self, op, x):
        return op.Neg(x), op.Abs(x)

    def rewrite(self, op, x):
        return op.Mul(x, -1.0), op.Max(x, op.Neg(x))


def test_a_tuple_names_several_results():
    source = "g (float[3] x) => (float[3] a, float[3] b) { a = Neg(x) b = Abs(x) }"
    result, counts = apply(source, BothHalves())
    assert counts["both-halves"] == 1
    assert sorted(node.op_type for node in result.graph.node) == ["Max", "Mul", "Neg"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("If", "subgraph"),
        ("function", "function"),
    ],
)
def test_bodies_and_functions_are_rewritten_too(text, why):
    inner = "a = Transpose<perm = [1, 0]>(x) y = Transpose<perm = [1, 0]>(a)"
    if text == "If":
        source = model(
            f"g (bool c, float[2,3] x) => (float[2,3] z) {{"
            f" z = If(c)<then_branch = t () => (y) {{ {inner} }}, else_branch = e () => (w) {{ w = Relu(x) }}> }}"
        )
    else:
        source = model(
            '<ir_version: 10, opset_import: ["" : 17, "f" : 1]>'
            "g (float[2,3] x) => (float[2,3] z) { z = f.twice(x) }"
            f'<domain: "f", opset_import: ["" : 17]> twice (x) => (y) {{ {inner} }}'
        )
    _, counts = apply(source, Restore())
    assert counts["restore"] == 1, why


class Restore(graphopt.Rule):
    """Transpose(Transpose(x, p), p) = x for a p that is its own inverse."""

    def pattern(self, op, x, p):
        return op.Transpose(op.Transpose(x, perm=p), perm=p)

    def check(self, op, p):
        return None if p and [p[i] for i in p] == list(range(len(p))) else "p is not its own inverse"

    def rewrite(self, op, x):
        return op.Identity(x)


def test_what_is_read_in_a_body_is_not_private():
    assert_unchanged(
        FoldDoubleTranspose(),
        """g (bool c, float[2,3] x) => (float[2,3] y, float[3,2] z) {
            a = Transpose<perm = [1, 0]>(x)
            y = Transpose<perm = [1, 0]>(a)
            z = If(c)<then_branch = t () => (u) { u = Relu(a) }, else_branch = e () => (v) { v = Neg(a) }>
        }""",
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda self, op, x: x, "must return nodes"),
        (lambda self, op, x: 1 / 0, "ZeroDivisionError"),
        (lambda self, op, x: op.Add(x, 1.0) if x else None, "no truth value"),
        (lambda self, op, **x: op.Relu(x), "attrs=NAME"),
    ],
)
def test_a_pattern_that_is_none_is_an_error_that_names_the_plugin(pattern, message):
    Broken = type("Broken", (graphopt.Rule,), {"pattern": pattern})
    with pytest.raises(PluginError, match=message) as caught:
        entry(Broken(), "mine")
    assert "plugin mine, pass broken" in str(caught.value)
