"""One spelling for squares, quotients and casts, so that each recognition needs to know only one.

Powers are products, products with a reciprocal are quotients, and CastLike of a known dtype is Cast or nothing.
"""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Value

from .activation import number


def same_number(c: Value, wanted: float, x: Value, rounding: float = 1e-6) -> None:
    """Raises Skip unless the constant is the rounding of `wanted` in its dtype, and cannot raise the rank of x."""
    found = number(c, x)
    tolerance = {"float16": 1e-3, "bfloat16": 1e-2}.get(dtypes.name(c.dtype), rounding)
    if abs(found - wanted) > tolerance * abs(wanted):
        raise graphopt.Skip(f"the constant is {found}, not {wanted}")


class MultiplyInsteadOfSquaring(graphopt.Rule):
    """Pow(x, 2) = x * x, for floats. Exact: IEEE rounds both once; NaN and infinities are kept.

    The exponent may be an integer (Pow takes two dtypes from opset 12 on); TensorRT's parser makes one layer of x * x.
    """

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, two: Any) -> Any:
        return op.Pow(x, op.Const(two))

    def check(self, op: Any, x: Value, two: Value) -> str | None:
        if x.dtype is None or not dtypes.is_float(x.dtype):
            return "the dtype is no float, or unknown"
        if two.size != 1 or (two.rank != 0 and (x.rank is None or x.rank < (two.rank or 0))):
            return "the exponent is not one number, or may raise the rank"
        value = two.const
        is_two = value is not None and value.dtype.kind not in "OSUb" and float(value.reshape(-1)[0]) == 2
        return None if is_two else "the exponent is not 2"

    def rewrite(self, op: Any, x: Value) -> Any:
        return x * x


class ReciprocalInsteadOfDividingOne(graphopt.Rule):
    """1 / x = Reciprocal(x), for floats. Exact."""

    stage = "canonicalize"

    def pattern(self, op: Any, one: Any, x: Any) -> Any:
        return op.Div(op.Const(one), x)

    def rewrite(self, op: Any, one: Value, x: Value) -> Any:
        if x.is_const or number(one, x) != 1:
            raise graphopt.Skip("the dividend is not 1, or all is constant")
        return op.Reciprocal(x)


class DivideInsteadOfMultiplyingByReciprocal(graphopt.Rule):
    """x * Reciprocal(y) = x / y, where nothing else reads the reciprocal.

    Rounded once instead of twice. Equal for zeros, NaN and infinities; finite where 1 / y alone would overflow.
    """

    stage = "canonicalize"

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Mul(x, op.Reciprocal(y))

    def check(self, op: Any, x: Value, y: Value) -> str | None:
        return "Mul broadcasts by attributes below opset 7" if op.opset < 7 else None

    def rewrite(self, op: Any, x: Value, y: Value) -> Any:
        return op.Div(x, y)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        MultiplyInsteadOfSquaring(),
        ReciprocalInsteadOfDividingOne(),
        DivideInsteadOfMultiplyingByReciprocal(),
    ]
