"""A graph's structure at one moment: nodes, edges and attributes as they were, weights not copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import shapes
from graphopt.ir.graph import peek, scopes
from graphopt.ir.order import is_sorted, toposort


@dataclass(slots=True)
class Step:
    """A node as it was: what happens to the node later does not change it.

    attrs: bodies are `Frozen`. key: equal where operator and attributes are. forms: the shapes of the outputs.
    """

    node: gs.Node
    name: str
    op: str
    domain: str
    overload: str
    attrs: dict[str, Any]
    key: tuple[Any, ...]
    ins: tuple[gs.Tensor, ...]
    outs: tuple[gs.Tensor, ...]
    forms: tuple[shapes.Shape, ...]

    def bodies(self) -> Iterator[Frozen]:
        for value in self.attrs.values():
            if isinstance(value, Frozen):
                yield value
            elif type(value) is list and value and isinstance(value[0], Frozen):
                yield from value


@dataclass(slots=True)
class Frozen:
    """A graph, body or function as it was."""

    scope: gs.Graph
    inputs: tuple[gs.Tensor, ...]
    outputs: tuple[gs.Tensor, ...]
    steps: list[Step] = field(default_factory=list)

    def read(self) -> Iterator[gs.Tensor]:
        """The tensors that it takes from outside."""
        own = {id(tensor) for tensor in self.inputs}
        for step in self.steps:
            own.update(map(id, step.outs))
        seen: set[int] = set()
        needed = [*self.outputs]
        for step in self.steps:
            needed.extend(step.ins)
            for body in step.bodies():
                needed.extend(body.read())
        for tensor in needed:
            if id(tensor) not in own and id(tensor) not in seen and tensor.name:
                seen.add(id(tensor))
                yield tensor


def freeze_node(node: gs.Node, bodies: dict[int, Frozen] | None = None) -> Step:
    """A node as it is now, with its bodies (found in `bodies`, or frozen with it)."""
    attrs: dict[str, Any] = {}
    key: list[Any] = [node.op, node.domain or ""]
    for name, value in node.attrs.items():
        kind = type(value)
        if isinstance(value, gs.Graph):
            attrs[name] = bodies[id(value)] if bodies and id(value) in bodies else freeze(value)
            key.append((name, id(value)))
        elif kind is list:
            if value and isinstance(value[0], gs.Graph):
                attrs[name] = [bodies[id(v)] if bodies and id(v) in bodies else freeze(v) for v in value]
                key.append((name, *map(id, value)))
            else:
                attrs[name] = list(value)
                key.append((name, *[v if isinstance(v, (int, float, str, bytes)) else id(v) for v in value]))
        else:
            attrs[name] = value
            plain = isinstance(value, (int, float, str, bytes))
            key.append((name, value if plain else (id(value), id(getattr(value, "_values", None)))))
    known = peek(node)
    outs = tuple(node.outputs)
    return Step(
        node,
        node.name,
        node.op,
        node.domain or "",
        known.overload if known is not None else "",
        attrs,
        tuple(key),
        tuple(node.inputs),
        outs,
        tuple([shapes.of(tensor) for tensor in outs]),
    )


def freeze(scope: gs.Graph, bodies: dict[int, Frozen] | None = None) -> Frozen:
    """A scope as it is now."""
    nodes = scope.nodes if is_sorted(scope.nodes) else toposort(list(scope.nodes), scope.name or "")
    return Frozen(scope, tuple(scope.inputs), tuple(scope.outputs), [freeze_node(node, bodies) for node in nodes])


def freeze_all(graph: gs.Graph) -> dict[int, Frozen]:
    """Every scope of a model by its id, the innermost first."""
    found: dict[int, Frozen] = {}
    for scope in reversed(list(scopes(graph))):
        found[id(scope)] = freeze(scope, found)
    return found
