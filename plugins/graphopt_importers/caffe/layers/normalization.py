"""BatchNorm, Scale, Bias, LRN, MVN, Normalize."""

from __future__ import annotations

import numpy as np

from graphopt.errors import ModelError
from graphopt_importers.caffe.caffemodel import Array
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message

from .pooling import average
from .windows import Window


@layer("BatchNorm", param="batch_norm_param", ignored=("moving_average_fraction",))
def batch_norm(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = (x - mean / s) / sqrt(var / s + eps), s the third blob, 1 / s taken as 0 where s is 0.

    use_global_stats false: with mean and variance of this very batch. scale_bias (NVIDIA): * blob 3 + blob 4.
    """
    epsilon = p.number("eps", 1e-5)
    channels = fixed(x, 1) if x.rank > 1 else 1
    affine = p.flag("scale_bias", False)
    if p.flag("use_alpha_beta", False) or p.flag("do_all_reduce", False):
        raise ModelError("use_alpha_beta and do_all_reduce are not supported")
    scale, bias = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if affine:
        scale, bias = one.blob(3, (channels,), "scales"), one.blob(4, (channels,), "biases")
    if not p.flag("use_global_stats", True):
        y = _standardized(g, x, [0, *range(2, x.rank)], epsilon)
        return affine_map(g, y, scale, bias, 1) if affine else y
    factor = float(one.blob(2, (1,), "scale factor")[0])
    factor = 1 / factor if factor else 0.0
    mean = one.blob(0, (channels,), "means") * np.float32(factor)
    variance = one.blob(1, (channels,), "variances") * np.float32(factor)
    return normalized(g, x, scale, bias, mean, variance, epsilon)


@layer("BN", param="bn_param", ignored=("momentum", "frozen", "slope_filler", "icnorm", "bn_mode"))
def bn(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Four blobs (PSPNet): scale * (x - mean) / sqrt(var + eps) + bias. Two (SegNet, INFERENCE): scale * x + bias."""
    channels = fixed(x, 1)
    scale, bias = one.blob(0, (channels,), "scales"), one.blob(1, (channels,), "biases")
    if len(one.blobs) == 2:
        if p.text("bn_mode", "LEARN") != "INFERENCE":
            raise ModelError("two blobs, and bn_mode is not INFERENCE: the statistics are not in the file")
        p.ignore("eps")
        return affine_map(g, x, scale, bias, 1)
    mean, variance = one.blob(2, (channels,), "means"), one.blob(3, (channels,), "variances")
    return normalized(g, x, scale, bias, mean, variance, p.number("eps", 1e-5))


def normalized(g: Graph, x: Value, scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> Value:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias by channel."""
    if x.rank < 2:
        raise ModelError("the bottom has no channels")
    weights = [g.const(part) for part in (scale, bias, mean, variance)]
    return g.op("BatchNormalization", x, *weights, epsilon=epsilon)


def _standardized(g: Graph, x: Value, axes: list[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over axes."""
    away = g.op("Sub", x, g.reduce("ReduceMean", x, axes))
    variance = g.reduce("ReduceMean", g.op("Mul", away, away), axes)
    return g.op("Div", away, g.op("Sqrt", g.scaled(variance, shift=epsilon)))


@layer("Scale", param="scale_param")
def scale(g: Graph, one: Layer, p: Message, x: Value, factor: Value | None = None) -> Value:
    """y = x * factor + bias, both laid along x from axis on; the factor is a blob, or the second bottom."""
    with_bias = p.flag("bias_term", False)
    axis = _axis(p, x)
    if factor is not None:
        p.ignore("num_axes")
        shape = factor.shape
        _check_fit(x, shape, axis)
        y = g.op("Mul", x, g.reshape(factor, [*shape, *[1] * (x.rank - axis - len(shape))]))
        return g.op("Add", y, _along(g, one.blob(0, shape, "biases"), x, axis)) if with_bias else y
    shape = _laid(p, x, axis)
    weights = one.blob(0, shape, "scales")
    bias = one.blob(1, shape, "biases") if with_bias else None
    return affine_map(g, x, weights, bias, axis)


@layer("Bias", param="bias_param")
def bias(g: Graph, one: Layer, p: Message, x: Value, term: Value | None = None) -> Value:
    """y = x + bias, laid along x from axis on; the bias is a blob, or the second bottom."""
    axis = _axis(p, x)
    if term is not None:
        p.ignore("num_axes")
        _check_fit(x, term.shape, axis)
        return g.op("Add", x, g.reshape(term, [*term.shape, *[1] * (x.rank - axis - term.rank)]))
    return g.op("Add", x, _along(g, one.blob(0, _laid(p, x, axis), "biases"), x, axis))


def affine_map(g: Graph, x: Value, scale: Array, bias: Array | None, axis: int) -> Value:
    y = g.op("Mul", x, _along(g, scale, x, axis))
    return y if bias is None else g.op("Add", y, _along(g, bias, x, axis))


def _axis(p: Message, x: Value) -> int:
    axis = p.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        raise ModelError(f"axis {axis} of {x.rank} dimensions")
    return axis


def _laid(p: Message, x: Value, axis: int) -> tuple[int, ...]:
    """The dims of x that a blob has: num_axes of them from axis on, all where it is -1."""
    number = p.integer("num_axes", 1)
    stop = x.rank if number == -1 else axis + number
    if number < -1 or stop > x.rank:
        raise ModelError(f"num_axes {number} from axis {axis} of {x.rank} dimensions")
    return tuple(fixed(x, i) for i in range(axis, stop))


def _check_fit(x: Value, shape: tuple[int | str, ...], axis: int) -> None:
    if x.shape[axis : axis + len(shape)] != shape:
        shown = ["x".join(map(str, dims)) for dims in (shape, x.shape)]
        raise ModelError(f"a second bottom of {shown[0]} does not lie along {shown[1]} from axis {axis}")


def _along(g: Graph, array: Array, x: Value, axis: int) -> Value:
    return g.const(array.reshape(*array.shape, *[1] * (x.rank - axis - array.ndim)))


@layer("LRN", param="lrn_param")
def lrn(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = x / (k + alpha / n * sum of squares over n channels) ^ beta; WITHIN_CHANNEL: n x n places, k = 1."""
    size, alpha, beta, k = (
        p.integer("local_size", 5),
        p.number("alpha", 1.0),
        p.number("beta", 0.75),
        p.number("k", 1.0),
    )
    if size < 1 or size % 2 == 0:
        raise ModelError(f"local_size is {size}: it must be odd")
    region = p.choice("norm_region", "ACROSS_CHANNELS", {0: "ACROSS_CHANNELS", 1: "WITHIN_CHANNEL"})
    if region == "ACROSS_CHANNELS":
        return g.op("LRN", x, size=size, alpha=alpha, beta=beta, bias=k)
    pooled = average(g, g.op("Mul", x, x), Window([size] * 2, [1] * 2, [(size - 1) // 2] * 2, [1] * 2), True)
    return g.op("Mul", x, g.op("Pow", g.scaled(pooled, alpha, 1.0), g.const(-beta)))


@layer("MVN", param="mvn_param")
def mvn(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = (x - mean) / (sqrt(variance) + eps) over places, or over channels and places."""
    axes = list(range(1 if p.flag("across_channels", False) else 2, x.rank))
    away = g.op("Sub", x, g.reduce("ReduceMean", x, axes))
    epsilon = p.number("eps", 1e-9)
    if not p.flag("normalize_variance", True):
        return away
    deviation = g.op("Sqrt", g.reduce("ReduceMean", g.op("Mul", away, away), axes))
    return g.op("Div", away, g.scaled(deviation, shift=epsilon))


@layer("Normalize", param="norm_param", ignored=("scale_filler",))
def normalize(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = scale * x / sqrt(sum of squares + eps) over channels (SSD), or over channels and places."""
    axes = [1, 2, 3] if p.flag("across_spatial", True) else [1]
    squares = g.reduce("ReduceSum", g.op("Mul", x, x), axes)
    y = g.op("Div", x, g.op("Sqrt", g.scaled(squares, shift=p.number("eps", 1e-10))))
    if p.flag("channel_shared", True):
        return g.op("Mul", y, g.const(one.blob(0, (1,), "scale").reshape(())))
    return affine_map(g, y, one.blob(0, (fixed(x, 1),), "scales"), None, 1)
