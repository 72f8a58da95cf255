"""Reductions that say what to do without axes, and have axes."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.rewrite.value import Value

KINDS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


class _DropNoopWithEmptyAxes(graphopt.Rule):
    """Reduce(x, axes, noop_with_empty_axes=1) = Reduce(x, axes), axes constant and not empty.

    Other rules name no such attribute, and would not match. tf2onnx writes it on every mean.
    """

    stage = "canonicalize"
    kind: str

    def pattern(self, op: Any, x: Any, axes: Any, keep: Any) -> Any:
        return getattr(op, self.kind)(x, op.Const(axes), keepdims=keep, noop_with_empty_axes=1)

    def check(self, op: Any, axes: Value) -> str | None:
        return None if axes.size else "there are no axes"

    def rewrite(self, op: Any, x: Value, axes: Value, keep: int) -> Any:
        return getattr(op, self.kind)(x, axes, keepdims=keep)


def _rule(kind: str) -> type[graphopt.Rule]:
    doc = f"{kind}(x, axes, noop_with_empty_axes=1) = {kind}(x, axes), axes constant and not empty."
    return type(f"{kind}WithAxes", (_DropNoopWithEmptyAxes,), {"kind": kind, "__doc__": doc})


RULES = [_rule(f"Reduce{kind}") for kind in KINDS]
"""Made once: what was worked out for a rule is remembered by its class."""


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [rule() for rule in RULES]
