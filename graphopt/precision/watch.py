"""Plans timed on the GPU at hand: seconds of nodes for the search, and whether what it found is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError

from .observe import Feeds
from .plan import Plan
from .times import Times, merged, times_of
from .trial import Trials

_NOISE = 1.01
"""So much more a launch may take before it counts as slower."""


@dataclass(frozen=True)
class Timed:
    """One launch, and the layers of a profile: ms, dtype, nodes, sources."""

    ms: float
    layers: Sequence[Mapping[str, Any]]
    gpu: str = ""


Clock = Callable[[gs.Graph, Feeds], Timed]
"""Builds an engine of the graph at the shapes of the feeds, and times it. Raises GraphoptError."""


class Watch:
    """What was measured of the plans of one model."""

    def __init__(self, graph: gs.Graph, trials: Trials, clock: Clock, notes: list[str]) -> None:
        self.graph, self.trials, self.clock, self.notes = graph, trials, clock, notes
        self.times: Times = {}
        self._launches: dict[str, Timed] = {}

    def learn(self, plan: Plan, dtype: str) -> Times:
        """Seconds of nodes, of all plans so far. A plan that cannot be built or run teaches nothing, and is noted."""
        known = len(self._launches)
        timed = self.timed(plan)
        if timed is not None and len(self._launches) > known:
            self.times = merged(self.times, times_of(timed.layers, self.graph))
            self.notes.append(f"{dtype}: {timed.ms:.4g} ms on {timed.gpu or 'this GPU'}")
        return self.times

    def timed(self, plan: Plan) -> Timed | None:
        """A launch of the plan's engine, remembered."""
        key = plan.to_text()
        if key not in self._launches:
            graph = self.trials.graph(plan)
            try:
                self._launches[key] = self.clock(graph, self.trials.feeds_of(graph))
            except GraphoptError as error:
                self.notes.append(f"not timed on the GPU: {str(error).splitlines()[0]}")
                return None
        return self._launches[key]

    def is_slower(self, plan: Plan, before: Plan) -> bool:
        """Whether a launch of the plan takes longer than one of `before`, beyond noise; not if one has no time."""
        new, old = self.timed(plan), self.timed(before)
        return new is not None and old is not None and new.ms > _NOISE * old.ms

    def told(self, plan: Plan, before: Plan) -> str:
        """'1.2 ms instead of 1.1'."""
        new, old = self.timed(plan), self.timed(before)
        return f"{new.ms:.4g} ms instead of {old.ms:.4g}" if new is not None and old is not None else "?"
