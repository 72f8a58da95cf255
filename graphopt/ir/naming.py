"""Where each constant is written, and under which names: an ONNX name must not hide or repeat another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphopt.errors import ModelError

from .graph import scopes, subgraphs

DEEPEST = 31
"""Control-flow bodies inside each other; one more, and its value types lie beyond protobuf's 100 levels."""


@dataclass
class Plan:
    """What the writer needs to know of the whole model before it writes the first node."""

    homes: dict[int, list[gs.Constant]] = field(default_factory=dict)
    """id(scope) -> the constants written there: in the scope that uses them, or where all their users see them."""
    renamed: dict[int, str] = field(default_factory=dict)
    """id(tensor) -> its name in the file, where its own is taken or missing; the graph is not changed."""


def plan(graph: gs.Graph) -> Plan:
    """The plan for a model. Raises ModelError where a node reads what nothing makes."""
    result = Plan()
    for root in (graph, *graph.functions):
        _settle(root, result.homes)
        _rename(root, result)
    return result


def _settle(root: gs.Graph, homes: dict[int, list[gs.Constant]]) -> None:
    found: dict[int, tuple[gs.Constant, gs.Graph]] = {}
    around: dict[int, gs.Graph] = {}

    def claim(tensor: gs.Constant, scope: gs.Graph) -> None:
        known = found.get(id(tensor))
        if known is None:
            found[id(tensor)] = (tensor, scope)
        elif known[1] is not scope:
            found[id(tensor)] = (tensor, _common(known[1], scope, around))

    fed: set[int] = set()
    for scope in scopes(root, functions=False):
        fed.update(map(id, scope.inputs))
        for node in scope.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    claim(tensor, scope)
                elif not tensor.inputs and tensor.name and id(tensor) not in fed:
                    raise ModelError(f"node {node.name!r} reads {tensor.name!r}, which nothing makes")
            if node.attrs:
                around.update((id(body), scope) for body in subgraphs(node))
        for tensor in scope.outputs:
            if isinstance(tensor, gs.Constant):
                claim(tensor, scope)
    for constant, scope in found.values():
        homes.setdefault(id(scope), []).append(constant)


def _common(one: gs.Graph, other: gs.Graph, around: dict[int, gs.Graph]) -> gs.Graph:
    """The innermost graph that holds both."""
    holders = {id(one)}
    while id(one) in around:
        one = around[id(one)]
        holders.add(id(one))
    while id(other) not in holders:
        other = around[id(other)]
    return other


def _made(scope: gs.Graph, plan: Plan) -> Iterator[gs.Tensor]:
    """Every tensor that the scope defines."""
    yield from scope.inputs
    yield from plan.homes.get(id(scope), ())
    for node in scope.nodes:
        yield from node.outputs


def _rename(root: gs.Graph, plan: Plan) -> None:
    fixed: dict[str, int] = {}
    for tensor in (*root.inputs, *root.outputs):
        if fixed.setdefault(tensor.name, id(tensor)) != id(tensor):
            raise ModelError(f"two inputs or outputs are called {tensor.name!r}")
    clashes: list[gs.Tensor] = []
    pending: list[tuple[gs.Graph, tuple[dict[str, int], ...]]] = [(root, (fixed,))]
    while pending:
        scope, outer = pending.pop()
        if len(outer) - 1 > DEEPEST:
            raise ModelError(f"its bodies are nested more than {DEEPEST} deep, which protobuf cannot read back")
        names: dict[str, int] = {}
        inner = (*outer, names)
        for tensor in _made(scope, plan):
            name = tensor.name
            if not name:
                if isinstance(tensor, gs.Constant):
                    clashes.append(tensor)
                continue
            mine = id(tensor)
            if names.setdefault(name, mine) != mine:
                clashes.append(tensor)
                continue
            for known in outer:
                if name in known and known[name] != mine:
                    clashes.append(tensor)
                    break
        for node in scope.nodes:
            if node.attrs:
                pending.extend((body, inner) for body in subgraphs(node))
    if not clashes:
        return
    taken = {tensor.name for scope in scopes(root, functions=False) for tensor in _made(scope, plan)} | set(fixed)
    count = 0
    for tensor in clashes:
        stem = tensor.name or "constant"
        while (name := f"{stem}_{count}") in taken:
            count += 1
        taken.add(name)
        plan.renamed[id(tensor)] = name
