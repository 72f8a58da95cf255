"""Conditions that are known because their result must fit what reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.rewrite.spelling import is_standard, moved
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

from .elementwise import UNARY

_RECURRENT = {0: 3, 1: 3, 2: 3, 5: 3, 6: 3}
"""Input -> rank."""
_DEMANDS = {"LSTM": _RECURRENT, "GRU": _RECURRENT, "RNN": _RECURRENT, "Gemm": {0: 2, 1: 2}}
_FAR = 4


@graphopt.pass_("canonicalize", after=["fold-constants"], before=["inline-known-if"], ops=["If"])
def decide_if_by_rank(graph: gs.Graph, target: Target, model: Model) -> int:
    """If(c) whose branches give different ranks, of which its reader takes one only: c is what gives that one.

    Readers: recurrent operators, Conv and Gemm, maybe behind Squeeze, Unsqueeze and what works element by element; in
    the scope of the If, so that they run whenever it does. With the other branch the model could not run.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("If"):
        if not is_standard(node) or constant_of(node.inputs[0]) is not None:
            continue
        taken = _taken(node, model)
        if taken is None:
            continue
        condition, scope = node.inputs[0], edit.scope(node)
        maker = condition.inputs[0] if condition.inputs else None
        here = maker is not None and edit.scope(maker) is scope
        readers = [user for user in condition.outputs if user.op == "If" and is_standard(user)] if here else [node]
        known = edit.constant(np.array(taken), f"{condition.name}_known")
        for user in readers:
            user.inputs[0] = known
            edit.edited(user)
            changes += 1
        if maker is not None:
            edit.prune([maker])
    return changes


def _taken(node: gs.Node, model: Model) -> bool | None:
    """Whether the condition must be true, or false; None if that is not known."""
    branches = [node.attrs.get("else_branch"), node.attrs.get("then_branch")]
    if not all(isinstance(branch, gs.Graph) for branch in branches):
        return None
    for slot, tensor in enumerate(node.outputs):
        known = [shapes.of(branch.outputs[slot]) for branch in branches]
        ranks = [None if shape is None else len(shape) for shape in known]
        if ranks[0] == ranks[1]:
            continue
        wanted = _demanded(tensor, node, model, _FAR)
        fits = [rank is None or rank == wanted for rank in ranks]
        if wanted is not None and fits.count(True) == 1:
            return fits[1]
    return None


def _demanded(tensor: gs.Tensor, node: gs.Node, model: Model, far: int) -> int | None:
    """The rank that a reader in the scope of `node` demands of a tensor."""
    scope = model.editor.scope(node)
    for user in tensor.outputs:
        if not is_standard(user) or model.editor.scope(user) is not scope:
            continue
        slot = next(i for i, read in enumerate(user.inputs) if read is tensor)
        found = _DEMANDS.get(user.op, {}).get(slot)
        if user.op == "Conv" and slot == 0:
            weights = shapes.of(user.inputs[1])
            found = None if weights is None else len(weights)
        elif slot == 0 and far and (change := _change(user, model)) is not None:
            behind = _demanded(user.outputs[0], node, model, far - 1)
            found = None if behind is None else behind - change
        if found is not None:
            return found
    return None


def _change(node: gs.Node, model: Model) -> int | None:
    """By how much a node raises the rank of its first input; None if that is not known."""
    if node.op in UNARY:
        return 0
    if node.op not in ("Squeeze", "Unsqueeze"):
        return None
    if moved(node.op, model.opset(node)):
        axes = node.attrs.get("axes")
        count = len(axes) if isinstance(axes, list) else None
    else:
        known = len(node.inputs) > 1 and constant_of(node.inputs[1]) is not None
        count = Value(node.inputs[1]).size if known else None
    return None if not count else count if node.op == "Unsqueeze" else -count


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [decide_if_by_rank]
