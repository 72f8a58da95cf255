"""Slice, Split and Concat: cutting twice is cutting once, and what was cut is put together for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import Editor, inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .intervals import END, Interval, cut_again, intervals, read_slice


class MergeSlices(graphopt.Rule):
    """Slice(Slice(x, a), b) = Slice(x, c).

    Over one axis only in steps of 1, and where the ends can be told without the dimension, or it is known.
    """

    def pattern(self, op: Any, x: Any, s: Any, e: Any, a: Any, t: Any, s2: Any, e2: Any, a2: Any, t2: Any) -> Any:
        inner = op.Slice(x, op.Const(s), op.Const(e), op.maybe(op.Const(a)), op.maybe(op.Const(t)))
        return op.Slice(inner, op.Const(s2), op.Const(e2), op.maybe(op.Const(a2)), op.maybe(op.Const(t2)))

    def rewrite(
        self,
        op: Any,
        x: Value,
        s: Value,
        e: Value,
        a: Value | None,
        t: Value | None,
        s2: Value,
        e2: Value,
        a2: Value | None,
        t2: Value | None,
    ) -> Any:
        first, second = intervals(s, e, a, t, x.rank), intervals(s2, e2, a2, t2, x.rank)
        if first is None or second is None:
            raise graphopt.Skip("an axis is negative and the rank unknown")
        for axis, cut in second.items():
            if axis not in first:
                first[axis] = cut
                continue
            both = cut_again(first[axis], cut, x.shape[axis] if x.shape is not None else None)
            if both is None:
                raise graphopt.Skip("the ends depend on a dimension that is unknown, or there are steps")
            first[axis] = both
        axes = sorted(first)
        columns = [[first[axis][part] for axis in axes] for part in range(3)]
        steps = columns[2] if any(step != 1 for step in columns[2]) else None
        return op.Slice(x, columns[0], columns[1], axes, steps)


class TakeFromConcat(graphopt.Rule):
    """Slice(Concat(x, y, ...), over the place of y) = y."""

    shared_inner = True

    def pattern(self, op: Any, *xs: Any, axis: Any, s: Any, e: Any, a: Any, t: Any) -> Any:
        whole = op.Concat(*xs, axis=axis)
        return op.Slice(whole, op.Const(s), op.Const(e), op.maybe(op.Const(a)), op.maybe(op.Const(t)))

    def rewrite(self, op: Any, *xs: Value, axis: int, s: Value, e: Value, a: Value | None, t: Value | None) -> Any:
        shape = xs[0].shape
        cuts = intervals(s, e, a, t, None if shape is None else len(shape))
        if not shape or cuts is None or list(cuts) != [axis % len(shape)]:
            raise graphopt.Skip("it is cut over other axes, or the rank is unknown")
        start, end, step = cuts[axis % len(shape)]
        place = 0
        for x in xs:
            dim = x.shape[axis] if x.shape is not None else None
            if not isinstance(dim, int):
                break
            last = x is xs[-1]
            if start == place and (end == place + dim or (last and end >= place + dim)) and step == 1 and dim:
                return x
            place += dim
        raise graphopt.Skip("it takes something else than one operand of the Concat")


class GatherInsteadOfSqueezedSlice(graphopt.Rule):
    """Squeeze(Slice(x, i, i + 1, axis), axis) = Gather(x, i, axis)."""

    def pattern(self, op: Any, x: Any, s: Any, e: Any, a: Any, t: Any, axes: Any) -> Any:
        part = op.Slice(x, op.Const(s), op.Const(e), op.maybe(op.Const(a)), op.maybe(op.Const(t)))
        return op.Squeeze(part, op.Const(axes))

    def check(self, op: Any, x: Value, s: Value, e: Value, a: Value | None, t: Value | None, axes: Value) -> str | None:
        cuts = intervals(s, e, a, t, x.rank)
        if cuts is None or x.rank is None or len(cuts) != 1 or axes.const is None or axes.size != 1:
            return "more than one axis is cut or squeezed, or the rank is unknown"
        ((axis, (start, end, step)),) = cuts.items()
        if int(axes.const.ravel()[0]) % x.rank != axis or step != 1:
            return "another axis is cut than is squeezed, or backwards"
        one = (end == start + 1 and start != -1) or (start == -1 and end >= END)
        return None if one else "more than one place is cut, or none"

    def rewrite(self, op: Any, x: Value, s: Value, axes: Value) -> Any:
        assert s.const is not None
        assert axes.const is not None
        assert x.rank is not None
        place = np.array(int(s.const.ravel()[0]), np.int64)
        return op.Gather(x, op.const(place), axis=int(axes.const.ravel()[0]) % x.rank)


class ReassembleSplit(graphopt.Rule):
    """Concat(Split(x, axis), axis) = x, for all outputs in their order."""

    shared_inner = True

    def pattern(self, op: Any, *xs: Any, axis: Any) -> Any:
        return op.Concat(*xs, axis=axis)

    def check(self, op: Any, *xs: Value, axis: int) -> str | None:
        node = xs[0].producer
        if node is None or node.op != "Split" or not is_standard(node) or len(node.outputs) != len(xs):
            return "its operands are not all the parts of one Split"
        if any(x.tensor is not part for x, part in zip(xs, node.outputs, strict=True)):
            return "its operands are not the parts of one Split in their order"
        along, rank = node.attrs.get("axis", 0), Value(node.inputs[0]).rank
        same = along == axis or (rank is not None and along % rank == axis % rank)
        return None if same else "it is joined along another axis than it was split"

    def rewrite(self, op: Any, *xs: Value) -> Any:
        assert xs[0].producer is not None
        return xs[0].producer.inputs[0]


class ReassembleSlices(graphopt.Rule):
    """Concat(Slice(x, 0, a), Slice(x, a, b), ..., Slice(x, z, end)) = x, along the axis that was cut."""

    shared_inner = True

    def pattern(self, op: Any, *xs: Any, axis: Any) -> Any:
        return op.Concat(*xs, axis=axis)

    def check(self, op: Any, *xs: Value, axis: int) -> str | None:
        rank = xs[0].rank
        if rank is None or len(xs) < 2:
            return "the rank is unknown"
        place, whole = 0, None
        for x in xs:
            found = read_slice(x.producer, op.opset)
            if found is None or (whole is not None and found[0] is not whole) or list(found[1]) != [axis % rank]:
                return "its operands are not slices of one tensor along its axis"
            whole = found[0]
            start, end, step = found[1][axis % rank]
            if start != place or step != 1 or end < start:
                return "the slices leave gaps, overlap, or count from the end"
            place = end
        shape = shapes.of(whole)
        dim = shape[axis] if shape is not None else None
        full = place >= END or (isinstance(dim, int) and place >= dim)
        return None if full else "the slices may not reach the end"

    def rewrite(self, op: Any, *xs: Value) -> Any:
        assert xs[0].producer is not None
        return xs[0].producer.inputs[0]


@graphopt.pass_("simplify", ops=["Concat"])
def merge_concats(graph: gs.Graph, target: Target, model: Model) -> int:
    """Concat(Concat(x, y), z) = Concat(x, y, z) along one axis, where only such Concats read the inner one.

    One that several read is taken apart where all of them stay short: else nested ones could double with every turn.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Concat"):
        if not is_standard(node) or not edit.has(node):
            continue
        operands: list[gs.Tensor] = []
        inner: list[gs.Node] = []
        for tensor in node.inputs:
            maker = tensor.inputs[0] if tensor.inputs else None
            if maker is not None and maker.op == "Concat" and is_standard(maker) and _goes_on(edit, tensor, maker):
                operands.extend(maker.inputs)
                if not any(maker is one for one in inner):
                    inner.append(maker)
            else:
                operands.append(tensor)
        if inner:
            node.inputs[:] = operands
            edit.edited(node)
            inherit(node, [node, *inner], "merge-concats")
            edit.prune(inner)
            changes += len(inner)
    return changes


SHORT = 16
"""Operands that a Concat may come to have by taking apart one that others read, too."""


def _goes_on(edit: Editor, tensor: gs.Tensor, maker: gs.Node) -> bool:
    """Whether all that reads the Concat's result is few Concats along the same axis."""
    count = edit.use_count(tensor)
    if not 0 < count == len(tensor.outputs) <= SHORT:
        return False
    for reader in tensor.outputs:
        if reader.op != "Concat" or not is_standard(reader) or not _same_axis(reader, maker):
            return False
        if edit.scope(reader) is not edit.scope(maker):
            return False
        if count > 1 and len(reader.inputs) + count * len(maker.inputs) > SHORT:
            return False
    return True


def _same_axis(a: gs.Node, b: gs.Node) -> bool:
    one, two = a.attrs.get("axis", 1), b.attrs.get("axis", 1)
    shape = shapes.of(a.outputs[0])
    return bool(one == two or (shape and one % len(shape) == two % len(shape)))


@graphopt.pass_("simplify", after=["merge-concats"], ops=["Split"])
def split_concat(graph: gs.Graph, target: Target, model: Model) -> int:
    """Split(Concat(x, y), axis) = x, y where the parts are of the sizes that were joined."""
    edit = model.editor
    changes = 0
    for node in edit.of("Split"):
        if not is_standard(node) or not edit.has(node):
            continue
        whole = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if whole is None or whole.op != "Concat" or not is_standard(whole) or len(whole.inputs) != len(node.outputs):
            continue
        shape = shapes.of(node.inputs[0])
        if not shape or edit.scope(whole) is not edit.scope(node):
            continue
        axis = node.attrs.get("axis", 0) % len(shape)
        if axis != whole.attrs.get("axis", 1) % len(shape):
            continue
        pairs = list(zip(whole.inputs, node.outputs, strict=True))
        if not all(_dim(a, axis) is not None and _dim(a, axis) == _dim(b, axis) for a, b in pairs):
            continue
        edit.replace_all([(part, operand) for operand, part in pairs if part.name and edit.is_used(part)])
        edit.prune([node])
        changes += 1
    return changes


def _dim(tensor: gs.Tensor, axis: int) -> int | None:
    shape = shapes.of(tensor)
    dim = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    return dim if isinstance(dim, int) else None


@graphopt.pass_("simplify", after=["merge-concats"], ops=["Slice"])
def split_instead_of_slices(graph: gs.Graph, target: Target, model: Model) -> int:
    """Slice(x, 0, a), Slice(x, a, b), ..., Slice(x, z, n) = Split(x), where the slices tile an axis of size n."""
    edit = model.editor
    cuts: dict[tuple[int, int, int], list[tuple[Interval, gs.Node]]] = {}
    for node in edit.of("Slice"):
        found = read_slice(node, model.opset(node))
        if found is not None and len(found[1]) == 1:
            ((axis, cut),) = found[1].items()
            cuts.setdefault((id(found[0]), axis, id(edit.scope(node))), []).append((cut, node))
    changes = 0
    for (_, axis, _), parts in cuts.items():
        source = parts[0][1].inputs[0]  # of another Split by now, perhaps
        if not all(edit.has(node) and node.inputs[0] is source for _, node in parts):
            continue
        dim = _dim(source, axis)
        if dim is None or len(parts) < 2:
            continue
        bounds = [(slice(start, end).indices(dim), step, node) for (start, end, step), node in parts]
        bounds.sort(key=lambda bound: bound[0])
        ends = [bound[0][1] for bound in bounds]
        starts = [bound[0][0] for bound in bounds]
        if any(step != 1 for _, step, _ in bounds) or [0, *ends[:-1]] != starts or ends[-1] != dim:
            continue
        if any(end <= start for start, end in zip(starts, ends, strict=True)):
            continue
        sizes = [end - start for start, end in zip(starts, ends, strict=True)]
        nodes = [node for _, _, node in bounds]
        first = min(nodes, key=edit.place)
        operands: list[gs.Tensor] = [source]
        attrs: dict[str, Any] = {"axis": axis}
        if model.opset(first) >= 13:
            operands.append(edit.constant(np.array(sizes, np.int64), "sizes"))
        else:
            attrs["split"] = sizes
        made = edit.insert("Split", operands, attrs, at=first, outputs=len(sizes))
        inherit(made, nodes, "split-instead-of-slices")
        model.inference.node(made, model.imports(first))
        for node, part in zip(nodes, list(made.outputs), strict=True):
            edit.replace(node.outputs[0], part)
        edit.prune(nodes)
        changes += 1
    return changes


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        MergeSlices(),
        TakeFromConcat(),
        GatherInsteadOfSqueezedSlice(),
        ReassembleSplit(),
        ReassembleSlices(),
        merge_concats,
        split_concat,
        split_instead_of_slices,
    ]
