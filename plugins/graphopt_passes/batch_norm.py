"""A BatchNormalization takes in the per-channel maps before and behind it; alone it stays."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.rewrite.value import Array, Value

from .affine import Affine, batch_norm, foldable, per_channel, rounded, then

Params = tuple[Any, Any, Any, Any]


def norm(op: Any, x: Any, params: Params, bn: Any) -> Any:
    """The pattern of a BatchNormalization with constants."""
    return op.BatchNormalization(x, *(op.Const(value) for value in params), attrs=bn)


def channels(scale: Value) -> int:
    """How many channels a BatchNormalization has."""
    if scale.rank != 1 or not isinstance(scale.size, int):
        raise graphopt.Skip("the scale is no vector")
    return scale.size


def emit(op: Any, x: Value, affine: Affine, like: Value, bn: dict[str, Any]) -> Any:
    """A BatchNormalization that computes the map: mean 0, variance 1, epsilon 0."""
    count = channels(like)
    scale = np.ones(1) if affine.scale is None else affine.scale
    shift = np.zeros(1) if affine.shift is None else affine.shift
    params = (np.broadcast_to(values, (count,)) for values in (scale, shift, np.zeros(1), np.ones(1)))
    attrs = {name: value for name, value in bn.items() if name != "training_mode"}
    return op.BatchNormalization(x, *(rounded(values, like.dtype) for values in params), **(attrs | {"epsilon": 0.0}))


class MergeBns(graphopt.Rule):
    """BN(BN(x)) = BN(x, scale=k1 * k2, bias=shift1 * k2 + shift2, mean=0, var=1), BN(x) = x * k + shift."""

    def pattern(
        self,
        op: Any,
        x: Any,
        scale1: Any,
        bias1: Any,
        mean1: Any,
        var1: Any,
        bn1: Any,
        scale2: Any,
        bias2: Any,
        mean2: Any,
        var2: Any,
        bn2: Any,
    ) -> Any:
        return norm(op, norm(op, x, (scale1, bias1, mean1, var1), bn1), (scale2, bias2, mean2, var2), bn2)

    def rewrite(
        self,
        op: Any,
        x: Value,
        scale1: Value,
        bias1: Value,
        mean1: Value,
        var1: Value,
        bn1: dict[str, Any],
        scale2: Value,
        bias2: Value,
        mean2: Value,
        var2: Value,
        bn2: dict[str, Any],
    ) -> Any:
        foldable(scale1)
        first = batch_norm(op, scale1, bias1, mean1, var1, bn1, channels(scale1))
        second = batch_norm(op, scale2, bias2, mean2, var2, bn2, channels(scale1))
        return emit(op, x, then(first, second), scale1, bn1)


class _BnAndConstant(graphopt.Rule):
    """A BatchNormalization, and a constant of one number per channel, in either order."""

    adds = False

    def rewrite(
        self,
        op: Any,
        x: Value,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        bn: dict[str, Any],
        c: Value,
        how: dict[str, Any],
    ) -> Any:
        dtype = foldable(scale)
        count = channels(scale)
        rank, shape = x.rank, x.shape
        if rank is None or rank < 2 or shape is None or shape[1] != count:
            raise graphopt.Skip("the rank or the channels of x are unknown")
        values = per_channel(c, rank, count, how, adds=dtype if self.adds else "")
        own = batch_norm(op, scale, bias, mean, var, bn, count)
        return emit(op, x, self.both(own, values), scale, bn)

    def both(self, bn: Affine, c: Array) -> Affine:
        raise NotImplementedError


class FoldBnMul(_BnAndConstant):
    """BN(x) * c = BN(x, scale=k * c, bias=shift * c), c constant per channel."""

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any, c: Any, how: Any) -> Any:
        return op.Mul(norm(op, x, (scale, bias, mean, var), bn), op.Const(c), attrs=how)

    def both(self, bn: Affine, c: Array) -> Affine:
        return then(bn, Affine(scale=c))


class FoldBnAdd(_BnAndConstant):
    """BN(x) + c = BN(x, bias=shift + c), c constant per channel."""

    adds = True

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any, c: Any, how: Any) -> Any:
        return op.Add(norm(op, x, (scale, bias, mean, var), bn), op.Const(c), attrs=how)

    def both(self, bn: Affine, c: Array) -> Affine:
        return then(bn, Affine(shift=c))


class FoldMulIntoBn(_BnAndConstant):
    """BN(x * c) = BN(x, scale=k * c, bias=shift), c constant per channel."""

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any, c: Any, how: Any) -> Any:
        return norm(op, op.Mul(x, op.Const(c), attrs=how), (scale, bias, mean, var), bn)

    def both(self, bn: Affine, c: Array) -> Affine:
        return then(Affine(scale=c), bn)


class FoldAddIntoBn(_BnAndConstant):
    """BN(x + c) = BN(x, bias=c * k + shift), c constant per channel."""

    adds = True

    def pattern(self, op: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any, c: Any, how: Any) -> Any:
        return norm(op, op.Add(x, op.Const(c), attrs=how), (scale, bias, mean, var), bn)

    def both(self, bn: Affine, c: Array) -> Affine:
        return then(Affine(shift=c), bn)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [MergeBns(), FoldBnMul(), FoldBnAdd(), FoldMulIntoBn(), FoldAddIntoBn()]
