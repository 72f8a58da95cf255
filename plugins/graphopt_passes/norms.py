"""Normalization over the last dimensions, spelled out: LayerNormalization (opset 17) and RMSNormalization (opset 23).

A core without weights is recognized first, with a scale of ones; constant factors and summands that follow become its
scale and bias. Sums are associated differently than in the spelled form, in float32 or wider; else all is equal.
Never for float64, since the operators compute in float32, and never where the variance has another reader.

TensorRT-RTX 1.6.1: LayerNormalization is one native layer (7 to 13 spelled out). RMSNormalization makes 8, spelled
out it makes 8 to 12, and it builds in float32 and float16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Array, Value

from .activation import number
from .affine import numbers, rounded

_DTYPES = ("float32", "float16", "bfloat16")
_MOST = 1 << 24
"""Elements of a scale that is made."""


def first_axis(x: Value, *reduced: Value) -> int:
    """-k, where each of the reductions is over the last k dimensions. Raises Skip where they are over others."""
    found = set()
    for axes in reduced:
        values = axes.const
        if values is None or not values.size:
            raise graphopt.Skip("the axes are no constant")
        places: list[int] = sorted(int(axis) for axis in values.reshape(-1))
        if places[0] >= 0 or places[-1] >= 0:
            if x.rank is None:
                raise graphopt.Skip("an axis is not negative and the rank unknown")
            places = sorted(place - x.rank if place >= 0 else place for place in places)
        if places != list(range(-len(places), 0)):
            raise graphopt.Skip(f"it is not normalized over the last dimensions but over {places}")
        found.add(places[0])
    if len(found) != 1:
        raise graphopt.Skip("mean and variance are over different axes")
    return found.pop()


def ones(x: Value, axis: int) -> Array:
    """The scale that changes nothing. Raises Skip where a normalized dimension or the dtype is not known."""
    if dtypes.name(x.dtype) not in _DTYPES:
        raise graphopt.Skip(f"the dtype is {dtypes.name(x.dtype)}")
    shape = x.shape
    if shape is None or len(shape) < -axis:
        raise graphopt.Skip("the rank is unknown")
    dims = [dim for dim in shape[axis:] if isinstance(dim, int)]
    if len(dims) < -axis or 0 in dims:
        raise graphopt.Skip("a normalized dimension is unknown, or empty")
    if math.prod(dims) > _MOST:
        raise graphopt.Skip(f"a scale of {math.prod(dims)} ones is too large")
    return np.ones(dims, x.dtype)


def small(epsilon: Value, variance_of: Value) -> float:
    """Epsilon as an attribute. Raises Skip unless it is one finite number that is not negative."""
    value = number(epsilon, variance_of)
    if not 0 <= value < np.inf:
        raise graphopt.Skip(f"epsilon is {value}")
    return value


class FuseLayerNorm(graphopt.Rule):
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + epsilon) = LayerNormalization(x, 1, epsilon=epsilon)."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, axes: Any, axes2: Any, epsilon: Any) -> Any:
        d = op.Sub(x, op.ReduceMean(x, op.Const(axes), keepdims=1))
        variance = op.ReduceMean(op.Mul(d, d), op.Const(axes2), keepdims=1)
        return op.Div(d, op.Sqrt(op.Add(variance, op.Const(epsilon))))

    def rewrite(self, op: Any, x: Value, axes: Value, axes2: Value, epsilon: Value) -> Any:
        axis = first_axis(x, axes, axes2)
        return op.LayerNormalization(x, ones(x, axis), axis=axis, epsilon=small(epsilon, x))


class FuseLayerNormFolded(graphopt.Rule):
    """x * k + (bias - mean(x) * k), k = scale / sqrt(variance + epsilon): LayerNormalization(x, scale, bias)."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, axes: Any, axes2: Any, epsilon: Any, scale: Any, bias: Any) -> Any:
        mean = op.ReduceMean(x, op.Const(axes), keepdims=1)
        d = op.Sub(x, mean)
        variance = op.ReduceMean(op.Mul(d, d), op.Const(axes2), keepdims=1)
        k = op.Div(op.Const(scale), op.Sqrt(op.Add(variance, op.Const(epsilon))))
        return op.Add(op.Mul(x, k), op.Sub(op.Const(bias), op.Mul(mean, k)))

    def rewrite(self, op: Any, x: Value, axes: Value, axes2: Value, epsilon: Value, scale: Value, bias: Value) -> Any:
        axis = first_axis(x, axes, axes2)
        one = ones(x, axis)
        weights, shift = spread(scale, one.shape, x.rank), spread(bias, one.shape, x.rank)
        return op.LayerNormalization(
            x, rounded(weights, one.dtype), rounded(shift, one.dtype), axis=axis, epsilon=small(epsilon, x)
        )


class FuseRmsNorm(graphopt.Rule):
    """x / sqrt(mean(x * x) + epsilon) = RMSNormalization(x, 1, epsilon=epsilon), from opset 23 on."""

    stage = "fuse"
    after = ("fuse-layer-norm",)

    def pattern(self, op: Any, x: Any, axes: Any, epsilon: Any) -> Any:
        square = op.ReduceMean(op.Mul(x, x), op.Const(axes), keepdims=1)
        return op.Div(x, op.Sqrt(op.Add(square, op.Const(epsilon))))

    def rewrite(self, op: Any, x: Value, axes: Value, epsilon: Value) -> Any:
        axis = first_axis(x, axes)
        return op.RMSNormalization(x, ones(x, axis), axis=axis, epsilon=small(epsilon, x))


def spread(c: Value, normalized: Sequence[int], rank: int | None) -> Array:
    """A constant as one float64 number per normalized element. Raises Skip where it varies along other dimensions."""
    shape, values = c.shape, numbers(c)
    if shape is None or (len(shape) > len(normalized) and (rank is None or len(shape) > rank)):
        raise graphopt.Skip("the constant may raise the rank")
    dims = [dim for dim in shape if isinstance(dim, int)]
    outer = dims[: max(0, len(dims) - len(normalized))]
    if any(dim != 1 for dim in outer):
        raise graphopt.Skip("the constant varies along dimensions that are not normalized")
    inner = values.reshape(dims[len(outer) :])
    pairs = zip(reversed(inner.shape), reversed(normalized), strict=False)
    if any(dim not in (1, whole) for dim, whole in pairs):
        raise graphopt.Skip("the constant would enlarge the result")
    return np.asarray(np.broadcast_to(inner, tuple(normalized)))


def _normalized(x: Value, scale: Value, axis: int) -> tuple[int, ...]:
    """The dimensions that are normalized. Raises Skip unless the scale has one number for each of their elements."""
    rank = x.rank
    if rank is None or dtypes.name(x.dtype) not in _DTYPES or scale.dtype != x.dtype:
        raise graphopt.Skip("rank or dtype is unknown, or scale and x differ in dtype")
    shape = scale.shape or ()
    count = -axis if axis < 0 else rank - axis
    dims = tuple(dim for dim in shape[len(shape) - count :] if isinstance(dim, int))
    if len(shape) < count or len(dims) < count or scale.size != int(np.prod(dims)):
        raise graphopt.Skip("the scale is not one number per normalized element")
    own = (x.shape or ())[rank - count :]
    if any(isinstance(dim, int) and dim != wide for dim, wide in zip(own, dims, strict=True)):
        raise graphopt.Skip("the scale is broadcast")
    return dims


class MulIntoLayerNorm(graphopt.Rule):
    """LayerNormalization(x, scale, bias) * c = LayerNormalization(x, scale * c, bias * c), c constant per element."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, c: Any, axis: Any, epsilon: Any) -> Any:
        y = op.LayerNormalization(x, op.Const(scale), op.maybe(op.Const(bias)), axis=axis, epsilon=epsilon)
        return op.Mul(y, op.Const(c))

    def rewrite(self, op: Any, x: Value, scale: Value, bias: Value | None, c: Value, axis: int, epsilon: float) -> Any:
        dims = _normalized(x, scale, axis)
        k = spread(c, dims, x.rank)
        weights = rounded(spread(scale, dims, x.rank) * k, x.dtype)
        shift = None if bias is None else rounded(spread(bias, dims, x.rank) * k, x.dtype)
        return op.LayerNormalization(x, weights, shift, axis=axis, epsilon=epsilon)


class AddIntoLayerNorm(graphopt.Rule):
    """LayerNormalization(x, scale, bias) + c = LayerNormalization(x, scale, bias + c), c constant per element."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, c: Any, axis: Any, epsilon: Any) -> Any:
        y = op.LayerNormalization(x, op.Const(scale), op.maybe(op.Const(bias)), axis=axis, epsilon=epsilon)
        return op.Add(y, op.Const(c))

    def rewrite(self, op: Any, x: Value, scale: Value, bias: Value | None, c: Value, axis: int, epsilon: float) -> Any:
        dims = _normalized(x, scale, axis)
        shift = spread(c, dims, x.rank) + (0.0 if bias is None else spread(bias, dims, x.rank))
        return op.LayerNormalization(x, scale, rounded(shift, x.dtype), axis=axis, epsilon=epsilon)


class MulIntoRmsNorm(graphopt.Rule):
    """RMSNormalization(x, scale) * c = RMSNormalization(x, scale * c), c constant per element."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, scale: Any, c: Any, axis: Any, epsilon: Any) -> Any:
        return op.Mul(op.RMSNormalization(x, op.Const(scale), axis=axis, epsilon=epsilon), op.Const(c))

    def rewrite(self, op: Any, x: Value, scale: Value, c: Value, axis: int, epsilon: float) -> Any:
        dims = _normalized(x, scale, axis)
        weights = rounded(spread(scale, dims, x.rank) * spread(c, dims, x.rank), x.dtype)
        return op.RMSNormalization(x, weights, axis=axis, epsilon=epsilon)


class _Narrow(graphopt.Rule):
    """Cast(f(Cast(x, float32), 1), dtype of x) = f(x, 1): the operator itself computes in float32 and rounds back.

    Only for a scale of ones and no bias: with weights the operator rounds before it applies them.
    """

    stage = "fuse"
    operator: str

    def pattern(self, op: Any, x: Any, scale: Any, axis: Any, epsilon: Any, wide: Any, narrow: Any) -> Any:
        inner = op.Cast(x, to=wide)
        y = getattr(op, self.operator)(inner, op.Const(scale), axis=axis, epsilon=epsilon)
        return op.Cast(y, to=narrow)

    def rewrite(self, op: Any, x: Value, scale: Value, axis: int, epsilon: float, wide: int, narrow: int) -> Any:
        dtype = x.dtype
        if dtypes.name(dtype) not in ("float16", "bfloat16") or dtypes.name(scale.dtype) != "float32":
            raise graphopt.Skip("it does not widen a narrow float to float32")
        if int(narrow) != dtypes.to_onnx(dtype):
            raise graphopt.Skip("it is cast to another dtype than that of x")
        if not (numbers(scale) == 1).all():
            raise graphopt.Skip("the scale is not 1 everywhere")
        array = scale.const
        assert array is not None
        return getattr(op, self.operator)(x, array.astype(dtype), axis=axis, epsilon=epsilon)


class NarrowLayerNorm(_Narrow):
    """Cast(LayerNormalization(Cast(x, float32), 1), dtype of x) = LayerNormalization(x, 1)."""

    operator = "LayerNormalization"


class NarrowRmsNorm(_Narrow):
    """Cast(RMSNormalization(Cast(x, float32), 1), dtype of x) = RMSNormalization(x, 1)."""

    operator = "RMSNormalization"


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        FuseLayerNorm(),
        FuseLayerNormFolded(),
        FuseRmsNorm(),
        MulIntoLayerNorm(),
        AddIntoLayerNorm(),
        MulIntoRmsNorm(),
        NarrowLayerNorm(),
        NarrowRmsNorm(),
    ]
