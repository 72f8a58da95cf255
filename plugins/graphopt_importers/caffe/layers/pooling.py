"""Pooling, with Caffe's rule for the number of windows, and what undoes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

from onnx import TensorProto

from graphopt.errors import ModelError
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message

from .windows import Window, window


def windows_in(length: int, kernel: int, stride: int, pad: int, up: bool) -> int:
    """ceil((length + 2 pad - kernel) / stride) + 1, less a last window that would start in the padding at the end.

    With floor instead of ceil where not `up`.
    """
    if length + 2 * pad < kernel:
        raise ModelError(f"a window of {kernel} does not fit into {length} with padding {pad}")
    room = length + 2 * pad - kernel
    number = (ceil(room / stride) if up else room // stride) + 1
    if pad and (number - 1) * stride >= length + pad:
        number -= 1
    if (number - 1) * stride - pad >= length:
        raise ModelError(
            f"the last window of {kernel} with stride {stride} lies outside of {length}",
            hint="Caffe gives such a window no value: set round_mode: FLOOR",
        )
    return number


@layer("Pooling", param="pooling_param")
def pooling(g: Graph, one: Layer, p: Message, x: Value) -> Sequence[Value]:
    """MAX, or AVE, whose divisor counts padding, but not what lies beyond it."""
    method = p.choice("pool", "MAX", {0: "MAX", 1: "AVE", 2: "STOCHASTIC"})
    if method == "STOCHASTIC":
        raise ModelError("stochastic pooling draws at random", hint="choose MAX or AVE")
    if x.rank != 4:
        raise ModelError(f"the bottom has {x.rank} dimensions, not four")
    up = p.choice("round_mode", "CEIL", {0: "CEIL", 1: "FLOOR"}) == "CEIL" and p.flag("ceil_mode", True)
    if p.flag("global_pooling", False):
        if any(p.ints(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            raise ModelError("global_pooling, and a kernel")
        if any(p.ints(name) != [1] * len(p.ints(name)) for name in ("stride", "stride_h", "stride_w")) or any(
            any(p.ints(name)) for name in ("pad", "pad_h", "pad_w")
        ):
            raise ModelError("global_pooling takes no stride and no padding")
        if method == "AVE":
            return [g.op("GlobalAveragePool", x)]
        if len(one.tops) < 2:
            return [g.op("GlobalMaxPool", x)]
        sizes = Window([fixed(x, 2), fixed(x, 3)], [1, 1], [0, 0], [1, 1])
    else:
        sizes = window(p, 2)
    if any(dilation != 1 for dilation in sizes.dilation):
        raise ModelError("dilated pooling is not supported")
    if any(pad >= kernel for pad, kernel in zip(sizes.pad, sizes.kernel, strict=True)):
        raise ModelError("the padding is not smaller than the window")
    return _maximum(g, one, x, sizes, up) if method == "MAX" else [average(g, x, sizes, up)]


def _ends(x: Value, sizes: Window, up: bool) -> list[int]:
    """What has to be added at the end of each spatial dimension, so that all windows fit."""
    ends = []
    for i, (kernel, stride, pad) in enumerate(zip(sizes.kernel, sizes.stride, sizes.pad, strict=True)):
        length = x.shape[2 + i]
        if not isinstance(length, int):
            if stride == 1:
                ends.append(pad)
                continue
            length = fixed(x, 2 + i)
        number = windows_in(length, kernel, stride, pad, up)
        ends.append(max((number - 1) * stride + kernel - length - pad, 0))
    return ends


def _maximum(g: Graph, one: Layer, x: Value, sizes: Window, up: bool) -> list[Value]:
    ends = _ends(x, sizes, up)
    attributes = {"kernel_shape": sizes.kernel, "strides": sizes.stride, "pads": [*sizes.pad, *ends]}
    if len(one.tops) < 2:
        return [g.op("MaxPool", x, **attributes)]
    values, places = g.ops("MaxPool", 2, x, **attributes)
    plane = g.const(prod(fixed(x, i) for i in (2, 3)), "int64")
    return [values, g.cast(g.op("Mod", places, plane))]


def average(g: Graph, x: Value, sizes: Window, up: bool) -> Value:
    """Sums over what is inside, by the number of places of the window inside of the padded image."""
    ends = _ends(x, sizes, up)
    attributes = {"kernel_shape": sizes.kernel, "strides": sizes.stride}
    if all(end <= pad for end, pad in zip(ends, sizes.pad, strict=True)):
        return g.op("AveragePool", x, pads=[*sizes.pad, *ends], count_include_pad=1, **attributes)
    if any(sizes.pad):
        x = g.op("Pad", x, g.ints([0, 0, *sizes.pad] * 2))
    beyond = [max(end - pad, 0) for end, pad in zip(ends, sizes.pad, strict=True)]
    return g.op("AveragePool", x, pads=[0, 0, *beyond], count_include_pad=0, **attributes)


@layer("Upsample", param="upsample_param")
def upsample(g: Graph, one: Layer, p: Message, x: Value, mask: Value | None = None) -> Value:
    """Each element scale x scale times; with a mask, each to the place where pooling found it (SegNet)."""
    scale = p.integer("scale", 1)
    scales = [p.integer("scale_h", scale), p.integer("scale_w", scale)]
    if mask is None:
        if "dims_num" in p and p.integer("dims_num") != 4:
            raise ModelError("dims_num is not 4")
        factors = g.const([1, 1, *scales])
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return g.op("Resize", x, None, factors, **how)
    size = [
        p.integer("upsample_h", fixed(x, 2) * scales[0] - p.integer("pad_out_h", 0)),
        p.integer("upsample_w", fixed(x, 3) * scales[1] - p.integer("pad_out_w", 0)),
    ]
    return unpooled(g, x, mask, size)


@layer("MaxUnPool", param="max_unpool_param")
def max_unpool(g: Graph, one: Layer, p: Message, x: Value, mask: Value) -> Value:
    """Each element to the place where pooling found it."""
    return unpooled(g, x, mask, [p.integer("dst_h"), p.integer("dst_w")])


def unpooled(g: Graph, x: Value, mask: Value, size: Sequence[int]) -> Value:
    """Zeros of size, with x[n, c, i] at place mask[n, c, i] of plane n, c."""
    dims = [*x.shape[:2], size[0] * size[1]]
    flat = [*x.shape[:2], fixed(x, 2) * fixed(x, 3)]
    shape = g.ints([fixed(replace(x, shape=tuple(dims)), i) for i in range(3)])
    blank = g.op("ConstantOfShape", shape)
    places = g.cast(g.reshape(mask, flat), TensorProto.INT64)
    filled = g.op("ScatterElements", blank, places, g.reshape(x, flat), axis=2)
    return g.reshape(filled, [*x.shape[:2], *size])
