"""Rotary embedding: x * cos + Concat(-x2, x1) * sin, with the sign kept in the constant.

The operator itself (opset 23) is not written: exporters write it themselves from there on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Value

_MOST = 1 << 18
"""A constant of more elements is not copied."""


class NegateInConstant(graphopt.Rule):
    """Concat(-b, a) * c = Concat(b, a) * c', c' = c with the sign changed where b stands. Exact.

    For a constant c that varies along the axis, whose dimension for b is known; not where it would raise the rank.
    """

    stage = "fuse"

    def pattern(self, op: Any, a: Any, b: Any, c: Any, axis: Any) -> Any:
        return op.Mul(op.Concat(op.Neg(b), a, axis=axis), op.Const(c))

    def rewrite(self, op: Any, a: Value, b: Value, c: Value, axis: int) -> Any:
        first, second, shape = b.shape, a.shape, c.shape
        if first is None or second is None or shape is None or not dtypes.is_float(b.dtype):
            raise graphopt.Skip("a shape is unknown, or the dtype is no float")
        rank = len(first)
        place = axis % rank - rank
        part, rest = first[place], second[place]
        if not isinstance(part, int) or not isinstance(rest, int) or len(shape) > rank or len(shape) < -place:
            raise graphopt.Skip("a dimension is unknown, or the constant does not vary along the axis")
        if shape[place] != part + rest or (c.size or _MOST) >= _MOST:
            raise graphopt.Skip("the constant does not vary along the axis, or is large")
        values = c.const
        assert values is not None
        signs = np.ones((part + rest,) + (1,) * (-place - 1), values.dtype)
        signs[:part] = -1
        return op.Mul(op.Concat(b, a, axis=axis), values * signs)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [NegateInConstant()]
