"""A factor and a summand per channel, with no convolution to take them up, are one BatchNormalization.

TensorRT-RTX 1.6.1 makes one Scale layer of it, and two to four layers of the spelled form; of images only (rank 4):
in other ranks it makes three to five. Equal up to the rounding of the factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Array, Value

from .affine import per_channel, reciprocal, rounded


def _channels(x: Value) -> int:
    shape = x.shape
    if shape is None or len(shape) != 4 or dtypes.name(x.dtype) not in ("float32", "float16"):
        raise graphopt.Skip("x is not of rank 4, or of another dtype than float32 and float16")
    if not isinstance(shape[1], int) or not shape[1]:
        raise graphopt.Skip("the number of channels is unknown")
    return shape[1]


def _norm(op: Any, x: Value, scale: Array, bias: Array, mean: Array) -> Any:
    """(x - mean) * scale + bias."""
    if op.opset < 9:
        raise graphopt.Skip("below opset 9 BatchNormalization has other attributes")
    channels = _channels(x)
    vectors = [rounded(np.broadcast_to(values, (channels,)), x.dtype) for values in (scale, bias, mean, np.ones(1))]
    return op.BatchNormalization(x, *vectors, epsilon=0.0)


class BatchNormInsteadOfMulAdd(graphopt.Rule):
    """x * k + b = BatchNormalization(x, scale=k, bias=b, mean=0, var=1, epsilon=0), k and b constant per channel."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, k: Any, b: Any) -> Any:
        return op.Add(op.Mul(x, op.Const(k)), op.Const(b))

    def rewrite(self, op: Any, x: Value, k: Value, b: Value) -> Any:
        channels = _channels(x)
        return _norm(op, x, per_channel(k, 4, channels), per_channel(b, 4, channels), np.zeros(1))


class BatchNormInsteadOfSubMul(graphopt.Rule):
    """(x - m) * k = BatchNormalization(x, scale=k, bias=0, mean=m, var=1, epsilon=0), k and m constant per channel."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, m: Any, k: Any) -> Any:
        return op.Mul(op.Sub(x, op.Const(m)), op.Const(k))

    def rewrite(self, op: Any, x: Value, m: Value, k: Value) -> Any:
        channels = _channels(x)
        return _norm(op, x, per_channel(k, 4, channels), np.zeros(1), per_channel(m, 4, channels))


class BatchNormInsteadOfSubDiv(graphopt.Rule):
    """(x - m) / s = BatchNormalization(x, scale=1/s, bias=0, mean=m, var=1, epsilon=0), m, s constant per channel."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, m: Any, s: Any) -> Any:
        return op.Div(op.Sub(x, op.Const(m)), op.Const(s))

    def rewrite(self, op: Any, x: Value, m: Value, s: Value) -> Any:
        channels = _channels(x)
        return _norm(op, x, reciprocal(per_channel(s, 4, channels)), np.zeros(1), per_channel(m, 4, channels))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [BatchNormInsteadOfMulAdd(), BatchNormInsteadOfSubMul(), BatchNormInsteadOfSubDiv()]
