"""Memory between steps: values that live at the same time never overlap, and others share."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.places import ALIGNMENT, places

STEPS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), min_size=1, max_size=8)


@given(
    steps=STEPS,
    sizes=st.fixed_dictionaries({name: st.integers(0, 3000) for name in "abcdefgh"}),
    start=st.integers(0, 999),
)
def test_no_two_values_overlap_while_both_live(steps: list[list[str]], sizes: dict[str, int], start: int) -> None:
    found, total = places(steps, sizes, start=start)
    life = {name: [at for at, names in enumerate(steps) if name in names] for name in sizes}
    assert set(found) == {name for name, at in life.items() if at}
    for name, offset in found.items():
        assert start <= offset
        assert offset % ALIGNMENT == 0
        assert offset + sizes[name] <= total
        for other, place in found.items():
            both = life[name][0] <= life[other][-1] and life[other][0] <= life[name][-1]
            if other != name and both and sizes[name] and sizes[other]:
                assert offset + sizes[name] <= place or place + sizes[other] <= offset


def test_a_chain_needs_no_more_than_its_two_largest_neighbours() -> None:
    names = [f"v{at}" for at in range(20)]
    steps = [[a, b] for a, b in pairwise(names)]
    _, total = places(steps, dict.fromkeys(names, 1024))
    assert total == 2048


def test_values_that_are_not_named_in_sizes_are_left_alone() -> None:
    assert places([["x", "y"]], {}, start=7) == ({}, 7)
