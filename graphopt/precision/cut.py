"""Which atoms are computed low, so that casts and float32 work together cost least: a minimum cut.

A value costs a cast if it is made low and read high by anybody, and one if it is made high and read low by anybody,
however many read it. Both are edges of a flow network over the atoms, with one node more for each:

    made high, read low:   maker -(1 cast)-> v -(infinite)-> each reader
    made low, read high:   each reader -(infinite)-> u -(1 cast)-> maker

with float32 on the side of the source. An atom left in float32 costs its weight. What is heavy is low for good, which
splits the network into small pieces. With seconds of atoms and casts in place of weights nothing is low for good, and
the cut is the fastest plan of all, in so far as times of layers add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .flow import Atom, Flow, Value

CAST = 2
_LARGEST = 1500
"""A piece of more atoms than this is all low: where nothing heavy stands between so many, casts are the least cost."""
_HEAVY = 1000


@dataclass(frozen=True)
class Weights:
    """Whole numbers of one unit: what an atom costs in float32 beyond low (negative: it is faster), and a cast."""

    atom: Callable[[Atom], int] = lambda atom: atom.weight
    cast: Callable[[Value], int] = lambda value: CAST
    is_free: Callable[[Atom], bool] = lambda atom: atom.weight < _HEAVY


def settle(flow: Flow, weights: Weights | None = None) -> list[bool]:
    """high[i]: whether atom i is computed in float32."""
    timed, weights = weights is not None, weights or Weights()
    high = [bool(atom.pinned) for atom in flow.atoms]
    free = [not pinned and weights.is_free(flow.atoms[i]) for i, pinned in enumerate(high)]
    parent = list(range(len(high)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    near: dict[int, list[Value]] = {}
    for value in flow.values.values():
        touching = [i for i in (value.producer, *value.readers) if free[i]]
        for other in touching[1:]:
            parent[root(touching[0])] = root(other)
    for value in flow.values.values():
        ends = {root(i) for i in (value.producer, *value.readers) if free[i]}
        for one in ends:
            near.setdefault(one, []).append(value)
    members: dict[int, list[int]] = {}
    for i, is_free in enumerate(free):
        if is_free:
            members.setdefault(root(i), []).append(i)
    for piece, values in near.items():
        touched = any(high[i] for value in values for i in (value.producer, *value.readers))
        if (touched or timed) and len(members[piece]) <= _LARGEST:
            for i in _cut(flow, values, members[piece], high, weights):
                high[i] = True
    return high


def _cut(flow: Flow, values: Iterable[Value], members: list[int], high: list[bool], weights: Weights) -> list[int]:
    """Those of the members that are better left in float32."""
    import networkx as nx

    inside = set(members)
    network = nx.DiGraph()
    network.add_nodes_from(("high", "low"))

    def end(i: int) -> object:
        return i if i in inside else "high" if high[i] else "low"

    for number, value in enumerate(values):
        maker, readers = end(value.producer), {end(i) for i in value.readers}
        if readers - {maker}:
            _edge(network, maker, ("v", number), weights.cast(value))
            _edge(network, ("u", number), maker, weights.cast(value))
            for reader in readers:
                network.add_edge(("v", number), reader)
                network.add_edge(reader, ("u", number))
    for i in members:
        weight = weights.atom(flow.atoms[i])
        _edge(network, *((i, "low", weight) if weight > 0 else ("high", i, -weight)))
    _, (above, _) = nx.minimum_cut(network, "high", "low")
    return [i for i in above if isinstance(i, int) and i in inside]


def _edge(network: object, start: object, end: object, capacity: int) -> None:
    if start != end and capacity:
        network.add_edge(start, end, capacity=capacity)  # type: ignore[attr-defined]


def casts(flow: Flow, high: list[bool]) -> int:
    """How many casts these labels need."""
    count = 0
    for value in flow.values.values():
        mine = high[value.producer]
        count += any(high[i] != mine for i in value.readers)
    return count
