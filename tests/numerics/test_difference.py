from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.numerics import compare

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
NAMES = ["float64", "float32", "float16", "bfloat16"]


def normal(dtype: object = np.float32, size: int = 100) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=NAMES)
def test_one_percent_fails(dtype: object) -> None:
    x = normal(dtype)
    assert compare(x, x).ok
    assert not compare(x, (x.astype(np.float64) * 1.02).astype(dtype)).ok


@pytest.mark.parametrize("dtype", FLOATS, ids=NAMES)
def test_one_swapped_pair_fails(dtype: object) -> None:
    x = normal(dtype)
    y = x.copy()
    y[[3, 7]] = y[[7, 3]]
    assert not compare(x, y).ok


@pytest.mark.parametrize("dtype", FLOATS, ids=NAMES)
def test_nan_must_stay_where_it_is(dtype: object) -> None:
    x, y = normal(dtype), normal(dtype)
    x[4] = y[4] = np.nan
    assert compare(x, y).ok
    y[5] = np.nan
    found = compare(x, y)
    assert not found.ok
    assert "NaN" in found.reason
    assert "[5]" in found.reason


@pytest.mark.parametrize("dtype", FLOATS, ids=NAMES)
def test_infinity_must_keep_its_place_and_sign(dtype: object) -> None:
    x, y = normal(dtype), normal(dtype)
    x[4] = y[4] = np.inf
    assert compare(x, y).ok
    y[4] = -np.inf
    assert "infinit" in compare(x, y).reason
    y[4] = 1.0
    assert not compare(x, y).ok


def test_dtype_and_shape_must_be_equal() -> None:
    x = normal()
    assert "dtype float64 instead of float32" in compare(x, x.astype(np.float64)).reason
    assert "shape 10x10 instead of 100" in compare(x, x.reshape(10, 10)).reason
    assert not compare(np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32)).ok
    assert compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).ok


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, ml_dtypes.int4, ml_dtypes.uint4])
def test_whole_numbers_are_exact(dtype: object) -> None:
    x = np.array([1, 2, 3, 7]).astype(dtype)
    y = np.array([1, 2, 4, 7]).astype(dtype)
    assert compare(x, x).ok
    found = compare(x, y)
    assert not found.ok
    assert found.max_abs == 1
    assert found.relative_l2 == 0.25


def test_unsigned_differences_do_not_wrap() -> None:
    assert compare(np.array([0], np.uint64), np.array([2**63], np.uint64)).max_abs == 2.0**63


def test_bool_and_strings_are_exact() -> None:
    assert not compare(np.array([True, False]), np.array([True, True])).ok
    a, b = np.array(["a", "b"], object), np.array(["a", "c"], object)
    assert compare(a, a.copy()).ok
    assert compare(a, np.array(["a", "b"])).ok
    assert not compare(a, b).ok


def test_sequences_maps_and_absent_values() -> None:
    x = normal()
    assert compare([x, x], [x, x]).ok
    assert not compare([x, x], [x]).ok
    assert not compare([x], x).ok
    assert "element 1" in compare([x, x], [x, x * np.float32(1.01)]).reason
    assert compare([], []).ok
    assert compare(None, None).ok
    assert not compare(None, x).ok
    assert not compare(x, None).ok
    assert compare({"a": x}, {"a": x}).ok
    assert not compare({"a": x}, {"b": x}).ok


def test_a_zero_reference_has_an_absolute_bound() -> None:
    zero = np.zeros(10, np.float32)
    assert compare(zero, zero + np.float32(1e-8)).ok
    assert not compare(zero, zero + np.float32(1e-3)).ok
    assert not compare(zero + 1, zero).ok


def test_half_precision_norms_do_not_overflow() -> None:
    x = np.full(1000, 60000, np.float16)
    assert compare(x, x).ok
    assert compare(x, x).cosine == pytest.approx(1)
    assert not compare(x, -x).ok
    big = np.full(10, 1e300)
    assert compare(big, big * 1.01).relative_l2 == pytest.approx(0.01)


def test_a_huge_mask_value_does_not_hide_the_rest() -> None:
    x = normal()
    x[0] = np.finfo(np.float32).min
    y = x.copy()
    y[1:] *= np.float32(1.01)
    assert not compare(x, y).ok
    z = x.copy()
    z[0] = np.float32(-3e38)
    assert not compare(x, z).ok


def test_json_is_strict() -> None:
    found = compare(np.zeros(2, np.float32), np.ones(2, np.float32), name="y")
    assert math.isinf(found.relative_l2)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["relative_l2"] is None


arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_everything_equals_itself(x: np.ndarray) -> None:
    found = compare(x, x.copy())
    assert found.ok
    assert found.relative_l2 == 0


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(0.5, 1e4, width=32)),
    st.floats(1e-4, 1.0),
    st.data(),
)
def test_a_changed_element_is_seen_in_all_three_measures(x: np.ndarray, change: float, data: st.DataObject) -> None:
    index = int(np.argmax(x))
    y = x.astype(np.float64)
    y[index] *= 1 + change
    y32 = y.astype(np.float32)
    found = compare(x, y32)
    gap = y32.astype(np.float64) - x
    assert not found.ok
    assert found.relative_l2 == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(x.astype(np.float64)))
    assert found.max_abs == pytest.approx(np.abs(gap).max())
    assert found.cosine <= 1 + 1e-12
