"""Pooling that TensorRT does not have: dilated windows, other norms than 1 and 2, places of the maxima.

    MaxPool(x)[o] = max over k of padded(x)[stride * o + dilation * k], one axis after the other
    AveragePool = the same sums, divided by how many cells of the window count
    LpPool = (sum |x|**p)**(1/p)

The spatial dimensions must be static.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite

_MOST_SLICES = 256


class Window:
    """The geometry of a pooling node along its spatial axes."""

    def __init__(self, site: Site) -> None:
        shape = site[0].shape
        if shape is None or not shapes.is_static(shape[2:]):
            raise Skip("a spatial dimension is dynamic")
        self.size = [int(dim) for dim in shape[2:] if isinstance(dim, int)]
        count = len(self.size)
        self.kernel = list(site.attr("kernel_shape"))
        self.stride = list(site.attr("strides") or [1] * count)
        self.dilation = list(site.attr("dilations") or [1] * count)
        pads = list(site.attr("pads") or [0] * 2 * count)
        self.low, self.high, self.out = pads[:count], pads[count:], []
        auto, ceil = site.attr("auto_pad", "NOTSET"), bool(site.attr("ceil_mode", 0))
        for i in range(count):
            reach = self.dilation[i] * (self.kernel[i] - 1) + 1
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                out = -(-self.size[i] // self.stride[i])
                both = max((out - 1) * self.stride[i] + reach - self.size[i], 0)
                self.low[i] = both // 2 if auto == "SAME_UPPER" else both - both // 2
                self.high[i] = both - self.low[i]
            elif auto == "VALID":
                self.low[i] = self.high[i] = 0
            span = self.size[i] + self.low[i] + self.high[i] - reach
            if span < 0:
                raise Skip("the window is larger than the image")
            out = (-(-span // self.stride[i]) if ceil and auto == "NOTSET" else span // self.stride[i]) + 1
            if ceil and (out - 1) * self.stride[i] >= self.size[i] + self.low[i]:
                out -= 1
            self.out.append(out)
        self.declared = list(self.high)
        for i in range(count):  # beyond the declared padding, where ceil_mode lets the last window reach
            end = (self.out[i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            self.high[i] = max(self.high[i], end - self.size[i] - self.low[i])

    def steps(self, axis: int) -> list[tuple[int, int]]:
        """(start, end) of the slice for each cell of the window along a spatial axis."""
        last = (self.out[axis] - 1) * self.stride[axis] + 1
        return [(k * self.dilation[axis], k * self.dilation[axis] + last) for k in range(self.kernel[axis])]

    def counts(self, include_pad: bool) -> Any:
        """How many cells of each window count."""
        result = np.ones((1, 1))
        for i, size in enumerate(self.size):
            line = np.zeros(self.low[i] + size + self.high[i])
            if include_pad:
                line[: self.low[i] + size + self.declared[i]] = 1
            else:
                line[self.low[i] : self.low[i] + size] = 1
            along = sum(line[start : end : self.stride[i]] for start, end in self.steps(i))
            result = np.multiply.outer(result, along)
        return result

    def padded(self, site: Site, x: Value, fill: float) -> Value:
        if not any(self.low) and not any(self.high):
            return x
        pads = [0, 0, *self.low, 0, 0, *self.high]
        made: Value = site.op.Pad(x, np.asarray(pads, np.int64), np.asarray(fill, site.dtype()))
        return made

    def folded(self, site: Site, x: Value, join: Any) -> Value:
        for i in range(len(self.size)):
            parts = [site.op.Slice(x, [s], [e], [i + 2], [self.stride[i]]) for s, e in self.steps(i)]
            x = parts[0]
            for part in parts[1:]:
                x = join(x, part)
        return x


def _refuse_simple(site: Site, window: Window) -> None:
    if all(dilation == 1 for dilation in window.dilation):
        raise Skip(f"{site.node.op} without dilation is taken as it is")


def max_pool(site: Site) -> Any:
    if not dtypes.is_float(site.dtype()):
        raise Skip("not of floats")
    window = Window(site)
    if site.wants(1):
        return _with_places(site, window)
    _refuse_simple(site, window)
    return window.folded(site, window.padded(site, site[0], -np.inf), site.op.Max)


def _with_places(site: Site, window: Window) -> Any:
    """The maxima and where each first stood in the flat tensor, cell after cell of the window."""
    op, dims = site.op, site.dims()
    if math.prod(window.kernel) > _MOST_SLICES:
        raise Skip(f"a window of more than {_MOST_SLICES} cells")
    places = np.arange(math.prod(dims), dtype=np.int64).reshape(dims)
    if site.attr("storage_order", 0):
        spatial = np.arange(math.prod(window.size)).reshape(window.size[::-1])
        flat = spatial.transpose(*range(len(window.size))[::-1])
        lead = np.arange(dims[0] * dims[1]).reshape(dims[0], dims[1], *[1] * len(window.size)) * math.prod(window.size)
        places = (lead + flat).astype(np.int64)
    pads = [(0, 0), (0, 0), *zip(window.low, window.high, strict=True)]
    places = np.pad(places, pads)
    x = window.padded(site, site[0], -np.inf)
    axes = list(range(2, len(dims)))
    best: Any = None
    index: Any = None
    for cell in np.ndindex(*window.kernel):
        spans = [window.steps(i)[k] for i, k in enumerate(cell)]
        value = op.Slice(x, [s for s, _ in spans], [e for _, e in spans], axes, window.stride)
        cut = tuple(slice(s, e, step) for (s, e), step in zip(spans, window.stride, strict=True))
        place = places[(slice(None), slice(None), *cut)]
        if best is None:
            best, index = value, op.const(place)
        else:
            better = op.Greater(value, best)
            best, index = op.Where(better, value, best), op.Where(better, place, index)
    return best, index


def average_pool(site: Site) -> Value:
    window = Window(site)
    _refuse_simple(site, window)
    total = window.folded(site, window.padded(site, site[0], 0.0), site.op.Add)
    counts = window.counts(bool(site.attr("count_include_pad", 0)))
    return site.op.Div(total, counts.astype(site.dtype()))  # type: ignore[no-any-return]


def lp_pool(site: Site) -> Value:
    op, p, window = site.op, int(site.attr("p", 2)), Window(site)
    if p in (1, 2):
        _refuse_simple(site, window)
    power = op.Pow(op.Abs(site[0]), np.asarray(p, site.dtype()))
    total = window.folded(site, window.padded(site, power, 0.0), op.Add)
    return op.Pow(total, np.asarray(1 / p, site.dtype()))  # type: ignore[no-any-return]


def global_lp_pool(site: Site) -> Value:
    op, p = site.op, int(site.attr("p", 2))
    if p in (1, 2):
        raise Skip("taken as it is")
    axes = list(range(2, site.rank()))
    total = op.ReduceSum(op.Pow(op.Abs(site[0]), np.asarray(p, site.dtype())), axes, keepdims=1)
    return op.Pow(total, np.asarray(1 / p, site.dtype()))  # type: ignore[no-any-return]


def max_unpool(site: Site) -> Value:
    """Each value at its flat place in a tensor of zeros: ScatterElements."""
    op, dims = site.op, site.dims()
    if site.input(2) is not None:
        size = site.const(2).astype(int).tolist()
    else:
        kernel = list(site.attr("kernel_shape"))
        stride = list(site.attr("strides") or [1] * len(kernel))
        pads = list(site.attr("pads") or [0] * 2 * len(kernel))
        size = [*dims[:2]]
        for i, k in enumerate(kernel):
            size.append((dims[i + 2] - 1) * stride[i] - pads[i] - pads[i + len(kernel)] + k)
    kernel = list(site.attr("kernel_shape"))
    stride = list(site.attr("strides") or [1] * len(kernel))
    inner = [(dims[i + 2] - 1) * stride[i] + kernel[i] for i in range(len(kernel))]
    places = op.Reshape(site[1], [-1])
    flat = op.ScatterElements(np.zeros(math.prod(dims[:2]) * math.prod(inner), site.dtype()), places,
                              op.Reshape(site[0], [-1]), axis=0)  # fmt: skip
    if site.input(2) is None:
        if inner != size[2:]:
            raise Skip("with padding")
        return op.Reshape(flat, size)  # type: ignore[no-any-return]
    ends = [big - small for big, small in zip(size[2:], inner, strict=True)]
    if min(ends) < 0:
        raise Skip("an output smaller than the windows cover")
    pads = [0] * len(size) + [0, 0, *ends]
    return op.Pad(op.Reshape(flat, [*dims[:2], *inner]), pads, np.asarray(0, site.dtype()))  # type: ignore[no-any-return]


HANDLERS = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalLpPool": global_lp_pool,
    "MaxUnpool": max_unpool,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_pools(graph: gs.Graph, target: Target, model: Model) -> int:
    """Dilated, L3 and indexed pools = maxima and sums of strided slices, for TensorRT only.

    Accuracy: exact; LpPool and averages as float32 rounds.
    """
    return rewrite(model, target, HANDLERS, "spell-pools")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_pools]
