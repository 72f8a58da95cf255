"""LayerNormalization and RMSNormalization, spelled out as exporters do."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.norms import (
    AddIntoLayerNorm,
    FuseLayerNorm,
    FuseLayerNormFolded,
    FuseRmsNorm,
    MulIntoLayerNorm,
    MulIntoRmsNorm,
    NarrowLayerNorm,
    NarrowRmsNorm,
    graphopt_passes,
)
from onnx import TensorProto

from graphopt.testing import apply, assert_unchanged, check_rule, model

F = np.float32
AXES = {"axes": np.array([-1]), "e": F(1e-5)}
CORE = """m = ReduceMean(x, axes) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, axes)
          a = Add(v, e) s = Sqrt(a) y = Div(d, s)"""
RMS = "p = Mul(x, x) v = ReduceMean(p, axes) a = Add(v, e) s = Sqrt(a) y = Div(x, s)"


def norm(body: str = CORE, *, opset: int = 18, ports: str = "(float[N,6,16] x) => (float[N,6,16] y)", **weights):
    return model(f"g {ports} {{ {body} }}", weights={**AXES, **weights}, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def only(proto):
    (node,) = proto.graph.node
    return node.op_type, {a.name: a.i or a.f for a in node.attribute}


@pytest.mark.parametrize("epsilon", [1e-5, 1e-12, 0.1])
def test_the_core_is_a_norm_with_a_scale_of_ones(epsilon):
    result = check_rule(FuseLayerNorm(), norm(e=F(epsilon)), fires=1)
    name, attrs = only(result)
    assert name == "LayerNormalization"
    assert attrs["axis"] == -1
    assert F(attrs["epsilon"]) == F(epsilon)


def test_axes_are_attributes_below_opset_18():
    text = CORE.replace("ReduceMean(x, axes)", "ReduceMean<axes = [2]>(x)")
    text = text.replace("ReduceMean(p, axes)", "ReduceMean<axes = [-1]>(p)")
    assert only(check_rule(FuseLayerNorm(), norm(text, opset=17), fires=1))[0] == "LayerNormalization"


@pytest.mark.parametrize("axes", [[-2, -1], [1, 2], [2, 1]])
def test_the_last_two_dimensions(axes):
    name, attrs = only(check_rule(FuseLayerNorm(), norm(axes=np.array(axes)), fires=1))
    assert (name, attrs["axis"]) == ("LayerNormalization", -2)


def test_with_affine_the_whole_is_one_node():
    body = CORE.replace("y = Div", "n = Div") + " k = Mul(n, w) y = Add(b, k)"
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((2, 16)).astype(F)
    result, _ = apply(norm(body, w=w, b=b), *graphopt_passes())
    assert operators(result) == ["LayerNormalization"]
    wanted = model(
        "g (float[N,6,16] x) => (float[N,6,16] y) { y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, w, b) }",
        weights={"w": w, "b": b},
    )
    for rule, body in ((MulIntoLayerNorm(), "y = Mul(w, n)"), (AddIntoLayerNorm(), "y = Add(n, w)")):
        text = f"n = LayerNormalization<epsilon = 1e-5>(x, s, b) {body}"
        check_rule(rule, norm(text, w=w, b=b, s=w), fires=1)
    check_rule(FuseLayerNorm(), norm(), fires=1)
    assert only(wanted) == only(result)


@pytest.mark.parametrize("shape", [(), (1,), (16,), (1, 16), (1, 1, 16), (1, 1, 1)])
def test_affine_constants_of_every_shape_that_fits(shape):
    c = np.full(shape, 1.5, F)
    text = "n = LayerNormalization(x, s, s) y = {}(n, c)"
    check_rule(MulIntoLayerNorm(), norm(text.format("Mul"), s=np.arange(16, dtype=F), c=c), fires=1)
    check_rule(AddIntoLayerNorm(), norm(text.format("Add"), s=np.arange(16, dtype=F), c=c), fires=1)


@pytest.mark.parametrize("shape", [(6, 1), (6, 16), (2, 1, 16), (1, 1, 1, 16)])
def test_a_constant_of_other_dimensions_stays(shape):
    ports = "(float[1,6,16] x) => (float y)"
    for rule, name in ((MulIntoLayerNorm(), "Mul"), (AddIntoLayerNorm(), "Add")):
        body = f"n = LayerNormalization(x, s) z = {name}(n, c) y = ReduceSum<keepdims = 0>(z)"
        assert_unchanged(rule, norm(body, ports=ports, s=np.ones(16, F), c=np.ones(shape, F)))


def test_folded_spelling_of_tensorflow():
    body = """m = ReduceMean(x, axes) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, axes) a = Add(v, e) s = Sqrt(a)
              k = Div(w, s) xk = Mul(x, k) mk = Mul(m, k) r = Sub(b, mk) y = Add(xk, r)"""
    rng = np.random.default_rng(1)
    w, b = rng.standard_normal((2, 16)).astype(F)
    assert only(check_rule(FuseLayerNormFolded(), norm(body, w=w, b=b), fires=1))[0] == "LayerNormalization"
    wrong = body.replace("mk = Mul(m, k)", "mk = Mul(v, k)")
    assert_unchanged(FuseLayerNormFolded(), norm(wrong, w=w, b=b))


WRONG = {
    "axis in the middle": {"axes": np.array([1])},
    "epsilon per element": {"e": np.full(16, 1e-5, F)},
    "epsilon that raises the rank": {"e": np.full((1, 1, 1, 1), 1e-5, F)},
    "negative epsilon": {"e": F(-1e-5)},
    "infinite epsilon": {"e": F(np.inf)},
}


@pytest.mark.parametrize("weights", WRONG.values(), ids=WRONG)
def test_other_constants_are_no_norm(weights):
    ports = "(float[2,16,16] x) => (float z)"
    assert_unchanged(FuseLayerNorm(), norm(CORE + " z = ReduceSum<keepdims = 0>(y)", ports=ports, **weights))


BODIES = {
    "different axes": CORE.replace("ReduceMean(p, axes)", "ReduceMean(p, other)"),
    "a product of two tensors": CORE.replace("Mul(d, d)", "Mul(d, x)"),
    "the mean of something else": CORE.replace("ReduceMean(x, axes)", "ReduceMean(w, axes)"),
    "the sum": CORE.replace("v = ReduceMean", "v = ReduceSum"),
    "no square root": CORE.replace("Sqrt", "Abs"),
    "another dividend": CORE.replace("Div(d, s)", "Div(x, s)"),
    "the variance is read elsewhere": CORE.replace("y = Div(d, s)", "n = Div(d, s) y = Add(n, v)"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_only_looks_like_a_norm_stays(body):
    assert_unchanged(FuseLayerNorm(), norm(body, other=np.array([1]), w=np.ones((1, 1, 16), F)))


def test_not_where_the_operator_or_the_dimension_or_the_dtype_is_missing():
    text = CORE.replace("(x, axes)", "<axes = [-1]>(x)").replace("(p, axes)", "<axes = [-1]>(p)")
    assert_unchanged(FuseLayerNorm(), norm(text, opset=16))
    assert_unchanged(FuseLayerNorm(), norm(ports="(float[N,6,C] x) => (float[N,6,C] y)"))
    ports = "(double[N,6,16] x) => (double[N,6,16] y)"
    assert_unchanged(FuseLayerNorm(), norm(ports=ports, e=np.float64(1e-5)))
    assert_unchanged(FuseLayerNorm(), norm(ports="(float[N,6,16] x) => (float[N,6,16] y, float[N,6,1] v)"))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_keeps_its_dtype(kind):
    import ml_dtypes

    epsilon = np.asarray(1e-3, {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[kind])
    ports = f"({kind}[N,6,16] x) => ({kind}[N,6,16] y)"
    result, counts = apply(norm(ports=ports, e=epsilon), FuseLayerNorm())
    assert counts == {"fuse-layer-norm": 1}
    assert result.graph.initializer[0].data_type == getattr(TensorProto, kind.upper())


def test_rms_norm_from_opset_23_on():
    assert only(apply(norm(RMS, opset=23), FuseRmsNorm())[0])[0] == "RMSNormalization"
    assert_unchanged(FuseRmsNorm(), norm(RMS, opset=22))
    assert_unchanged(FuseRmsNorm(), norm(RMS.replace("Mul(x, x)", "Mul(x, w)"), opset=23, w=np.ones(16, F)))
    body = RMS.replace("y = Div", "n = Div") + " y = Mul(w, n)"
    result, _ = apply(norm(body, opset=23, w=np.arange(16, dtype=F)), *graphopt_passes())
    assert only(result)[0] == "RMSNormalization"
    (scale,) = result.graph.initializer
    np.testing.assert_array_equal(np.frombuffer(scale.raw_data, F), np.arange(16))


def test_rms_norm_is_what_was_spelled_out():
    from onnx.reference import ReferenceEvaluator

    source = norm(RMS.replace("y = Div", "n = Div") + " y = Mul(n, w)", opset=23, w=np.linspace(-2, 2, 16, dtype=F))
    x = np.random.default_rng(0).standard_normal((2, 6, 16)).astype(F)
    result, _ = apply(source, FuseRmsNorm(), MulIntoRmsNorm())
    want, got = (ReferenceEvaluator(proto).run(None, {"x": x})[0] for proto in (source, result))
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def test_a_layer_norm_is_no_rms_norm_of_the_centred():
    assert only(apply(norm(opset=23), *graphopt_passes())[0])[0] == "LayerNormalization"


NARROW = "(float16[N,16] x) => (float16[N,16] y)"


@pytest.mark.parametrize(
    ("rule", "name", "opset"),
    [(NarrowLayerNorm(), "LayerNormalization", 17), (NarrowRmsNorm(), "RMSNormalization", 23)],
)
def test_the_island_in_float32_is_the_operators_own(rule, name, opset):
    body = f"w = Cast<to = 1>(x) n = {name}(w, s) y = Cast<to = 10>(n)"
    result, counts = apply(norm(body, ports=NARROW, opset=opset, s=np.ones(16, F)), rule)
    assert counts[rule.name] == 1
    assert operators(result) == [name]
    weights = norm(body, ports=NARROW, opset=opset, s=np.full(16, 2, F))
    assert_unchanged(rule, weights)
    other = body.replace("to = 10", "to = 16")
    assert_unchanged(
        rule, norm(other, ports=NARROW.replace("float16[N,16] y", "bfloat16[N,16] y"), opset=opset, s=F(np.ones(16)))
    )
