"""Adversarial inputs hold what they promise, and stay within what an input may hold."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.adversarial import KINDS, adversarial_feeds
from graphopt.numerics.feeds import make_feeds
from graphopt.numerics.ranges import read_inputs
from graphopt.testing import model

INPUTS = read_inputs(
    model(
        "g (float[N,64] x, float16[N,64] h, int32[N,64] k, int64[N] ids, int64[N,4] mask)"
        " => (float[N,64] y, float16[N,64] z, int32[N,64] l, float[N,3] e, int64[N,4] m)"
        " { y = Neg(x) z = Neg(h) l = Neg(k) e = Gather(w, ids) m = Neg(mask) }",
        weights={"w": (5, 3)},
    )
)
SHAPES = {"x": (3, 64), "h": (3, 64), "k": (3, 64), "ids": (3,), "mask": (3, 4)}


def feeds(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in adversarial_feeds(INPUTS, SHAPES, kind, seed).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_they_have_the_dtypes_and_shapes_of_ordinary_ones_and_repeat(kind: str) -> None:
    usual, found, again = make_feeds(INPUTS, SHAPES, 0), feeds(kind), feeds(kind)
    assert list(found) == list(usual)
    for name, value in found.items():
        assert (value.dtype, value.shape) == (np.asarray(usual[name]).dtype, SHAPES[name])
        assert value.tobytes() == again[name].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_stays_one_and_a_mask_does(kind: str) -> None:
    found = feeds(kind)
    assert found["ids"].min() >= 0
    assert found["ids"].max() < 5
    assert set(found["mask"].ravel()) <= {0, 1}


def test_each_kind_is_what_its_name_says() -> None:
    assert not feeds("zeros")["x"].any()
    assert 0 < np.abs(feeds("tiny")["x"]).max() < 0.01
    assert (np.signbit(feeds("tiny")["x"]) & (feeds("tiny")["x"] == 0)).any(), "a zero of either sign"
    assert np.abs(feeds("large")["x"]).max() > 500
    for name in ("x", "h"):
        ends = feeds("ends")[name]
        assert np.isnan(ends).any()
        assert {np.inf, -np.inf} <= set(ends[np.isinf(ends)])
        assert np.abs(ends[np.isfinite(ends)]).max() > 0.9 * np.finfo(ends.dtype).max * 0.9
        assert np.isfinite(ends).sum() > 0.9 * ends.size, "most of a network must see numbers"
    limits = np.iinfo(np.int32)
    assert {limits.min, limits.max} <= set(feeds("ends")["k"].ravel())
    assert feeds("large")["k"].max() < 0
    assert set(feeds("ends")["ids"]) <= {0, 1, 3, 4}
