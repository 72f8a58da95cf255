"""Recurrent operators: initial states of zeros are what they start from anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir.edits import inherit
from graphopt.ir.graph import new_variable
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES = frozenset("Split Expand Slice Reshape Transpose Squeeze Unsqueeze Identity Cast CastLike Gather Tile".split())
_LONGEST_WAY = 16
_LARGEST = 1 << 16


@graphopt.pass_("simplify")
def drop_zero_states(graph: gs.Graph, target: Target, model: Model) -> int:
    """LSTM(x, w, r, b, initial_h=0, initial_c=0) = LSTM(x, w, r, b), GRU and RNN alike.

    Zeros may be constants, ConstantOfShape of zeros of any shape, and either of them moved about.
    """
    edit = model.editor
    changes = 0
    for node in edit.nodes():
        if node.op not in _STATES or not is_standard(node) or not edit.has(node):
            continue
        for slot in _STATES[node.op]:
            if slot >= len(node.inputs) or not node.inputs[slot].name or not _is_zero(node.inputs[slot]):
                continue
            state = node.inputs[slot]
            makers = list(state.inputs)
            node.inputs[slot] = new_variable("")
            edit.edited(node)
            inherit(node, [node, *makers], "drop-zero-states")
            edit.prune(makers)
            changes += 1
        while node.inputs and not node.inputs[-1].name:
            node.inputs.pop()
    return changes


def _is_zero(tensor: gs.Tensor) -> bool:
    """Whether every element is proved to be +0 or -0, whatever the shape."""
    for _ in range(_LONGEST_WAY):
        constant = constant_of(tensor)
        if constant is not None:
            value = Value(constant)
            return (value.size or 0) <= _LARGEST and value.const is not None and not np.any(value.const)
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or not is_standard(maker):
            return False
        if maker.op == "ConstantOfShape":
            fill = maker.attrs.get("value")
            return fill is None or (isinstance(fill, gs.Constant) and not np.any(Value(fill).const))
        if maker.op not in _MOVES:
            return False
        tensor = maker.inputs[0]
    return False


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [drop_zero_states]
