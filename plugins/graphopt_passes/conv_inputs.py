"""What precedes a convolution and maps each input channel by itself becomes part of its weights.

A shift only where nothing is padded: padding is zero before the convolution, not before the shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.rewrite.value import Array, Value

from .affine import (
    Affine,
    batch_norm,
    foldable,
    numbers,
    per_channel,
    reciprocal,
    rounded,
    scaled,
    shifted,
    whole_number,
)


def is_unpadded(conv: dict[str, Any]) -> bool:
    """Whether a convolution reads nothing beyond its input."""
    if conv.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    pads = conv.get("pads", [])
    return isinstance(pads, (list, tuple)) and not any(pads)


def input_channels(w: Value, conv: dict[str, Any]) -> int:
    """Of weights (out, in / group, ...)."""
    assert w.shape is not None
    return int(w.shape[1]) * whole_number(conv, "group", 1)  # type: ignore[arg-type]


def _spread(values: Array, w: Value, conv: dict[str, Any]) -> Array:
    """One number per input channel, laid out as the weights (out, in / group, 1, ...) read them."""
    assert w.shape is not None
    if values.size > 1:
        group = whole_number(conv, "group", 1)
        values = np.repeat(values.reshape(group, -1), int(w.shape[0]) // group, axis=0)  # type: ignore[arg-type]
    else:
        values = values.reshape(1, 1)
    return values.reshape(*values.shape, *(1,) * (len(w.shape) - 2))


def fold(op: Any, x: Value, w: Value, b: Value | None, conv: dict[str, Any], affine: Affine) -> Any:
    """Conv of the mapped x. Raises Skip where padding stands against a shift."""
    foldable(w)
    assert w.shape is not None
    if affine.shift is not None and affine.shift.any():
        if not is_unpadded(conv):
            raise graphopt.Skip("the padding of Conv is zero only behind the shift")
        array = w.const
        assert array is not None
        moved = array.astype(np.float64) * _spread(affine.shift, w, conv)
        inner = Affine(shift=moved.sum(axis=tuple(range(1, len(w.shape)))))
        bias: Any = shifted(b, inner, int(w.shape[0]), w.dtype)  # type: ignore[arg-type]
    else:
        bias = b
    weights = w if affine.scale is None else scaled(w, _spread(affine.scale, w, conv))
    return op.Conv(x, weights, bias, **conv)


def constant_before(c: Value, x: Value, w: Value, channels: int, how: dict[str, Any], *, adds: str = "") -> Array:
    """The constant per channel of x. Raises Skip where broadcasting it may enlarge x."""
    rank = w.rank
    assert rank is not None
    values = per_channel(c, rank, channels, how, adds=adds)
    if c.rank == rank and x.rank != rank:
        raise graphopt.Skip("the constant may raise the rank of x")
    if values.size > 1 and (x.shape is None or len(x.shape) != rank or x.shape[1] != channels):
        raise graphopt.Skip("the constant may broadcast the channels of x")
    return values


class FoldBnIntoConv(graphopt.Rule):
    """Conv(BN(x), w, b) = Conv(x, w * k, b + sum(w * shift)) without padding, BN(x) = x * k + shift."""

    def pattern(
        self, op: Any, x: Any, w: Any, b: Any, scale: Any, bias: Any, mean: Any, var: Any, conv: Any, bn: Any
    ) -> Any:
        norm = op.BatchNormalization(x, op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn)
        return op.Conv(norm, op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def rewrite(
        self,
        op: Any,
        x: Value,
        w: Value,
        b: Value | None,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        conv: dict[str, Any],
        bn: dict[str, Any],
    ) -> Any:
        return fold(op, x, w, b, conv, batch_norm(op, scale, bias, mean, var, bn, input_channels(w, conv)))


class _ConstantIntoConv(graphopt.Rule):
    """Conv over x and a constant of one number, or one number per channel of x."""

    adds = False

    def rewrite(
        self, op: Any, x: Value, w: Value, b: Value | None, c: Value, conv: dict[str, Any], how: dict[str, Any]
    ) -> Any:
        dtype = foldable(w)
        values = constant_before(c, x, w, input_channels(w, conv), how, adds=dtype if self.adds else "")
        return fold(op, x, w, b, conv, self.affine(values))

    def affine(self, c: Array) -> Affine:
        raise NotImplementedError


class FoldMulIntoConv(_ConstantIntoConv):
    """Conv(x * c, w, b) = Conv(x, w * c, b), c constant per input channel."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Conv(op.Mul(x, op.Const(c), attrs=how), op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=c)


class FoldDivIntoConv(_ConstantIntoConv):
    """Conv(x / c, w, b) = Conv(x, w / c, b), c constant per input channel and not zero."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Conv(op.Div(x, op.Const(c), attrs=how), op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=reciprocal(c))


class FoldAddIntoConv(_ConstantIntoConv):
    """Conv(x + c, w, b) = Conv(x, w, b + sum(w * c)) without padding, c constant per input channel."""

    adds = True

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Conv(op.Add(x, op.Const(c), attrs=how), op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=c)


class FoldSubIntoConv(_ConstantIntoConv):
    """Conv(x - c, w, b) = Conv(x, w, b - sum(w * c)) without padding, c constant per input channel."""

    adds = True

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Conv(op.Sub(x, op.Const(c), attrs=how), op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=-c)


class MoveScaleIntoPaddedConv(graphopt.Rule):
    """Conv(x * s + t, w, b) = Conv(x + t / s, w * s, b) under padding, s and t constant per channel, s not zero."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, s: Any, t: Any, conv: Any, how: Any) -> Any:
        scaled_x = op.Mul(x, op.Const(s), attrs=how)
        return op.Conv(op.Add(scaled_x, op.Const(t), attrs=how), op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def rewrite(
        self,
        op: Any,
        x: Value,
        w: Value,
        b: Value | None,
        s: Value,
        t: Value,
        conv: dict[str, Any],
        how: dict[str, Any],
    ) -> Any:
        if is_unpadded(conv):
            raise graphopt.Skip("without padding the shift is folded as well")
        if how:
            raise graphopt.Skip("the operators broadcast as before opset 7")
        dtype = foldable(w)
        channels = input_channels(w, conv)
        scale = constant_before(s, x, w, channels, how)
        shift = constant_before(t, x, w, channels, how, adds=dtype) * reciprocal(scale)
        if np.abs(shift).max(initial=0.0) > 1e3 * (1 + np.abs(numbers(t)).max(initial=0.0)):
            raise graphopt.Skip("the scale is so small that the shift grows out of proportion")
        moved = rounded(shift, w.dtype)
        if moved.size > 1:
            moved = moved.reshape(-1, *(1,) * ((w.rank or 0) - 2))
        elif t.rank is not None:
            moved = moved.reshape((1,) * min(t.rank, 1))
        return fold(op, op.Add(x, moved), w, b, conv, Affine(scale=scale))


class _ConstantIntoConvTranspose(graphopt.Rule):
    """ConvTranspose over x and a constant of one number, or one number per channel of x."""

    def rewrite(
        self, op: Any, x: Value, w: Value, b: Value | None, c: Value, conv: dict[str, Any], how: dict[str, Any]
    ) -> Any:
        foldable(w)
        assert w.shape is not None
        values = constant_before(c, x, w, int(w.shape[0]), how)  # type: ignore[arg-type]
        weights = scaled(w, self.factor(values).reshape(-1, *(1,) * (len(w.shape) - 1)))
        return op.ConvTranspose(x, weights, b, **conv)

    def factor(self, c: Array) -> Array:
        raise NotImplementedError


class FoldMulIntoConvTranspose(_ConstantIntoConvTranspose):
    """ConvTranspose(x * c, w, b) = ConvTranspose(x, w * c, b), c constant per input channel."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.ConvTranspose(op.Mul(x, op.Const(c), attrs=how), op.Const(w), op.maybe(b), attrs=conv)

    def factor(self, c: Array) -> Array:
        return c


class FoldDivIntoConvTranspose(_ConstantIntoConvTranspose):
    """ConvTranspose(x / c, w, b) = ConvTranspose(x, w / c, b), c constant per input channel and not zero."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.ConvTranspose(op.Div(x, op.Const(c), attrs=how), op.Const(w), op.maybe(b), attrs=conv)

    def factor(self, c: Array) -> Array:
        return reciprocal(c)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        FoldBnIntoConv(),
        FoldMulIntoConv(),
        FoldDivIntoConv(),
        FoldAddIntoConv(),
        FoldSubIntoConv(),
        MoveScaleIntoPaddedConv(),
        FoldMulIntoConvTranspose(),
        FoldDivIntoConvTranspose(),
    ]
