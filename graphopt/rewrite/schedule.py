"""In which order passes run: by stage, then by `after`/`before`, then by name."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Any

from graphopt.errors import PluginError

from .rule import STAGES, Entry

_MOST = 64


def schedule(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The passes of each stage in order; the same for any order of `entries`.

    Raises:
        PluginError: two passes of one name, or a cycle of `after`/`before`, printed.
    """
    given = tuple(entries)
    return {stage: [given[at] for at in places] for stage, places in _places(given).items()}


_KNOWN: dict[Any, dict[str, list[int]]] = {}
"""What the order depends on -> it. A process sees few selections of passes."""


def _places(given: tuple[Entry, ...]) -> dict[str, list[int]]:
    """For each stage where its passes stand in `given`, in the order in which they run."""
    key = tuple([one.order for one in given])
    found = _KNOWN.get(key)
    if found is None:
        where = {id(one): at for at, one in enumerate(given)}
        found = {stage: [where[id(one)] for one in ordered] for stage, ordered in _stages(given).items()}
        if len(_KNOWN) > _MOST:
            _KNOWN.clear()
        _KNOWN[key] = found
    return found


def _stages(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    by_name: dict[str, Entry] = {}
    for one in sorted(entries, key=lambda e: (e.name, e.plugin)):
        other = by_name.setdefault(one.name, one)
        if other is not one:
            raise PluginError(
                f"two passes are named {one.name}: of plugin {other.plugin} and of plugin {one.plugin}",
                hint=f"rename one, or switch a plugin off with --no-plugin {one.plugin}",
            )
    return {stage: _order(stage, [e for e in by_name.values() if e.stage == stage]) for stage in STAGES}


def _order(stage: str, entries: list[Entry]) -> list[Entry]:
    here = {one.name: one for one in entries}
    followers: dict[str, set[str]] = {name: set() for name in here}
    for one in entries:
        for name in one.run.after:
            if name in here:
                followers[name].add(one.name)
        followers[one.name].update(name for name in one.run.before if name in here)
    waits = dict.fromkeys(here, 0)
    for names in followers.values():
        for name in names:
            waits[name] += 1
    ready: dict[tuple[bool, int], list[str]] = {}
    for name, count in waits.items():
        if not count:
            ready.setdefault(here[name].kind, []).append(name)
    for queue in ready.values():
        heapify(queue)
    first = min if stage == STAGES[0] else max  # constants are lifted and folded before rules look for them
    order: list[Entry] = []
    while any(ready.values()):
        last = order[-1].kind if order else None
        # what is of one kind runs together: a group of rules is one walk over the graph
        same = last if last is not None and ready.get(last) else first(one for one, names in ready.items() if names)
        name = heappop(ready[same])
        order.append(here[name])
        for follower in followers[name]:
            waits[follower] -= 1
            if not waits[follower]:
                heappush(ready.setdefault(here[follower].kind, []), follower)
    if len(order) < len(entries):
        raise PluginError(f"the order of passes in stage {stage} is a cycle: {_cycle(followers)}")
    return order


def _cycle(followers: dict[str, set[str]]) -> str:
    import networkx as nx  # half of a run's import time, for a message that few will see

    cycle = [source for source, _ in nx.find_cycle(nx.DiGraph(followers))]
    return " -> ".join([*cycle, cycle[0]])
