"""Operators that replace onnx's reference ones: Conv and GridSample are slow there, some are wrong or narrow.

Its BatchNormalization of opset 9 to 13 takes the statistics of the batch wherever a momentum is spelled out; its
GatherElements ends at 64 places of the axis, and wants the other axes as long in the indices as in the data; its
GridSample computes places in float32, and knows the modes by the names of opset 20 only.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .difference import Array


def _padding(
    x: Array, window: list[int], strides: list[int], dilations: list[int], pads: list[int] | None, auto_pad: str
) -> list[tuple[int, int]]:
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, k, s, d in zip(x.shape[2:], window, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
        return found
    if pads is None or auto_pad == "VALID":
        return [(0, 0)] * len(window)
    return list(zip(pads[: len(window)], pads[len(window) :], strict=True))


def windows(x: Array, window: list[int], strides: list[int], dilations: list[int]) -> Array:
    """v[n, c, o..., k...] = x[n, c, o * stride + k * dilation ...]; a view, x padded."""
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    step = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    return np.asarray(view[(slice(None), slice(None), *step, *inner)])


class Conv(OpRun):
    """y[n, m, o] = sum over c, k of w[m, c, k] * x[n, c, o * stride + k * dilation] + b[m], by groups."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, auto_pad: str = "NOTSET", dilations: Any = None,
        group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        kernel, rank = list(w.shape[2:]), w.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        around = _padding(x, kernel, strides, dilations, pads, auto_pad or "NOTSET")
        view = windows(np.pad(x, [(0, 0), (0, 0), *around]), kernel, strides, dilations)
        n, out = x.shape[0], view.shape[2 : 2 + rank]
        maps = w.shape[0] // group
        taps = tuple(range(2 + rank, 2 + 2 * rank))
        y = np.empty((n, w.shape[0], *out), dtype=x.dtype)
        for g in range(group):
            part = view[:, g * w.shape[1] : (g + 1) * w.shape[1]]
            weight = w[g * maps : (g + 1) * maps]
            found = np.tensordot(part, weight, axes=((1, *taps), (1, *range(2, 2 + rank))))
            y[:, g * maps : (g + 1) * maps] = np.moveaxis(found, -1, 1)
        if b is not None:
            y += b.reshape(1, -1, *[1] * rank)
        return (y,)


class BatchNormalization(OpRun):
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, by channel (axis 1). Training is refused."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float = 1e-5, momentum: Any = None,
        training_mode: int = 0, spatial: int = 1, is_test: int = 1, consumed_inputs: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        if training_mode or not spatial:
            raise NotImplementedError("BatchNormalization in training, or by element")
        shape = (1, -1, *[1] * (x.ndim - 2))
        factor = (scale / np.sqrt(var + (1e-5 if epsilon is None else epsilon))).reshape(shape)
        return (np.asarray((x - mean.reshape(shape)) * factor + bias.reshape(shape)).astype(x.dtype),)


class GatherElements(OpRun):
    """y[.., i, ..] = x[.., indices[.., i, ..], ..] along the axis; negative indices count from its end."""

    op_domain = ""

    def _run(self, x: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        axis %= x.ndim
        near = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))
        return (np.take_along_axis(x[near], indices.astype(np.int64), axis),)


class GridSample(OpRun):
    """y[n, c, o] = x[n, c] at the place grid[n, o], which counts from -1 to 1, the last axis of x first; no cubic."""

    op_domain = ""

    def _run(
        self, x: Array, grid: Array, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
    ) -> tuple[Array]:
        linear = (mode or "linear") in ("linear", "bilinear")
        if not linear and mode != "nearest":
            raise NotImplementedError("cubic GridSample")
        sizes, kind = x.shape[2:], max(x.dtype, grid.dtype, key=lambda dtype: dtype.itemsize)
        places = [
            _place(grid[..., len(sizes) - 1 - i].astype(kind), size, bool(align_corners), padding_mode)
            for i, size in enumerate(sizes)
        ]
        first = [np.floor(place) if linear else np.rint(place) for place in places]
        y = np.zeros((*x.shape[:2], *grid.shape[1:-1]), kind)
        rows = np.arange(x.shape[0]).reshape(-1, *[1] * (grid.ndim - 2))
        for corner in itertools.product((0, 1) if linear else (0,), repeat=len(sizes)):
            weight = np.ones(grid.shape[:-1], kind)
            index = []
            for place, low, step, size in zip(places, first, corner, sizes, strict=True):
                at = low + step
                weight = weight * (1 - np.abs(place - at) if linear else 1)
                if padding_mode == "zeros":
                    weight = np.where((at >= 0) & (at < size), weight, 0)
                index.append(np.clip(np.nan_to_num(at), 0, size - 1).astype(np.int64))
            y += np.moveaxis(x[(rows, slice(None), *index)], -1, 1) * weight[:, None]
        return (y.astype(x.dtype),)


def _place(grid: Array, size: int, align_corners: bool, padding_mode: str) -> Array:
    """Where in 0 to size - 1 a place of the grid is; reflected at the ends' centres (corners aligned) or edges."""
    place = (grid + 1) / 2 * (size - 1) if align_corners else ((grid + 1) * size - 1) / 2
    if padding_mode == "border":
        return np.clip(place, 0, size - 1)
    if padding_mode == "reflection":
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        if high == low:
            return np.zeros_like(place)
        turned = np.mod(place - low, 2 * (high - low))
        return np.clip(low + np.minimum(turned, 2 * (high - low) - turned), 0, size - 1)
    return np.asarray(place)


REPLACED_OPS: tuple[type[OpRun], ...] = (Conv, BatchNormalization, GatherElements, GridSample)
