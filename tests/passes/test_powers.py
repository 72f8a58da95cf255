"""Squares, reciprocals and CastLike have one spelling."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.cast_like import CastInsteadOfCastLike
from graphopt_passes.powers import (
    DivideInsteadOfMultiplyingByReciprocal,
    MultiplyInsteadOfSquaring,
    ReciprocalInsteadOfDividingOne,
)

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32


def graph(body, *, kind="float", opset=17, **weights):
    return model(f"g ({kind}[N,4] x) => ({kind}[N,4] y) {{ {body} }}", weights=weights, opset=opset)


@pytest.mark.parametrize("two", [F(2), F([2]), np.int64(2), F([[2]])], ids=str)
def test_square(two):
    check_rule(MultiplyInsteadOfSquaring(), graph("y = Pow(x, k)", k=two), graph("y = Mul(x, x)"), fires=1)


@pytest.mark.parametrize("k", [F(3), F(2.0001), F([2, 2, 2, 2]), F(-2)], ids=str)
def test_other_powers_stay(k):
    assert_unchanged(MultiplyInsteadOfSquaring(), graph("y = Pow(x, k)", k=k))


def test_squares_of_integers_and_of_higher_rank_stay():
    assert_unchanged(MultiplyInsteadOfSquaring(), graph("y = Pow(x, k)", kind="int32", k=np.int32(2)))
    text = "g (float[4] x) => (float[1,4] y) { y = Pow(x, k) }"
    assert_unchanged(MultiplyInsteadOfSquaring(), model(text, weights={"k": F([[2]])}))


def test_reciprocal():
    rule = ReciprocalInsteadOfDividingOne()
    check_rule(rule, graph("a = Exp(x) y = Div(k, a)", k=F(1)), graph("a = Exp(x) y = Reciprocal(a)"), fires=1)
    assert_unchanged(rule, graph("y = Div(k, x)", k=F(2)))
    assert_unchanged(rule, graph("y = Div(x, k)", k=F(1)))
    assert_unchanged(rule, graph("y = Div(k, x)", k=F([1, 1, 1, 1])))
    assert_unchanged(rule, graph("y = Div(k, x)", kind="int32", k=np.int32(1)))


@pytest.mark.parametrize("product", ["y = Mul(x, r)", "y = Mul(r, x)"])
def test_quotient(product):
    rule = DivideInsteadOfMultiplyingByReciprocal()
    body = f"a = Exp(x) r = Reciprocal(a) {product}"
    check_rule(rule, graph(body), graph("a = Exp(x) y = Div(x, a)"), fires=1)
    shared = model(f"g (float[N,4] x) => (float[N,4] y, float[N,4] r) {{ {body} }}")
    assert_unchanged(rule, shared)


def test_zeros_infinities_and_nan_divide_as_they_multiplied():
    import onnxruntime as ort

    from graphopt.testing import apply

    text = "g (float[N] x, float[N] z) => (float[N] y) { r = Reciprocal(z) y = Mul(x, r) }"
    special = F([0, -0.0, 1, -2, np.inf, -np.inf, np.nan])
    x, z = (part.ravel() for part in np.meshgrid(special, special))
    result, _ = apply(text, DivideInsteadOfMultiplyingByReciprocal())
    want, got = (
        ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x, "z": z})[0]
        for proto in (model(text), result)
    )
    np.testing.assert_array_equal(got, want)


def test_cast_like():
    rule = CastInsteadOfCastLike()
    check_rule(rule, graph("a = CastLike(k, x) y = Mul(x, a)", k=F(2)), graph("y = Mul(x, k)", k=F(2)), fires=1)
    text = "g (float[4] x, float16[1] z) => (float16[4] y) { y = CastLike(x, z) }"
    check_rule(rule, text, "g (float[4] x, float16[1] z) => (float16[4] y) { y = Cast<to = 10>(x) }", fires=1)
    narrow = "g (float[4] x, float8e4m3fn[1] z) => (float8e4m3fn[4] y) { y = CastLike<saturate = 0>(x, z) }"
    assert_unchanged(rule, model(narrow, opset=19))
