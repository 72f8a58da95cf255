"""Layers that compute each element by itself, and sums and products of several bottoms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.network import checked
from graphopt_importers.caffe.prototxt import Message


@layer("ReLU", param="relu_param")
def relu(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = max(x, 0) + negative_slope * min(x, 0)."""
    slope = p.number("negative_slope", 0.0)
    return g.op("LeakyRelu", x, alpha=slope) if slope else g.op("Relu", x)


@layer("ReLU6", param="relu6_param")
def relu6(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = min(max(x, 0), threshold) + negative_slope * min(x, 0)."""
    slope = p.number("negative_slope", 0.0)
    top = g.const(p.number("threshold", 6.0))
    if slope:
        return g.op("Min", g.op("LeakyRelu", x, alpha=slope), top)
    return g.op("Clip", x, g.const(0.0), top)


@layer("Clip", param="clip_param")
def clip(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = min(max(x, min), max)."""
    return g.op("Clip", x, g.const(p.number("min")), g.const(p.number("max")))


@layer("PReLU", param="prelu_param")
def prelu(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = max(x, 0) + slope[c] * min(x, 0); channel_shared: one slope."""
    if p.flag("channel_shared", False):
        slope = one.blob(0, (1,), "slope").reshape(())
    else:
        channels = fixed(x, 1)
        slope = one.blob(0, (channels,), "slopes").reshape(channels, *[1] * (x.rank - 2))
    return g.op("PRelu", x, g.const(slope))


@layer("ELU", param="elu_param")
def elu(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = x where x > 0, else alpha * (exp(x) - 1)."""
    return g.op("Elu", x, alpha=p.number("alpha", 1.0))


@layer("Sigmoid", param="sigmoid_param")
def sigmoid(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    return g.op("Sigmoid", x)


@layer("TanH", param="tanh_param")
def tanh(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    return g.op("Tanh", x)


@layer("AbsVal")
def absval(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    return g.op("Abs", x)


@layer("BNLL")
def bnll(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)): it does not overflow."""
    tail = g.op("Softplus", g.op("Neg", g.op("Abs", x)))
    return g.op("Add", g.op("Relu", x), tail)


@layer("HardSigmoid", param="hardsigmoid_param")
def hard_sigmoid(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = min(max(alpha * x + beta, 0), 1)."""
    return g.op("HardSigmoid", x, alpha=p.number("alpha", 0.2), beta=p.number("beta", 0.5))


@layer("HardSwish")
def hard_swish(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = x * min(max(x + 3, 0), 6) / 6."""
    return g.op("Mul", x, g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


@layer("Swish", param="swish_param")
def swish(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = x * sigmoid(beta * x)."""
    return g.op("Mul", x, g.op("Sigmoid", g.scaled(x, p.number("beta", 1.0))))


@layer("Power", param="power_param")
def power(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = (shift + scale * x) ^ power; 1 where power is 0."""
    exponent, scale, shift = p.number("power", 1.0), p.number("scale", 1.0), p.number("shift", 0.0)
    if exponent == 0 or scale == 0:
        # Caffe does not look at x here: 1, or shift ^ power, also where x is infinite or no number.
        value = 1.0 if exponent == 0 else float(np.power(np.float64(shift), exponent))
        return g.op("Expand", g.const(value), g.op("Shape", x))
    x = g.scaled(x, scale, shift)
    if exponent == 1:
        return x
    return g.op("Mul", x, x) if exponent == 2 else g.op("Pow", x, g.const(exponent))


@layer("Exp", param="exp_param")
def exp(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = base ^ (shift + scale * x); base -1 means e."""
    log_base = _log_of_base(one, p)
    return g.op("Exp", g.scaled(x, p.number("scale", 1.0) * log_base, p.number("shift", 0.0) * log_base))


@layer("Log", param="log_param")
def log(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = log(shift + scale * x) to a base; -1 means e."""
    y = g.op("Log", g.scaled(x, p.number("scale", 1.0), p.number("shift", 0.0)))
    return g.scaled(y, 1 / _log_of_base(one, p))


def _log_of_base(one: Layer, p: Message) -> float:
    base = p.number("base", -1.0)
    if base == -1:
        return 1.0
    if base <= 0 or base == 1:
        raise one.error(f"base is {base}: it must be above 0 and not 1, or -1 for e")
    return math.log(base)


@layer("Threshold", param="threshold_param")
def threshold(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = 1 where x > threshold, else 0."""
    return g.cast(g.op("Greater", x, g.const(p.number("threshold", 0.0))))


@layer("Dropout", "Split", "Identity", param="dropout_param", ignored=("dropout_ratio", "scale_train"))
def nothing(g: Graph, one: Layer, p: Message, x: Value) -> Sequence[Value]:
    """Every top is the bottom."""
    return [x] * max(len(one.tops), 1)


@layer("Eltwise", param="eltwise_param", ignored=("stable_prod_grad",))
def eltwise(g: Graph, one: Layer, p: Message, *xs: Value) -> Value:
    """The product, the sum with coefficients, or the largest of bottoms of one shape."""
    operation = p.choice("operation", "SUM", {0: "PROD", 1: "SUM", 2: "MAX"})
    coefficients = p.floats("coeff")
    if len(xs) < 2:
        raise one.error("it has one bottom: two are the least")
    if any(x.shape != xs[0].shape for x in xs):
        raise one.error(f"bottoms of several shapes: {', '.join('x'.join(map(str, x.shape)) for x in xs)}")
    if coefficients and (operation != "SUM" or len(coefficients) != len(xs)):
        raise one.error(f"{len(coefficients)} coefficients, {len(xs)} bottoms, operation {operation}")
    if operation == "MAX":
        return g.op("Max", *xs)
    if operation == "PROD":
        return _chained(g, "Mul", xs)
    terms = [g.scaled(x, c) for x, c in zip(xs, coefficients or [1.0] * len(xs), strict=True)]
    if len(terms) == 2 and coefficients[1:] == [-1.0]:
        return g.op("Sub", terms[0], xs[1])
    return _chained(g, "Add", terms)


def _chained(g: Graph, kind: str, xs: Sequence[Value]) -> Value:
    found = xs[0]
    for x in xs[1:]:
        found = g.op(kind, found, x)
    return found


@layer("Axpy")
def axpy(g: Graph, one: Layer, p: Message, scale: Value, x: Value, y: Value) -> Value:
    """scale[n, c] * x + y."""
    scale = g.reshape(scale, [*x.shape[:2], 1, 1]) if scale.rank == 2 else scale
    return g.op("Add", g.op("Mul", scale, x), y)


@layer("ArgMax", param="argmax_param")
def argmax(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Indices of the top_k largest along axis, as numbers; with out_max_val their values.

    Without an axis: over all but the first dimension, [n, 1, top_k, ...]; with out_max_val [n, 2, ...], indices first.
    """
    k, with_values = p.integer("top_k", 1), p.flag("out_max_val", False)
    if "axis" in p:
        axis = p.integer("axis") % x.rank
        values, places = _top(g, x, k, axis)
        return values if with_values else g.cast(places)
    flat = g.reshape(x, [x.shape[0], int(np.prod([fixed(x, i) for i in range(1, x.rank)]))])
    values, places = _top(g, flat, k, 1)
    shape = [x.shape[0], 1, k, *[1] * (x.rank - 3)]
    found = [g.reshape(g.cast(places), shape), *([g.reshape(values, shape)] if with_values else [])]
    return g.op("Concat", *found, axis=1) if with_values else found[0]


def _top(g: Graph, x: Value, k: int, axis: int) -> list[Value]:
    if not 0 < k <= fixed(x, axis):
        raise ValueError(f"top_k {k} of {x.shape[axis]}")
    return g.ops("TopK", 2, x, g.ints([k]), axis=axis)


@layer("Reduction", param="reduction_param")
def reduction(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """coeff * the sum, the sum of absolute values or of squares, or the mean, over axis and all that follow."""
    operation = p.choice("operation", "SUM", {1: "SUM", 2: "ASUM", 3: "SUMSQ", 4: "MEAN"})
    kinds = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}
    axis = p.integer("axis", 0)
    axes = list(range(axis + x.rank if axis < 0 else axis, x.rank))
    y = g.reduce(kinds[operation], x, axes, keepdims=0)
    return g.scaled(y, p.number("coeff", 1.0))


@layer("Softmax", param="softmax_param")
def softmax(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    return g.op("Softmax", x, axis=p.integer("axis", 1))


@layer("DummyData", param="dummy_data_param")
def dummy_data(g: Graph, one: Layer, p: Message) -> Sequence[Value]:
    """Constants: only the filler `constant` is the same at each run."""
    fillers, shapes = p.messages("data_filler"), [shape.ints("dim") for shape in p.messages("shape")]
    legacy = [p.ints(name) for name in ("num", "channels", "height", "width")]
    shapes = shapes or [list(dims) for dims in zip(*legacy, strict=True)]
    made = []
    for i in range(len(one.tops)):
        filler = fillers[min(i, len(fillers) - 1)] if fillers else Message(one.where)
        kind = filler.text("type", "constant")
        if kind != "constant":
            raise one.error(f"data_filler {kind} is random: only constant can be imported")
        shape = shapes[min(i, len(shapes) - 1)]
        made.append(g.filled(checked(shape, one.where), filler.number("value", 0.0)))
    return made
