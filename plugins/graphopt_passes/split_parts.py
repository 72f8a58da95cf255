"""Parts of a Split that are one wide, and parts of a sequence whose length is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import inherit
from graphopt.rewrite.spelling import is_standard, moved
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model


@graphopt.pass_("simplify", after=["split-instead-of-slices"], ops=["Split"])
def gather_instead_of_squeezed_split(graph: gs.Graph, target: Target, model: Model) -> int:
    """Squeeze(Split(x, [1, ..., 1], axis)[i], axis) = Gather(x, i, axis), where all parts that are read are squeezed.

    TensorRT's parser makes a Slice and a Squeeze of each part, with dynamic sizes seven layers more.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Split"):
        if not is_standard(node) or not edit.has(node):
            continue
        shape = shapes.of(node.inputs[0])
        axis = node.attrs.get("axis", 0)
        if shape is None or not -len(shape) <= axis < len(shape) or shape[axis] != len(node.outputs):
            continue
        axis %= len(shape)
        opset = model.opset(node)
        read = [(place, part) for place, part in enumerate(node.outputs) if edit.is_used(part)]
        readers = [(place, part, user) for place, part in read for user in part.outputs]
        if any(edit.is_result(part) or (shapes.of(part) or {axis: 0})[axis] != 1 for _, part in read) or not readers:
            continue
        if not all(_squeezes(user, axis, len(shape), opset) for _, _, user in readers):
            continue
        for place, part in read:
            users = list(part.outputs)
            at = min((user for user in users), key=edit.place)
            if any(edit.scope(user) is not edit.scope(node) for user in users):
                at = node
            index = edit.constant(np.array(place, np.int64), f"{part.name}_index")
            made = edit.insert("Gather", [node.inputs[0], index], {"axis": axis}, at=at)
            inherit(made, [*users, node], "gather-instead-of-squeezed-split")
            model.inference.node(made, model.imports(node))
            for user in users:
                edit.replace(user.outputs[0], made.outputs[0], at=user)
            edit.prune(users)
        edit.prune([node])
        changes += 1
    return changes


def _squeezes(user: gs.Node, axis: int, rank: int, opset: int) -> bool:
    if user.op != "Squeeze" or not is_standard(user):
        return False
    if moved("Squeeze", opset):
        axes = list(user.attrs.get("axes", ()))
    else:
        array = Value(user.inputs[1]).const if len(user.inputs) > 1 and user.inputs[1].name else None
        axes = [] if array is None else array.ravel().tolist()
    return len(axes) == 1 and -rank <= axes[0] < rank and axes[0] % rank == axis


@graphopt.pass_("canonicalize", after=["fold-constants"], ops=["SplitToSequence"])
def split_instead_of_sequence(graph: gs.Graph, target: Target, model: Model) -> int:
    """SequenceAt(SplitToSequence(x, sizes, axis, keepdims), i) = Split(x, sizes, axis)[i].

    Not where anything else reads the sequence, where the number of parts or an index is not known, and not for an index
    out of range.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("SplitToSequence"):
        if not is_standard(node) or not edit.has(node):
            continue
        sizes = _sizes(node)
        sequence = node.outputs[0]
        if sizes is None or edit.is_result(sequence) or not sequence.outputs:
            continue
        users = list(sequence.outputs)
        places = [_place(user, len(sizes)) for user in users]
        if any(place is None for place in places):
            continue
        axis = node.attrs.get("axis", 0)
        single = len(node.inputs) < 2 or not node.inputs[1].name
        squeezes = single and not node.attrs.get("keepdims", 1)
        opset = model.opset(node)
        operands, attrs = [node.inputs[0]], {"axis": axis}
        if opset >= 13:
            operands.append(edit.constant(np.array(sizes, np.int64), "sizes"))
        else:
            attrs["split"] = sizes
        made = edit.insert("Split", operands, attrs, at=node, outputs=len(sizes))
        inherit(made, [node, *users], "split-instead-of-sequence")
        model.inference.node(made, model.imports(node))
        for user, place in zip(users, places, strict=True):
            assert place is not None
            part = made.outputs[place]
            if squeezes:
                axes = [] if moved("Squeeze", opset) else [edit.constant(np.array([axis], np.int64), "axes")]
                attrs = {"axes": [axis]} if moved("Squeeze", opset) else {}
                squeeze = edit.insert("Squeeze", [part, *axes], attrs, at=user)
                inherit(squeeze, [node, user], "split-instead-of-sequence")
                model.inference.node(squeeze, model.imports(user))
                part = squeeze.outputs[0]
            edit.replace(user.outputs[0], part, at=user)
        edit.prune(users)
        changes += 1
    return changes


def _sizes(node: gs.Node) -> list[int] | None:
    """The sizes of the parts."""
    shape = shapes.of(node.inputs[0])
    axis = node.attrs.get("axis", 0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    if len(node.inputs) < 2 or not node.inputs[1].name:
        return [1] * dim if isinstance(dim, int) else None
    if constant_of(node.inputs[1]) is None:
        return None
    array = Value(node.inputs[1]).const
    if array is None or dtypes.is_float(array.dtype):
        return None
    if array.ndim == 1:
        sizes = [int(size) for size in array]
        return sizes if not isinstance(dim, int) or sum(sizes) == dim else None
    step = int(array.ravel()[0])
    if not isinstance(dim, int) or step <= 0 or dim <= 0:
        return None
    return [min(step, dim - start) for start in range(0, dim, step)]


def _place(user: gs.Node, count: int) -> int | None:
    """Which part a SequenceAt takes."""
    if user.op != "SequenceAt" or not is_standard(user) or constant_of(user.inputs[1]) is None:
        return None
    array = Value(user.inputs[1]).const
    if array is None or array.size != 1:
        return None
    place = int(array.ravel()[0])
    return place % count if -count <= place < count else None


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [gather_instead_of_squeezed_split, split_instead_of_sequence]
