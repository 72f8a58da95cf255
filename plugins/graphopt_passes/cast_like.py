"""CastLike, as exporters from function libraries write it."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.value import Value


class CastInsteadOfCastLike(graphopt.Rule):
    """CastLike(x, y) = Cast(x, to=dtype of y), and x where it has that dtype.

    Not inside functions, where y may be of another dtype at each call, and not for types with a `saturate` other than
    the default.
    """

    stage = "canonicalize"
    shared_inner = True

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.CastLike(x, y)

    def check(self, op: Any, x: Value, y: Value) -> str | None:
        return "the dtype of y is not known" if y.dtype is None else None

    def rewrite(self, op: Any, x: Value, y: Value) -> Any:
        return x if x.dtype == y.dtype else op.Cast(x, to=dtypes.to_onnx(y.dtype))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [CastInsteadOfCastLike()]
