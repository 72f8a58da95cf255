"""Operators in a row that only move elements: the whole row in the fewest steps."""

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

from .chains import Chain, Step, Stuck

MOVEMENTS = frozenset("Reshape Transpose Squeeze Unsqueeze Flatten".split())
_LONGEST = 12


@graphopt.pass_("legalize", ops=["Transpose"])
def shorten_movements(graph: gs.Graph, target: Target, model: Model) -> int:
    """Reshape, Transpose, Squeeze, Unsqueeze and Flatten in a row = at most Reshape, Transpose, Reshape.

    The row is followed as a permutation of factors of the dimensions. Not where a Reshape cuts across factors (6 x 4 to
    4 x 6), where its shape is computed, where two dimensions of a new one are unknown or it could not make an empty
    tensor that the old ones made, and only where fewer nodes remain. Late, since layers are found by their own rows.
    """
    edit = model.editor
    changes = 0
    seen: set[int] = set()
    for node in edit.of("Transpose"):
        if not edit.has(node) or not is_standard(node):
            continue
        end = _last(node, model)
        if id(end) in seen:
            continue
        seen.add(id(end))
        row = _row(end, model)
        found = _best(row, model)
        if found is not None:
            _write(row[found[0] :], found[1], model)
            changes += 1
    return changes


def _moves(node: gs.Node | None, like: gs.Node, model: Model) -> bool:
    """Whether a node of the same scope only moves elements."""
    if node is None or node.op not in MOVEMENTS or not is_standard(node) or not node.inputs:
        return False
    return model.editor.scope(node) is model.editor.scope(like) and model.opset(node) >= 5


def _last(node: gs.Node, model: Model) -> gs.Node:
    """The end of the row that a node stands in."""
    for _ in range(_LONGEST):
        y = node.outputs[0]
        if model.editor.use_count(y) != 1 or len(y.outputs) != 1 or not _moves(y.outputs[0], node, model):
            break
        if y.outputs[0].inputs[0] is not y:
            break
        node = y.outputs[0]
    return node


def _row(end: gs.Node, model: Model) -> list[gs.Node]:
    row = [end]
    while len(row) < _LONGEST:
        makers = row[-1].inputs[0].inputs
        if not makers or not _moves(makers[0], end, model):
            break
        row.append(makers[0])
    return row[::-1]


def _best(row: list[gs.Node], model: Model) -> tuple[int, list[Step]] | None:
    """(where the part of the row begins that gets shorter, its new steps), for the most nodes that go."""
    own = 1
    while own < len(row) and model.editor.use_count(row[-1 - own].outputs[0]) == 1:
        own += 1
    best: tuple[int, tuple[int, list[Step]]] | None = None
    for start in range(len(row) - 1):
        steps = _short(row[start:], min(own, len(row) - start) - 1, model)
        if steps is not None:
            saved = min(own, len(row) - start) - len(steps)
            if best is None or saved > best[0]:
                best = saved, (start, steps)
    return best[1] if best else None


def _short(row: list[gs.Node], most: int, model: Model) -> list[Step] | None:
    try:
        chain = Chain(shapes.of(row[0].inputs[0]))
        for node in row:
            _follow(chain, node, model.opset(node))
    except Stuck:
        return None
    return chain.shortest(most)


def _follow(chain: Chain, node: gs.Node, opset: int) -> None:
    """Take the chain through a node. Raises Stuck."""
    rank = len(chain.dims)
    if node.op == "Transpose":
        chain.transpose(node.attrs.get("perm", list(range(rank))[::-1]))
    elif node.op == "Flatten":
        axis = node.attrs.get("axis", 1)
        if not isinstance(axis, int) or not -rank <= axis <= rank:
            raise Stuck
        chain.flatten(axis + rank if axis < 0 else axis)
    elif node.op == "Reshape":
        wanted = _numbers(node, "", 1)
        if node.attrs.get("allowzero", 0) and 0 in wanted:
            raise Stuck
        chain.reshape(wanted)
    else:
        axes = _numbers(node, "axes" if opset < 13 else "", 1)
        rank += len(axes) if node.op == "Unsqueeze" else 0
        if not axes or not all(-rank <= axis < rank for axis in axes):
            raise Stuck
        axes = [axis % rank for axis in axes]
        if node.op == "Unsqueeze":
            chain.unsqueeze(axes, rank)
        else:
            chain.squeeze(axes)


def _numbers(node: gs.Node, attribute: str, slot: int) -> list[int]:
    if attribute:
        found = node.attrs.get(attribute, [])
        if not isinstance(found, list):
            raise Stuck
        return [int(number) for number in found]
    array = Value(node.inputs[slot]).const if len(node.inputs) > slot and node.inputs[slot].name else None
    if array is None:
        raise Stuck
    return [int(number) for number in array.ravel()]


def _write(row: list[gs.Node], steps: list[Step], model: Model) -> None:
    edit, end = model.editor, row[-1]
    x = row[0].inputs[0]
    for op, numbers in steps:
        if op == "Transpose":
            made = edit.insert(op, [x], {"perm": numbers}, at=end)
        elif op == "Reshape" or model.opset(end) >= 13:
            made = edit.insert(op, [x, edit.constant(np.array(numbers, np.int64), op.lower())], at=end)
        else:
            made = edit.insert(op, [x], {"axes": numbers}, at=end)
        inherit(made, row, "shorten-movements")
        model.inference.node(made, model.imports(end))
        x = made.outputs[0]
    edit.replace(end.outputs[0], x, at=end)
    edit.prune([end])


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [shorten_movements]
