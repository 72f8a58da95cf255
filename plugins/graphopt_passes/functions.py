"""Model-local functions: calls become what they call, so that other rules see it."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Limits, Target
from graphopt.ir.edits import inherit
from graphopt.ir.graph import new_variable, peek, scopes
from graphopt.rewrite.worklist import Model

from .copies import Copier

_LIMIT = Limits().inlined_nodes
LAYERS = "graphopt"
"""The domain of custom layers."""
Key = tuple[str, str, str]


def stays_call(node: gs.Node) -> bool:
    """Whether a call is meant for a plugin of the engine, which takes it by its name: a custom layer."""
    return node.domain == LAYERS or "plugin_namespace" in node.attrs


@graphopt.pass_("canonicalize", before=["lift-constants"], typed=False)
def inline_functions(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x) = body of f, for model-local functions f; those that nothing calls any more are removed.

    Not for custom layers (domain `graphopt`, or attribute `plugin_namespace`), which an engine's plugin takes over. Not
    where the body's opset means something else by one of its operators than the model's, and for a call
    that would become more than `Limits.inlined_nodes` nodes.

    The copies are made here rather than by onnx.inliner: weights stay where they are, lazily, and each node remembers
    the call that it stands for.
    """
    functions: dict[Key, gs.Function] = {_key(function): function for function in graph.functions}
    if not functions:
        return 0
    fits = {key: _fits(function, graph) for key, function in functions.items()}
    edit = model.editor
    changes = 0
    sizes: dict[Key, int] = {}
    pending = [node for scope in scopes(graph, functions=False) for node in scope.nodes]
    pending.reverse()
    while pending:
        node = pending.pop()
        key = _called(node)
        if key not in functions or not fits[key] or stays_call(node) or not edit.has(node):
            continue
        if _expanded(key, functions, sizes) > _LIMIT:
            continue
        made = _inline(node, functions[key], graph, model)
        pending.extend(reversed(made))
        for new in made:
            pending.extend(part for scope in _bodies(new) for part in scope.nodes)
        changes += 1
    return changes + _remove_uncalled(graph, functions, model)


def _key(function: gs.Function) -> Key:
    known = peek(function)
    return function.domain or "", function.name, known.overload if known is not None else ""


def _called(node: gs.Node) -> Key:
    known = peek(node)
    return node.domain or "", node.op, known.overload if known is not None else ""


def _expanded(key: Key, functions: dict[Key, gs.Function], sizes: dict[Key, int]) -> int:
    """How many nodes a call becomes in the end; calls form no circles."""
    if key not in sizes:
        nodes = [node for scope in scopes(functions[key], functions=False) for node in scope.nodes]
        inner = [_called(node) for node in nodes]
        sizes[key] = sum(_expanded(name, functions, sizes) if name in functions else 1 for name in inner)
    return sizes[key]


def _bodies(node: gs.Node) -> list[gs.Graph]:
    held = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    return [scope for body in held for scope in scopes(body, functions=False)]


def _fits(function: gs.Function, graph: gs.Graph) -> bool:
    """Whether the body means the same under the imports of the model."""
    theirs, ours = ({_domain(e.domain): e.version for e in root.import_domains or ()} for root in (function, graph))
    ours.setdefault("", graph.opset)
    for scope in scopes(function, functions=False):
        for node in scope.nodes:
            domain = _domain(node.domain)
            old, new = theirs.get(domain), ours.get(domain)
            if old is None or old == new or (new is None and domain):
                continue
            if domain or new is None or not _since(node.op, old) == _since(node.op, new) > 0:
                return False
    return True


def _domain(name: str | None) -> str:
    return "" if name in (None, "", "ai.onnx") else str(name)


def _since(op: str, opset: int) -> int:
    return int(onnx.defs.get_schema(op, opset).since_version) if onnx.defs.has(op, opset) else 0


def _inline(call: gs.Node, function: gs.Function, graph: gs.Graph, model: Model) -> list[gs.Node]:
    edit = model.editor
    given = [*call.inputs, *(new_variable("") for _ in range(len(function.inputs) - len(call.inputs)))]
    known = {id(formal): actual for formal, actual in zip(function.inputs, given, strict=True)}
    attrs = {name: call.attrs.get(name, default) for name, default in function.attrs.items()}
    copier = Copier(known, edit.fresh, attrs, graph.opset)
    made = []
    for part in function.nodes:
        new = copier.node(part, f"{call.name}/{part.name or part.op}" if call.name else part.name or part.op)
        edit.attach(new, call)
        inherit(new, [call], "inline-functions")
        made.append(new)
    results = zip(call.outputs, function.outputs, strict=False)
    edit.replace_all([(old, copier.tensor(formal)) for old, formal in results if old.name], at=call)
    edit.remove(call)
    known_domains = {_domain(entry.domain) for entry in graph.import_domains or ()}
    if graph.import_domains is not None:
        graph.import_domains.extend(
            entry for entry in function.import_domains or () if _domain(entry.domain) not in known_domains | {""}
        )
    return made


def _remove_uncalled(graph: gs.Graph, functions: dict[Key, gs.Function], model: Model) -> int:
    called: set[Key] = set()
    pending: list[gs.Graph] = [graph]
    while pending:
        for scope in scopes(pending.pop(), functions=False):
            for node in scope.nodes:
                key = _called(node)
                if key in functions and key not in called:
                    called.add(key)
                    pending.append(functions[key])
    gone = [function for key, function in functions.items() if key not in called]
    for function in gone:
        for node in reversed(list(function.nodes)):
            model.editor.remove(node)
    if gone:
        model.editor.changes += 1
        dropped = {id(function) for function in gone}
        graph.functions[:] = [function for function in graph.functions if id(function) not in dropped]
    return len(gone)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [inline_functions]
