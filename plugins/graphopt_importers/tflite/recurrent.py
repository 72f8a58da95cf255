"""LSTM layers that stand in one operator."""

from __future__ import annotations

import numpy as np

from .handlers import TANH, handles
from .reader import Array, Operator
from .scope import Scope

_GATES = (0, 3, 1, 2)
"""ONNX orders gates i, o, f, c; TFLite i, f, c, o."""


@handles("UNIDIRECTIONAL_SEQUENCE_LSTM")
def lstm(scope: Scope, operator: Operator) -> None:
    """Inputs: x; 4 input weights; 4 recurrent weights; 3 peepholes; 4 biases; projection, its bias; 2 states; 4 norms.

    No input gate: it is 1 - forget gate. States begin at zero.
    """
    _refuse(scope, operator, [*operator.inputs, *[-1] * 24])
    made = _direction(scope, operator, [*operator.inputs, *[-1] * 24], "forward")
    scope.put(operator.outputs[0], made)


def _refuse(scope: Scope, operator: Operator, inputs: list[int]) -> None:
    if any(index >= 0 for index in inputs[16:18]):
        raise scope.error(operator, "an LSTM with a projection has no counterpart")
    if any(index >= 0 for index in inputs[20:24]):
        raise scope.error(operator, "an LSTM with layer normalization has no counterpart")
    if operator.option("FusedActivationFunction", TANH) != TANH:
        raise scope.error(operator, "an LSTM whose activation is not tanh has no counterpart")
    if operator.option("ProjClip", 0.0):
        raise scope.error(operator, "an LSTM that clips its projection has no counterpart")
    for index in inputs[18:20]:
        if index >= 0 and not scope.tensor(index).is_variable:
            value = scope.const(index)
            if value is None or value.any():
                raise scope.error(operator, "an LSTM that starts from a given state has no counterpart")


def _direction(scope: Scope, operator: Operator, inputs: list[int], direction: str) -> str:
    build = scope.build
    x = scope.real(inputs[0])
    coupled = inputs[1] < 0
    units = scope.tensor(inputs[2]).dims[0]

    def gates(start: int) -> list[Array]:
        found = []
        for gate in _GATES:
            index = inputs[start + gate]
            if index < 0:
                if not (coupled and gate == 0):
                    raise scope.error(operator, "a gate has no weights")
                index = inputs[start + 1]
            value = scope.const(index)
            if value is None:
                raise scope.error(operator, "its weights are known only at run time")
            found.append(np.asarray(value, np.float32))
        return found

    w, r = np.concatenate(gates(1))[None], np.concatenate(gates(5))[None]
    b = np.concatenate([*gates(12), np.zeros(4 * units, np.float32)])[None]
    peephole = ""
    if inputs[10] >= 0:
        chosen = [scope.const(inputs[n]) if inputs[n] >= 0 else np.zeros(units) for n in (9, 11, 10)]
        if any(one is None for one in chosen):
            raise scope.error(operator, "its peepholes are known only at run time")
        peephole = build.const(np.concatenate([np.asarray(one, np.float32) for one in chosen if one is not None])[None])
    major = bool(operator.option("TimeMajor", False))
    steps = x if major else build.transpose(x, 1, 0, 2)
    clip = float(operator.option("CellClip", 0.0))
    count = scope.tensor(inputs[0]).dims[0 if major else 1]
    if clip and not 0 < count <= clip:  # |cell| grows by less than 1 a step
        made_by = scope.tensor(operator.outputs[0]).name
        build.constants.notes.append(
            f"LSTM {made_by!r} clips its cell at {clip:g}, which the converter to TensorFlow Lite adds, and ONNX has "
            "not: left out; it makes a difference only where a cell gets there"
        )
    made = build(
        "LSTM", steps, build.const(w, "W"), build.const(r, "R"), build.const(b, "B"), "", "", "", peephole,
        hidden_size=units, direction=direction, input_forget=1 if coupled else None,
    )  # fmt: skip
    flat = build("Squeeze", made, build.ints(1))
    return flat if major else build.transpose(flat, 1, 0, 2)
