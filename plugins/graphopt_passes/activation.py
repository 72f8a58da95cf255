"""Activations in the form that TensorRT fuses with the convolution before them.

NaN stays NaN on both sides of every equation, and infinities keep their values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Value

from .affine import foldable

_SIXTH = 1 / 6


def number(c: Value, x: Value | None = None) -> float:
    """The one float that a constant holds. Raises Skip where it is not one, or could raise the rank of x."""
    if c.size != 1 or (x is not None and c.rank != 0 and (x.rank is None or x.rank < (c.rank or 0))):
        raise graphopt.Skip("the constant is not one number, or may raise the rank")
    values = c.const
    if values is None or not dtypes.is_float(values.dtype):
        raise graphopt.Skip("the constant is no float")
    value = float(values.astype(np.float64).reshape(-1)[0])
    if np.isnan(value):
        raise graphopt.Skip("the constant is NaN")
    return value


def bounds(low: Value | None, high: Value | None, dtype: Any) -> tuple[float, float]:
    """What Clip clips to; the largest finite numbers, by which exporters write "no bound", are infinite.

    (An infinite x would come out finite there.)
    """
    least = -np.inf if low is None else number(low)
    most = np.inf if high is None else number(high)
    limit = _largest(dtype)
    return (-np.inf if least <= -limit else least), (np.inf if most >= limit else most)


def _largest(dtype: Any) -> float:
    import ml_dtypes

    if dtype is None:
        return np.inf
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def _float(x: Value) -> Any:
    """The dtype of x. Raises Skip unless it is known and a float."""
    foldable(x)
    return x.dtype


def clip(op: Any, x: Value, low: float, high: float, dtype: Any) -> Any:
    """min(max(x, low), high), as Relu where it is one."""
    if low == 0 and high == np.inf:
        return op.Relu(x)
    if low == -np.inf and high == np.inf:
        return x
    return op.Clip(
        x,
        None if low == -np.inf else np.asarray(low, dtype),
        None if high == np.inf else np.asarray(high, dtype),
    )


class UseReluForClip(graphopt.Rule):
    """Clip(x, 0) = Relu(x)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, low: Any, high: Any) -> Any:
        return op.Clip(x, op.Const(low), op.maybe(op.Const(high)))

    def rewrite(self, op: Any, x: Value, low: Value, high: Value | None) -> Any:
        if bounds(low, high, _float(x)) != (0, np.inf):
            raise graphopt.Skip("it clips to something else")
        return op.Relu(x)


class UseReluForMax(graphopt.Rule):
    """Max(x, 0) = Relu(x)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, zero: Any) -> Any:
        return op.Max(x, op.Const(zero))

    def rewrite(self, op: Any, x: Value, zero: Value) -> Any:
        _float(x)
        if number(zero, x) != 0:
            raise graphopt.Skip("it is the maximum with something else")
        return op.Relu(x)


class UseClipForMinMax(graphopt.Rule):
    """Min(Max(x, a), b) = Min(Relu(x), b) at a = 0 = Clip(x, a, b)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Min(op.Max(x, op.Const(a)), op.Const(b))

    def rewrite(self, op: Any, x: Value, a: Value, b: Value) -> Any:
        return clip(op, x, number(a, x), number(b, x), _float(x))


class UseClipForMinRelu(graphopt.Rule):
    """Min(Relu(x), b) = Clip(x, 0, b)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, b: Any) -> Any:
        return op.Min(op.Relu(x), op.Const(b))

    def rewrite(self, op: Any, x: Value, b: Value) -> Any:
        return clip(op, x, 0.0, number(b, x), _float(x))


class MergeReluOfClip(graphopt.Rule):
    """Relu(Clip(x, a, b)) = Clip(x, max(a, 0), max(b, 0))."""

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Relu(op.Clip(x, op.maybe(op.Const(a)), op.maybe(op.Const(b))))

    def rewrite(self, op: Any, x: Value, a: Value | None, b: Value | None) -> Any:
        dtype = _float(x)
        low, high = bounds(a, b, dtype)
        return clip(op, x, max(low, 0.0), max(high, 0.0), dtype)


class MergeClipOfRelu(graphopt.Rule):
    """Clip(Relu(x), a, b) = Clip(x, max(a, 0), b)."""

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Clip(op.Relu(x), op.maybe(op.Const(a)), op.maybe(op.Const(b)))

    def rewrite(self, op: Any, x: Value, a: Value | None, b: Value | None) -> Any:
        dtype = _float(x)
        low, high = bounds(a, b, dtype)
        return clip(op, x, max(low, 0.0), high, dtype)


class MergeClips(graphopt.Rule):
    """Clip(Clip(x, a, b), c, d) = Clip(x, max(a, c), min(max(b, c), d))."""

    def pattern(self, op: Any, x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        inner = op.Clip(x, op.maybe(op.Const(a)), op.maybe(op.Const(b)))
        return op.Clip(inner, op.maybe(op.Const(c)), op.maybe(op.Const(d)))

    def rewrite(self, op: Any, x: Value, a: Value | None, b: Value | None, c: Value | None, d: Value | None) -> Any:
        dtype = _float(x)
        (a1, b1), (c1, d1) = bounds(a, b, dtype), bounds(c, d, dtype)
        return clip(op, x, max(a1, c1), min(max(b1, c1), d1), dtype)


def gate(low: Value, high: Value, scale: float, dtype: Any) -> float:
    """m, where Clip(x, 0, m) * scale is Clip(x / m, 0, 1). Raises Skip where the gate does not end at 1."""
    least, most = number(low), number(high)
    if least != 0 or not 0 < most < np.inf:
        raise graphopt.Skip("it is not clipped between 0 and a positive number")
    rounding = 1e-2 if dtypes.name(dtype) == "bfloat16" else 1e-3 if dtypes.name(dtype) == "float16" else 1e-6
    if abs(most * scale - 1) > rounding:
        raise graphopt.Skip("it is not scaled to end at 1")
    return most


class FuseHardSigmoid(graphopt.Rule):
    """Clip(x, 0, m) / m = HardSigmoid(x, alpha=1/m, beta=0)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, low: Any, high: Any, m: Any) -> Any:
        return op.Div(op.Clip(x, op.Const(low), op.Const(high)), op.Const(m))

    def rewrite(self, op: Any, x: Value, low: Value, high: Value, m: Value) -> Any:
        scale = number(m, x)
        end = gate(low, high, 1 / scale if scale else 0.0, _float(x))
        return op.HardSigmoid(x, alpha=1 / end, beta=0.0)


class FuseHardSigmoidTimes(graphopt.Rule):
    """Clip(x, 0, m) * (1/m) = HardSigmoid(x, alpha=1/m, beta=0)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, low: Any, high: Any, k: Any) -> Any:
        return op.Mul(op.Clip(x, op.Const(low), op.Const(high)), op.Const(k))

    def rewrite(self, op: Any, x: Value, low: Value, high: Value, k: Value) -> Any:
        end = gate(low, high, number(k, x), _float(x))
        return op.HardSigmoid(x, alpha=1 / end, beta=0.0)


class FuseHardSigmoidOfScaled(graphopt.Rule):
    """Clip(x * a + b, 0, 1) = HardSigmoid(x, alpha=a, beta=b)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, a: Any, b: Any, low: Any, high: Any) -> Any:
        return op.Clip(op.Add(op.Mul(x, op.Const(a)), op.Const(b)), op.Const(low), op.Const(high))

    def rewrite(self, op: Any, x: Value, a: Value, b: Value, low: Value, high: Value) -> Any:
        gate(low, high, 1.0, _float(x))
        alpha, beta = number(a, x), number(b, x)
        if not np.isfinite([alpha, beta]).all():
            raise graphopt.Skip("the constants are not finite")
        return op.HardSigmoid(x, alpha=alpha, beta=beta)


class FoldAddIntoHardSigmoid(graphopt.Rule):
    """HardSigmoid(x + c, alpha, beta) = HardSigmoid(x, alpha, beta + alpha * c)."""

    def pattern(self, op: Any, x: Any, c: Any, alpha: Any, beta: Any) -> Any:
        return op.HardSigmoid(op.Add(x, op.Const(c)), alpha=alpha, beta=beta)

    def rewrite(self, op: Any, x: Value, c: Value, alpha: float, beta: float) -> Any:
        _float(x)
        shift = beta + alpha * number(c, x)
        if not abs(shift) < 16:
            raise graphopt.Skip("the constant is far outside the slope")
        return op.HardSigmoid(x, alpha=alpha, beta=shift)


class SplitHardSwish(graphopt.Rule):
    """x * Clip(x + c, 0, m) / m = x * HardSigmoid(x, alpha=1/m, beta=c/m)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, c: Any, low: Any, high: Any, m: Any) -> Any:
        return op.Div(_swish(op, x, c, low, high), op.Const(m))

    def rewrite(self, op: Any, x: Value, c: Value, low: Value, high: Value, m: Value) -> Any:
        scale = number(m, x)
        return _gated(op, x, c, gate(low, high, 1 / scale if scale else 0.0, _float(x)))


class SplitHardSwishTimes(graphopt.Rule):
    """x * Clip(x + c, 0, m) * (1/m) = x * HardSigmoid(x, alpha=1/m, beta=c/m)."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, c: Any, low: Any, high: Any, k: Any) -> Any:
        return op.Mul(_swish(op, x, c, low, high), op.Const(k))

    def rewrite(self, op: Any, x: Value, c: Value, low: Value, high: Value, k: Value) -> Any:
        return _gated(op, x, c, gate(low, high, number(k, x), _float(x)))


def _swish(op: Any, x: Any, c: Any, low: Any, high: Any) -> Any:
    return op.Mul(x, op.Clip(op.Add(x, op.Const(c)), op.Const(low), op.Const(high)))


def _gated(op: Any, x: Value, c: Value, end: float) -> Any:
    shift = number(c, x) / end
    if not abs(shift) < 16:
        raise graphopt.Skip("the constant is far outside the slope")
    return x * op.HardSigmoid(x, alpha=1 / end, beta=shift)


class FuseHardSwish(graphopt.Rule):
    """x * HardSigmoid(x, alpha=1/6, beta=1/2) = HardSwish(x), from opset 14 on."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, alpha: Any, beta: Any) -> Any:
        return op.Mul(x, op.HardSigmoid(x, alpha=alpha, beta=beta))

    def rewrite(self, op: Any, x: Value, alpha: float, beta: float) -> Any:
        if abs(alpha / _SIXTH - 1) > 1e-6 or abs(beta - 0.5) > 1e-6:
            raise graphopt.Skip("alpha is not 1/6, or beta not 1/2")
        return op.HardSwish(x)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        UseReluForClip(),
        UseReluForMax(),
        UseClipForMinMax(),
        UseClipForMinRelu(),
        MergeReluOfClip(),
        MergeClipOfRelu(),
        MergeClips(),
        FuseHardSigmoid(),
        FuseHardSigmoidTimes(),
        FuseHardSigmoidOfScaled(),
        FoldAddIntoHardSigmoid(),
        SplitHardSwish(),
        SplitHardSwishTimes(),
        FuseHardSwish(),
    ]
