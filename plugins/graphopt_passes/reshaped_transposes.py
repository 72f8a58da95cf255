"""A Transpose between two Reshapes that only join leading axes and part them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

Groups = list[list[int]]


@graphopt.pass_("simplify", after=["compose-transposes"], ops=["Transpose"])
def transpose_without_reshapes(graph: gs.Graph, target: Target, model: Model) -> int:
    """Reshape(Transpose(Reshape(x, s), p), t) = Transpose(x, q) where s joins neighbouring axes and t parts them again.

    Not where a joined axis is parted into other sizes, or sizes are not proved to be equal.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Reshape"):
        transpose = _maker(node, "Reshape", "Transpose")
        first = _maker(transpose, "Transpose", "Reshape") if transpose is not None else None
        if transpose is None or first is None or not edit.has(node):
            continue
        perm = transpose.attrs.get("perm")
        before, middle = shapes.of(first.inputs[0]), shapes.of(first.outputs[0])
        after = shapes.of(node.outputs[0])
        if not perm or before is None or middle is None or after is None or len(before) != len(after):
            continue
        order = _order(before, middle, list(perm), after)
        if order is None:
            continue
        made = edit.insert("Transpose", [first.inputs[0]], {"perm": order}, at=node)
        inherit(made, [node, transpose, first], "transpose-without-reshapes")
        model.inference.node(made, model.imports(node))
        edit.replace(node.outputs[0], made.outputs[0], at=node)
        edit.prune([node])
        changes += 1
    return changes


def _maker(node: gs.Node, op: str, before: str) -> gs.Node | None:
    if node.op != op or not is_standard(node) or not node.inputs or not node.inputs[0].inputs:
        return None
    maker = node.inputs[0].inputs[0]
    return maker if maker.op == before and is_standard(maker) else None


def _order(before: Sequence[Any], middle: Sequence[Any], perm: list[int], after: Sequence[Any]) -> list[int] | None:
    """The permutation that the three make together."""
    joined = _groups(before, middle)
    parted = _groups(after, [middle[axis] for axis in perm])
    if joined is None or parted is None:
        return None
    order: list[int] = []
    for place, group in enumerate(parted):
        old = joined[perm[place]]
        if len(old) != len(group):
            return None
        if not all(shapes.same_dim(before[a], after[b]) for a, b in zip(old, group, strict=True)):
            return None
        order.extend(old)
    return order


def _groups(fine: Sequence[Any], coarse: Sequence[Any]) -> Groups | None:
    """Which neighbouring axes of `fine` each axis of `coarse` stands for: one run is joined, all others are kept."""
    extra = len(fine) - len(coarse)
    if extra < 1:
        return None
    left = 0
    while left < len(coarse) and shapes.same_dim(fine[left], coarse[left]) and fine[left] != 0:
        left += 1
    right = 0
    while right < len(coarse) and shapes.same_dim(fine[-1 - right], coarse[-1 - right]) and fine[-1 - right] != 0:
        right += 1
    if left + right < len(coarse) - 1 or 0 in fine:
        return None
    left = min(left, len(coarse) - 1)
    if left + right > len(coarse) - 1:  # several ways, as 1 x 1 x n = 1 x n: none is the only one
        return None
    return [
        *([axis] for axis in range(left)),
        list(range(left, left + extra + 1)),
        *([axis] for axis in range(left + extra + 1, len(fine))),
    ]


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [transpose_without_reshapes]
