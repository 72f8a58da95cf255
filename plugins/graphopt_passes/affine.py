"""y = x * scale + shift per channel: read from constants, computed in float64, rounded once to the weights' dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Array, Value

_MANTISSA = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
"""Dtypes of weights that are folded into, with the stored bits of their mantissa."""
_SAFE_SCALE = {"float32": 1e-15, "bfloat16": 1e-15, "float64": 1e-150}
"""A scale above this can't push a useful weight into the subnormal numbers; float16 is always looked at."""
_SLAB = 1 << 18
"""Elements that are widened to float64 at once: what fits into a cache."""
_STREAMED_BYTES = 64 << 20
"""Larger weights are left where they are: a scaled copy would have to be kept in memory."""
_COPIED_BYTES = 1 << 20
"""Larger weights that others read too are not copied to be scaled."""


class Affine(NamedTuple):
    """scale and shift as float64 vectors of 1 or `channels` elements; None is 1 and 0."""

    scale: Array | None = None
    shift: Array | None = None


def whole_number(attrs: Mapping[str, Any], name: str, default: int) -> int:
    """An integer attribute. Raises Skip where it is a parameter of the enclosing function."""
    value = attrs.get(name, default)
    if isinstance(value, gs.Node.AttributeRef):
        raise graphopt.Skip(f"{name} is a parameter of the enclosing function")
    return int(value)


def foldable(w: Value) -> str:
    """The name of a dtype. Raises Skip unless it is known, and a float that rounds no worse than bfloat16."""
    name = dtypes.name(w.dtype)
    if name not in _MANTISSA:
        raise graphopt.Skip(f"the dtype is {name}")
    return name


def per_channel(
    c: Value, rank: int, channels: int, how: Mapping[str, Any] | None = None, *, axis: int = 1, adds: str = ""
) -> Array:
    """The constant that is broadcast to `rank` dimensions, as 1 or `channels` float64 numbers along `axis`.

    how: attributes of the operator; below opset 7 they say how it broadcasts. adds: the dtype that c is added in.
    Raises Skip where it differs along another axis, would enlarge the result, or is not finite.
    """
    shape = c.shape
    if shape is None or any(not isinstance(dim, int) for dim in shape):
        raise graphopt.Skip("the constant's shape is unknown")
    dims = _aligned(shape, rank, how or {})
    axis %= rank
    if any(dim != 1 for place, dim in enumerate(dims) if place != axis) or dims[axis] not in (1, channels):
        raise graphopt.Skip(f"a constant of shape {shape} is not one number per channel")
    values = numbers(c)
    if adds and float(np.abs(values).max(initial=0.0)) >= 2.0 ** (_MANTISSA[adds] - 1):
        raise graphopt.Skip("the constant is so large that adding it rounds to whole numbers")
    return values


def _aligned(shape: tuple[Any, ...], rank: int, how: Mapping[str, Any]) -> tuple[Any, ...]:
    before = rank - len(shape)
    if how.get("broadcast") and how.get("axis") is not None:
        before = whole_number(how, "axis", 0) % rank
    after = rank - len(shape) - before
    if before < 0 or after < 0:
        raise graphopt.Skip(f"a constant of shape {shape} raises the rank")
    return (1,) * before + shape + (1,) * after


def numbers(c: Value) -> Array:
    """The elements of a constant in float64. Raises Skip unless they are finite floats."""
    values = c.const
    if values is None or not dtypes.is_float(values.dtype):
        raise graphopt.Skip("the constant holds no floats")
    wide = values.astype(np.float64).reshape(-1)
    if not _are_finite(wide):
        raise graphopt.Skip("the constant is not finite")
    return wide


def _are_finite(values: Array) -> bool:
    return bool(np.logical_and.reduce(np.isfinite(values), axis=None))  # `.all()` is written in Python


def reciprocal(c: Array) -> Array:
    """1 / c. Raises Skip where it overflows."""
    with np.errstate(all="ignore"):
        result = 1.0 / c
    if not _are_finite(result):
        raise graphopt.Skip("division by zero")
    return result


def batch_norm(
    op: Any, scale: Value, bias: Value, mean: Value, var: Value, attrs: Mapping[str, Any], channels: int
) -> Affine:
    """x * k + (bias - mean * k), k = scale / sqrt(var + epsilon). Raises Skip in training, or where it is no number."""
    if whole_number(attrs, "training_mode", 0) or (op.opset < 7 and not whole_number(attrs, "is_test", 0)):
        raise graphopt.Skip("the BatchNormalization is in training mode")
    if op.opset < 9 and not whole_number(attrs, "spatial", 1):
        raise graphopt.Skip("the BatchNormalization is not per channel (spatial = 0)")
    epsilon = attrs.get("epsilon", 1e-5)
    if not isinstance(epsilon, (int, float)):
        raise graphopt.Skip("epsilon is a parameter of the enclosing function")
    if any(value.shape != (channels,) for value in (scale, bias, mean, var)):
        raise graphopt.Skip(f"the BatchNormalization is not of {channels} channels")
    spread = numbers(var) + epsilon
    if not (spread > 0).all():
        raise graphopt.Skip("var + epsilon is not positive")
    k = numbers(scale) / np.sqrt(spread)
    return Affine(k, numbers(bias) - numbers(mean) * k)


def then(first: Affine, second: Affine) -> Affine:
    """second(first(x)) as one map."""
    scale, shift = first
    if second.scale is not None:
        scale = second.scale if scale is None else scale * second.scale
        shift = None if shift is None else shift * second.scale
    if second.shift is not None:
        shift = second.shift if shift is None else shift + second.shift
    return Affine(scale, shift)


def scaled(w: Value, k: Array) -> Array:
    """w * k rounded to w's dtype; k has w's rank, or is one number.

    Raises Skip where that overflows or loses precision, or where the copy would cost too much.
    """
    dtype = foldable(w)
    array = w.const
    assert array is not None
    if array.nbytes > _STREAMED_BYTES:
        raise graphopt.Skip(f"the weights are larger than {_STREAMED_BYTES >> 20} MiB")
    if array.nbytes > _COPIED_BYTES and w.tensor is not None and len(w.tensor.outputs) > 1:
        raise graphopt.Skip("large weights have other readers, so that scaling them would need a copy")
    watch = float(np.abs(k).min(initial=np.inf)) < _SAFE_SCALE.get(dtype, np.inf)
    if array.size <= _SLAB:
        return rounded(array.astype(np.float64) * k, array.dtype, watch=watch)
    result = np.empty_like(array)
    step = max(1, _SLAB * len(array) // array.size)
    for start in range(0, len(array), step):
        rows = slice(start, start + step)
        factor = k[rows] if k.ndim and k.shape[0] == len(array) else k
        result[rows] = rounded(array[rows].astype(np.float64) * factor, array.dtype, watch=watch)
    return result


def exact(w: Value, y: Value) -> str | None:
    """A veto where weights are whole numbers, and y, the scaled sum, is rounded: quantized arithmetic.

    Such sums are exact, and equal on every device; with the scale in the weights some would round the other way.
    """
    readers = y.tensor.outputs if y.tensor is not None else []
    if not any(user.op == "Round" and is_standard(user) for user in readers):
        return None
    array = w.const
    whole = array is not None and array.dtype.kind == "f" and bool((array == np.rint(array)).all())
    return "a sum of whole numbers that is scaled and rounded stays exact" if whole else None


def shifted(b: Value | None, affine: Affine, channels: int, dtype: Any) -> Array | None:
    """b * scale + shift as a vector in `dtype`; None where it is zero. Raises Skip where it overflows."""
    wide = np.zeros(channels)
    if b is not None:
        if b.shape != (channels,):
            raise graphopt.Skip(f"the bias is not of {channels} channels")
        wide = numbers(b)
    if affine.scale is not None:
        wide = wide * affine.scale
    if affine.shift is not None:
        wide = wide + affine.shift
    return rounded(wide, dtype) if wide.any() else None


def rounded(exact: Array, dtype: Any, *, watch: bool = False) -> Array:
    """float64 numbers in `dtype`. Raises Skip where they overflow or, under `watch`, underflow so that it shows."""
    with np.errstate(over="ignore"):
        result = exact.astype(dtype)
    if not _are_finite(result):
        raise graphopt.Skip(f"a folded value is not finite in {np.dtype(dtype).name}")
    if watch:
        axes = tuple(range(1, exact.ndim))
        lost = np.square(result.astype(np.float64) - exact).sum(axis=axes)
        whole = np.square(exact).sum(axis=axes)
        if (lost > np.square(2.0 ** (1 - _MANTISSA[dtypes.name(dtype)])) * whole).any():
            raise graphopt.Skip(f"the folded weights are too small for {np.dtype(dtype).name}")
    return result
