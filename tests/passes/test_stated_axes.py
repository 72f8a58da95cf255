"""Reductions with axes need not say what they would do without."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.stated_axes import KINDS

from graphopt.registry import Registry
from graphopt.testing import assert_unchanged, check_rule, model

RULES = {one.name: one.run for one in Registry().passes()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_attribute_goes_where_there_are_axes(kind: str) -> None:
    name = f"reduce-{''.join('-' + c.lower() if c.isupper() else c for c in kind).lstrip('-')}-with-axes"
    check_rule(
        RULES[name],
        model(
            f"g (float[2,3,4] x) => (float[2,4] y) {{ y = Reduce{kind}<keepdims=0, noop_with_empty_axes=1>(x, a) }}",
            weights={"a": np.array([1])},
            opset=18,
        ),
        after=model(
            f"g (float[2,3,4] x) => (float[2,4] y) {{ y = Reduce{kind}<keepdims=0>(x, a) }}",
            weights={"a": np.array([1])},
            opset=18,
        ),
    )


def test_it_stays_where_there_are_none() -> None:
    text = "g (float[2,3] x) => (float[2,3] y) { y = ReduceSum<noop_with_empty_axes=1>(x, a) }"
    assert_unchanged(RULES["reduce-sum-with-axes"], model(text, weights={"a": np.zeros(0, np.int64)}))


def test_it_stays_where_axes_are_known_only_at_run_time() -> None:
    text = "g (float[2,3] x, int64[n] a) => (float[r,s] y) { y = ReduceSum<noop_with_empty_axes=1>(x, a) }"
    assert_unchanged(RULES["reduce-sum-with-axes"], model(text))
