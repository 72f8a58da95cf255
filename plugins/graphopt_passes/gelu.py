"""Gelu and gated activations, spelled out: Gelu (opset 20), Mish (18), Softsign, Softplus, Softmax, LeakyRelu.

Equal up to rounding unless said otherwise; NaN stays NaN. Left alone because TensorRT-RTX 1.6.1 makes more layers of
the one operator than of the spelled form, or refuses it: Swish (5 against 2), Celu (10; none in float16),
LpNormalization (8 against 4), ReduceL2 in float16 (5 against 3), MeanVarianceNormalization (none in float16).
ReduceLogSumExp and LogSoftmax are left alone because they are finite where the spelled forms are not, or the reverse.
Gelu is recognized early: its factor 1 / 2 would be folded into the convolution that follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.value import Value

from .activation import number
from .powers import same_number

_SQRT_HALF = 0.7071067811865476
_SQRT_TWO_BY_PI = 0.7978845608028654


def _halved(op: Any, x: Any, a: Any, half: Any) -> Any:
    """x * a * 0.5 in every order."""
    h = op.Const(half)
    return graphopt.alternatives(op.Mul(op.Mul(x, a), h), op.Mul(x, op.Mul(a, h)), op.Mul(op.Mul(x, h), a))


class FuseGelu(graphopt.Rule):
    """x * (1 + Erf(x / sqrt(2))) / 2 = Gelu(x), from opset 20 on."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, k: Any, one: Any, half: Any) -> Any:
        return _halved(op, x, op.Add(op.Erf(op.Mul(x, op.Const(k))), op.Const(one)), half)

    def rewrite(self, op: Any, x: Value, k: Value, one: Value, half: Value) -> Any:
        for constant, wanted in ((k, _SQRT_HALF), (one, 1.0), (half, 0.5)):
            same_number(constant, wanted, x)
        return op.Gelu(x)


class FuseGeluDivided(graphopt.Rule):
    """x * (1 + Erf(x / sqrt(2))) / 2 = Gelu(x), from opset 20 on; sqrt(2) divides."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, k: Any, one: Any, half: Any) -> Any:
        return _halved(op, x, op.Add(op.Erf(op.Div(x, op.Const(k))), op.Const(one)), half)

    def rewrite(self, op: Any, x: Value, k: Value, one: Value, half: Value) -> Any:
        for constant, wanted in ((k, 1 / _SQRT_HALF), (one, 1.0), (half, 0.5)):
            same_number(constant, wanted, x)
        return op.Gelu(x)


class FuseGeluTanh(graphopt.Rule):
    """x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) / 2 = Gelu(x, approximate=tanh), from opset 20 on."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, three: Any, k: Any, c: Any, one: Any, half: Any) -> Any:
        cube = op.Pow(x, op.Const(three))
        inner = op.Mul(op.Add(x, op.Mul(cube, op.Const(c))), op.Const(k))
        return _halved(op, x, op.Add(op.Tanh(inner), op.Const(one)), half)

    def rewrite(self, op: Any, x: Value, three: Value, k: Value, c: Value, one: Value, half: Value) -> Any:
        for constant, wanted in ((three, 3.0), (k, _SQRT_TWO_BY_PI), (c, 0.044715), (one, 1.0), (half, 0.5)):
            same_number(constant, wanted, x)
        return op.Gelu(x, approximate="tanh")


class FuseGeluTanhMultiplied(graphopt.Rule):
    """x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))) / 2 = Gelu(x, approximate=tanh), from opset 20 on."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, k: Any, c: Any, one: Any, half: Any) -> Any:
        cube = op.alternatives(
            op.Mul(op.Mul(op.Mul(x, x), x), op.Const(c)), op.Mul(op.Mul(x, op.Const(c)), op.Mul(x, x))
        )
        inner = op.Mul(op.Add(x, cube), op.Const(k))
        return _halved(op, x, op.Add(op.Tanh(inner), op.Const(one)), half)

    def rewrite(self, op: Any, x: Value, k: Value, c: Value, one: Value, half: Value) -> Any:
        for constant, wanted in ((k, _SQRT_TWO_BY_PI), (c, 0.044715), (one, 1.0), (half, 0.5)):
            same_number(constant, wanted, x)
        return op.Gelu(x, approximate="tanh")


class FuseGeluTanhFactored(graphopt.Rule):
    """x * (1 + Tanh(sqrt(2 / pi) * x * (1 + 0.044715 * x * x))) / 2 = Gelu(x, approximate=tanh), from opset 20 on."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, k: Any, c: Any, one: Any, one2: Any, half: Any) -> Any:
        square = op.alternatives(op.Mul(op.Mul(x, op.Const(c)), x), op.Mul(op.Mul(x, x), op.Const(c)))
        inner = op.Mul(op.Mul(x, op.Const(k)), op.Add(square, op.Const(one)))
        return _halved(op, x, op.Add(op.Tanh(inner), op.Const(one2)), half)

    def rewrite(self, op: Any, x: Value, k: Value, c: Value, one: Value, one2: Value, half: Value) -> Any:
        for constant, wanted in ((k, _SQRT_TWO_BY_PI), (c, 0.044715), (one, 1.0), (one2, 1.0), (half, 0.5)):
            same_number(constant, wanted, x)
        return op.Gelu(x, approximate="tanh")


class SigmoidInsteadOfTanh(graphopt.Rule):
    """x * (1 + Tanh(v * k)) / 2 = x * Sigmoid(v * (2 * k)), which is what is left of Gelu below opset 20.

    More accurate where 1 + Tanh cancels; infinities and NaN are kept.
    """

    stage = "canonicalize"
    after = ("fuse-gelu-tanh", "fuse-gelu-tanh-factored", "fuse-gelu-tanh-multiplied")

    def pattern(self, op: Any, x: Any, v: Any, k: Any, one: Any, half: Any) -> Any:
        return _halved(op, x, op.Add(op.Tanh(op.Mul(v, op.Const(k))), op.Const(one)), half)

    def rewrite(self, op: Any, x: Value, v: Value, k: Value, one: Value, half: Value) -> Any:
        for constant, wanted in ((one, 1.0), (half, 0.5)):
            same_number(constant, wanted, v)
            same_number(constant, wanted, x)
        if dtypes.name(v.dtype) not in ("float32", "float16") or not abs(slope := number(k, v)) < 1e4:
            raise graphopt.Skip("the dtype is another, or the factor is large")
        return op.Mul(x, op.Sigmoid(op.Mul(v, np.asarray(2 * slope, v.dtype))))


class FuseMish(graphopt.Rule):
    """x * Tanh(Softplus(x)) = Mish(x), from opset 18 on. Exact; as many layers."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, op.Tanh(op.Softplus(x)))

    def rewrite(self, op: Any, x: Value) -> Any:
        return op.Mish(x)


class FuseSoftsign(graphopt.Rule):
    """x / (1 + Abs(x)) = Softsign(x), for floats. Exact."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Div(x, op.Add(op.Abs(x), op.Const(one)))

    def rewrite(self, op: Any, x: Value, one: Value) -> Any:
        if number(one, x) != 1:
            raise graphopt.Skip("the constant is not 1")
        return op.Softsign(x)


class RemoveThresholdOfSoftplus(graphopt.Rule):
    """Where(x > t, x, Softplus(x)) = Softplus(x) for a threshold t of at least 20: there Softplus(x) is x.

    Softplus(x) - x = log(1 + exp(-x)) is below 2.1e-9, less than half a unit in the last place of 20 in float32.
    Not for float64.
    """

    stage = "fuse"

    def pattern(self, op: Any, x: Any, t: Any) -> Any:
        return op.Where(op.Greater(x, op.Const(t)), x, op.Softplus(x))

    def rewrite(self, op: Any, x: Value, t: Value) -> Any:
        if dtypes.name(x.dtype) not in ("float32", "float16", "bfloat16"):
            raise graphopt.Skip(f"the dtype is {dtypes.name(x.dtype)}")
        if number(t, x) < 20:
            raise graphopt.Skip("below 20 Softplus(x) is not x")
        return op.Softplus(x)


class FuseSoftmax(graphopt.Rule):
    """e / ReduceSum(e, axis), e = Exp(x - ReduceMax(x, axis)): Softmax(x, axis), from opset 13 on."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, axes: Any, axes2: Any) -> Any:
        e = op.Exp(op.Sub(x, op.ReduceMax(x, op.Const(axes), keepdims=1)))
        return op.Div(e, op.ReduceSum(e, op.Const(axes2), keepdims=1))

    def rewrite(self, op: Any, x: Value, axes: Value, axes2: Value) -> Any:
        if op.opset < 13:
            raise graphopt.Skip("below opset 13 Softmax is over all dimensions from its axis on")
        places = set()
        for one in (axes, axes2):
            values = one.const
            if values is None or values.size != 1:
                raise graphopt.Skip("it is not over one axis")
            axis = int(values.reshape(-1)[0])
            if x.rank is None and axis != -1:
                raise graphopt.Skip("the rank is unknown")
            places.add(axis % x.rank if x.rank else axis)
        if len(places) != 1:
            raise graphopt.Skip("maximum and sum are over different axes")
        axis = places.pop()
        return op.Softmax(x, axis=-1 if x.rank is not None and axis == x.rank - 1 else axis)


class FuseLeakyRelu(graphopt.Rule):
    """Max(x, a * x) = LeakyRelu(x, alpha=a) for 0 < a < 1. Exact; NaN and infinities are kept."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, a: Any) -> Any:
        return op.Max(x, op.Mul(x, op.Const(a)))

    def rewrite(self, op: Any, x: Value, a: Value) -> Any:
        slope = number(a, x)
        if not 0 < slope < 1 or dtypes.name(x.dtype) not in ("float32", "float16"):
            raise graphopt.Skip("the slope is not between 0 and 1, or the dtype is another")
        return op.LeakyRelu(x, alpha=slope)


class FusePrelu(graphopt.Rule):
    """Relu(x) + c * Relu(-x) = PRelu(x, -c), for a constant c that does not enlarge x. Exact."""

    stage = "fuse"

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Add(op.Relu(x), op.Mul(op.Relu(op.Neg(x)), op.Const(c)))

    def rewrite(self, op: Any, x: Value, c: Value) -> Any:
        if op.opset < 9 or dtypes.name(x.dtype) not in ("float32", "float16") or not shapes.expands(c.shape, x.shape):
            raise graphopt.Skip("the slope may enlarge x, or the dtype is another")
        slope = c.const
        if slope is None or not np.isfinite(slope).all():
            raise graphopt.Skip("the slope is not finite")
        return op.PRelu(x, -slope)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        FuseGelu(),
        FuseGeluDivided(),
        FuseGeluTanh(),
        FuseGeluTanhMultiplied(),
        FuseGeluTanhFactored(),
        SigmoidInsteadOfTanh(),
        FuseMish(),
        FuseSoftsign(),
        RemoveThresholdOfSoftplus(),
        FuseSoftmax(),
        FuseLeakyRelu(),
        FusePrelu(),
    ]
