"""2:4 sparsity: the two smaller of four go, and what is sparse stays so."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.ir.weights import read
from graphopt.precision.sparsity import count, is_sparse, prune, pruned
from graphopt.precision.stage import Request, lower
from graphopt.testing import model

SOURCE = model(
    "g (float[N,64] x) => (float[N,32] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }",
    weights={"w": (64, 64), "v": (64, 32)}, opset=21,
)  # fmt: skip


@given(hnp.arrays(np.float32, (3, 8, 5), elements=st.floats(-4, 4, width=16)))
def test_the_largest_two_of_four_stay(weight):
    found = pruned(weight, 1)
    assert is_sparse(found, 1)
    groups, before = np.moveaxis(found, 1, -1).reshape(-1, 4), np.moveaxis(weight, 1, -1).reshape(-1, 4)
    np.testing.assert_allclose(np.abs(groups).sum(-1), np.sort(np.abs(before), -1)[:, 2:].sum(-1), rtol=1e-6)
    assert np.all((found == weight) | (found == 0))


def test_dense_is_not_sparse():
    assert not is_sparse(np.ones((4, 8), np.float32), 1)


def test_it_survives_quantization():
    graph = load(SOURCE)
    calib = [{"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}]
    found = lower(graph, Request("int8", calib=calib, prune=True, max_error=2.0), Target(version="1.7.1"))
    assert found.sparse["sparse"] == found.sparse["of"] == 2
    stored = [t for node in graph.nodes for t in node.inputs if t.name.endswith("_int8") and not t.inputs]
    assert len(stored) == 2
    assert all(is_sparse(read(tensor), 0) for tensor in stored)
    assert found.error["y"] > 0.2, "held against the weights before"


def test_a_weight_that_is_summed_along_two_axes_stays():
    text = "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w) y = Gemm<transB = 1>(a, w) }"
    graph = load(model(text, weights={"w": (64, 64)}))
    assert prune(graph) == 0
    assert count(load(SOURCE)) == {"sparse": 0, "of": 2, "bytes": 0}


def test_without_low_precision():
    graph = load(SOURCE)
    found = lower(graph, Request("tf32", prune=True, max_error=2.0), Target())
    assert found.sparse["sparse"] == 2
    assert found.writes.casts == 0
