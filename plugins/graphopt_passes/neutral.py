"""Arithmetic that changes nothing: neutral elements, involutions, idempotent and degenerate operators.

Equal means equal as numbers: x + 0 = x although it would turn -0.0 into 0.0. Never x * 0 = 0 (NaN, infinities).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import shapes
from graphopt.rewrite.value import Value

from .noop import NoOp, begins_with

_MOST_READ = 1 << 24
"""Constants of more elements are not read to see whether they are all 0 or 1: as a rule the first tells."""
_PIECE = 65536


class _Neutral(NoOp):
    """f(x, c) = x for a constant c of one number; not where broadcasting c may enlarge x."""

    number: float | bool

    def glance(self, node: gs.Node) -> bool:
        constants = [tensor for tensor in node.inputs if type(tensor) is gs.Constant]
        return len(constants) != 1 or begins_with(constants[0], self.number)

    def check(self, op: Any, x: Value, c: Value) -> str | None:
        if not shapes.expands(c.shape, x.shape):
            return "broadcasting may enlarge x"
        return None if _all_equal(c, self.number) else f"the constant is not {self.number} everywhere"


class RemoveAddZero(_Neutral):
    """x + 0 = x."""

    number = 0

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Add(x, op.Const(c))


class RemoveSubZero(_Neutral):
    """x - 0 = x."""

    number = 0

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Sub(x, op.Const(c))


class RemoveMulOne(_Neutral):
    """x * 1 = x."""

    number = 1

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Mul(x, op.Const(c))


class RemoveDivOne(_Neutral):
    """x / 1 = x."""

    number = 1

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Div(x, op.Const(c))


class RemovePowOne(_Neutral):
    """x ** 1 = x."""

    number = 1

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Pow(x, op.Const(c))


class RemoveAndTrue(_Neutral):
    """And(x, true) = x."""

    number = True

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.And(x, op.Const(c))


class RemoveOrFalse(_Neutral):
    """Or(x, false) = Xor(x, false) = x."""

    number = False

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return graphopt.alternatives(op.Or(x, op.Const(c)), op.Xor(x, op.Const(c)))


class RemoveOperatorOfTwins(NoOp):
    """Max(x, x) = Min(x, x) = And(x, x) = Or(x, x) = x."""

    def pattern(self, op: Any, x: Any) -> Any:
        return graphopt.alternatives(op.Max(x, x), op.Min(x, x), op.And(x, x), op.Or(x, x))


class RemoveOperatorOfOne(NoOp):
    """Sum(x) = Mean(x) = Max(x) = Min(x) = x."""

    def pattern(self, op: Any, x: Any) -> Any:
        return graphopt.alternatives(op.Sum(x), op.Mean(x), op.Max(x), op.Min(x))


class RemoveDoubleNeg(NoOp):
    """Neg(Neg(x)) = x."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(x))


class RemoveDoubleNot(NoOp):
    """Not(Not(x)) = x."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Not(op.Not(x))


class _Idempotent(NoOp):
    """f(f(x)) = f(x)."""

    operator: str
    shared_inner = True

    def pattern(self, op: Any, x: Any, z: Any) -> Any:
        once = getattr(op, self.operator)
        return once(once(z, label=x))


class RemoveSecondRelu(_Idempotent):
    """Relu(Relu(x)) = Relu(x)."""

    operator = "Relu"


class RemoveSecondAbs(_Idempotent):
    """Abs(Abs(x)) = Abs(x)."""

    operator = "Abs"


class RemoveSecondSign(_Idempotent):
    """Sign(Sign(x)) = Sign(x)."""

    operator = "Sign"


class RemoveSecondFloor(_Idempotent):
    """Floor(Floor(x)) = Floor(x)."""

    operator = "Floor"


class RemoveSecondCeil(_Idempotent):
    """Ceil(Ceil(x)) = Ceil(x)."""

    operator = "Ceil"


class RemoveSecondRound(_Idempotent):
    """Round(Round(x)) = Round(x)."""

    operator = "Round"


class SubtractInsteadOfAddingNegative(graphopt.Rule):
    """x + Neg(y) = x - y."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Add(x, op.Neg(y))

    def rewrite(self, op: Any, x: Value, y: Value) -> Any:
        return op.Sub(x, y)


class AddInsteadOfSubtractingNegative(graphopt.Rule):
    """x - Neg(y) = x + y."""

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Sub(x, op.Neg(y))

    def rewrite(self, op: Any, x: Value, y: Value) -> Any:
        return op.Add(x, y)


class ChooseKnownBranch(graphopt.Rule):
    """Where(true, x, y) = x and Where(false, x, y) = y, where broadcasting doesn't enlarge the one that is left."""

    stage = "canonicalize"

    def pattern(self, op: Any, condition: Any, x: Any, y: Any) -> Any:
        return op.Where(op.Const(condition), x, y)

    def check(self, op: Any, condition: Value, x: Value, y: Value) -> str | None:
        chosen = self._chosen(condition, x, y)
        if chosen is None:
            return "the condition takes from both, or is too large to read"
        other = y if chosen is x else x
        fits = shapes.expands(condition.shape, chosen.shape) and shapes.expands(other.shape, chosen.shape)
        return None if fits else "broadcasting may enlarge the result"

    def rewrite(self, op: Any, condition: Value, x: Value, y: Value) -> Any:
        return self._chosen(condition, x, y)

    def _chosen(self, condition: Value, x: Value, y: Value) -> Value | None:
        return x if _all_equal(condition, True) else y if _all_equal(condition, False) else None


class ChooseBetweenTwins(NoOp):
    """Where(condition, x, x) = x, where broadcasting the condition doesn't enlarge x."""

    def pattern(self, op: Any, condition: Any, x: Any) -> Any:
        return op.Where(condition, x, x)

    def check(self, op: Any, condition: Value, x: Value) -> str | None:
        return None if shapes.expands(condition.shape, x.shape) else "broadcasting may enlarge x"


def _all_equal(value: Value, number: float) -> bool:
    if value.size is None or not 0 < value.size <= _MOST_READ:
        return False
    array = value.const
    if array is None or array.dtype.kind in "OSU":
        return False
    flat = array.reshape(-1)
    return all(bool(np.all(flat[i : i + _PIECE] == number)) for i in range(0, flat.size, _PIECE))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        RemoveAddZero(),
        RemoveSubZero(),
        RemoveMulOne(),
        RemoveDivOne(),
        RemovePowOne(),
        RemoveAndTrue(),
        RemoveOrFalse(),
        RemoveOperatorOfTwins(),
        RemoveOperatorOfOne(),
        RemoveDoubleNeg(),
        RemoveDoubleNot(),
        RemoveSecondRelu(),
        RemoveSecondAbs(),
        RemoveSecondSign(),
        RemoveSecondFloor(),
        RemoveSecondCeil(),
        RemoveSecondRound(),
        SubtractInsteadOfAddingNegative(),
        AddInsteadOfSubtractingNegative(),
        ChooseKnownBranch(),
        ChooseBetweenTwins(),
    ]
