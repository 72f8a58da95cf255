"""Which differences of two slices are mistakes: the policy of graphopt.numerics.judge, point by point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.numerics.judge import judge

X = np.random.default_rng(0).standard_normal(1000).astype(np.float32)


def verdict(expected: Any, actual: Any, e64: Any = None, a64: Any = None, *, huge: bool = False) -> str:
    """'' or the reason; float64 values default to the float32 ones."""
    wide = [np.asarray(v, np.float64) if np.asarray(v).dtype.kind == "f" else np.asarray(v)
            for v in (expected if e64 is None else e64, actual if a64 is None else a64)]  # fmt: skip
    found = judge({"y": expected}, {"y": actual}, {"y": wide[0]}, {"y": wide[1]}, huge=huge)
    return "" if found is None else found.reason


def test_equal_up_to_the_tolerance_is_equal() -> None:
    assert verdict(X, X * np.float32(1 + 2e-6)) == ""


@pytest.mark.parametrize("error", [1e-2, 1e-3, 1e-4])
def test_a_wrong_constant_is_a_mistake(error: float) -> None:
    assert "the formulas differ" in verdict(X, (X * (1 + error)).astype(np.float32))
    assert "the formulas differ" in verdict(X, (X * (1 + error)).astype(np.float32), huge=True)


def test_another_dtype_or_shape_is_a_mistake() -> None:
    assert "dtype" in verdict(X, X.astype(np.float64))
    assert "shape" in verdict(X, X[:-1])


def test_a_number_in_place_of_nan_is_a_mistake_and_the_reverse() -> None:
    holed = X.copy()
    holed[3] = np.nan
    for huge in (False, True):
        assert "NaN" in verdict(holed, X, huge=huge)
        assert "NaN" in verdict(X, holed, huge=huge)


def test_nan_and_infinity_are_not_told_apart() -> None:
    one, other = X.copy(), X.copy()
    one[3], other[3] = np.nan, np.inf
    assert verdict(one, other) == ""


def test_overflow_of_one_formula_is_excused_on_huge_values_only() -> None:
    exact = X.astype(np.float64) * 1e39
    with np.errstate(over="ignore"):
        lost = np.where(np.abs(X) > 0.5, exact.astype(np.float32), X * 0).astype(np.float32)
    kept = np.where(np.isfinite(lost), lost, 1.0).astype(np.float32)
    assert verdict(lost, kept, exact, exact, huge=True) == ""
    assert "overflows" in verdict(lost, kept, exact, exact)


def test_cancellation_that_costs_the_source_as_much_is_excused() -> None:
    exact = X.astype(np.float64)
    rng = np.random.default_rng(1)
    noisy, other = ((exact + 1e-4 * rng.standard_normal(1000)).astype(np.float32) for _ in range(2))
    assert verdict(noisy, other, exact, exact) == ""
    assert "unstable" in verdict(X, (exact + 1e-2 * rng.standard_normal(1000)).astype(np.float32), exact, exact)


def test_integers_that_floats_decide_are_judged_in_float64() -> None:
    one, other = np.array([3, 4]), np.array([3, 5])
    assert verdict(one, other, one, one) == ""
    assert "differ" in verdict(one, other)


def test_without_a_float64_copy_float32_decides() -> None:
    assert judge({"y": X}, {"y": X * 2}, None, None, huge=False) is not None
    assert judge({"y": X}, {"y": X}, None, None, huge=False) is None
