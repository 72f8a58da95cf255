"""Is a difference between two slices a mistake, or the rounding of one and the same formula?

The policy, for one slice on one sample; expected and actual are float32 results, `wide` ones are of the same slices
with every float32 as float64, on the same inputs:

1. Within the table's tolerance: equal.
2. Another dtype, another shape, or only one of them runs: a mistake.
3. A number where the source has none (NaN, infinity), or none where it has one: a mistake, unless float64 has it at
   the same places in both; then float32 overflowed, which is excused on samples of huge values only. NaN and infinity
   are not told apart: inf - inf depends on the order of a sum, and equal sums may be taken in any order.
4. Integers and booleans are exact; where floats go into the slice, a tie may fall differently: excused where float64
   agrees.
5. Finite floats: the formulas differ if they differ in float64 by more than 1e-5, or 4 times what float32 costs the
   source itself. That excuses cancellation (both lose), and never a wrong constant.
6. One formula, but the result's own float32 error is more than 16 times the source's and beyond 1e-3: unstable, a
   mistake; not on huge values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from .difference import Array, Difference, Value, compare
from .tolerance import Tolerance, tolerance_for

OWN_FACTOR = 4.0
UNSTABLE_FACTOR = 16.0
UNSTABLE_LEAST = 1e-3

Values = Mapping[str, Value]


def judge(
    expected: Values, actual: Values, wide_expected: Values | None, wide_actual: Values | None, *, huge: bool
) -> Difference | None:
    """The worst mistake among the outputs, or None. wide_*: None where a slice has no float64 copy."""
    found = [
        verdict
        for name, value in expected.items()
        if (verdict := _one(name, value, actual[name], wide_expected, wide_actual, huge)) is not None
    ]
    return max(found, key=lambda one: one.relative_l2) if found else None


def _one(
    name: str, expected: Value, actual: Value, wide_expected: Values | None, wide_actual: Values | None, huge: bool
) -> Difference | None:
    plain = compare(expected, actual, name=name)
    if plain.ok:
        return None
    if not (isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray)):
        return plain
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return plain
    if wide_expected is None or wide_actual is None or not isinstance(wide_expected.get(name), np.ndarray):
        return None if huge and _only_range(expected, actual) else plain
    e64, a64 = np.asarray(wide_expected[name]), np.asarray(wide_actual[name])
    if e64.shape != a64.shape or e64.shape != expected.shape:
        return plain
    if expected.dtype.kind not in "f":
        return None if np.array_equal(e64, a64) else plain
    with np.errstate(all="ignore"):
        return _floats(plain, expected, actual, e64.astype(np.float64), a64.astype(np.float64), huge)


def _floats(plain: Difference, e: Array, a: Array, e64: Array, a64: Array, huge: bool) -> Difference | None:
    if (np.isfinite(e64) != np.isfinite(a64)).any():
        count = int((np.isfinite(e64) != np.isfinite(a64)).sum())
        return _because(plain, f"{count} NaN or infinities where the source has numbers, or the reverse")
    if (np.isfinite(e) != np.isfinite(a)).any() and not huge:
        return _because(plain, "float32 overflows in one of the two only")
    both = np.isfinite(e64) & np.isfinite(e) & np.isfinite(a)
    e64, a64, e, a = (np.where(both, one.astype(np.float64), 0.0) for one in (e64, a64, e, a))
    own = compare(e64, e)
    apart = compare(e64, a64)
    least = tolerance_for(plain.dtype)
    bound = Tolerance(
        max(least.relative_l2, OWN_FACTOR * own.relative_l2), max(least.near_zero, OWN_FACTOR * own.max_abs)
    )
    if apart.relative_l2 > bound.relative_l2 and apart.max_abs > bound.near_zero:
        return _because(
            plain, f"the formulas differ: {apart.relative_l2:.3g} relative in float64, and float32 costs "
            f"the source {own.relative_l2:.3g}"
        )  # fmt: skip
    loss = compare(e64, a)
    worse = loss.relative_l2 > max(UNSTABLE_LEAST, UNSTABLE_FACTOR * own.relative_l2)
    if not huge and worse and loss.max_abs > UNSTABLE_FACTOR * max(own.max_abs, least.near_zero):
        return _because(
            plain, f"unstable: float32 costs it {loss.relative_l2:.3g}, and the source {own.relative_l2:.3g}"
        )  # fmt: skip
    return None


def _only_range(expected: Array, actual: Array) -> bool:
    """Whether the two differ only where one of them is no number."""
    if expected.dtype.kind != "f":
        return False
    both = np.isfinite(expected) & np.isfinite(actual)
    return compare(np.where(both, expected, 0), np.where(both, actual, 0)).ok


def _because(plain: Difference, reason: str) -> Difference:
    return dataclasses.replace(plain, ok=False, reason=reason)
