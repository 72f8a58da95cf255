"""Operators that only rename dimensions (Reshape, Squeeze, Unsqueeze, Flatten): two of them are one, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import shapes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value

FAMILY = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def target_for(source: shapes.Shape, result: shapes.Shape) -> list[int] | None:
    """The constant with which Reshape makes `result` of `source`: numbers, 0 = as in the source, at most one -1.

    None where two dimensions are unknown, or a dimension is 0 (which Reshape reads as 'as in the source').
    """
    if source is None or result is None or 0 in result:
        return None
    unknown = [axis for axis, dim in enumerate(result) if not isinstance(dim, int)]
    if len(unknown) <= 1:
        return [dim if isinstance(dim, int) else -1 for dim in result]
    copied = {axis for axis in unknown if axis < len(source) and shapes.same_dim(source[axis], result[axis])}
    if len(unknown) - len(copied) > 1:
        return None
    return [dim if isinstance(dim, int) else 0 if axis in copied else -1 for axis, dim in enumerate(result)]


class _Outer(graphopt.Rule):
    """A family member over another: what is in between may have other readers."""

    shared_inner = True

    def glance(self, node: gs.Node) -> bool:
        makers = node.inputs[0].inputs
        return bool(makers) and makers[0].op in FAMILY

    @staticmethod
    def source(y: Value) -> Value | None:
        """What the family member that computes `y` was given."""
        node = y.producer
        if node is None or node.op not in FAMILY or not is_standard(node):
            return None
        return Value(node.inputs[0])


class MergeReshapeIntoReshape(_Outer):
    """Reshape(f(x), shape) = Reshape(x, shape) where f is Reshape, Squeeze, Unsqueeze or Flatten.

    A 0 in the shape ('as in f(x)') becomes the number that it stands for, or stays where x provably has the same
    dimension in that place; otherwise the rule doesn't fire. Not with allowzero=1 and a 0 either.
    """

    def pattern(self, op: Any, y: Any, target: Any, zero: Any) -> Any:
        return op.Reshape(y, op.Const(target), allowzero=zero)

    def check(self, op: Any, y: Value, target: Value, zero: int | None) -> str | None:
        if self.source(y) is None:
            return "its operand is computed by something else"
        wanted = target.const
        if wanted is None or (zero and 0 in wanted.tolist()):
            return "it makes an empty tensor"
        return None

    def rewrite(self, op: Any, y: Value, target: Value) -> Any:
        x = self.source(y)
        assert x is not None
        assert target.const is not None
        before, between = x.shape, y.shape
        resolved = []
        for axis, want in enumerate(target.const.tolist()):
            if want == 0:
                dim = between[axis] if between is not None else None
                if isinstance(dim, int) and dim > 0:
                    want = dim
                elif before is None or axis >= len(before) or not shapes.same_dim(dim, before[axis]):
                    raise graphopt.Skip("a 0 in the shape refers to a dimension that x may not have there")
            resolved.append(want)
        return op.Reshape(x, resolved)


class _MergeIntoReshape(_Outer):
    """f(g(x)) = Reshape(x, shape) where at most one dimension of the result is neither a number nor one of x's."""

    after = ("cancel-unsqueeze", "cancel-squeeze")

    def check(self, op: Any, y: Value) -> str | None:
        return None if self.source(y) is not None else "its operand is computed by something else"

    def result(self, y: Value, operand: Any) -> shapes.Shape:
        """The shape of f(y)."""
        raise NotImplementedError

    def finish(self, op: Any, y: Value, operand: Any) -> Any:
        x = self.source(y)
        assert x is not None
        result = self.result(y, operand)
        if result is None:
            raise graphopt.Skip("the shape of the result is not known")
        if shapes.same(x.shape, result):
            return x
        target = target_for(x.shape, result)
        if target is None:
            raise graphopt.Skip("two dimensions of the result are not known, or one is 0")
        return op.Reshape(x, target)


class MergeSqueeze(_MergeIntoReshape):
    """Squeeze(f(x), axes) = Reshape(x, shape) where f is Reshape, Squeeze, Unsqueeze or Flatten.

    Not where two dimensions of the result are unknown, or one is 0.
    """

    def pattern(self, op: Any, y: Any, axes: Any) -> Any:
        return op.Squeeze(y, op.Const(axes))

    def result(self, y: Value, operand: Any) -> shapes.Shape:
        shape = y.shape
        gone = _axes(operand, 0 if shape is None else len(shape))
        return None if shape is None else tuple(dim for axis, dim in enumerate(shape) if axis not in gone)

    def rewrite(self, op: Any, y: Value, axes: Value) -> Any:
        return self.finish(op, y, axes)


class MergeUnsqueeze(_MergeIntoReshape):
    """Unsqueeze(f(x), axes) = Reshape(x, shape) where f is Reshape, Squeeze, Unsqueeze or Flatten.

    Not where two dimensions of the result are unknown, or one is 0.
    """

    def pattern(self, op: Any, y: Any, axes: Any) -> Any:
        return op.Unsqueeze(y, op.Const(axes))

    def result(self, y: Value, operand: Any) -> shapes.Shape:
        shape = y.shape
        if shape is None:
            return None
        rank = len(shape) + (operand.size or 0)
        new = _axes(operand, rank)
        old = iter(shape)
        return tuple(1 if axis in new else next(old) for axis in range(rank))

    def rewrite(self, op: Any, y: Value, axes: Value) -> Any:
        return self.finish(op, y, axes)


class MergeFlatten(_MergeIntoReshape):
    """Flatten(f(x), axis) = Reshape(x, shape) where f is Reshape, Squeeze, Unsqueeze or Flatten.

    Not where both sides of the axis are unknown, or a dimension is 0.
    """

    def pattern(self, op: Any, y: Any, axis: Any) -> Any:
        return op.Flatten(y, axis=axis)

    def result(self, y: Value, operand: Any) -> shapes.Shape:
        shape = y.shape
        if shape is None:
            return None
        axis = operand + len(shape) if operand < 0 else operand
        return _product(shape[:axis]), _product(shape[axis:])

    def rewrite(self, op: Any, y: Value, axis: int) -> Any:
        return self.finish(op, y, axis)


class CancelUnsqueeze(graphopt.Rule):
    """Squeeze(Unsqueeze(x, axes), axes) = x."""

    shared_inner = True

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Squeeze(op.Unsqueeze(x, op.Const(a)), op.Const(b))

    def check(self, op: Any, x: Value, a: Value, b: Value) -> str | None:
        return _differ(a, b, None if x.rank is None else x.rank + (a.size or 0))

    def rewrite(self, op: Any, x: Value) -> Any:
        return x


class CancelSqueeze(graphopt.Rule):
    """Unsqueeze(Squeeze(x, axes), axes) = x.

    Unsqueeze counts its axes in its own result: the two lists name the same axes only where they are equally long.
    """

    shared_inner = True

    def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
        return op.Unsqueeze(op.Squeeze(x, op.Const(a)), op.Const(b))

    def check(self, op: Any, x: Value, a: Value, b: Value) -> str | None:
        if a.const is None or b.const is None or a.const.size != b.const.size:
            return "another number of axes comes back"
        return _differ(a, b, x.rank)

    def rewrite(self, op: Any, x: Value) -> Any:
        return x


def _differ(a: Value, b: Value, rank: int | None) -> str | None:
    if rank is None:
        same = a.const is not None and b.const is not None and sorted(a.const.tolist()) == sorted(b.const.tolist())
        return None if same else "the axes differ, or may"
    return None if _axes(a, rank) == _axes(b, rank) else "the axes differ"


def _axes(value: Value, rank: int) -> set[int]:
    array = value.const
    if array is None:
        raise graphopt.Skip("the axes are no constant")
    return {int(axis) + rank if axis < 0 else int(axis) for axis in array.ravel().tolist()}


def _product(dims: Sequence[shapes.Dim]) -> shapes.Dim:
    known = [dim for dim in dims if dim != 1]
    if len(known) == 1:
        return known[0]
    return shapes.volume(tuple(dims))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        CancelUnsqueeze(),
        CancelSqueeze(),
        MergeReshapeIntoReshape(),
        MergeSqueeze(),
        MergeUnsqueeze(),
        MergeFlatten(),
    ]
