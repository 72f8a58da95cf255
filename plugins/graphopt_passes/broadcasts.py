"""Expand before an operator that broadcasts anyway."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

from .elementwise import BINARY, VARIADIC

_READERS = (BINARY | VARIADIC) - {"PRelu"}


@graphopt.pass_("simplify", ops=["Expand"])
def skip_expand(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(Expand(x, shape), y) = f(x, y) for f that broadcasts, where y alone already has the shape of the result."""
    edit = model.editor
    changes = 0
    for node in edit.of("Expand"):
        if not is_standard(node) or not edit.has(node):
            continue
        source, large = node.inputs[0], node.outputs[0]
        changed = 0
        for user in list({id(user): user for user in large.outputs}.values()):
            if user.op in _READERS and is_standard(user) and _has_shape_without(user, large):
                for slot, tensor in enumerate(user.inputs):
                    if tensor is large:
                        user.inputs[slot] = source
                        changed += 1
                edit.edited(user)
                inherit(user, [user, node], "skip-expand")
        if changed:
            edit.prune([node])
        changes += changed
    return changes


def _has_shape_without(user: gs.Node, large: gs.Tensor) -> bool:
    """Whether one other operand alone is proved to have at least the shape of the expanded one."""
    wanted = shapes.of(large)
    return any(tensor is not large and shapes.expands(wanted, shapes.of(tensor)) for tensor in user.inputs)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [skip_expand]
