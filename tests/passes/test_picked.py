"""One place of an axis, picked before a Transpose."""

from __future__ import annotations

import pytest
from graphopt_passes.picked import GatherBeforeTranspose

from graphopt.testing import assert_unchanged, check_rule


@pytest.mark.parametrize(
    ("perm", "axis", "before", "result"),
    [([1, 0, 2], 1, 0, "3,4"), ([1, 0, 2], -3, 1, "2,4"), ([1, 2, 0], 2, 0, "3,4"), ([0, 2, 1], -1, 1, "2,4")],
)
@pytest.mark.parametrize("place", [-1, 1])
def test_the_last_step_of_a_sequence(perm, axis, before, result, place):
    head = f"g (float[2,3,4] x) => (float[{result}] y) <int64 i = {{{place}}}>"
    check_rule(
        GatherBeforeTranspose(),
        f"{head} {{ t = Transpose<perm = {perm}>(x) y = Gather<axis = {axis}>(t, i) }}",
        f"{head} {{ y = Gather<axis = {before}>(x, i) }}",
    )


def test_a_place_that_is_computed_and_a_transpose_that_others_read():
    head = "g (float[N,3,4] x, int64 i) => (float[N,4] y, float[3,N,4] z)"
    check_rule(
        GatherBeforeTranspose(),
        f"{head} {{ t = Transpose<perm = [1, 0, 2]>(x) z = Neg(t) y = Gather(t, i) }}",
        f"{head} {{ t = Transpose<perm = [1, 0, 2]>(x) z = Neg(t) y = Gather<axis = 1>(x, i) }}",
    )


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose<perm = [2, 1, 0]>(x) u = Gather<axis = 1>(t, i)",
        "t = Transpose<perm = [1, 0, 2]>(x) u = Gather<axis = 1>(t, several)",
    ],
)
def test_others_stay(body):
    text = f"g (float[2,3,4] x) => (int64 y) <int64 i = {{1}}, int64[2] several = {{0, 1}}> {{ {body} y = Size(u) }}"
    assert_unchanged(GatherBeforeTranspose(), text)


def test_a_transpose_of_unknown_rank_stays():
    text = """<ir_version: 10, opset_import: ["" : 17, "l" : 1]>
        g (float[2,3] x) => (float[3] y) { y = l.F(x) }
        <domain: "l", opset_import: ["" : 17]>
        F (x) => (y) { i = Constant<value_int = 0>() t = Transpose(x) y = Gather<axis = 1>(t, i) }"""
    assert_unchanged(GatherBeforeTranspose(), text)
