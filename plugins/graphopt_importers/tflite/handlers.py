"""Which function writes which operator of TFLite as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .reader import Array, Operator
from .scope import FIRST, Scope

Handler = Callable[[Scope, Operator], None]
HANDLERS: dict[str, Handler] = {}

NONE, RELU, RELU_N1_TO_1, RELU6, TANH = 0, 1, 2, 3, 4


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Registers a function for these operators."""

    def register(function: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


def activated(scope: Scope, operator: Operator, value: str) -> str:
    """The value after an operator's fused activation; none where rounding to the output's range does it."""
    kind = operator.option("FusedActivationFunction", NONE)
    quant, dtype = scope.tensor(operator.outputs[0]).quant, scope.tensor(operator.outputs[0]).dtype
    span = {RELU: (0.0, np.inf), RELU_N1_TO_1: (-1.0, 1.0), RELU6: (0.0, 6.0)}.get(kind)
    if span is not None and quant is not None and dtype.itemsize == 1:
        least, most = (
            float((bound - quant.zero[0]) * quant.scale[0]) for bound in (np.iinfo(dtype).min, np.iinfo(dtype).max)
        )
        if least >= span[0] and most <= span[1]:
            return value
    if kind == NONE:
        return value
    if kind == RELU:
        return scope.build("Relu", value)
    if kind == TANH:
        return scope.build("Tanh", value)
    if span is None:
        raise scope.error(operator, f"fused activation {kind} has no counterpart")
    return scope.build("Clip", value, scope.build.float(span[0]), scope.build.float(span[1]))


def operands(scope: Scope, indices: Sequence[int]) -> tuple[list[str], bool]:
    """Values that broadcast with each other as the tensors do, and whether they are channels first.

    They are, where everything of rank 4 that is computed stands so already, and the rest is constant.
    """
    first = scope.is_first(indices) and all(
        scope.rank(i) in (0, 4) or scope.const(i) is not None or scope.tensor(i).dims == (1,) for i in indices
    )
    if not first:
        return [scope.real(i) for i in indices], False
    return [_channels_first(scope, i) for i in indices], True


def _channels_first(scope: Scope, index: int) -> str:
    rank = scope.rank(index)
    if rank == 4:
        return scope.first(index)
    value = scope.const(index)
    if rank == 0 or value is None or value.size == 1:
        return scope.real(index)
    wide = value.reshape((1,) * (4 - rank) + value.shape)
    return scope.build.const(wide.transpose(FIRST), scope.tensor(index).name)


def axis_of(operator_axis: int, rank: int, first: bool) -> int:
    """A TFLite axis as it stands in the chosen order of dims."""
    axis = operator_axis + rank if operator_axis < 0 else operator_axis
    return FIRST.index(axis) if first else axis


def known(scope: Scope, operator: Operator, position: int, what: str) -> Array:
    """The value of an input that must be constant."""
    value = scope.const(operator.inputs[position])
    if value is None:
        raise scope.error(operator, f"its {what} is known only at run time")
    return value
