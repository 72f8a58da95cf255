"""The search: as good as trying everything on small problems, and it goes on where it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.numerics.execute import Runner
from graphopt.precision import every, trial
from graphopt.precision.plan import Plan
from graphopt.precision.search import Group, search
from graphopt.precision.stage import Request, lower
from graphopt.precision.trial import Outcome, Trials
from graphopt.testing import model


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1)), min_size=1, max_size=10), st.floats(0.05, 3))
def test_the_budget_is_kept_and_nothing_more_fits(sizes, budget):
    """Errors that add up exactly: what is chosen fits, and no group that was left out could be added."""
    groups = [Group(str(i), gain) for i, (_, gain) in enumerate(sizes)]
    error = {str(i): size for i, (size, _) in enumerate(sizes)}
    found = search(groups, lambda chosen: [one.name for one in chosen],
                   lambda names: Outcome({"y": sum(error[name] for name in names)}), budget)  # fmt: skip
    total = sum(error[one.name] for one in found.chosen)
    assert total <= budget or not found.chosen
    assert found.outcome.worst == total
    left = [one for one in groups if one not in found.chosen]
    assert len(left) > 6 or all(total + error[one.name] > budget for one in left)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.1, 1)), min_size=7, max_size=10), st.floats(0.5, 3),
       st.sampled_from([1, 2]))  # fmt: skip
def test_many_groups_come_near_to_the_best_set(sizes, budget, power):
    """Errors that add up, or whose squares do: nine tenths of what the best of all sets gains."""
    groups = [Group(str(i), gain) for i, (_, gain) in enumerate(sizes)]
    error = {str(i): size for i, (size, _) in enumerate(sizes)}

    def together(names):
        return sum(error[name] ** power for name in names) ** (1 / power)

    found = search(groups, lambda chosen: [one.name for one in chosen],
                   lambda names: Outcome({"y": together(names)}), budget)  # fmt: skip
    best = max(sum(one.gain for one in chosen) for count in range(len(groups) + 1)
               for chosen in itertools.combinations(groups, count)
               if together([one.name for one in chosen]) <= budget)  # fmt: skip
    assert together([one.name for one in found.chosen]) <= budget
    assert sum(one.gain for one in found.chosen) >= 0.9 * best


def test_two_that_fit_beat_the_one_of_best_ratio():
    """By error per second the first comes first, and nothing fits beside it."""
    groups = [Group("a", 10), Group("b", 8), Group("c", 8), *(Group(f"large{i}", 1) for i in range(5))]
    error = {"a": 0.6, "b": 0.5, "c": 0.5, **{f"large{i}": 2.0 for i in range(5)}}
    found = search(groups, lambda chosen: [one.name for one in chosen],
                   lambda names: Outcome({"y": sum(error[name] for name in names)}), 1.0)  # fmt: skip
    assert {one.name for one in found.chosen} == {"b", "c"}


def test_all_at_once_needs_one_trial():
    found = search([Group("a", 1), Group("b", 1)], list, lambda names: Outcome({"y": 0.0}), 0.1)
    assert (len(found.chosen), found.trials) == (2, 1)


SOURCE = """g (float[8,64] x) => (float[8,64] y) {
    a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Mul(c, spike)
    e = MatMul(d, w2) f = Add(e, c) y = MatMul(f, w3) }"""


def network():
    rng = np.random.default_rng(2)
    weights = {f"w{i}": (rng.standard_normal((64, 64)) / 8).astype(np.float32) for i in range(4)}
    spike = np.ones(64, np.float32)
    spike[3] = 500
    weights["w2"][3] = 0
    source = model(SOURCE, weights={**weights, "spike": spike}, opset=21)
    for number, node in enumerate(source.graph.node):
        node.name = f"n{number}"
    return source


def test_auto_finds_what_trying_all_finds(tmp_path, monkeypatch):
    """On four products: no set of them that fits the budget saves more."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    source = network()
    rng = np.random.default_rng(3)
    calib = [{"x": rng.standard_normal((8, 64)).astype(np.float32)} for _ in range(2)]
    gains = {"n0": 1.0, "n2": 1.1, "n4": 1.2, "n6": 1.3}
    times = {name: {"float16": gain, "int8": 0.0} for name, gain in gains.items()}
    words = {"calib": calib, "max_error": 0.02, "method": "max", "layer_times": times}
    graph = load(source)
    found = lower(graph, Request("auto", **words), Target("tensorrt", version="11.4"))
    chosen = {e.readers[0] for n, e in found.plan.tensors.items() if n.startswith("w") and e.quantized}
    assert max(found.error.values()) <= 0.02

    full = lower(load(source), Request("int8", **{**words, "max_error": 1e9}), Target("tensorrt", version="11.4")).plan
    best = -1.0
    with Runner() as runner:
        trials = Trials(load(source), calib, runner, tmp_path, {}, None)
        for count in range(5):
            for names in itertools.combinations(gains, count):
                plan = Plan("auto", tensors={n: _only(e, names) for n, e in full.tensors.items()})
                if trials.run(plan).worst <= 0.02:
                    best = max(best, sum(gains[name] for name in names))
    assert sum(gains[name] for name in chosen) == pytest.approx(best)


def test_trials_leave_no_graph_behind(tmp_path, monkeypatch):
    """Graphs are webs of cycles, which only a full collection frees: a search on a large model must not keep them."""
    import gc
    import weakref

    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    held: list[weakref.ref] = []
    original = trial.write_plan

    def watched(graph, *rest):
        held.append(weakref.ref(graph))
        return original(graph, *rest)

    monkeypatch.setattr(trial, "write_plan", watched)
    gc.disable()
    try:
        with Runner() as runner:
            trials = Trials(load(network()), [{"x": np.ones((8, 64), np.float32)}], runner, tmp_path, {}, None)
            for _ in range(3):
                trials.run(Plan("fp16"))
    finally:
        gc.enable()
    assert len(held) == 3
    assert sum(one() is not None for one in held) <= 1


def _only(entry, names):
    from dataclasses import replace

    readers = tuple(name for name in entry.readers if name in names)
    return replace(entry, readers=readers, quantized=entry.quantized if readers else "")


def test_an_interrupted_search_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    source = network()
    calib = [{"x": np.random.default_rng(5).standard_normal((8, 64)).astype(np.float32)}]
    times = {f"n{i}": {"float16": 1.0, "int8": 0.5} for i in range(7)}
    request = Request("auto", calib=calib, max_error=0.02, method="max", layer_times=times)
    runs = []
    original = trial.Trials.run

    def counted(self, plan, only=None):
        runs.append(plan)
        if len(runs) == stop:
            raise KeyboardInterrupt
        return original(self, plan, only)

    monkeypatch.setattr(trial.Trials, "run", counted)
    stop = 5
    with pytest.raises(KeyboardInterrupt):
        lower(load(source), request, Target(version="1.7.1"))
    assert list((tmp_path / "search").glob("*.json"))
    stop, before = 0, len(runs)
    first = lower(load(source), request, Target(version="1.7.1"))
    resumed = len(runs) - before
    assert not list((tmp_path / "search").glob("*.json")), "what is finished is not remembered"
    before = len(runs)
    second = lower(load(source), request, Target(version="1.7.1"))
    assert resumed < len(runs) - before
    assert first.plan == second.plan


def test_where_not_even_float16_fits_stretches_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr(every, "_MOST", 0)
    calib = [{"x": np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)}]
    whole = lower(load(network()), Request("fp16", calib=calib), Target())
    budget = 0.8 * max(whole.error.values())
    found = lower(load(network()), Request("auto", calib=calib, max_error=budget), Target(version="1.7.1"))
    assert max(found.error.values()) <= budget
    counts = found.plan.counts()
    assert counts["float16"] > 1
    assert any("costs too much of the budget" in entry.why for entry in found.plan.tensors.values())
