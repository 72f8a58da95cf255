"""Reductions and the dimensions of one that they leave or drop."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import dtypes
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


class _MergeReductions(graphopt.Rule):
    kind: str

    def glance(self, node: gs.Node) -> bool:
        makers = node.inputs[0].inputs if node.inputs else []
        return bool(makers) and makers[0].op == self.kind

    def pattern(self, op: Any, x: Any, a: Any, b: Any, inner: Any, outer: Any) -> Any:
        reduce = getattr(op, self.kind)
        return reduce(reduce(x, op.Const(a), keepdims=inner), op.Const(b), keepdims=outer)

    def check(self, op: Any, x: Value, a: Value, b: Value, inner: int, outer: int) -> str | None:
        if x.rank is None or not a.size or not b.size:
            return "the rank is unknown, or axes are not named"
        if self.kind == "ReduceMean" and not dtypes.is_float(x.dtype):
            return "means of integers are rounded"
        if inner != outer and inner and not _axes(a, x.rank) <= _axes(b, x.rank):
            return "only one of them keeps its dimensions"
        return "only one of them keeps its dimensions" if outer and not inner else None

    def rewrite(self, op: Any, x: Value, a: Value, b: Value, inner: int, outer: int) -> Any:
        rank = x.rank or 0
        first = _axes(a, rank)
        left = list(range(rank)) if inner else [axis for axis in range(rank) if axis not in first]
        both = first | {left[axis] for axis in _axes(b, len(left))}
        return getattr(op, self.kind)(x, sorted(both), keepdims=outer)


def _axes(value: Value, rank: int) -> set[int]:
    found = [] if value.const is None else [int(axis) for axis in value.const.ravel()]
    if not all(-rank <= axis < rank for axis in found):
        raise graphopt.Skip("an axis is out of range")
    return {axis % rank for axis in found}


@cache
def _merge(kind: str) -> type[graphopt.Rule]:
    doc = f"{kind}({kind}(x, a), b) = {kind}(x, a and b), where both or none keep their dimensions."
    return type(f"Merge{kind}s", (_MergeReductions,), {"kind": kind, "__doc__": doc})


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    kinds = ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1")
    return [KeepReducedDims(), KeepDimOfPlace(), *(_merge(kind)() for kind in kinds)]
