"""Sizes that are known by where they come from, though not as numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphopt_passes.cast_like import CastInsteadOfCastLike
from graphopt_passes.partly_known import Numbers
from graphopt_passes.shape_arithmetic import evaluate_shapes
from hypothesis import given
from hypothesis import strategies as st

from graphopt.testing import assert_unchanged, check_rule, model

C = {
    "i0": np.int64(0),
    "i1": np.int64(1),
    "v0": np.array([0]),
    "v1": np.array([1]),
    "v2": np.array([2]),
    "table": (512, 4),
    "small": (1, 4),
    "places": np.arange(512)[None],
    "single": np.arange(1)[None],
}


def text(body: str, result: str = "float[B,S,4] y", opset: int = 17):
    head = "int64[B,S] ids, float[B,S,4] x"
    return model(
        f"g ({head}) => ({result}) {{ {body} }}", weights={k: v for k, v in C.items() if k in body}, opset=opset
    )


HEAD = "s = Shape(ids) n = Gather(s, i1) m = Unsqueeze(n, v0) "


def test_a_part_of_positions_is_as_long_as_what_it_is_added_to():
    """x (B, S, 4) + table[places[:, :S]] is (B, S, 4): where S exceeds the 512 places, the addition itself fails."""
    body = (
        f"{HEAD} p = Slice(places, v0, m, v1, v1) e = Gather(table, p) a = Add(x, e) "
        "t = Shape(a) b = Neg(a) y = Reshape(b, t)"
    )
    result = check_rule(evaluate_shapes, text(body))
    assert "Reshape" not in [node.op_type for node in result.graph.node]


def test_one_place_may_be_repeated():
    """min(S, 1) is no S: there the addition repeats it."""
    body = HEAD + "p = Slice(single, v0, m, v1, v1) t = Shape(p) y = Neg(t)"
    assert_unchanged(evaluate_shapes, text(body, "int64[2] y"))


@given(st.integers(0, 9), st.integers(2, 9))
def test_a_size_against_a_capped_one(n: int, cap: int):
    """Where n and min(n, cap) broadcast at all, they do to n."""
    capped = min(n, cap)
    if n == capped or 1 in (n, capped):
        assert max(n, capped) == n or 0 in (n, capped)
        assert np.broadcast_shapes((n,), (capped,)) == (n,)
    numbers = Numbers()
    size = numbers.of("n", is_size=True)
    assert numbers.broadcast([size, numbers.compute("Min", size, cap)]) is size


def test_a_cap_of_one_proves_nothing():
    numbers = Numbers()
    size = numbers.of("n", is_size=True)
    assert numbers.broadcast([size, numbers.compute("Min", size, 1)]) is None


def test_a_sum_less_one_of_its_parts():
    numbers = Numbers()
    a, b = (numbers.of(name, is_size=True) for name in "ab")
    assert numbers.compute("Sub", numbers.compute("Add", a, b), a) is b
    assert numbers.compute("Sub", numbers.compute("Add", a, b), b) is a
    assert numbers.compute("Sub", a, numbers.compute("Add", a, b)) not in (a, b)


def test_counting_to_a_size():
    body = HEAD + "r = Range(i0, n, i1) c = Gather(table, r) a = Add(x, c) t = Shape(a) b = Neg(a) y = Reshape(b, t)"
    result = check_rule(evaluate_shapes, text(body))
    assert "Reshape" not in [node.op_type for node in result.graph.node]


def test_counting_by_two_is_half_as_long():
    body = (
        "s = Shape(ids) n = Gather(s, i1) two = Constant<value_int=2>() r = Range(i0, n, two) t = Shape(r) y = Neg(t)"
    )
    assert_unchanged(evaluate_shapes, text(body, "int64[1] y"))


def test_a_wrong_claim_about_an_output_is_not_believed():
    """Trained OCR networks declare (1, classes) for an output of three dimensions; runtimes go by the operator."""
    body = (
        "s = Shape(x) a = Gather(s, i0) b = Unsqueeze(a, v0) four = Constant<value_ints=[1, -1]>() "
        "t = Concat<axis=0>(b, four) y = Reshape(x, t)"
    )
    result = check_rule(evaluate_shapes, text(body, "float[1,24] y"), shapes={"ids": (2, 3), "x": (2, 3, 4)})
    assert "Reshape" in [node.op_type for node in result.graph.node]


KNOWN = {
    "w": np.ones((4, 1, 2, 2), np.float32),
    "grid": np.ones((2, 4, 1, 1), np.float32),
    "lw": np.ones((1, 12, 4), np.float32),
    "lr": np.ones((1, 12, 3), np.float32),
    "at": np.zeros((1, 3), np.int64),
    "put": np.zeros(1, np.float32),
    "k": np.array([1]),
}
LEARNT = [
    ('a = Einsum<equation = "bsc,bsd->bcsd">(x, x)', 2, "x", 1),
    ('r = ReduceSum<keepdims = 0>(x, k) a = Einsum<equation = "bsc,bd->dbs">(x, r)', 1, "x", 0),
    ("a = Flatten<axis = 1>(z)", 0, "z", 0),
    ("c = ReduceSum(z, k) a = Flatten<axis = -2>(c)", 0, "z", 0),
    ("a = ArgMax<axis = 1, keepdims = 0>(z)", 1, "z", 2),
    ("a = ArgMin<axis = -3>(z)", 3, "z", 3),
    ("a = GlobalMaxPool(z)", 0, "z", 0),
    ("g = Conv(z, grid) h = Transpose<perm = [0, 2, 3, 1]>(g) a = GridSample(z, h)", 2, "z", 2),
    ("a, b = TopK<axis = 1>(z, k)", 2, "z", 2),
    ("b, a = TopK(z, k)", 2, "z", 2),
    ("a = ConvTranspose(z, w)", 0, "z", 0),
    ("a, b, c = LSTM<hidden_size = 3>(x, lw, lr)", 2, "x", 1),
    ("b, c, a = LSTM<hidden_size = 3>(x, lw, lr)", 1, "x", 1),
    ("a = DepthToSpace<blocksize = 2>(z)", 0, "z", 0),
    ("a = ScatterND(x, at, put)", 1, "x", 1),
]


@pytest.mark.parametrize(("body", "axis", "of", "place"), LEARNT)
def test_sizes_behind_an_operator_are_those_of_its_operands(body, axis, of, place):
    """What is learnt is true of every size, and it is learnt: the comparison is decided."""
    source = model(
        f"""g (float[B,S,4] x, float[B,4,H,W] z) => (bool[1] y) <int64[1] i = {{{axis}}}, int64[1] j = {{{place}}}> {{
        {body} s = Shape(a) one = Gather(s, i) t = Shape({of}) other = Gather(t, j)
        e = Equal(one, other) y = Not(e) }}""",
        weights={name: value for name, value in KNOWN.items() if re.search(rf"\b{name}\b", body)},
        opset=18,
    )
    for batch, length, height, width in ((2, 3, 5, 6), (1, 1, 1, 1), (3, 2, 1, 4)):
        feeds = {"x": (batch, length, 4), "z": (batch, 4, height, width)}
        result = check_rule(evaluate_shapes, source, shapes=feeds)
        assert "Equal" not in [node.op_type for node in result.graph.node]


def test_like_a_known_dtype():
    check_rule(
        CastInsteadOfCastLike(),
        "g (int64[N] x, float[N] z) => (float[N] y) { a = CastLike(x, z) y = Add(a, z) }",
        "g (int64[N] x, float[N] z) => (float[N] y) { a = Cast<to=1>(x) y = Add(a, z) }",
    )


def test_like_its_own_dtype():
    check_rule(
        CastInsteadOfCastLike(),
        "g (float[N] x, float[N] z) => (float[N] y) { a = CastLike(x, z) y = Add(a, z) }",
        "g (float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }",
    )


def test_like_a_dtype_that_each_call_chooses():
    assert_unchanged(
        CastInsteadOfCastLike(),
        """<ir_version: 10, opset_import: ["" : 18, "l" : 1]>
        g (float[N] x, float[N] z) => (float[N] y) { y = l.F(x, z) }
        <domain: "l", opset_import: ["" : 18]> F (p, q) => (r) { r = CastLike(p, q) }""",
    )
