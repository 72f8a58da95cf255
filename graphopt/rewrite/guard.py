"""A cheap look before a match is tried: which operators must stand directly above the root."""

from __future__ import annotations

from typing import NamedTuple

import onnx_graphsurgeon as gs

from .pattern import Const, Either, NodePattern, Operand, Output, Var
from .spelling import COMMUTATIVE, MOVED


class Need(NamedTuple):
    """What one input of the root must be."""

    slot: int
    ops: frozenset[str]
    """Operators of its producer; empty: it must be a constant."""


Guard = tuple[tuple[Need, ...], bool]
"""What the inputs must be, and whether the two may be swapped."""


def guard(root: NodePattern) -> Guard:
    """What can be told of a root's inputs without matching."""
    needs = []
    for slot, operand in enumerate(root.inputs):
        if isinstance(operand, Var) and operand.rest:
            break
        ops = _ops(operand)
        if ops is not None and (ops or root.op not in MOVED):
            needs.append(Need(slot, ops))
    return tuple(needs), root.op in COMMUTATIVE and len(root.inputs) == 2


def _ops(operand: Operand) -> frozenset[str] | None:
    if isinstance(operand, Const):
        return frozenset()
    if isinstance(operand, NodePattern):
        return frozenset((operand.op,))
    if isinstance(operand, Output):
        return frozenset((operand.node.op,))
    if isinstance(operand, Either):
        parts = [_ops(option) for option in operand.options]
        if all(part for part in parts):
            return frozenset().union(*(part for part in parts if part))
    return None


def may_match(node: gs.Node, wanted: Guard) -> bool:
    """Whether the root's inputs look right; False only where no match is possible."""
    needs, swappable = wanted
    inputs = node.inputs
    if swappable and len(inputs) == 2:
        return _fit(inputs, needs, 0) or _fit(inputs, needs, 1)
    return _fit(inputs, needs, 0)


def _fit(inputs: list[gs.Tensor], needs: tuple[Need, ...], flip: int) -> bool:
    for slot, ops in needs:
        slot ^= flip
        if slot >= len(inputs):
            return False
        tensor = inputs[slot]
        producers = tensor.inputs
        if not ops:
            if type(tensor) is not gs.Constant and not (producers and producers[0].op == "Constant"):
                return False
        elif not producers or producers[0].op not in ops:
            return False
    return True
