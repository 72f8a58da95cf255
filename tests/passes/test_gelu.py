"""Gelu, Mish, Softsign, Softplus, Softmax, LeakyRelu and PRelu, spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.gelu import (
    FuseGelu,
    FuseGeluDivided,
    FuseGeluTanh,
    FuseGeluTanhFactored,
    FuseGeluTanhMultiplied,
    FuseLeakyRelu,
    FuseMish,
    FusePrelu,
    FuseSoftmax,
    FuseSoftsign,
    RemoveThresholdOfSoftplus,
    SigmoidInsteadOfTanh,
)

from graphopt.testing import apply, assert_unchanged, check_rule, model

F = np.float32
NUMBERS = {
    "two": 1.4142135623730951,
    "root": 0.7071067811865476,
    "one": 1.0,
    "half": 0.5,
    "three": 3.0,
    "c": 0.044715,
    "k": 0.7978845608028654,
}


def graph(body: str, *, opset: int = 20, ports: str = "(float[N,40] x) => (float[N,40] y)", dtype=np.float32, **others):
    weights = {name: np.asarray(value, dtype) for name, value in {**NUMBERS, **others}.items() if name in body}
    return model(f"g {ports} {{ {body} }}", weights=weights, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


ENDS = [
    "p = Mul(x, a) y = Mul(p, half)",
    "p = Mul(a, x) y = Mul(half, p)",
    "p = Mul(a, half) y = Mul(x, p)",
    "p = Mul(x, half) y = Mul(p, a)",
    "p = Mul(half, x) y = Mul(a, p)",
]
STARTS = [
    (FuseGelu(), "i = Mul(x, root) f = Erf(i) a = Add(f, one)"),
    (FuseGeluDivided(), "i = Div(x, two) f = Erf(i) a = Add(one, f)"),
    (
        FuseGeluTanh(),
        "q = Pow(x, three) r = Mul(c, q) s = Add(x, r) i = Mul(s, k) f = Tanh(i) a = Add(f, one)",
    ),
    (
        FuseGeluTanhMultiplied(),
        "w = Mul(x, x) q = Mul(x, w) r = Mul(c, q) s = Add(r, x) i = Mul(k, s) f = Tanh(i) a = Add(f, one)",
    ),
    (
        FuseGeluTanhFactored(),
        "w = Mul(x, c) q = Mul(w, x) s = Add(one, q) h = Mul(x, k) i = Mul(h, s) f = Tanh(i) a = Add(one, f)",
    ),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("rule", "start"), STARTS, ids=lambda value: getattr(value, "name", ""))
def test_gelu_in_every_order(rule, start, end):
    result = check_rule(rule, graph(f"{start} {end}"), fires=1)
    assert operators(result) == ["Gelu"]
    kind = [a.s for a in result.graph.node[0].attribute]
    assert kind == ([] if "Erf" in start else [b"tanh"])


@pytest.mark.parametrize(("rule", "start"), STARTS, ids=lambda value: getattr(value, "name", ""))
def test_gelu_does_not_exist_below_opset_20(rule, start):
    assert_unchanged(rule, graph(f"{start} {ENDS[0]}", opset=19))


@pytest.mark.parametrize(("rule", "start"), STARTS, ids=lambda value: getattr(value, "name", ""))
def test_no_constant_may_be_another(rule, start):
    body = f"{start} {ENDS[0]}"
    read = {name for node in graph(body).graph.node for name in node.input} & set(NUMBERS)
    assert len(read) >= 3
    for name in read:
        assert_unchanged(rule, graph(body, **{name: NUMBERS[name] * 1.001}))


def test_gelu_of_half_precision_has_constants_rounded_to_it():
    body = f"{STARTS[1][1]} {ENDS[0]}"
    ports = "(float16[N,40] x) => (float16[N,40] y)"
    assert operators(apply(graph(body, ports=ports, dtype=np.float16), FuseGeluDivided())[0]) == ["Gelu"]


def test_gelu_whose_parts_are_read_elsewhere_or_enlarged_stays():
    body = f"{STARTS[0][1]} {ENDS[0]}"
    assert_unchanged(FuseGelu(), graph(body, ports="(float[N,40] x) => (float[N,40] y, float[N,40] f)"))
    large = graph(body, ports="(float[N,40] x) => (float[1,N,40] y)", half=np.full((1, 1, 1), 0.5))
    assert_unchanged(FuseGelu(), large)
    other = body.replace("p = Mul(x, a)", "z = Neg(x) p = Mul(z, a)")
    assert_unchanged(FuseGelu(), graph(other))


def test_mish():
    body = "s = Softplus(x) t = Tanh(s) y = Mul(x, t)"
    assert operators(check_rule(FuseMish(), graph(body, opset=18), fires=1)) == ["Mish"]
    assert_unchanged(FuseMish(), graph(body, opset=17))
    assert_unchanged(FuseMish(), graph(body.replace("Mul(x, t)", "Mul(s, t)"), opset=18))


def test_softsign():
    body = "s = Abs(x) t = Add(s, one) y = Div(x, t)"
    assert operators(check_rule(FuseSoftsign(), graph(body, opset=13), fires=1)) == ["Softsign"]
    assert_unchanged(FuseSoftsign(), graph(body, one=2.0))
    ints = "(int32[N,40] x) => (int32[N,40] y)"
    assert_unchanged(FuseSoftsign(), graph(body, ports=ints, dtype=np.int32))


def test_threshold_of_softplus():
    body = "g = Greater(x, t) s = Softplus(x) y = Where(g, x, s)"
    result = check_rule(RemoveThresholdOfSoftplus(), graph(body, t=20.0), fires=1)
    assert operators(result) == ["Softplus"]
    assert_unchanged(RemoveThresholdOfSoftplus(), graph(body, t=5.0))
    ports = "(double[N,40] x) => (double[N,40] y)"
    assert_unchanged(RemoveThresholdOfSoftplus(), graph(body, t=20.0, ports=ports, dtype=np.float64))


def softmax(axes, axes2, opset=18):
    body = "m = ReduceMax(x, a) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, b) y = Div(e, s)"
    if opset < 18:
        body = body.replace("ReduceMax(x, a)", f"ReduceMax<axes = {axes}>(x)")
    ports = "(float[N,4,5] x) => (float[N,4,5] y)"
    return model(f"g {ports} {{ {body} }}", weights={"a": np.array(axes), "b": np.array(axes2)}, opset=opset)


@pytest.mark.parametrize(("axes", "opset"), [([-1], 18), ([1], 18), ([2], 13)])
def test_softmax(axes, opset):
    assert operators(check_rule(FuseSoftmax(), softmax(axes, axes, opset), fires=1)) == ["Softmax"]


def test_softmax_over_two_axes_or_different_ones_stays():
    assert_unchanged(FuseSoftmax(), softmax([1, 2], [1, 2]))
    assert_unchanged(FuseSoftmax(), softmax([1], [2]))


def test_leaky_relu():
    body = "s = Mul(x, slope) y = Max(s, x)"
    assert operators(check_rule(FuseLeakyRelu(), graph(body, slope=0.2), fires=1)) == ["LeakyRelu"]
    for wrong in (-0.2, 0.0, 1.5, np.full(40, 0.2)):
        assert_unchanged(FuseLeakyRelu(), graph(body, slope=wrong))


def test_prelu():
    body = "p = Relu(x) n = Neg(x) r = Relu(n) s = Mul(r, slope) y = Add(p, s)"
    slopes = -np.linspace(0.1, 0.9, 40)
    result = check_rule(FusePrelu(), graph(body, slope=slopes), fires=1)
    assert operators(result) == ["PRelu"]
    assert_unchanged(FusePrelu(), graph(body.replace("Neg(x)", "Abs(x)"), slope=slopes))
    ports = "(float[1,40] x) => (float[3,40] y)"
    assert_unchanged(FusePrelu(), graph(body, slope=np.ones((3, 40)), ports=ports))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("start", [start for _, start in STARTS[2:4]])
def test_below_opset_20_tanh_is_a_sigmoid(start, end):
    body = f"{start} {end}"
    result = check_rule(SigmoidInsteadOfTanh(), graph(body, opset=17), fires=1)
    assert len(result.graph.node) == len(graph(body).graph.node) - 2
    assert operators(result)[-2:] == ["Sigmoid", "Mul"]


def test_only_half_of_one_plus_tanh_is_a_sigmoid():
    body = f"{STARTS[2][1]} {ENDS[0]}"
    for wrong in ({"one": 2.0}, {"half": 0.25}, {"k": np.full(40, 0.5)}, {"k": 1e5}):
        assert_unchanged(SigmoidInsteadOfTanh(), graph(body, opset=17, **wrong))
    ports = "(float[N,40] x) => (float[N,40] y, float[N,40] f)"
    assert_unchanged(SigmoidInsteadOfTanh(), graph(body, opset=17, ports=ports))


def test_far_out_the_sigmoid_is_where_the_tanh_was():
    import onnxruntime as ort

    source = graph(f"{STARTS[2][1]} {ENDS[0]}", opset=17, ports="(float[N] x) => (float[N] y)")
    result, _ = apply(source, SigmoidInsteadOfTanh())
    x = np.array([-30, -5, -1, 0, 1, 5, 30, 1e5, -1e5, np.nan], np.float32)
    want, got = (ort.InferenceSession(p.SerializeToString()).run(None, {"x": x})[0] for p in (source, result))
    np.testing.assert_allclose(got, want, atol=1e-6)
