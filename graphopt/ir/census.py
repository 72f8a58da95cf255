"""Which nodes and scopes a model has, kept up to date by its editor: nobody looks at every node to find a few."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from .graph import scopes


class Census:
    """The nodes of a model by operator, and its scopes."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._scopes: list[gs.Graph] | None = None
        self._functions: list[int] = []
        self._operators: dict[str, dict[int, gs.Node]] = {}
        self._held: dict[int, str] = {}
        """id(node) -> the operator under which it is kept."""

    def scopes(self) -> list[gs.Graph]:
        """The model, its bodies and functions, in the order of `ir.graph.scopes`."""
        functions = list(map(id, self._graph.functions))
        if self._scopes is None or self._functions != functions:
            self._scopes, self._functions = list(scopes(self._graph)), functions
        return self._scopes

    def forget_scopes(self) -> None:
        """A body came or went."""
        self._scopes = None

    def add(self, node: gs.Node) -> None:
        """A node came, or its operator was changed."""
        held = self._held.get(id(node))
        if held is not None and held != node.op:
            self._operators[held].pop(id(node), None)
        self._held[id(node)] = node.op
        self._operators.setdefault(node.op, {})[id(node)] = node

    def drop(self, node: gs.Node) -> None:
        """A node went."""
        held = self._held.pop(id(node), None)
        if held is not None:
            del self._operators[held][id(node)]

    def of(self, operators: Iterable[str]) -> list[gs.Node]:
        """The nodes of these operators, in no order."""
        return [node for op in operators for node in self._operators.get(op, {}).values()]

    def has_any(self, operators: Iterable[str]) -> bool:
        """Whether there is a node of one of these operators."""
        return any(self._operators.get(op) for op in operators)
