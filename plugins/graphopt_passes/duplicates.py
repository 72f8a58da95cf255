"""What is there twice: equal weights, equal computations."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir.edits import inherit
from graphopt.ir.graph import scopes, subgraphs
from graphopt.ir.weights import digest, nbytes
from graphopt.rewrite.spelling import RANDOM, is_standard
from graphopt.rewrite.worklist import Model


@graphopt.pass_("simplify")
def merge_equal_weights(graph: gs.Graph, target: Target, model: Model) -> int:
    """Constants of equal dtype, shape and bytes are one, across subgraphs; each weight is read once.

    Not across functions, whose bodies see nothing outside.
    """
    changes = 0
    for home in (graph, *graph.functions):
        constants: dict[int, gs.Constant] = {}
        for scope in scopes(home, functions=False):
            for node in scope.nodes:
                for tensor in node.inputs:
                    if isinstance(tensor, gs.Constant):
                        constants[id(tensor)] = tensor
        alike: dict[Any, list[gs.Constant]] = {}
        for tensor in constants.values():
            if not model.editor.is_result(tensor):
                alike.setdefault((str(tensor.dtype), tuple(tensor.shape), nbytes(tensor)), []).append(tensor)
        for group in alike.values():
            first: dict[bytes, gs.Constant] = {}
            for tensor in group if len(group) > 1 else ():
                kept = first.setdefault(digest(tensor), tensor)
                if kept is not tensor:
                    model.editor.replace_uses(tensor, kept)
                    changes += 1
    return changes


@graphopt.pass_("simplify", after=["merge-equal-weights"])
def merge_equal_nodes(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x) = f(x): nodes of equal operator, attributes and inputs in one scope are one.

    Never random operators, control flow, calls of functions or operators of other domains (which may have state).
    """
    edit = model.editor
    changes = 0
    for scope in scopes(graph):
        seen: dict[Any, gs.Node] = {}
        for node in list(scope.nodes):
            if not edit.has(node) or not _is_pure(node):
                continue
            key = _key(node)
            if key is None:
                continue
            kept = seen.setdefault(key, node)
            if kept is node:
                continue
            pairs = list(zip(kept.outputs, node.outputs, strict=False))
            if any(bool(a.name) != bool(b.name) or edit.is_result(b) for a, b in pairs):
                continue
            for a, b in pairs:
                if b.name:
                    edit.replace(b, a)
            inherit(kept, [kept, node], "merge-equal-nodes")
            edit.prune([node])
            changes += 1
    return changes


def _is_pure(node: gs.Node) -> bool:
    if node.op in RANDOM or not is_standard(node) or node.op.startswith(("Sequence", "Optional")):
        return False
    return not (node.op == "Dropout" and len(node.inputs) > 2) and not any(subgraphs(node))


def _key(node: gs.Node) -> Any:
    attrs = []
    for name, value in sorted(node.attrs.items()):
        if isinstance(value, gs.Constant):
            value = (str(value.dtype), tuple(value.shape), digest(value))
        elif isinstance(value, gs.Node.AttributeRef):
            value = ("reference", value.name)
        elif isinstance(value, list):
            value = tuple(value)
        try:
            hash(value)
        except TypeError:
            return None
        attrs.append((name, type(value), value if not isinstance(value, float) else value.hex()))
    inputs = tuple(id(tensor) if tensor.name else 0 for tensor in node.inputs)
    return node.op, tuple(attrs), inputs, len(node.outputs)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [merge_equal_weights, merge_equal_nodes]
