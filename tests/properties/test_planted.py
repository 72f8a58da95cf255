"""The generator finds wrong rules: each of these is a slip that a rule's author may make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.rewrite.rule import entry

from .draw import breach

TRIES = 40


class DropBias(graphopt.Rule):
    """Conv(x, w, b) = Conv(x, w): the bias is dropped."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, conv: Any) -> Any:
        return op.Conv(x, op.Const(w), op.Const(b), attrs=conv)

    def rewrite(self, op: Any, x: Any, w: Any, b: Any, conv: Any) -> Any:
        return op.Conv(x, w, **conv)


class SwapSub(graphopt.Rule):
    """Neg(a - b) = a - b: the operands are not swapped."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return op.Neg(a - b)

    def rewrite(self, op: Any, a: Any, b: Any) -> Any:
        return a - b


class WrongPerm(graphopt.Rule):
    """Transpose(Transpose(x, p), q) with p[q[i]] taken the wrong way round."""

    def pattern(self, op: Any, x: Any, p: Any, q: Any) -> Any:
        return op.Transpose(op.Transpose(x, perm=p), perm=q)

    def rewrite(self, op: Any, x: Any, p: Any, q: Any) -> Any:
        return op.Transpose(x, perm=[q[i] for i in p])


class WrongAxis(graphopt.Rule):
    """ReduceSum of a transpose over the axes of the transposed."""

    def pattern(self, op: Any, x: Any, p: Any, axes: Any) -> Any:
        return op.ReduceSum(op.Transpose(x, perm=p), op.Const(axes), keepdims=0)

    def rewrite(self, op: Any, x: Any, p: Any, axes: Any) -> Any:
        if sorted(p[i] for i in axes.const.tolist()) == sorted(range(len(p)))[-len(axes.const) :]:
            raise graphopt.Skip("")
        return op.ReduceSum(x, axes, keepdims=0)


class PadOffByOne(graphopt.Rule):
    """Conv(Pad(x, p), w) = Conv(x, w, pads=p), the last pad one too many."""

    def pattern(self, op: Any, x: Any, p: Any, w: Any) -> Any:
        return op.Conv(op.Pad(x, op.Const(p)), op.Const(w))

    def rewrite(self, op: Any, x: Any, p: Any, w: Any) -> Any:
        rank = len(x.shape)
        pads = p.const.tolist()
        if any(pads[:2]) or any(pads[rank : rank + 2]):
            raise graphopt.Skip("")
        own = [*pads[2:rank], *pads[rank + 2 :]]
        own[-1] += 1
        return op.Conv(x, w, pads=own)


class WrongEpsilon(graphopt.Rule):
    """BatchNormalization with the default epsilon instead of its own."""

    def pattern(self, op: Any, x: Any, s: Any, b: Any, m: Any, v: Any, bn: Any) -> Any:
        return op.BatchNormalization(x, op.Const(s), op.Const(b), op.Const(m), op.Const(v), attrs=bn)

    def rewrite(self, op: Any, x: Any, s: Any, b: Any, m: Any, v: Any, bn: Any) -> Any:
        if "epsilon" not in bn:
            raise graphopt.Skip("")
        return op.BatchNormalization(x, s, b, m, v)


class WrongBroadcast(graphopt.Rule):
    """x + c = x, where c is zero, though c may make the shape larger."""

    def pattern(self, op: Any, x: Any, zero: Any) -> Any:
        return x + op.Const(zero)

    def rewrite(self, op: Any, x: Any, zero: Any) -> Any:
        if np.any(zero.const):
            raise graphopt.Skip("")
        return x


class LoseNaN(graphopt.Rule):
    """Abs(-x) by two comparisons, which NaN fails."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Abs(op.Neg(x))

    def rewrite(self, op: Any, x: Any) -> Any:
        if np.dtype(x.dtype) != np.float32:
            raise graphopt.Skip("")
        zero = np.array(0, np.float32)
        return op.Where(op.Greater(x, zero), x, op.Where(op.Less(x, zero), op.Neg(x), zero))


class OverflowInt(graphopt.Rule):
    """x + x = x * 2 with the product taken in int8."""

    def pattern(self, op: Any, x: Any) -> Any:
        return x + x

    def rewrite(self, op: Any, x: Any) -> Any:
        if np.dtype(x.dtype).kind != "i":
            raise graphopt.Skip("")
        return op.Cast(op.Cast(x, to=3) * op.const(np.array(64, np.int8)) / op.const(np.array(32, np.int8)), to=6)


class OnlyFirstOfBatch(graphopt.Rule):
    """Flatten(x) = Reshape(x, [1, -1]): right at batch 1 only."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Flatten(x)

    def rewrite(self, op: Any, x: Any) -> Any:
        return op.Reshape(x, np.array([1, -1]))


class ForgetAlpha(graphopt.Rule):
    """Gemm(a, b) = MatMul(a, b), whatever alpha is."""

    def pattern(self, op: Any, a: Any, b: Any, rest: Any) -> Any:
        return op.Gemm(a, b, attrs=rest)

    def rewrite(self, op: Any, a: Any, b: Any, rest: Any) -> Any:
        if rest.get("transA") or rest.get("transB"):
            raise graphopt.Skip("")
        return op.MatMul(a, b)


class DropUpperBound(graphopt.Rule):
    """Clip(x, low, high) = Clip(x, low)."""

    def pattern(self, op: Any, x: Any, low: Any, high: Any) -> Any:
        return op.Clip(x, op.Const(low), op.Const(high))

    def rewrite(self, op: Any, x: Any, low: Any, high: Any) -> Any:
        return op.Clip(x, low)


PLANTED = (
    DropBias, SwapSub, WrongPerm, WrongAxis, PadOffByOne, WrongEpsilon, WrongBroadcast, LoseNaN, OverflowInt,
    OnlyFirstOfBatch, ForgetAlpha, DropUpperBound,
)  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.__name__)
def test_a_wrong_rule_is_found(kind: type[graphopt.Rule]) -> None:
    assert any(breach(entry(kind()), seed, whole=False) for seed in range(TRIES))
