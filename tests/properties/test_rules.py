"""Every pass of the catalogue, on random models on which it fires: the outputs stay what they were.

Compared in onnxruntime without optimizations, and in float64 where float32 differs; each pass alone, then the whole
default pipeline; on normal numbers, edge values, and with NaN and infinity.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .draw import ENTRIES, OPEN_AT_SPECIAL, breach
from .families import FAMILIES

MANY = int(os.environ.get("GRAPHOPT_RULE_EXAMPLES", "60"))
UNREACHED: dict[str, str] = {}
"""Passes that no draw makes fire, and why that is right. A pass may not be missing here and unreached."""


def search(name: str, examples: int) -> None:
    fired = []

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 2**32 - 1))
    def unchanged(seed: int) -> None:
        found = breach(ENTRIES[name], seed)
        fired.append(found is not None)
        assert not found, f"{name}, seed {seed}:\n" + "\n".join(found)

    unchanged()
    assert any(fired) != (name in UNREACHED), f"{name} fired on {sum(fired)} of {len(fired)} draws"


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_rule_keeps_the_numbers(name: str) -> None:
    search(name, 4)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_rule_keeps_the_numbers_of_many_models(name: str) -> None:
    search(name, MANY)


def test_no_list_names_a_pass_that_is_gone() -> None:
    assert not (FAMILIES.keys() | UNREACHED.keys() | OPEN_AT_SPECIAL.keys()) - ENTRIES.keys()


def test_every_pass_without_a_pattern_has_a_family() -> None:
    assert not {name for name, entry in ENTRIES.items() if entry.traced is None} - FAMILIES.keys()
