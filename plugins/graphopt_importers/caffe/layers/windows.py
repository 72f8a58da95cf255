"""Convolution and its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from graphopt.errors import ModelError
from graphopt_importers.caffe.caffemodel import Array
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message

_IGNORED = ("force_nd_im2col",)


@dataclass(frozen=True)
class Window:
    """Sizes by spatial dimension."""

    kernel: list[int]
    stride: list[int]
    pad: list[int]
    dilation: list[int]


def window(p: Message, spatial: int) -> Window:
    """kernel_size, stride, pad, dilation: one number for all spatial dimensions, one each, or _h and _w.

    Raises:
        ModelError: other counts, sizes below their least, or two ways at once.
    """
    return Window(
        _sizes(p, "kernel_size", "kernel", spatial, None, 1),
        _sizes(p, "stride", "stride", spatial, 1, 1),
        _sizes(p, "pad", "pad", spatial, 0, 0),
        _sizes(p, "dilation", "dilation", spatial, 1, 1),
    )


def _sizes(p: Message, name: str, short: str, spatial: int, default: int | None, least: int) -> list[int]:
    given = p.ints(name)
    if f"{short}_h" in p or f"{short}_w" in p:
        if spatial != 2 or given:
            raise ModelError(f"{short}_h and {short}_w go with two spatial dimensions and without {name}")
        otherwise = 0 if default is None else default
        sizes = [p.integer(f"{short}_h", otherwise), p.integer(f"{short}_w", otherwise)]
    elif given:
        if len(given) not in (1, spatial):
            raise ModelError(f"{len(given)} times {name}, where there are {spatial} spatial dimensions")
        sizes = given * spatial if len(given) == 1 else given
    elif default is None:
        raise ModelError(f"{name} is missing")
    else:
        sizes = [default] * spatial
    if any(size < least or size > 2**20 for size in sizes):
        raise ModelError(f"{name} is {'x'.join(map(str, sizes))}")
    return sizes


@layer("Convolution", param="convolution_param", ignored=_IGNORED)
def convolution(g: Graph, one: Layer, p: Message, *xs: Value) -> list[Value]:
    """y = x * w + b, over every spatial dimension; each bottom by itself."""
    return [_convolution(g, one, p, x, p.integer("group", 1)) for x in xs]


@layer("DepthwiseConvolution", "ConvolutionDepthwise", param="convolution_param", ignored=_IGNORED)
def depthwise(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """A convolution with as many groups as channels, whatever group says."""
    p.ignore("group")
    return _convolution(g, one, p, x, fixed(x, 1))


def _convolution(g: Graph, one: Layer, p: Message, x: Value, group: int) -> Value:
    sizes, channels, outputs = _prepared(one, p, x, group)
    weights = one.blob(0, (outputs, channels // group, *sizes.kernel), "weights")
    for i, (kernel, dilation, pad) in enumerate(zip(sizes.kernel, sizes.dilation, sizes.pad, strict=True)):
        length = x.shape[2 + i]
        if isinstance(length, int) and length + 2 * pad < dilation * (kernel - 1) + 1:
            raise ModelError(f"a window of {dilation * (kernel - 1) + 1} does not fit into {length} with padding {pad}")
    bias = _bias(one, p, outputs)
    return g.op("Conv", x, g.const(weights), None if bias is None else g.const(bias), group=group, **_attributes(sizes))


@layer("Deconvolution", param="convolution_param", ignored=_IGNORED)
def deconvolution(g: Graph, one: Layer, p: Message, *xs: Value) -> list[Value]:
    """The transpose of a convolution: out = stride * (in - 1) + dilation * (kernel - 1) + 1 - 2 * pad."""
    found = []
    for x in xs:
        group = p.integer("group", 1)
        sizes, channels, outputs = _prepared(one, p, x, group)
        shape = (channels, outputs // group, *sizes.kernel)
        filler = p.message("weight_filler").text("type", "constant")
        if not one.blobs and filler == "bilinear" and not p.flag("bias_term", True):
            weights = _bilinear(shape)
        else:
            weights = one.blob(0, shape, "weights")
        bias = _bias(one, p, outputs)
        attributes = _attributes(sizes)
        found.append(
            g.op(
                "ConvTranspose", x, g.const(weights), None if bias is None else g.const(bias), group=group, **attributes
            )
        )
    return found


def _prepared(one: Layer, p: Message, x: Value, group: int) -> tuple[Window, int, int]:
    if p.integer("axis", 1) not in (1, 1 - x.rank):
        raise ModelError(f"axis is {p.integer('axis')}: only 1 is supported")
    if x.rank < 3:
        raise ModelError(f"the bottom has {x.rank} dimensions: batch, channels and at least one more are needed")
    channels, outputs = fixed(x, 1), p.integer("num_output")
    if group < 1 or outputs < 1 or channels % group or outputs % group:
        raise ModelError(f"{channels} channels and num_output {outputs} do not fall into {group} groups")
    return window(p, x.rank - 2), channels, outputs


def _bias(one: Layer, p: Message, outputs: int) -> Array | None:
    return one.blob(1, (outputs,), "bias") if p.flag("bias_term", True) else None


def _attributes(sizes: Window) -> dict[str, list[int]]:
    return {
        "kernel_shape": sizes.kernel,
        "strides": sizes.stride,
        "pads": sizes.pad * 2,
        "dilations": sizes.dilation,
    }


def _bilinear(shape: tuple[int, ...]) -> Array:
    """The filler: (1 - |x / f - c|) * (1 - |y / f - c|), f = ceil(k / 2), c = (2f - 1 - f % 2) / 2f."""
    if len(shape) != 4 or shape[2] != shape[3] or prod(shape) > 2**26:
        raise ModelError(f"the filler bilinear makes square kernels, not {'x'.join(map(str, shape))}")
    half = (shape[3] + 1) // 2
    centre = (2 * half - 1 - half % 2) / (2.0 * half)
    line = 1 - np.abs(np.arange(shape[3]) / half - centre)
    return np.tile(np.outer(line, line).astype(np.float32), (prod(shape[:2]), 1)).reshape(shape)
