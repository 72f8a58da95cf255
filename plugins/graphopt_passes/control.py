"""Control flow whose way is known."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir.edits import inherit
from graphopt.ir.graph import scopes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model


@graphopt.pass_("canonicalize", after=["fold-constants"], ops=["If"])
def inline_known_if(graph: gs.Graph, target: Target, model: Model) -> int:
    """If(constant) is the branch that runs, its nodes moved to where the If was."""
    changes = 0
    for scope in list(scopes(graph)):
        for node in list(scope.nodes):
            if node.op != "If" or not is_standard(node) or not model.editor.has(node):
                continue
            if constant_of(node.inputs[0]) is None:
                continue
            condition = Value(node.inputs[0]).const
            if condition is None or condition.size != 1:
                continue
            _inline(node, node.attrs["then_branch" if bool(condition.ravel()[0]) else "else_branch"], scope, model)
            changes += 1
    return changes


def _inline(node: gs.Node, body: gs.Graph, scope: gs.Graph, model: Model) -> None:
    edit = model.editor
    edit.flush()
    moved = list(body.nodes)
    outputs = list(body.outputs)
    for slot, tensor in enumerate(outputs):
        edit.set_output(body, slot, gs.Variable(f"{tensor.name}_moved"))
    body.nodes.clear()
    for part in moved:
        edit.move(part, at=node)
        inherit(part, [part, node], "inline-known-if")
    edit.replace_all(((old, new) for old, new in zip(node.outputs, outputs, strict=True) if old.name), at=node)
    edit.prune([node, *reversed(moved)])
    edit.flush()


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [inline_known_if]
