"""A pass that is mistyped says so: it would never fire, and nobody would know."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.errors import PassError, PluginError
from graphopt.rewrite.rule import entry
from graphopt.testing import apply, check_rule

ABS = "g (float[3] x) => (float[3] y) { a = Neg(x) b = Abs(a) y = Exp(b) }"


def rule(pattern, rewrite=None, check=None):
    """A rule of these methods."""
    methods = {"pattern": pattern, "rewrite": rewrite or (lambda self, op, x: op.Abs(x))}
    if check is not None:
        methods["check"] = check
    for name, function in methods.items():
        function.__name__ = name
    return type("Mistyped", (graphopt.Rule,), {"__doc__": "Equation.", **methods})()


def neg_under_abs(self, op, x):
    return op.Abs(op.Neg(x))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (lambda self, op, x: op.Abss(x), "ONNX has no operator 'Abss'"),
        (lambda self, op, x: op.Relu(op.Const(op.Nge(x))), "ONNX has no operator 'Nge'"),
        (lambda self, op, x: op.Softmax(x, axes=1), "Softmax has no attribute 'axes'"),
        (lambda self, op, x: op.Abs(x, x), "Abs takes at most 1 inputs, not 2"),
        (lambda self, op, x, q: op.Abs(x), "a parameter 'q' that stands nowhere"),
        (lambda self, op, x, *xs: op.Abs(x), "a parameter 'xs' that stands nowhere"),
    ],
)
def test_a_pattern_that_no_model_holds_is_refused(pattern, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        entry(rule(pattern), "mine")


@pytest.mark.parametrize(
    "pattern",
    [
        lambda self, op, x: op.Upsample(x, mode="nearest"),
        lambda self, op, x: op.BatchNormalization(x, spatial=1),
        lambda self, op, x: op.EfficientNMS_TRT(x, score_threshold=0.5),
        lambda self, op, x: op.domain("").InstanceNormalization_TRT(x),
        lambda self, op, x: op.domain("com.x").Abss(x),
    ],
)
def test_operators_of_old_opsets_and_of_others_are_allowed(pattern) -> None:
    entry(rule(pattern), "mine")


def test_what_the_pattern_does_not_bind_is_refused() -> None:
    with pytest.raises(PluginError, match=r"rewrite\(\) names 'z', which the pattern does not"):
        entry(rule(neg_under_abs, lambda self, op, z: op.Abs(z)), "mine")
    with pytest.raises(PluginError, match=r"check\(\) names 'w'"):
        entry(rule(neg_under_abs, check=lambda self, op, w: None), "mine")


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        (lambda self, op, x: op.Abbs(x), "ONNX has no operator 'Abbs'"),
        (lambda self, op, x: op.Softmax(x, axs=1), "Softmax has no attribute 'axs'"),
        (lambda self, op, x: op.Abs(x, x), "Abs takes at most 1 inputs, not 2"),
    ],
)
def test_a_rewrite_that_no_opset_can_say_is_an_error_and_no_veto(rewrite, words: str) -> None:
    with pytest.raises(PassError, match=words):
        apply(ABS, rule(neg_under_abs, rewrite))


def test_what_this_opset_cannot_say_is_a_veto() -> None:
    mish = rule(neg_under_abs, lambda self, op, x: op.Mish(x))
    assert apply(f'<ir_version: 8, opset_import: ["" : 13]>{ABS}', mish)[1] == {"mistyped": 0}


def test_an_error_says_the_line() -> None:
    def rewrite(self, op, x):
        return op.Abs(x.shape[7])

    with pytest.raises(PassError, match=r"IndexError: .* \(test_authoring\.py, line \d+\)"):
        check_rule(rule(neg_under_abs, rewrite), ABS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("g (float[3] x) => (float[3] y) { y = Abs(x) }", r"at Abs_0 \(Abs\): 'x' is not computed by Neg"),
        ("g (float[4] x) => (float[4] y) { a = Neg(x) y = Abs(a) }", r"at Abs_0 \(Abs\): vetoed: 4 is refused"),
        ("g (float[3] x) => (float[3] y) { y = Neg(x) }", "the pattern ends in Abs, and the model has none"),
    ],
)
def test_check_rule_says_why_a_rule_did_not_fire(text: str, why: str) -> None:
    vetoed = rule(neg_under_abs, check=lambda self, op, x: "4 is refused" if x.shape == (4,) else None)
    with pytest.raises(AssertionError, match=f"mistyped fired 0 times\n.*{why}"):
        check_rule(vetoed, text)


def test_text_that_is_no_model_is_shown_where_it_breaks() -> None:
    with pytest.raises(graphopt.GraphoptError, match=r"(?s)it is no ONNX text.*Expected character"):
        check_rule(rule(neg_under_abs), "g (float[3] x) => (float[3] y) { y = Abs(x) ")
