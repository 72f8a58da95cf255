"""The fastest plan whose error stays inside the budget: the sensitivity of each group, then a search over them.

Errors of groups add up, roughly: a knapsack says which groups gain most inside a budget, if the errors that each has
alone add up, or their squares do. How much of a budget may be given to it is found by bisection; each trial is
measured, nothing is believed.
Then groups that were left out are tried once more on top, the most gain first. Where there are only a few groups,
all sets of them are tried instead, so that none that is faster and fits is missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .plan import Plan
from .trial import Outcome

_ALL = 6
"""So few groups, and all sets of them are tried."""
_EXTRA = 6
"""How many groups are tried once more after the bisection."""
_POWERS = (2, 1)
"""Errors of independent roundings add up as squares do, those of one direction as they are."""
_STEPS = 6
_SHARES = 400


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
    order = [one for one in groups if alone[one.name] <= budget]
    count = len(groups) + 1
    chosen: Sequence[Group] = ()
    best = run(plan(()))
    for power in _POWERS:
        low, high = 0.0, 2.0
        for _ in range(_STEPS):
            allowed = (low + high) / 2
            tried = knapsack(order, alone, allowed * budget, power)
            outcome = run(plan(tried))
            count += 1
            if outcome.worst <= budget:
                low = allowed
                if _gain(tried) > _gain(chosen):
                    chosen, best = tried, outcome
                if len(tried) == len(order):
                    break
            else:
                high = allowed
    left = [one for one in order if one not in chosen]
    for group in sorted(left, key=lambda one: -one.gain)[:_EXTRA]:
        outcome = run(plan([*chosen, group]))
        count += 1
        if outcome.worst <= budget:
            chosen, best = [*chosen, group], outcome
    return Found(tuple(chosen), best, alone, count)


def knapsack(groups: Sequence[Group], alone: Mapping[str, float], budget: float, power: int) -> list[Group]:
    """The set of most gain with sum(alone ** power) <= budget ** power, in whole shares of the budget, rounded up."""
    sizes = [math.ceil(_SHARES * (alone[one.name] / budget) ** power - 1e-9) for one in groups]
    gain = np.zeros(_SHARES + 1)
    taken = np.zeros((len(groups), _SHARES + 1), bool)
    for number, (one, size) in enumerate(zip(groups, sizes, strict=True)):
        if size > _SHARES:
            continue
        better = gain[: _SHARES + 1 - size] + max(one.gain, 1e-12)
        taken[number, size:] = better > gain[size:]
        gain[size:] = np.maximum(gain[size:], better)
    found, room = [], _SHARES
    for number in reversed(range(len(groups))):
        if taken[number, room]:
            found.append(groups[number])
            room -= sizes[number]
    return found[::-1]


def _gain(groups: Sequence[Group]) -> float:
    return sum(one.gain for one in groups)


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
