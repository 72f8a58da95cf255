"""The fastest plan whose error stays inside the budget: the sensitivity of each group, then a search over them.

Errors of groups add up, roughly: the groups are put into the order of error per second gained, and the longest
beginning of that order that stays inside the budget is found by bisection; each trial is measured, nothing is believed.
Then groups that were left out are tried once more on top, the most gain first. Where there are only a few groups,
all sets of them are tried instead, so that none that is faster and fits is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from .plan import Plan
from .trial import Outcome

_ALL = 6
"""So few groups, and all sets of them are tried."""
_EXTRA = 6
"""How many groups are tried once more after the bisection."""


@dataclass(frozen=True)
class Group:
    """Nodes that become low together; gain: seconds."""

    name: str
    gain: float


@dataclass
class Found:
    """The groups that are low in the end, and the error that each costs alone."""

    chosen: tuple[Group, ...]
    outcome: Outcome
    alone: dict[str, float]
    trials: int


def search(
    groups: Sequence[Group],
    plan: Callable[[Sequence[Group]], Plan],
    run: Callable[[Plan], Outcome],
    budget: float,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """The groups to make low. plan: of the groups that are low; run: what it does to the outputs, remembered.

    All groups at once are tried first: where that is inside the budget, there is nothing to search.
    """
    everything = run(plan(groups))
    if everything.worst <= budget or not groups:
        return Found(tuple(groups), everything, {}, 1)
    if len(groups) <= _ALL:
        return _exhaustive(groups, plan, run, budget, tell)
    alone: dict[str, float] = {}
    for number, group in enumerate(groups):
        tell(number, len(groups))
        alone[group.name] = run(plan([group])).worst
    order = sorted(groups, key=lambda one: (alone[one.name] / max(one.gain, 1e-12), one.name))
    order = [one for one in order if alone[one.name] <= budget]
    count = len(groups) + 1
    low, high = 0, len(order)
    best = run(plan([]))
    if order and (whole := run(plan(order))).worst <= budget:
        low, best = high, whole
        count += 1
    while high - low > 1:
        middle = (low + high) // 2
        outcome = run(plan(order[:middle]))
        count += 1
        if outcome.worst <= budget:
            low, best = middle, outcome
        else:
            high = middle
    chosen = order[:low]
    for group in sorted(order[low:], key=lambda one: -one.gain)[:_EXTRA]:
        outcome = run(plan([*chosen, group]))
        count += 1
        if outcome.worst <= budget:
            chosen, best = [*chosen, group], outcome
    return Found(tuple(chosen), best, alone, count)


def _exhaustive(
    groups: Sequence[Group],
    plan: Callable[[Sequence[Group]], Plan],
    run: Callable[[Plan], Outcome],
    budget: float,
    tell: Callable[[int, int], None],
) -> Found:
    """The set of most gain that fits, by trying sets in the order of their gain."""
    sets = [chosen for count in range(len(groups)) for chosen in combinations(groups, count)]
    sets.sort(key=lambda chosen: -sum(one.gain for one in chosen))
    alone: dict[str, float] = {}
    for number, group in enumerate(groups):
        tell(number, len(groups) + len(sets))
        alone[group.name] = run(plan([group])).worst
    tried = len(groups) + 1
    for number, chosen in enumerate(sets):
        tell(len(groups) + number, len(groups) + len(sets))
        outcome = run(plan(chosen))
        tried += 1
        if outcome.worst <= budget:
            return Found(chosen, outcome, alone, tried)
    return Found((), outcome, alone, tried)
