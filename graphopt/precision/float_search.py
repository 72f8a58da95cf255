"""Which stretches of a network can be computed low where all of it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from .cost import Cost
from .floats import Floats, Pins
from .plan import Plan
from .search import Group, search
from .slots import HEAVY
from .trial import Outcome, Trials

_MOST = 24
"""Groups at most: each costs a run."""


def low_floats(
    floats: Floats, trials: Trials, budget: float, cost: Cost, tell: Callable[[str, int, int], None]
) -> tuple[Plan, Outcome, Pins]:
    """The plan that makes low as many stretches, each around some heavy operators, as fit; and what it pins."""
    stretches = _stretches(floats.flow.graph)
    groups = [
        Group(name, sum(cost.seconds(node, "float32") - cost.seconds(node, floats.low) for node in nodes))
        for name, nodes in stretches.items()
    ]

    def pins(chosen: Sequence[Group]) -> Pins:
        names = {one.name for one in chosen}
        why = "the stretch around {} costs too much of the budget"
        return [(node, why.format(name)) for name, nodes in stretches.items() if name not in names for node in nodes]

    def plan(chosen: Sequence[Group]) -> Plan:
        return floats.plan(pins(chosen))

    found = search(
        groups, plan, trials.remembered, budget, lambda done, total: tell("precision: sensitivity", done, total)
    )
    return plan(found.chosen), found.outcome, pins(found.chosen)


def _stretches(graph: gs.Graph) -> dict[str, list[gs.Node]]:
    """Consecutive nodes of the main graph, cut before heavy ones, at most so many."""
    heavy = sum(node.op in HEAVY for node in graph.nodes)
    size = max(1, -(-heavy // _MOST))
    found: dict[str, list[gs.Node]] = {}
    seen, current = 0, ""
    for node in graph.nodes:
        if node.op in HEAVY:
            if seen % size == 0:
                current = node.name or str(node.outputs[0].name)
            seen += 1
        if not current:
            current = node.name or str(node.outputs[0].name)
        found.setdefault(current, []).append(node)
    return found
