"""The largest magnitude of each inner value, found by nodes behind the model's own."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.load import load
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.precision.observe import observe
from graphopt.precision.peaks import peaks
from graphopt.precision.types import know_types
from graphopt.testing import model

TEXT = """g (float[N,3] x) => (float[N,3] y) {
    a = Neg(x) b = MatMul(a, w) c = Sqrt(b) d = Mul(b, large) s = ReduceMean<keepdims = 0>(b) y = Div(c, s) }"""
WEIGHTS = {"w": (3, 3), "large": np.float32(1e38)}
FEEDS = {
    "normal": np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32),
    "zeros": np.zeros((2, 3), np.float32),
    "not finite": np.array([[1, np.nan, 7], [np.inf, 2, -9]], np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def magnitudes(found):
    """{(sample, name): (elements, largest magnitude, that of finite ones)}, each once."""
    result = {}
    for sample, values in found:
        for name, value in values.items():
            assert (sample, name) not in result
            size = np.abs(np.asarray(value, np.float64))
            finite = size[np.isfinite(size)]
            result[sample, name] = (size.size > 0, size.max(initial=0), finite.max(initial=0))
    return result


@pytest.mark.parametrize("kinds", [("normal", "not finite", "zeros"), ("normal", "empty"), ("zeros",)])
def test_they_are_those_of_the_whole_values(kinds):
    graph = load(model(TEXT, weights=WEIGHTS))
    know_types(graph, None)
    tensors = [tensor for node in graph.nodes for tensor in node.outputs]
    samples = [{"x": FEEDS[kind]} for kind in kinds]
    with Runner() as runner, np.errstate(all="ignore"):
        found, want = (magnitudes(one(graph, tensors, samples, runner)) for one in (peaks, observe))
    assert found.keys() == want.keys()
    for key in want:
        np.testing.assert_equal(found[key], want[key])


def test_no_value_leaves_the_model_where_all_are_finite():
    graph = load(model(TEXT, weights=WEIGHTS))
    know_types(graph, None)
    with Runner() as runner:
        [(_, values)] = peaks(graph, [graph.nodes[0].outputs[0]], [{"x": FEEDS["normal"]}], runner)
    assert [value.size for value in values.values()] == [1]


def test_what_the_model_refuses_is_an_error():
    graph = load(model(TEXT, weights=WEIGHTS))
    with Runner() as runner, pytest.raises(ExecutionError):
        list(peaks(graph, [graph.nodes[0].outputs[0]], [{"x": np.zeros((2, 4), np.float32)}], runner))
