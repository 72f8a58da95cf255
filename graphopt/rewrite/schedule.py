"""In which order passes run: by stage, then by `after`/`before`, then by name."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx

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
    graph = nx.DiGraph()
    graph.add_nodes_from(here)
    for one in entries:
        graph.add_edges_from((name, one.name) for name in one.run.after if name in here)
        graph.add_edges_from((one.name, name) for name in one.run.before if name in here)
    try:
        return [here[name] for name in nx.lexicographical_topological_sort(graph)]
    except nx.NetworkXUnfeasible:
        cycle = [source for source, _ in nx.find_cycle(graph)]
        text = " -> ".join([*cycle, cycle[0]])
        raise PluginError(f"the order of passes in stage {stage} is a cycle: {text}") from None
