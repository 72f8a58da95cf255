"""Relu, Clip, HardSigmoid and HardSwish in their many spellings."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from graphopt_passes.activation import (
    FoldAddIntoHardSigmoid,
    FuseHardSigmoid,
    FuseHardSigmoidOfScaled,
    FuseHardSigmoidTimes,
    FuseHardSwish,
    MergeClipOfRelu,
    MergeClips,
    MergeReluOfClip,
    SplitHardSwish,
    SplitHardSwishTimes,
    UseClipForMinMax,
    UseClipForMinRelu,
    UseReluForClip,
    UseReluForMax,
    graphopt_passes,
)

from graphopt.testing import apply, assert_unchanged, check_rule, model

F = np.float32


def graph(body: str, *, opset: int = 17, dtype: str = "float", dims: str = "[N,40]", **constants):
    kind = {"float": np.float32, "float16": np.float16, "double": np.float64, "int32": np.int32}[dtype]
    weights = {name: np.asarray(value, kind) for name, value in constants.items()}
    return model(f"g ({dtype}{dims} x) => ({dtype}{dims} y) {{ {body} }}", weights=weights, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def run(proto, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


RELU = [
    (UseReluForClip(), "y = Clip(x, z)"),
    (UseReluForClip(), "y = Clip(x, z, largest)"),
    (UseReluForClip(), "y = Clip(x, z, infinity)"),
    (UseReluForMax(), "y = Max(x, z)"),
    (UseReluForMax(), "y = Max(z, x)"),
    (UseClipForMinMax(), "a = Max(x, z) y = Min(a, infinity)"),
    (MergeClipOfRelu(), "r = Relu(x) y = Clip(r, z, largest)"),
]


@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
@pytest.mark.parametrize(("rule", "body"), RELU, ids=lambda value: value if isinstance(value, str) else "")
def test_the_spellings_of_relu(rule, body, dtype):
    limit = np.finfo({"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]).max
    source = graph(body, dtype=dtype, z=0, largest=limit, infinity=np.inf)
    assert operators(apply(source, rule)[0]) == ["Relu"]
    if dtype == "float":
        check_rule(rule, source, fires=1)


@pytest.mark.parametrize(("rule", "body"), RELU, ids=lambda value: value if isinstance(value, str) else "")
def test_nan_stays_nan_and_zero_zero(rule, body):
    source = graph(body, dims="[5]", z=0, largest=np.finfo(F).max, infinity=np.inf)
    x = F([np.nan, -np.inf, -1, 0, 1e30])
    np.testing.assert_array_equal(run(apply(source, rule)[0], x), run(source, x))


@pytest.mark.parametrize("opset", [6, 10])
def test_below_opset_11_bounds_are_attributes(opset):
    check_rule(UseReluForClip(), graph("y = Clip<min = 0.0>(x)", opset=opset), fires=1)
    assert_unchanged(UseReluForClip(), graph("y = Clip<min = 0.0, max = 6.0>(x)", opset=opset))
    result = check_rule(MergeClipOfRelu(), graph("r = Relu(x) y = Clip<max = 6.0>(r)", opset=opset), fires=1)
    assert {a.name: a.f for a in result.graph.node[0].attribute} == {"min": 0.0, "max": 6.0}


@pytest.mark.parametrize(
    ("rule", "body", "dtype"),
    [
        (UseReluForClip(), "y = Clip(x, one)", "float"),
        (UseReluForClip(), "y = Clip(x, z, six)", "float"),
        (UseReluForClip(), 'y = Clip(x, "", six)', "float"),
        (UseReluForClip(), "y = Clip(x, z)", "int32"),
        (UseReluForMax(), "y = Max(x, one)", "float"),
        (UseReluForMax(), "y = Max(x, nan)", "float"),
        (UseReluForMax(), "y = Max(x, z)", "int32"),
        (UseClipForMinMax(), "a = Max(x, nan) y = Min(a, one)", "float"),
        (UseReluForMax(), "y = Max(x, z, x)", "float"),
        (UseClipForMinRelu(), "a = Relu(x) b = Min(a, six) y = Add(b, a)", "float"),
    ],
)
def test_what_is_no_relu_stays(rule, body, dtype):
    constants = {"z": 0, "one": 1, "six": 6, "nan": 0 if dtype == "int32" else np.nan}
    assert_unchanged(rule, graph(body, dtype=dtype, **constants))


def test_a_maximum_that_broadcasts_stays():
    assert_unchanged(UseReluForMax(), graph("y = Max(x, z)", dims="[40]", z=np.zeros(40)))
    text = "g (float[4] x) => (float[1,4] y) { y = Max(x, z) }"
    assert_unchanged(UseReluForMax(), model(text, weights={"z": np.zeros((1, 1), F)}))


CLIPS = [
    (UseClipForMinMax(), "a = Max(x, low) y = Min(high, a)"),
    (UseClipForMinRelu(), "a = Relu(x) y = Min(a, high)"),
    (MergeReluOfClip(), "a = Clip(x, low, high) y = Relu(a)"),
    (MergeClipOfRelu(), "a = Relu(x) y = Clip(a, low, high)"),
    (MergeClips(), "a = Clip(x, low, high) y = Clip(a, other, third)"),
    (MergeClips(), 'a = Clip(x, "", high) y = Clip(a, other)'),
]


@pytest.mark.parametrize("ends", [(-0.5, 0.75), (0.25, 0.5), (-2, -1), (0.5, -0.5), (-1, 0)], ids=str)
@pytest.mark.parametrize("others", [(-0.3, 0.6), (0.6, 0.9), (0.9, 0.1)], ids=str)
@pytest.mark.parametrize(("rule", "body"), CLIPS, ids=lambda value: value if isinstance(value, str) else "")
def test_two_clips_are_one_even_where_bounds_cross(rule, body, ends, others):
    """min(max(x, low), high) is the meaning also where low is above high."""
    source = graph(body, dims="[41]", low=ends[0], high=ends[1], other=others[0], third=others[1])
    result, counts = apply(source, rule)
    assert counts[rule.name] == 1
    assert operators(result) == ["Clip"]
    x = np.linspace(-3, 3, 41, dtype=F)
    np.testing.assert_array_equal(run(result, x), _meaning(body, x, *F(ends), *F(others)))


def _meaning(body, x, low, high, other, third):
    def clip(x, low, high):
        return np.minimum(np.maximum(x, low), high)

    if "Max" in body or body == "a = Clip(x, low, high)":
        return clip(x, low, high)
    if "Min" in body:
        return clip(x, 0, high)
    if body.endswith("Relu(a)"):
        return np.maximum(clip(x, low, high), 0)
    if "Relu" in body:
        return clip(np.maximum(x, 0), low, high)
    return np.maximum(np.minimum(x, high), other) if '""' in body else clip(clip(x, low, high), other, third)


# -- HardSigmoid and HardSwish -------------------------------------------------------------------------------------

SIX = {"z": 0, "three": 3, "six": 6, "one": 1, "sixth": 1 / 6, "half": 0.5}
HARD_SIGMOID = [
    "a = Add(x, three) b = Clip(a, z, six) y = Div(b, six)",
    "a = Add(three, x) b = Clip(a, z, six) y = Mul(sixth, b)",
    "a = Mul(x, sixth) b = Add(a, half) y = Clip(b, z, one)",
    "a = Add(x, three) r = Relu(a) b = Min(r, six) y = Div(b, six)",
    "a = Add(x, three) m = Max(a, z) b = Min(m, six) y = Div(b, six)",
]
HARD_SWISH = [
    "a = Add(x, three) b = Clip(a, z, six) c = Mul(x, b) y = Div(c, six)",
    "a = Add(x, three) b = Clip(a, z, six) c = Mul(b, x) y = Mul(sixth, c)",
    "a = Add(x, three) b = Clip(a, z, six) c = Div(b, six) y = Mul(x, c)",
    "a = Add(x, three) r = Relu(a) b = Min(r, six) c = Mul(b, x) y = Div(c, six)",
    "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(a, x)",
]
X = np.linspace(-8, 8, 4001, dtype=F)


@pytest.mark.parametrize("body", HARD_SIGMOID)
@pytest.mark.parametrize("opset", [12, 17])
def test_the_spellings_of_hard_sigmoid(body, opset):
    source = graph(body, dims="[4001]", opset=opset, **SIX)
    result, _ = apply(source, *graphopt_passes())
    assert operators(result) == ["HardSigmoid"]
    assert [round(a.f, 6) for a in result.graph.node[0].attribute] == [0.166667, 0.5]
    np.testing.assert_allclose(run(result, X), run(source, X), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("body", HARD_SWISH)
@pytest.mark.parametrize(("opset", "wanted"), [(12, ["HardSigmoid", "Mul"]), (13, ["HardSigmoid", "Mul"]),
                                               (14, ["HardSwish"]), (22, ["HardSwish"])])  # fmt: skip
def test_the_spellings_of_hard_swish(body, opset, wanted):
    source = graph(body, dims="[4001]", opset=opset, **SIX)
    result, _ = apply(source, *graphopt_passes())
    assert operators(result) == wanted
    np.testing.assert_allclose(run(result, X), run(source, X), rtol=0, atol=1e-6)


def test_below_opset_11_too():
    body = "a = Add(x, three) b = Clip<min = 0.0, max = 6.0>(a) c = Mul(x, b) y = Div(c, six)"
    assert operators(apply(graph(body, opset=9, three=3, six=6), SplitHardSwish())[0]) == ["HardSigmoid", "Mul"]


def test_half_precision_spells_a_sixth_less_exactly():
    source = graph(HARD_SWISH[1], dtype="float16", **SIX)
    assert operators(apply(source, SplitHardSwishTimes())[0]) == ["HardSigmoid", "Mul"]


def test_nan_and_infinities():
    x = F([np.nan, np.inf])
    for body in (HARD_SIGMOID[0], HARD_SWISH[0]):
        source = graph(body, dims="[2]", **SIX)
        np.testing.assert_array_equal(run(apply(source, *graphopt_passes())[0], x), run(source, x))


@pytest.mark.parametrize(
    ("why", "rule", "body"),
    [
        ("it does not end at 1", FuseHardSigmoid(), "a = Clip(x, z, six) y = Div(a, three)"),
        ("it does not end at 1", FuseHardSigmoidTimes(), "a = Clip(x, z, six) y = Mul(a, half)"),
        ("it does not begin at 0", FuseHardSigmoid(), "a = Clip(x, one, six) y = Div(a, six)"),
        ("it ends at 6", FuseHardSigmoidOfScaled(), "a = Mul(x, half) b = Add(a, half) y = Clip(b, z, six)"),
        ("division by zero", FuseHardSigmoid(), "a = Clip(x, z, six) y = Div(a, z)"),
        ("six over it", FuseHardSigmoid(), "a = Clip(x, z, six) y = Div(six, a)"),
        ("another gate", SplitHardSwish(),
         "a = Add(x, three) b = Clip(a, z, six) n = Neg(x) c = Mul(n, b) y = Div(c, six)"),
        ("the gate is read elsewhere", SplitHardSwish(),
         "a = Add(x, three) b = Clip(a, z, six) c = Mul(x, b) d = Div(c, six) y = Add(d, b)"),
        ("another slope", FuseHardSwish(), "a = HardSigmoid(x) y = Mul(a, x)"),
        ("another gate", FuseHardSwish(), "n = Neg(x) a = HardSigmoid<alpha = 0.16666667>(x) y = Mul(a, n)"),
        ("an infinite slope", FuseHardSigmoidOfScaled(), "a = Mul(x, inf) b = Add(a, half) y = Clip(b, z, one)"),
        ("far outside the slope", SplitHardSwish(),
         "a = Add(x, far) b = Clip(a, z, six) c = Mul(x, b) y = Div(c, six)"),
        ("far outside the slope", FoldAddIntoHardSigmoid(), "a = Add(x, far) y = HardSigmoid(a)"),
    ],
)  # fmt: skip
def test_what_is_no_hard_sigmoid_stays(why, rule, body):
    assert_unchanged(rule, graph(body, far=1e4, inf=np.inf, **SIX))


def test_a_constant_per_column_stays():
    source = graph("a = Clip(x, z, six) y = Div(a, m)", z=0, six=6, m=np.full(40, 6))
    assert_unchanged(FuseHardSigmoid(), source)
