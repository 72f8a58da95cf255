"""The fastest of several plans: each inside the budget, and each timed as a whole.

The hand rule (float16 but for a list of operators) and the model as it is are among them, so that what wins is never
slower than either, as far as it was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir.graph import scopes

from .plan import Plan
from .trial import Outcome, key_of

HAND_RULE = "LayerNormalization|Softmax|.*Normalization|Reduce.*|Exp|Erf|Gelu|Pow|Sqrt|Sigmoid"
"""What is kept in float32 by hand where float16 is chosen with a list of operators."""
CLASSES = {
    "norms": ".*Normalization|ReduceMean|ReduceSum|ReduceL2|Sqrt|Pow",
    "softmax": "Softmax|LogSoftmax|Exp",
    "activations": "Erf|Gelu|Sigmoid|Tanh|HardSwish|HardSigmoid|Swish|Mish|Softplus",
    "sums": "Add|Sub|Concat",
    "data": "Transpose|Resize|Pad|Slice|Split|Gather|MaxPool|AveragePool|GlobalAveragePool",
}
"""Operators whose kernels may be faster in float32, or fuse better, tried class by class."""
FASTER = 0.99
"""What a plan must take, at most, of the measured time of the one before it, to be taken in its place."""
_FINAL = 1.05
"""Those within this of the fastest are timed once more, in turns."""


@dataclass
class Entrant:
    """A plan, what it does to the outputs, and the seconds it takes: None where it was not timed."""

    name: str
    plan: Plan
    outcome: Outcome
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """As the report prints it."""
        ms = None if self.seconds is None else round(self.seconds * 1e3, 5)
        return {"name": self.name, "error": self.outcome.worst, "ms": ms}


class Contest:
    """Plans one after the other; the best so far. judge: None where a plan cannot be evaluated."""

    def __init__(
        self,
        judge: Callable[[Plan], Outcome | None],
        seconds: Callable[[Plan], float | None],
        budget: float,
        faster: float = FASTER,
    ) -> None:
        self.judge, self.seconds, self.budget, self.faster = judge, seconds, budget, faster
        self.entrants: dict[str, Entrant] = {}
        self.best: Entrant | None = None

    def enter(self, name: str, plan: Plan) -> bool:
        """Whether the plan is the best from now on: inside the budget and faster than the one before it."""
        key = key_of(plan)
        if key in self.entrants:
            return False
        outcome = self.judge(plan)
        if outcome is None:
            return False
        fits = outcome.worst <= self.budget
        entrant = self.entrants[key] = Entrant(name, plan, outcome, self.seconds(plan) if fits else None)
        if not fits:
            return False
        if self.best is None or self._is_faster(entrant, self.best):
            self.best = entrant
            return True
        return False

    def _is_faster(self, new: Entrant, old: Entrant) -> bool:
        if new.seconds is None:
            return False
        return old.seconds is None or new.seconds < self.faster * old.seconds

    def finalists(self) -> list[Entrant]:
        """Those that are as fast as the best, give or take what a measurement does."""
        timed = [one for one in self.entrants.values() if one.seconds is not None]
        least = min((one.seconds for one in timed if one.seconds is not None), default=0.0)
        return [one for one in timed if one.seconds is not None and one.seconds <= _FINAL * least]

    def settle(self) -> None:
        """Take the times of the finalists anew, and the fastest of them."""
        final = self.finalists()
        for one in final:
            one.seconds = self.seconds(one.plan)
        self.best = min(final, key=lambda one: one.seconds or 0.0, default=self.best)

    def __iter__(self) -> Iterator[Entrant]:
        return iter(self.entrants.values())

    def told(self) -> str:
        """'hand rule 0.238 ms, float16 0.231 ms; 8 bits: off by 0.2'."""
        rows = []
        for one in self:
            late = "not timed" if one.outcome.worst <= self.budget else f"off by {one.outcome.worst:.2g}"
            rows.append(f"{one.name} {one.seconds * 1e3:.4g} ms" if one.seconds is not None else f"{one.name} {late}")
        return ", ".join(rows)


def matching(graph: gs.Graph, pattern: str) -> Sequence[gs.Node]:
    """Nodes whose operator a regular expression names, in all bodies."""
    wanted = re.compile(pattern)
    return [node for scope in scopes(graph, functions=False) for node in scope.nodes if wanted.fullmatch(node.op)]
