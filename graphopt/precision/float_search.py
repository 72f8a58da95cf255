"""Which stretches of a network can be computed low where all of it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from .cost import Cost
from .floats import Floats
from .plan import Plan
from .search import Group, search
from .slots import HEAVY
from .trial import Outcome, Trials

_MOST = 24
"""Groups at most: each costs a run."""


def low_floats(
    floats: Floats, trials: Trials | None, budget: float, cost: Cost, tell: Callable[[str, int, int], None]
) -> tuple[Plan, Outcome | None]:
    """The plan that makes low as many stretches, each around some heavy operators, as the budget allows."""
    if trials is None:
        return floats.plan(), None
    stretches = _stretches(floats.flow.graph)
    groups = [
        Group(name, sum(cost.seconds(node, "float32") - cost.seconds(node, floats.low) for node in nodes))
        for name, nodes in stretches.items()
    ]
    atoms = floats.flow.atoms
    own = [atom.pinned for atom in atoms]

    def plan(chosen: Sequence[Group]) -> Plan:
        names = {one.name for one in chosen}
        try:
            for name, nodes in stretches.items():
                if name not in names:
                    for node in nodes:
                        floats.flow.pin(node, f"the stretch around {name} costs too much of the budget")
            return floats.plan()
        finally:
            for atom, pinned in zip(atoms, own, strict=True):
                atom.pinned = pinned

    found = search(
        groups, plan, trials.remembered, budget, lambda done, total: tell("precision: sensitivity", done, total)
    )
    return plan(found.chosen), found.outcome


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
