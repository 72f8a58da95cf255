"""A scope as a networkx graph, and the questions on it that decide whether nodes may be fused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx
import onnx_graphsurgeon as gs

from .order import reads

SOURCE = -1
"""Stands before everything: what comes from inputs, constants and enclosing scopes."""


class View:
    """The nodes of one scope and what flows between them; a snapshot, made in linear time.

    Captures count: a node that holds bodies reads what they read.
    """

    def __init__(self, scope: gs.Graph) -> None:
        self.nodes = list(scope.nodes)
        self._number = {id(node): number for number, node in enumerate(self.nodes)}
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            for tensor in reads(node):
                producer = self._number.get(id(tensor.inputs[0])) if tensor.inputs else None
                if producer is not None and producer != number:
                    self.graph.add_edge(producer, number)
        self._dominators: dict[Any, Any] | None = None

    def number(self, node: gs.Node) -> int:
        """The node's number in `graph`. Raises KeyError if it is not of this scope."""
        return self._number[id(node)]

    def is_convex(self, nodes: Iterable[gs.Node]) -> bool:
        """Whether no path leaves the set and comes back: only then can it become one node without making a cycle."""
        inside = {self.number(node) for node in nodes}
        if not inside:
            return True
        last = max(inside)
        seen: set[int] = set()
        front = [after for one in inside for after in self.graph.successors(one) if after not in inside]
        while front:
            number = front.pop()
            if number in seen or number > last:
                continue  # nodes are sorted: nothing beyond the last one leads back
            seen.add(number)
            for after in self.graph.successors(number):
                if after in inside:
                    return False
                front.append(after)
        return True

    def dominates(self, first: gs.Node, second: gs.Node) -> bool:
        """Whether every path from inputs to `second` goes through `first`; a node dominates itself."""
        if self._dominators is None:
            rooted = self.graph.copy()
            rooted.add_edges_from((SOURCE, n) for n in list(self.graph) if not self.graph.in_degree(n))
            for number, node in enumerate(self.nodes):
                if any(not t.inputs and isinstance(t, gs.Variable) and t.name for t in reads(node)):
                    rooted.add_edge(SOURCE, number)
            rooted.add_node(SOURCE)
            self._dominators = dict(nx.immediate_dominators(rooted, SOURCE))
        wanted, at = self.number(first), self.number(second)
        while at != SOURCE:
            if at == wanted:
                return True
            above = self._dominators.get(at, SOURCE)
            if above is None or above == at:
                return False
            at = above
        return False

    def between(self, first: gs.Node, second: gs.Node) -> list[gs.Node]:
        """The nodes on any path from `first` to `second`, both included; empty if there is none."""
        a, b = self.number(first), self.number(second)
        ahead = nx.descendants(self.graph, a) | {a}
        if b not in ahead:
            return []
        behind = nx.ancestors(self.graph, b) | {b}
        return [self.nodes[number] for number in sorted(ahead & behind)]
