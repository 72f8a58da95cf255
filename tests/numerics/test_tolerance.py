from __future__ import annotations

import numpy as np
import pytest

from graphopt.config import PRECISIONS
from graphopt.numerics import TABLE, compare, engine_tolerance, tolerance_for
from graphopt.numerics.tolerance import ESCALATION_LIMIT, ESCALATION_NEAR_ZERO, escalated

FINE = ("float64", "float32", "tf32", "float16", "bfloat16")


@pytest.mark.parametrize("row", FINE)
def test_an_error_of_one_percent_fails(row: str) -> None:
    expected = np.random.default_rng(0).standard_normal(1000)
    assert not compare(expected, expected * 1.01, TABLE[row]).ok
    assert compare(expected, expected * (1 + TABLE[row].relative_l2 / 2), TABLE[row]).ok


@pytest.mark.parametrize("row", FINE)
def test_one_percent_fails_on_small_values_too(row: str) -> None:
    expected = np.random.default_rng(0).standard_normal(1000) * TABLE[row].near_zero * 10
    assert not compare(expected, expected * 1.01, TABLE[row]).ok


@pytest.mark.parametrize("row", [r for r in TABLE if r not in FINE and r.startswith("float") and not TABLE[r].exact])
def test_a_coarse_dtype_still_fails_when_it_is_half_off(row: str) -> None:
    expected = np.random.default_rng(0).standard_normal(1000)
    assert not compare(expected, expected * 1.5, TABLE[row]).ok


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint4", "bool", "string"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_whole_numbers_and_text_are_exact_at_any_precision(dtype: str, precision: str) -> None:
    assert tolerance_for(dtype, precision).exact


def test_the_issue_bound() -> None:
    assert tolerance_for("float32").relative_l2 == tolerance_for("float32", "tf32").relative_l2 == 1e-5
    assert engine_tolerance("float32", "tf32") == TABLE["tf32"]
    assert tolerance_for("float32", "fp16").relative_l2 == TABLE["float16"].relative_l2


def test_escalation_is_twice_the_own_error_within_limits() -> None:
    assert escalated(1e-7, 0.0).relative_l2 == 1e-5
    assert escalated(1e-4, 0.0).relative_l2 == pytest.approx(2e-4)
    assert escalated(0.9, 0.9).relative_l2 == 1e-5
    assert escalated(float("nan"), float("nan")).relative_l2 == 1e-5
    assert escalated(0.0, 9.0).near_zero == ESCALATION_NEAR_ZERO
    assert escalated(ESCALATION_LIMIT, 1.0).relative_l2 < 1e-2
