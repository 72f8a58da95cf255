"""Sequences that are only a detour between tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model


@graphopt.pass_("simplify")
def split_instead_of_sequence(graph: gs.Graph, target: Target, model: Model) -> int:
    """SequenceAt(SplitToSequence(x, sizes, axis), i) = output i of Split(x, sizes, axis). Exact.

    Only where all that reads the sequence takes constant places from it, in the same body, and the axis is known.
    TensorRT has no SplitToSequence.
    """
    edit = model.editor
    changes = 0
    for node in edit.nodes():
        if node.op != "SplitToSequence" or not is_standard(node) or len(node.inputs) < 2 or not node.inputs[1].name:
            continue
        x, sequence = node.inputs[0], node.outputs[0]
        sizes = _sizes(x, Value(node.inputs[1]), node.attrs.get("axis", 0))
        takers = {id(user): user for user in sequence.outputs}.values()
        if sizes is None or edit.is_result(sequence) or not takers:
            continue
        places = [_place(user, sequence, len(sizes)) for user in takers]
        if None in places or any(edit.scope(user) is not edit.scope(node) for user in takers):
            continue
        operands: list[gs.Tensor] = [x]
        attrs: dict[str, Any] = {"axis": node.attrs.get("axis", 0)}
        if model.opset(node) >= 13:
            operands.append(edit.constant(np.array(sizes, np.int64), "sizes"))
        else:
            attrs["split"] = sizes
        nodes = [node, *takers]
        made = edit.insert("Split", operands, attrs, at=node, outputs=len(sizes))
        inherit(made, nodes, "split-instead-of-sequence")
        model.inference.node(made, model.imports(node))
        for place, user in zip(places, list(takers), strict=True):
            assert place is not None
            edit.replace(user.outputs[0], made.outputs[place])
        edit.prune([*nodes[1:], node])
        changes += 1
    return changes


def _sizes(x: gs.Tensor, split: Value, axis: Any) -> list[int] | None:
    """The sizes of the parts; None unless the dimension is known, and they are a constant that covers it."""
    shape, values = shapes.of(x), split.const
    if shape is None or values is None or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    if not isinstance(dim, int) or dim <= 0:
        return None
    if values.ndim == 0:
        part = int(values)
        return [min(part, dim - start) for start in range(0, dim, part)] if part > 0 and dim // part < 1024 else None
    sizes = [int(size) for size in values]
    return sizes if sum(sizes) == dim and all(size > 0 for size in sizes) else None


def _place(user: gs.Node, sequence: gs.Tensor, count: int) -> int | None:
    if user.op != "SequenceAt" or not is_standard(user) or user.inputs[0] is not sequence:
        return None
    value = Value(user.inputs[1]).const
    if value is None or value.size != 1:
        return None
    place = int(value.reshape(-1)[0])
    return place % count if -count <= place < count else None


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [split_instead_of_sequence]
