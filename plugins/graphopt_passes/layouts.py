"""Operators that compute the same in any order of the axes, and how to say each in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import shapes
from graphopt.ir.edits import Editor
from graphopt.rewrite.spelling import is_standard, moved
from graphopt.rewrite.value import Value

from .elementwise import BINARY, REDUCTIONS, UNARY, VARIADIC

Perm = Sequence[int]
_ARRANGED = frozenset(REDUCTIONS | {"Slice", "Pad"})
"""Axes are an operand."""
_AXIS = frozenset(("Concat", "Split", "Softmax", "LogSoftmax"))
"""Axes are the attribute `axis`."""
_SLOT = {"Slice": 3, "Pad": 3}


def inverse(perm: Perm) -> list[int]:
    """The permutation that undoes `perm`."""
    return [perm.index(axis) for axis in range(len(perm))]


def compose(first: Perm, second: Perm) -> list[int]:
    """Transpose(Transpose(x, first), second) = Transpose(x, compose(first, second))."""
    return [first[axis] for axis in second]


def is_identity(perm: Perm) -> bool:
    """Whether it moves nothing."""
    return list(perm) == sorted(perm)


def data_slots(node: gs.Node) -> range:
    """The inputs that have axes (not bounds, axes, pads, sizes)."""
    if node.op in BINARY or node.op in VARIADIC or node.op == "Concat":
        return range(len(node.inputs))
    return range(1)


def free_rank(node: gs.Node, opset: int) -> int | None:
    """The rank in which the node computes the same for every order of axes; None if it doesn't, or it is not known."""
    if not is_standard(node) or not node.outputs or not node.inputs:
        return None
    result = shapes.of(node.outputs[0])
    if result is None or len(result) < 2:
        return None
    rank = len(result)
    if node.op in UNARY or node.op in BINARY or node.op in VARIADIC:
        return rank if all(_fits(node.inputs[slot], rank) for slot in data_slots(node)) else None
    if node.op in _AXIS:
        if "oftmax" in node.op and opset < 13:
            return None
        return rank if all(_is_rank(node.inputs[slot], rank) for slot in data_slots(node)) else None
    if node.op in _ARRANGED and _is_rank(node.inputs[0], rank):
        return rank if _axes(node, opset, rank) is not None else None
    return None


def _is_rank(tensor: gs.Tensor, rank: int) -> bool:
    shape = shapes.of(tensor)
    return shape is not None and len(shape) == rank


def _fits(tensor: gs.Tensor, rank: int) -> bool:
    """A full-rank operand, one that is 1 everywhere, or a constant (which can be reshaped)."""
    shape = shapes.of(tensor)
    if shape is None or len(shape) > rank:
        return False
    return len(shape) == rank or isinstance(tensor, gs.Constant) or all(dim == 1 for dim in shape)


def _axes(node: gs.Node, opset: int, rank: int) -> list[int] | None:
    """The constant axes of a Slice, Pad or reduction that keeps its dimensions; None if they are not known."""
    if node.op in REDUCTIONS and node.attrs.get("keepdims", 1) != 1:
        return None
    found = _operand(node, _SLOT.get(node.op, 1), "axes", opset)
    if found is None or not all(isinstance(axis, int) for axis in found):
        return None
    if node.op in REDUCTIONS:
        return found or None
    if node.op == "Pad":
        pads = _operand(node, 1, "pads", opset)
        return (found or list(range(rank))) if pads else None
    starts = _operand(node, 1, "starts", opset)
    return found or (list(range(len(starts))) if starts else None)


def _operand(node: gs.Node, slot: int, name: str, opset: int) -> list[int] | None:
    """The numbers of an operand, wherever this opset keeps it; [] if it is absent, None if it is computed."""
    if any(entry.attribute == name for entry in moved(node.op, opset)) or (node.op == "Slice" and opset < 10):
        return [int(number) for number in node.attrs.get(name, ())]
    if slot >= len(node.inputs) or not node.inputs[slot].name:
        return []
    array = Value(node.inputs[slot]).const
    return None if array is None else [int(number) for number in array.ravel()]


def rearrange(node: gs.Node, perm: Perm, opset: int, edit: Editor) -> None:
    """Name the axes of a free node anew: what was axis a is axis perm[a]. Its operands are the caller's business."""
    rank = len(perm)
    if node.op in _AXIS:
        default = -1 if "oftmax" in node.op else 0
        node.attrs["axis"] = perm[node.attrs.get("axis", default) % rank]
        return
    if node.op not in _ARRANGED:
        return
    axes = [perm[axis % rank] for axis in _axes(node, opset, rank) or ()]
    put = _put(node, opset, edit)
    if node.op != "Pad":
        put(_SLOT.get(node.op, 1), "axes", axes)
        return
    old = _operand(node, 1, "pads", opset) or []
    before, after = [0] * rank, [0] * rank
    for number, axis in enumerate(axes):
        before[axis], after[axis] = old[number], old[number + len(axes)]
    put(1, "pads", before + after)
    if len(node.inputs) > _SLOT["Pad"]:
        put(_SLOT["Pad"], "axes", list(range(rank)))


def _put(node: gs.Node, opset: int, edit: Editor) -> Callable[[int, str, list[int]], None]:
    attributes = {entry.attribute for entry in moved(node.op, opset)} | ({"axes"} if opset < 10 else set())

    def put(slot: int, name: str, numbers: list[int]) -> None:
        if name in attributes:
            node.attrs[name] = numbers
            return
        while len(node.inputs) <= slot:
            node.inputs.append(gs.Variable.empty())
        node.inputs[slot] = edit.constant(np.array(numbers, np.int64), f"{node.name}_{name}")

    return put


def rearranged_constant(tensor: gs.Constant, perm: Perm) -> np.ndarray[Any, Any] | None:
    """A constant operand in the new order of axes; None if it may stay as it is."""
    shape = shapes.of(tensor)
    if shape is None or all(dim == 1 for dim in shape):
        return None
    array = Value(tensor).const
    assert array is not None
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return np.ascontiguousarray(full.transpose(perm))
