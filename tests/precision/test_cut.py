"""The labels that cost least, against trying all of them."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.precision.cut import CAST, casts, settle
from graphopt.precision.flow import HIGH, Atom, Flow, Value


@st.composite
def flows(draw):
    """A random dag of up to eight atoms, some pinned, with inputs and outputs that are float32."""
    count = draw(st.integers(1, 8))
    flow = object.__new__(Flow)
    flow.atoms = [Atom(None, 0, "fixed")]
    for _ in range(count):
        pinned = "kept" if draw(st.integers(0, 3)) == 0 else ""
        flow.atoms.append(Atom(None, draw(st.sampled_from([0, 1, 1, 1, 10**6])), pinned))
    flow.values = {}
    for maker in range(count + 1):
        later = list(range(maker + 1, count + 1))
        readers = set(draw(st.lists(st.sampled_from(later), max_size=3))) if later else set()
        if draw(st.booleans()) and maker:
            readers.add(HIGH)
        flow.values[maker] = Value(None, maker, readers)
    return flow


def cost(flow: Flow, high: list[bool]) -> int:
    return CAST * casts(flow, high) + sum(a.weight for a, up in zip(flow.atoms, high, strict=True) if up)


@settings(max_examples=60, deadline=None)
@given(flows())
def test_no_other_labels_cost_less(flow):
    found = settle(flow)
    assert all(up for up, atom in zip(found, flow.atoms, strict=True) if atom.pinned)
    free = [i for i, atom in enumerate(flow.atoms) if not atom.pinned]
    costs = []
    for bits in itertools.product([False, True], repeat=len(free)):
        high = [bool(atom.pinned) for atom in flow.atoms]
        for i, bit in zip(free, bits, strict=True):
            high[i] = bit
        costs.append(cost(flow, high))
    assert cost(flow, found) == min(costs)


def test_a_value_that_many_read_costs_one_cast():
    flow = object.__new__(Flow)
    flow.atoms = [Atom(None, 0, "fixed"), *(Atom(None, 10**6) for _ in range(5))]
    flow.values = {0: Value(None, HIGH, {1, 2, 3, 4, 5})}
    assert casts(flow, settle(flow)) == 1
