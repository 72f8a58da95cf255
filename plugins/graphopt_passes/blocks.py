"""Pixels taken apart by strided slices: SpaceToDepth (the Focus of detection networks)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import inherit
from graphopt.ir.weights import nbytes, read
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

from .intervals import END

_MOST_BYTES = 64 << 20


class _Part(NamedTuple):
    """x[:, :, row::block, column::block]."""

    source: gs.Tensor
    row: int
    column: int
    block: int
    slices: tuple[gs.Node, ...]


@graphopt.pass_("fuse", ops=["Concat"])
def fuse_space_to_depth(graph: gs.Graph, target: Target, model: Model) -> int:
    """Conv(Concat(x[:, :, i::b, j::b] for all i, j), w) = Conv(SpaceToDepth(x, b), w'), w' = w with channels reordered.

    Every place of a block once, in any order; in the order of SpaceToDepth, whatever reads it. The slices have one size
    (else Concat could not run), so that the sizes of x are multiples of b. Not where another node reads a slice.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Concat"):
        if not is_standard(node) or node.attrs.get("axis") not in (1, -3) or len(node.inputs) < 4:
            continue
        parts = [part for tensor in node.inputs if (part := _part(tensor, node, model)) is not None]
        block = parts[0].block if parts else 0
        places = [part.row * block + part.column for part in parts]
        if len(parts) != len(node.inputs) or sorted(places) != list(range(block * block)):
            continue
        x, shape = parts[0].source, shapes.of(parts[0].source)
        if any(part.source is not x or part.block != block for part in parts) or shape is None or len(shape) != 4:
            continue
        if dtypes.name(dtypes.of(x)) not in ("float32", "float16") or not isinstance(channels := shape[1], int):
            continue
        users = list(node.outputs[0].outputs)
        order = [place * channels + c for place in places for c in range(channels)]
        in_order = order == sorted(order)
        if not in_order and (edit.is_result(node.outputs[0]) or not all(_takes(user, node, edit) for user in users)):
            continue
        made = edit.insert("SpaceToDepth", [x], {"blocksize": block}, at=node)
        inherit(made, [node, *(one for part in parts for one in part.slices)], "fuse-space-to-depth")
        model.inference.node(made, model.imports(node))
        for user in users if not in_order else ():
            weights = read(user.inputs[1])
            moved = np.empty_like(weights)
            moved[:, order] = weights
            user.inputs[1] = edit.constant(moved, user.inputs[1].name)
            edit.edited(user)
        edit.replace(node.outputs[0], made.outputs[0])
        edit.prune([node])
        changes += 1
    return changes


def _takes(user: gs.Node, node: gs.Node, edit: Any) -> bool:
    """Whether the channels that a Conv reads may be in another order."""
    if user.op != "Conv" or not is_standard(user) or user.attrs.get("group", 1) != 1:
        return False
    w = user.inputs[1]
    if user.inputs[0] is not node.outputs[0] or w is node.outputs[0] or not isinstance(w, gs.Constant):
        return False
    return edit.use_count(w) == 1 and not edit.is_input(w) and nbytes(w) <= _MOST_BYTES


def _part(tensor: gs.Tensor, reader: gs.Node, model: Model) -> _Part | None:
    """What strided slices of the last two of four dimensions make of their source, in one step or two."""
    edit = model.editor
    cuts: dict[int, tuple[int, int]] = {}
    slices: list[gs.Node] = []
    while len(cuts) < 2:
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op != "Slice" or not is_standard(node) or edit.scope(node) is not edit.scope(reader):
            return None
        if not slices and (edit.is_result(tensor) or any(user is not reader for user in tensor.outputs)):
            return None
        found = _strides(node, model)
        if found is None or cuts.keys() & found.keys():
            return None
        cuts |= found
        slices.append(node)
        tensor = node.inputs[0]
    if cuts.keys() != {2, 3} or cuts[2][1] != cuts[3][1] or cuts[2][1] < 2:
        return None
    return _Part(tensor, cuts[2][0], cuts[3][0], cuts[2][1], tuple(slices))


def _strides(node: gs.Node, model: Model) -> dict[int, tuple[int, int]] | None:
    """{axis: (start, step)} of a Slice that goes to the end of each of its axes."""
    shape = shapes.of(node.inputs[0])
    if shape is None or len(shape) != 4 or model.opset(node) < 10 or len(node.inputs) != 5:
        return None
    if any(constant_of(tensor) is None for tensor in node.inputs[1:]):
        return None
    starts, ends, axes, steps = (np.asarray(Value(tensor).const).ravel().tolist() for tensor in node.inputs[1:])
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = shape[axis]
        to_the_end = end >= END or (isinstance(dim, int) and end >= dim)
        if not to_the_end or step < 1 or not 0 <= start < step:
            return None
        found[axis % 4] = (start, step)
    return found


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [fuse_space_to_depth]
