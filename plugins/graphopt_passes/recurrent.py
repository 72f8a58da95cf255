"""Recurrent operators: initial states of zeros are what they start from anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import inherit
from graphopt.ir.graph import new_variable
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES = frozenset("Split Expand Slice Reshape Transpose Squeeze Unsqueeze Identity Cast CastLike Gather Tile".split())
_TENSORRT = ("tensorrt", "tensorrt_rtx")
_LONGEST_WAY = 16
_LARGEST = 1 << 16


@graphopt.pass_("simplify", ops=tuple(_STATES))
def drop_zero_states(graph: gs.Graph, target: Target, model: Model) -> int:
    """LSTM(x, w, r, b, initial_h=0, initial_c=0) = LSTM(x, w, r, b), GRU and RNN alike.

    Zeros may be constants, ConstantOfShape of zeros of any shape, and either of them moved about. For TensorRT they
    become a constant where the batch is known: its parser makes two layers more of a state that is left out.
    """
    edit = model.editor
    changes = 0
    for node in edit.of(*_STATES):
        if not is_standard(node) or not edit.has(node):
            continue
        for slot in _STATES[node.op]:
            if slot >= len(node.inputs) or not node.inputs[slot].name or not _is_zero(node.inputs[slot]):
                continue
            state = node.inputs[slot]
            shape = _state_shape(node) if target.backend in _TENSORRT and model.home(node) is graph else None
            if shape is not None and isinstance(state, gs.Constant) and tuple(state.shape) == shape:
                continue
            makers = list(state.inputs)
            zeros = None if shape is None else edit.constant(np.zeros(shape, dtypes.of(node.inputs[0])), state.name)
            node.inputs[slot] = zeros or new_variable("")
            edit.edited(node)
            inherit(node, [node, *makers], "drop-zero-states")
            edit.prune(makers)
            changes += 1
        while node.inputs and not node.inputs[-1].name:
            node.inputs.pop()
    return changes


def _state_shape(node: gs.Node) -> tuple[int, int, int] | None:
    """The shape of an initial state where it is known, and not large; for the usual layout."""
    shape, hidden = shapes.of(node.inputs[0]), node.attrs.get("hidden_size")
    if shape is None or len(shape) != 3 or not isinstance(hidden, int) or node.attrs.get("layout"):
        return None
    directions = 2 if node.attrs.get("direction") == "bidirectional" else 1
    batch = shape[1]
    if not isinstance(batch, int) or batch * hidden > _LARGEST or dtypes.of(node.inputs[0]) is None:
        return None
    return directions, batch, hidden


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
