"""Detections of equal score may come in another order, and nothing else may be different."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.importing.ranking import ranked_alike

LIMIT = 1e-3


def detections(rows: int = 40) -> list[Any]:
    random = np.random.default_rng(0)
    boxes, labels = random.uniform(0, 300, (rows, 4)).astype(np.float32), random.integers(0, 5, rows)
    scores = np.sort(random.uniform(0.2, 0.9, rows).astype(np.float32))[::-1].copy()
    scores[10:13] = scores[10]
    scores[21] = scores[20] * (1 - 2e-7)
    return [boxes, scores, labels, np.float32(3.5), random.standard_normal((7, 2)).astype(np.float32)]


def swapped(found: list[Any], *pairs: tuple[int, int]) -> list[Any]:
    """The same with rows that changed places, and their scores rounded otherwise."""
    made = [np.array(one) for one in found]
    for a, b in pairs:
        for one in (made[0], made[2]):
            one[[a, b]] = one[[b, a]]
    made[1] = made[1] * np.float32(1 + 1e-7)
    return made


@pytest.mark.parametrize("pairs", [[(20, 21)], [(10, 12)], [(10, 11), (11, 12)], [(10, 11), (20, 21)]])
def test_rows_of_equal_score_are_put_in_order(pairs: list[tuple[int, int]]) -> None:
    wanted = detections()
    found = ranked_alike(wanted, swapped(wanted, *pairs), LIMIT)
    assert found is not None
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_else_differs_is_not_passed_over() -> None:
    wanted = detections()
    assert ranked_alike(wanted, swapped(wanted, (3, 30)), LIMIT) is None  # other scores
    for index, value in ((0, 5.0), (1, 0.01), (2, 1)):
        wrong = swapped(wanted, (20, 21))
        wrong[index][20] += value
        assert ranked_alike(wanted, wrong, LIMIT) is None, index
    twice = swapped(wanted)
    for one in (twice[0], twice[2]):
        one[21] = one[20]  # one row stands for two
    assert ranked_alike(wanted, twice, LIMIT) is None
    assert ranked_alike(wanted, wanted[:-1], LIMIT) is None
    assert ranked_alike([wanted[0], wanted[2]], [wanted[0][::-1], wanted[2]], LIMIT) is None  # nothing is ranked
    nans = swapped(wanted)
    nans[0][20] = np.nan
    assert ranked_alike(wanted, nans, LIMIT) is None
