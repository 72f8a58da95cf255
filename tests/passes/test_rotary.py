"""The sign of rotary embeddings goes into their constant."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from graphopt_passes.rotary import NegateInConstant

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32
ROTATED = "a, b = Split<axis = {0}>(x, n) m = Neg(b) r = Concat<axis = {0}>(m, a) y = Mul(r, c)"


def graph(axis=-1, ports="(float[N,2,5,8] x) => (float[N,2,5,8] y)", n=(4, 4), body=ROTATED, **weights):
    weights = {"n": np.array(n), "c": np.linspace(-1, 1, 40, dtype=F).reshape(5, 8), **weights}
    return model(f"g {ports} {{ {body.format(axis)} }}", weights=weights)


@pytest.mark.parametrize(
    ("axis", "n", "c"), [(-1, (4, 4), (5, 8)), (3, (3, 5), (8,)), (-2, (2, 3), (1, 5, 8))], ids=str
)
def test_exactly_the_same_without_the_negation(axis, n, c):
    source = graph(axis, n=n, c=np.random.default_rng(0).standard_normal(c).astype(F))
    result = check_rule(NegateInConstant(), source, fires=1)
    assert [node.op_type for node in result.graph.node] == ["Split", "Concat", "Mul"]
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 8)).astype(F)
    x[0, 0, 0] = [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2]
    want, got = (ort.InferenceSession(p.SerializeToString()).run(None, {"x": x})[0] for p in (source, result))
    np.testing.assert_array_equal(got, want)


def test_what_stays():
    rule = NegateInConstant()
    assert_unchanged(rule, graph(c=F(2)))
    assert_unchanged(rule, graph(c=np.ones((5, 1), F)))
    assert_unchanged(rule, graph(c=np.ones((1, 1, 1, 1, 8), F), ports="(float[N,2,5,8] x) => (float[1,N,2,5,8] y)"))
    assert_unchanged(rule, graph(ports="(float[N,2,5,8] x) => (float[N,2,5,8] y, float[N,2,5,4] m)"))
    ports = "(float[N,D] x, float[N,E] z, float[8] w) => (float y)"
    assert_unchanged(
        rule, graph(ports=ports, body="m = Neg(x) r = Concat<axis = 1>(m, z) y = Mul(r, c)", c=np.ones(8, F))
    )
    computed = "(float[N,2,5,8] x, float[5,8] z) => (float[N,2,5,8] y)"
    assert_unchanged(rule, graph(ports=computed, body=ROTATED.replace("Mul(r, c)", "Mul(r, z)")))
