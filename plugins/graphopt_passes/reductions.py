"""Reductions and the dimensions of one that they leave or drop."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.rewrite.value import Value

from .elementwise import REDUCTIONS


class KeepReducedDims(graphopt.Rule):
    """Unsqueeze(Reduce(x, axes, keepdims=0), axes) = Reduce(x, axes, keepdims=1).

    Both count the axes among those of x. A reduction over all axes, named or not, is as good as one that names them.
    """

    def pattern(self, op: Any, x: Any, axes: Any, added: Any, noop: Any, reduced: Any) -> Any:
        kinds = (
            getattr(op, kind)(x, op.maybe(op.Const(axes)), keepdims=0, noop_with_empty_axes=noop, label=reduced)
            for kind in sorted(REDUCTIONS)
        )
        return op.Unsqueeze(graphopt.alternatives(*kinds), op.Const(added))

    def check(self, op: Any, x: Value, axes: Value | None, added: Value, noop: int | None) -> str | None:
        rank, new = x.rank, [] if added.const is None else added.const.ravel().tolist()
        old = [] if axes is None or axes.const is None else axes.const.ravel().tolist()
        if not old and noop:
            return "nothing is reduced"
        if rank is None:
            return "the rank is unknown"
        old = old or list(range(rank))
        if any(not -rank <= axis < rank for axis in (*old, *new)):
            return "an axis is out of range"
        same = sorted(axis % rank for axis in old) == sorted(axis % rank for axis in new)
        return None if same else "other axes are added than were reduced"

    def rewrite(self, op: Any, x: Value, axes: Value | None, noop: int | None, reduced: Value) -> Any:
        assert reduced.producer is not None
        return getattr(op, reduced.producer.op)(x, axes, keepdims=1, noop_with_empty_axes=noop or None)


class KeepDimOfPlace(graphopt.Rule):
    """Unsqueeze(ArgMax(x, axis, keepdims=0), [axis]) = ArgMax(x, axis, keepdims=1), ArgMin alike."""

    def pattern(self, op: Any, x: Any, added: Any, rest: Any, place: Any) -> Any:
        kinds = (getattr(op, kind)(x, keepdims=0, attrs=rest, label=place) for kind in ("ArgMax", "ArgMin"))
        return op.Unsqueeze(graphopt.alternatives(*kinds), op.Const(added))

    def check(self, op: Any, x: Value, added: Value, rest: dict[str, Any]) -> str | None:
        axis, new = rest.get("axis", 0), [] if added.const is None else added.const.ravel().tolist()
        if not x.rank or not isinstance(axis, int) or len(new) != 1:
            return "the rank is unknown or zero, or not one axis is added"
        return None if axis % x.rank == new[0] % x.rank else "another axis is added than was reduced"

    def rewrite(self, op: Any, x: Value, rest: dict[str, Any], place: Value) -> Any:
        assert place.producer is not None
        return getattr(op, place.producer.op)(x, **rest, keepdims=1)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [KeepReducedDims(), KeepDimOfPlace()]
