"""One place of an axis, picked before a Transpose."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.rewrite.value import Value


class GatherBeforeTranspose(graphopt.Rule):
    """Gather(Transpose(x, p), i, axis) = Gather(x, i, p[axis]) for one place i; the other axes keep their order."""

    shared_inner = True

    def pattern(self, op: Any, x: Any, i: Any, p: Any, axis: Any) -> Any:
        return op.Gather(op.Transpose(x, perm=p), i, axis=axis)

    def check(self, op: Any, i: Value, p: list[int] | None, axis: int) -> str | None:
        if p is None:
            return "it turns all axes around, and the rank is unknown"
        if i.rank != 0:
            return "it picks several places, or nobody knows how many"
        if not -len(p) <= axis < len(p):
            return "there is no such axis"
        rest = [place for number, place in enumerate(p) if number != axis % len(p)]
        return None if rest == sorted(rest) else "the other axes change places as well"

    def rewrite(self, op: Any, x: Value, i: Value, p: list[int], axis: int) -> Any:
        return op.Gather(x, i, axis=p[axis])


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [GatherBeforeTranspose()]
