"""In which order passes run: by stage, then by `after`/`before`, then by name."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from graphopt.errors import PluginError

from .rule import STAGES, Entry


def schedule(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The passes of each stage in order; the same for any order of `entries`.

    Raises:
        PluginError: two passes of one name, or a cycle of `after`/`before`, printed.
    """
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
    ready = [name for name, count in waits.items() if not count]
    heapify(ready)
    order = []
    while ready:
        name = heappop(ready)
        order.append(here[name])
        for follower in followers[name]:
            waits[follower] -= 1
            if not waits[follower]:
                heappush(ready, follower)
    if len(order) < len(entries):
        raise PluginError(f"the order of passes in stage {stage} is a cycle: {_cycle(followers)}")
    return order


def _cycle(followers: dict[str, set[str]]) -> str:
    import networkx as nx  # half of a run's import time, for a message that few will see

    cycle = [source for source, _ in nx.find_cycle(nx.DiGraph(followers))]
    return " -> ".join([*cycle, cycle[0]])
