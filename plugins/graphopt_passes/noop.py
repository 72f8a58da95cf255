"""Nodes that give back what they are given: dtype, layout and window operators with nothing to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.weights import first, size
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .exact_casts import holds_every

_LARGEST_CHECKED = 4096
"""Operands with more elements than this are not read to see whether they are all zero or one."""
_FULL = 2**31 - 1


class NoOp(graphopt.Rule):
    """f(x) = x."""

    stage = "canonicalize"
    shared_inner = True

    def rewrite(self, op: Any, x: Value) -> Any:
        return x


def begins_with(tensor: gs.Tensor, number: float) -> bool:
    """Whether a constant may be this number everywhere, from a look at its first element."""
    found = first(tensor) if type(tensor) is gs.Constant else None
    return found is None or bool(found == number)


def _is_none(node: gs.Node, slot: int, name: str) -> bool:
    """Whether the operand, or the attribute in its place, may be absent or empty."""
    if len(node.inputs) > slot and type(node.inputs[slot]) is gs.Constant:
        return not size(node.inputs[slot])
    return not isinstance(node.attrs.get(name), list) or not node.attrs[name]


@graphopt.pass_("canonicalize", ops=["Identity"])
def remove_identities(graph: gs.Graph, target: Target, model: Model) -> int:
    """Identity(x) = x.

    Not where it gives a graph output the value of an input, an initializer, another output or an outer value.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Identity"):
        if not is_standard(node) or len(node.inputs) != 1:
            continue
        x, y = node.inputs[0], node.outputs[0]
        if getattr(x, "type", "tensor_type") != getattr(y, "type", "tensor_type"):
            continue
        if edit.is_result(y):
            maker = x.inputs[0] if isinstance(x, gs.Variable) and x.inputs else None
            if maker is None or edit.is_result(x) or edit.is_input(x) or edit.scope(maker) is not edit.scope(node):
                continue
        edit.replace(y, x)
        edit.prune([node])
        changes += 1
    return changes


@graphopt.pass_("canonicalize", ops=["Split"])
def remove_split_into_one(graph: gs.Graph, target: Target, model: Model) -> int:
    """Split(x) = x where it has one output."""
    changes = 0
    for node in model.editor.of("Split"):
        if is_standard(node) and len(node.outputs) == 1:
            model.editor.replace(node.outputs[0], node.inputs[0])
            model.editor.prune([node])
            changes += 1
    return changes


class RemoveDropout(NoOp):
    """Dropout(x) = x in inference.

    Not in training mode, and not where the mask is read. Below opset 7, only with is_test set.
    """

    def pattern(self, op: Any, x: Any, ratio: Any, mode: Any, rest: Any) -> Any:
        return op.Dropout(x, op.maybe(ratio), op.maybe(mode), attrs=rest)

    def check(self, op: Any, x: Value, ratio: Value | None, mode: Value | None, rest: dict[str, Any]) -> str | None:
        if op.opset < 7 and not rest.get("is_test"):
            return "it runs in training mode"
        if mode is None:
            return None
        training = mode.const
        if training is None:
            return "whether it runs in training mode is not known"
        if not training.any():
            return None
        share = 0.5 if ratio is None else ratio.const
        return None if share is not None and np.all(np.asarray(share) == 0) else "it runs in training mode"


class RemoveCastToSame(NoOp):
    """Cast(x, to) = x where x already has that dtype."""

    def pattern(self, op: Any, x: Any, to: Any) -> Any:
        return op.Cast(x, to=to)

    def check(self, op: Any, x: Value, to: Any) -> str | None:
        return None if x.dtype is not None and dtypes.from_onnx(dtypes.to_onnx(to)) == x.dtype else "the dtype changes"


class RemoveCastDetour(graphopt.Rule):
    """Cast(Cast(x, wide), to) = Cast(x, to) where `wide` holds every value of x.

    Not through a narrower dtype (float32 -> float16 -> float32, int64 -> int32 -> int64, float -> int -> float), and
    not from floating point to integers, where what happens out of range depends on the dtype cast from.
    """

    stage = "canonicalize"
    shared_inner = True

    def pattern(self, op: Any, x: Any, wide: Any, to: Any) -> Any:
        return op.Cast(op.Cast(x, to=wide), to=to)

    def check(self, op: Any, x: Value, wide: Any, to: Any) -> str | None:
        source, middle, last = x.dtype, dtypes.from_onnx(dtypes.to_onnx(wide)), dtypes.from_onnx(dtypes.to_onnx(to))
        if source is None or middle is None or last is None:
            return "a dtype is unknown"
        if not holds_every(middle, source):
            return f"{dtypes.name(middle)} does not hold every {dtypes.name(source)}"
        whole = not dtypes.is_float(last) and last != np.bool_
        if whole and (dtypes.is_float(source) or dtypes.is_float(middle)) and not holds_every(last, source):
            return "casts from floating point to integers differ out of range"
        return None

    def rewrite(self, op: Any, x: Value, to: Any) -> Any:
        if x.dtype == dtypes.from_onnx(dtypes.to_onnx(to)):
            return x
        return op.Cast(x, to=to)


class RemoveReshapeToSame(NoOp):
    """Reshape(x, shape) = x where the shape is proved to be that of x."""

    def pattern(self, op: Any, x: Any, target: Any, zero: Any) -> Any:
        return op.Reshape(x, op.Const(target), allowzero=zero)

    def glance(self, node: gs.Node) -> bool:
        x, target = node.inputs[0], node.inputs[-1]
        return x.shape is None or type(target) is not gs.Constant or size(target) == len(x.shape)

    def check(self, op: Any, x: Value, target: Value, zero: int | None) -> str | None:
        wanted, shape = target.const, x.shape
        if wanted is None or shape is None or wanted.size != len(shape):
            return "the rank changes or is unknown"
        inferred = 0
        for dim, want in zip(shape, wanted.tolist(), strict=True):
            inferred += want == -1
            kept = (want == 0 and not zero) or want == -1 or (isinstance(dim, int) and dim == want)
            if not kept or inferred > 1:
                return "the shape is not proved to stay"
        return None


class RemoveTransposeToSame(NoOp):
    """Transpose(x, perm) = x where perm is the identity."""

    def pattern(self, op: Any, x: Any, perm: Any) -> Any:
        return op.Transpose(x, perm=perm)

    def glance(self, node: gs.Node) -> bool:
        perm = node.attrs.get("perm")
        return not isinstance(perm, list) or perm == sorted(perm)

    def check(self, op: Any, x: Value, perm: list[int] | None) -> str | None:
        return None if perm is not None and list(perm) == sorted(perm) else "it moves axes"


class RemoveUnsqueezeOfNothing(NoOp):
    """Unsqueeze(x, []) = x."""

    def pattern(self, op: Any, x: Any, axes: Any) -> Any:
        return op.Unsqueeze(x, op.Const(axes))

    def glance(self, node: gs.Node) -> bool:
        return _is_none(node, 1, "axes")

    def check(self, op: Any, x: Value, axes: Value) -> str | None:
        return None if axes.size == 0 else "it changes the rank"


class RemoveSqueezeOfNothing(NoOp):
    """Squeeze(x) = x where no dimension can be 1.

    Empty axes mean the same as none: onnxruntime then squeezes every dimension of 1.
    """

    def pattern(self, op: Any, x: Any, axes: Any) -> Any:
        return op.Squeeze(x, op.maybe(op.Const(axes)))

    def glance(self, node: gs.Node) -> bool:
        return _is_none(node, 1, "axes")

    def check(self, op: Any, x: Value, axes: Value | None) -> str | None:
        if axes is not None and axes.size != 0:
            return "it changes the rank"
        fixed = x.shape is not None and all(isinstance(dim, int) and dim != 1 for dim in x.shape)
        return None if fixed else "a dimension may be 1"


class RemoveFullSlice(NoOp):
    """Slice(x, 0, all, axes, 1) = x."""

    def pattern(self, op: Any, x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
        return op.Slice(x, op.Const(starts), op.Const(ends), op.maybe(op.Const(axes)), op.maybe(op.Const(steps)))

    def check(
        self, op: Any, x: Value, starts: Value, ends: Value, axes: Value | None, steps: Value | None
    ) -> str | None:
        start, end = _numbers(starts), _numbers(ends)
        along = list(range(len(start))) if axes is None else _numbers(axes)
        step = [1] * len(start) if steps is None else _numbers(steps)
        shape = x.shape
        if not len(start) == len(end) == len(along) == len(step):
            return "it is no valid Slice"
        for a, b, axis, by in zip(start, end, along, step, strict=True):
            dim = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
            from_first = a == 0 or (isinstance(dim, int) and a <= -dim)
            to_last = b >= _FULL or (isinstance(dim, int) and b >= dim)
            if by != 1 or not from_first or not to_last:
                return "it takes a part, or not provably all"
        return None


class RemovePadOfNothing(NoOp):
    """Pad(x, zeros) = x."""

    def pattern(self, op: Any, x: Any, pads: Any, value: Any, axes: Any, rest: Any) -> Any:
        return op.Pad(x, op.Const(pads), op.maybe(value), op.maybe(axes), attrs=rest)

    def check(self, op: Any, x: Value, pads: Value) -> str | None:
        return None if not any(_numbers(pads)) else "it pads"


class RemoveExpandToSame(NoOp):
    """Expand(x, shape) = x where broadcasting is proved to leave the shape of x."""

    def pattern(self, op: Any, x: Any, target: Any) -> Any:
        return op.Expand(x, op.Const(target))

    def check(self, op: Any, x: Value, target: Value) -> str | None:
        return None if shapes.expands(tuple(_numbers(target)), x.shape) else "it may enlarge x"


class RemoveTileOnce(NoOp):
    """Tile(x, ones) = x."""

    def pattern(self, op: Any, x: Any, repeats: Any) -> Any:
        return op.Tile(x, op.Const(repeats))

    def check(self, op: Any, x: Value, repeats: Value) -> str | None:
        return None if all(times == 1 for times in _numbers(repeats)) else "it repeats x"


class RemoveConcatOfOne(NoOp):
    """Concat(x) = x."""

    def pattern(self, op: Any, x: Any, axis: Any) -> Any:
        return op.Concat(x, axis=axis)


class RemoveFlattenOfMatrix(NoOp):
    """Flatten(x, axis=1) = x where x is of rank 2."""

    def pattern(self, op: Any, x: Any, axis: Any) -> Any:
        return op.Flatten(x, axis=axis)

    def check(self, op: Any, x: Value, axis: int) -> str | None:
        return None if x.rank == 2 and axis in (1, -1) else "it changes the shape, or the rank is unknown"


class RemoveGatherOfAll(NoOp):
    """Gather(x, [0, 1, ..., n - 1], axis) = x where n is the dimension of that axis."""

    def pattern(self, op: Any, x: Any, indices: Any, axis: Any) -> Any:
        return op.Gather(x, op.Const(indices), axis=axis)

    def glance(self, node: gs.Node) -> bool:
        indices = node.inputs[1]
        return type(indices) is not gs.Constant or len(indices.shape) == 1

    def check(self, op: Any, x: Value, indices: Value, axis: int) -> str | None:
        shape, count = x.shape, indices.size
        if shape is None or indices.rank != 1 or not -len(shape) <= axis < len(shape):
            return "indices are no vector, or the rank of x is unknown"
        dim = shape[axis]
        if not isinstance(dim, int) or dim != count or count > _LARGEST_CHECKED:
            return "it picks a different number, or the dimension is unknown"
        picked = [index + dim if index < 0 else index for index in _numbers(indices)]
        return None if picked == list(range(dim)) else "it reorders"


class RemoveClipWithoutBounds(NoOp):
    """Clip(x) = x."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Clip(x)


def _numbers(value: Value) -> list[int]:
    array = value.const
    if array is None:
        raise graphopt.Skip("an operand is no constant")
    return [int(number) for number in array.ravel().tolist()]


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        remove_identities,
        remove_split_into_one,
        RemoveDropout(),
        RemoveCastToSame(),
        RemoveCastDetour(),
        RemoveReshapeToSame(),
        RemoveTransposeToSame(),
        RemoveUnsqueezeOfNothing(),
        RemoveSqueezeOfNothing(),
        RemoveFullSlice(),
        RemovePadOfNothing(),
        RemoveExpandToSame(),
        RemoveTileOnce(),
        RemoveConcatOfOne(),
        RemoveFlattenOfMatrix(),
        RemoveGatherOfAll(),
        RemoveClipWithoutBounds(),
    ]
