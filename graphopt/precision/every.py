"""Small networks: every combination of dtypes of the heavy operators, the fastest first, until one fits the budget."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import onnx_graphsurgeon as gs

from .floats import Floats
from .plan import Plan
from .price import Price
from .quantization import Quantization
from .slots import HEAVY
from .trial import Outcome, key_of

_MOST = 100
"""Combinations at most."""
_WHY = "faster so, of all combinations that fit the budget"


def every_combination(
    floats: Floats,
    made: Quantization | None,
    price: Price,
    judge: Callable[[Plan], Outcome | None],
    budget: float,
    tell: Callable[[str, int, int], None],
) -> Plan | None:
    """The plan of least price inside the budget; None where there are too many, or none can be evaluated."""
    small = {place.name: place for place in made.places} if made is not None else {}
    flow = floats.flow
    heavy = [node for node in flow.graph.nodes if node.op in HEAVY and not flow.atoms[flow.of[id(node)]].pinned]
    kinds = [("float16", "float32", "8 bits") if _name(node) in small else ("float16", "float32") for node in heavy]
    count = 1
    for one in kinds:
        count *= len(one)
    if not heavy or count > _MOST:
        return None
    plans: dict[str, tuple[float, Plan]] = {}
    for chosen in product(*kinds):
        pairs = list(zip(heavy, chosen, strict=True))
        plan = floats.plan([(node, _WHY) for node, kind in pairs if kind == "float32"])
        names = [_name(node) for node, kind in pairs if kind == "8 bits"]
        if names and made is not None:
            plan = made.plan(plan, names)
        plans.setdefault(key_of(plan), (price(plan), plan))
    for number, (_, plan) in enumerate(sorted(plans.values(), key=lambda one: one[0])):
        tell("precision: every combination", number, len(plans))
        outcome = judge(plan)
        if outcome is None:
            return None
        if outcome.worst <= budget:
            return plan
    return None


def _name(node: gs.Node) -> str:
    return node.name or str(node.outputs[0].name)
