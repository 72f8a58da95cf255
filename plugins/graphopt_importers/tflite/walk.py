"""Every operator that the outputs need, in the file's order."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from graphopt.errors import ModelError

from .handlers import HANDLERS
from .scope import Scope

_DEEPEST = 20
_UNREADABLE = (struct.error, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, AssertionError)


def walk(scope: Scope, outputs: Sequence[int]) -> None:
    """Writes the nodes that make the outputs. Raises ModelError that names an operator that has no counterpart."""
    if scope.depth > _DEEPEST:
        raise ModelError(f"graphs stand in each other {_DEEPEST} deep", where=scope.source)
    needed, chosen = set(outputs), []
    for operator in reversed(scope.graph.operators):
        if needed & set(operator.outputs) and not all(index in scope.forms for index in operator.outputs):
            chosen.append(operator)
            needed.update(operator.inputs)
    for operator in reversed(chosen):
        if operator.op not in HANDLERS:
            before = ", ".join(scope.tensor(i).name for i in operator.inputs if i in scope.forms)
            hint = f"end before it: --import-option 'outputs={before.replace(', ', ',')}'" if before else ""
            raise scope.error(operator, "it has no counterpart in ONNX", hint)
        scope.build.where = scope.tensor(operator.outputs[0]).name
        try:
            HANDLERS[operator.op](scope, operator)
        except _UNREADABLE as error:
            raise scope.error(operator, f"it cannot be read: {error}", "is the file damaged?") from error
