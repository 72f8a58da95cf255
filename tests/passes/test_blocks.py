"""Strided slices of all places of a block are one SpaceToDepth."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphopt_passes.blocks import fuse_space_to_depth

from graphopt.testing import assert_unchanged, check_rule, model

ALL = ((0, 0), (1, 0), (0, 1), (1, 1))
LAST = 2**63 - 1


def focus(places=ALL, *, after="y = Conv(z, w)", x="float[N,3,6,4] x", step=2, ends=(LAST, LAST), extra="", **weights):
    lines = " ".join(f"p{n} = Slice(x, s{n}, e, a, t)" for n in range(len(places)))
    parts = ", ".join(f"p{n}" for n in range(len(places)))
    body = f"{lines} z = Concat<axis = 1>({parts}) {after} {extra}"
    values = {f"s{n}": np.array(place) for n, place in enumerate(places)}
    values |= {"e": np.array(ends), "a": np.array([2, 3]), "t": np.array([step, step]), "w": (5, 3 * len(places), 1, 1)}
    used = {name: value for name, value in (values | weights).items() if re.search(rf"\b{name}\b", body)}
    outputs = "float y, float q" if "q =" in extra else "float y"
    return model(f"g ({x}) => ({outputs}) {{ {body} }}", weights=used)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("ends", [(LAST, LAST), (6, 4), (9, LAST)])
def test_focus(ends):
    assert operators(check_rule(fuse_space_to_depth, focus(ends=ends), fires=1)) == ["SpaceToDepth", "Conv"]


def test_of_unknown_sizes():
    source = focus(x="float[N,3,H,W] x")
    check_rule(fuse_space_to_depth, source, fires=1, shapes={"x": (2, 3, 8, 10)})


def test_blocks_of_three():
    places = [(i, j) for j in range(3) for i in range(3)]
    check_rule(fuse_space_to_depth, focus(places, step=3, x="float[N,2,6,9] x", w=(5, 18, 1, 1)), fires=1)


def test_in_its_own_order_anything_may_read_it():
    straight = sorted(ALL)
    assert operators(check_rule(fuse_space_to_depth, focus(straight, after="y = Relu(z)"))) == ["SpaceToDepth", "Relu"]
    check_rule(fuse_space_to_depth, focus(straight, after="y = Identity(z)"))


def test_one_axis_after_the_other():
    text = """g (float[1,3,6,4] x) => (float y) {
        r = Slice(x, zero, e, two, t) s = Slice(x, one, e, two, t)
        a = Slice(r, zero, e, three, t) b = Slice(s, zero, e, three, t)
        c = Slice(r, one, e, three, t) d = Slice(s, one, e, three, t)
        z = Concat<axis = 1>(a, b, c, d) y = Conv(z, w)
    }"""
    ints = {"zero": 0, "one": 1, "two": 2, "three": 3, "e": LAST, "t": 2}
    weights = {name: np.array([value]) for name, value in ints.items()} | {"w": (5, 12, 1, 1)}
    assert operators(check_rule(fuse_space_to_depth, model(text, weights=weights))) == ["SpaceToDepth", "Conv"]


@pytest.mark.parametrize(
    "source",
    [
        focus(((0, 0), (1, 0), (0, 1), (0, 1))),  # a place twice
        focus(((0, 0), (1, 0), (0, 1))),  # one is missing
        focus(((0, 0), (1, 0), (0, 1), (3, 1))),  # begins in the second block
        focus(ends=(5, 4)),
        focus(after="y = Relu(z)"),  # an order that not everything may read
        focus(after="y = Conv<group = 2>(z, w)", w=(4, 6, 1, 1)),
        focus(extra="q = Abs(p1)"),  # something else reads a slice
        focus(step=1, places=((0, 0), (0, 0), (0, 0), (0, 0))),
    ],
)
def test_others_stay(source):
    assert_unchanged(fuse_space_to_depth, source)


def test_weights_that_others_read_stay():
    extra = "q = Mul(w, w)"
    assert_unchanged(fuse_space_to_depth, focus(extra=extra))
