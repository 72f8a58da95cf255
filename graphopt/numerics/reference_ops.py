"""Operators that replace onnx's reference ones: Conv is slow there, BatchNormalization wrong.

Its BatchNormalization of opset 9 to 13 takes the statistics of the batch wherever a momentum is spelled out.
"""

from __future__ import annotations

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


REPLACED_OPS: tuple[type[OpRun], ...] = (Conv, BatchNormalization)
