"""Plans timed on the GPU at hand: seconds of nodes for the search, and which whole engine is the fastest."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError

from .observe import Feeds
from .plan import Plan
from .times import Times, merged, times_of
from .trial import Trials, key_of

_ROUNDS = 7


@dataclass(frozen=True)
class Timed:
    """One launch, and the layers of a profile: ms, dtype, nodes, sources."""

    ms: float
    layers: Sequence[Mapping[str, Any]]
    gpu: str = ""
    again: Callable[[], float] | None = None
    """Milliseconds of a launch, measured anew: the engine is still loaded."""


Clock = Callable[[gs.Graph, Feeds], Timed]
"""Builds an engine of the graph at the shapes of the feeds, and times it. Raises GraphoptError."""


class Watch:
    """What was measured of the plans of one model. builds: how many engines may be built at most."""

    def __init__(self, trials: Trials, clock: Clock, notes: list[str], builds: int) -> None:
        self.trials, self.clock, self.notes = trials, clock, notes
        self.left = builds
        self._launches: dict[str, Timed | None] = {}

    def timed(self, plan: Plan) -> Timed | None:
        """A launch of the plan's engine, remembered; None where it cannot be built or run, which is noted once."""
        key = key_of(plan)
        if key not in self._launches:
            if self.left <= 0:
                return None
            self.left -= 1
            graph = self.trials.graph(plan)
            try:
                self._launches[key] = self.clock(graph, self.trials.feeds_of(graph))
            except GraphoptError as error:
                self.notes.append(f"not timed on the GPU: {str(error).splitlines()[0]}")
                self._launches[key] = None
        return self._launches[key]

    def seconds(self, plan: Plan) -> float | None:
        """Of a launch of the plan's engine."""
        found = self.timed(plan)
        return None if found is None else found.ms / 1e3

    def times(self, graph: gs.Graph) -> Times:
        """Seconds of nodes, of all plans so far."""
        return merged(*(times_of(one.layers, graph) for one in self._launches.values() if one is not None))

    @property
    def gpu(self) -> str:
        """The name of the GPU, once something was timed."""
        return next((one.gpu for one in self._launches.values() if one is not None and one.gpu), "this GPU")

    def race(self, plans: Sequence[Plan]) -> None:
        """Time the engines of the plans anew, in turns, so that what the clocks of the GPU do is done to all alike."""
        known = {key: one for plan in plans if (one := self._launches.get(key := key_of(plan))) and one.again}
        if len(known) < 2:
            return
        found: dict[str, list[float]] = {key: [] for key in known}
        for _ in range(_ROUNDS):
            for key, one in known.items():
                if one.again is not None:
                    found[key].append(one.again())
        for key, one in known.items():
            self._launches[key] = replace(one, ms=statistics.median(found[key]))

    def unload(self, but: Sequence[Plan] = ()) -> None:
        """Let go of the engines of all other plans."""
        kept = {key_of(plan) for plan in but}
        for key, one in self._launches.items():
            if one is not None and key not in kept:
                self._launches[key] = replace(one, again=None)
