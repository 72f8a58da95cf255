"""`auto` with a GPU at hand: whole engines decide, and nothing slower than the hand rule or than float32 is taken."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.config import Target
from graphopt.errors import BackendError
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.precision.stage import Request, lower
from graphopt.precision.watch import Timed
from graphopt.testing import model

RNG = np.random.default_rng(11)
CALIB = [{"x": RNG.standard_normal((8, 64)).astype(np.float32)}]
WEIGHTS = {f"w{i}": (RNG.standard_normal((64, 64)) / 8).astype(np.float32) for i in range(3)} | {
    "scale": np.ones(64, np.float32)
}
SOURCE = """g (float[8,64] x) => (float[8,64] y) {
    a = MatMul(x, w0) b = LayerNormalization(a, scale) c = MatMul(b, w1) d = Softmax(c) e = Sigmoid(d)
    f = Add(e, a) y = MatMul(f, w2) }"""


def machine(seed, again=None):
    """Whole engines take any time at all, by what is in them; layers are not named."""

    def measure(graph, feeds):
        digest = hashlib.sha256(to_proto(graph, weights="omit").SerializeToString() + bytes([seed])).digest()
        return Timed(1 + digest[0] / 32, [], "a machine", again and again(digest))

    return measure


def auto(clock, **words):
    request = Request("auto", calib=CALIB, **{"max_error": 0.05, **words})
    return lower(load(model(SOURCE, weights=WEIGHTS, opset=21)), request, Target(version="1.7.1"), clock=clock)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(0, 255), st.integers(3, 14))
def test_whatever_engines_take_the_fastest_of_those_that_fit_is_taken(seed, builds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHOPT_CACHE", "/nonexistent")
        found = auto(machine(seed), builds=builds)
    rows = {row["name"]: row for row in found.candidates}
    assert {"float16", "float32"} <= rows.keys()
    assert "hand rule" in rows or builds < 4
    timed = [row["ms"] for row in rows.values() if row["ms"] is not None]
    assert len(timed) <= builds
    assert len(rows) == len(found.candidates)
    taken = found.notes[-1].rpartition("Taken: ")[2]
    assert rows[taken]["ms"] == min(timed)
    assert rows[taken]["error"] <= 0.05
    assert max(found.error.values()) == pytest.approx(rows[taken]["error"])


def test_a_plan_beyond_the_budget_is_not_even_built(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    found = auto(machine(1), max_error=1e-9)
    assert [row["name"] for row in found.candidates if row["ms"] is not None] == ["float32"]
    assert not found.plan.share_low


def test_those_that_are_close_are_timed_once_more_in_turns(tmp_path, monkeypatch):
    """First times of all are the same; in the race the hand rule wins."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    order = []

    def measure(graph, feeds):
        ops = {node.op for node in graph.nodes if np.dtype(node.outputs[0].dtype) == np.float32}
        by_hand = {"LayerNormalization", "Softmax", "Sigmoid"} <= ops and "MatMul" not in ops

        def again():
            order.append(by_hand)
            return 0.5 if by_hand else 1.0

        return Timed(1.0, [], "a machine", again)

    found = auto(measure)
    assert found.notes[-1].endswith("Taken: hand rule")
    assert found.plan.tensors["d"].dtype == "float32"
    assert found.plan.tensors["a"].dtype == "float16"
    first = order[: len(order) // 7]
    assert len(first) > 1
    assert order == first * 7, "in turns, not one after the other"


def test_an_engine_that_fails_loses(tmp_path, monkeypatch):
    """float16 does not build: what does is taken, and the note says why."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def measure(graph, feeds):
        if any(np.dtype(node.outputs[0].dtype) == np.float16 for node in graph.nodes):
            raise BackendError("no kernel")
        return Timed(1.0, [], "a machine")

    found = auto(measure)
    assert found.notes[-1].endswith("Taken: float32")
    assert sum("no kernel" in note for note in found.notes) >= 1
