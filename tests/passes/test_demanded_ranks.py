"""An If of which only one branch fits its reader takes that branch."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.demanded_ranks import decide_if_by_rank

from graphopt.testing import apply, assert_unchanged, model

W = {"w": (4, 3, 1), "zero": np.array([0]), "two": np.array(2)}


def choice(then: str, otherwise: str, after: str, ports="(float[2,3,5] x, bool c) => (float y)", **weights):
    body = f"""z = If(c)<then_branch = t () => (u) {{ u = {then} }}, else_branch = e () => (v) {{ v = {otherwise} }}>"""
    used = {name: value for name, value in (W | weights).items() if name in body + after}
    return model(f"g {ports} {{ {body} {after} }}", weights=used)


def decided(source) -> list[bool]:
    """The constants that conditions have become."""
    made, counts = apply(source, decide_if_by_rank)
    known = {t.name: bool(np.ravel(np.frombuffer(t.raw_data or bytes(t.int32_data), np.uint8))[0])
             for t in made.graph.initializer if t.name.endswith("_known")}  # fmt: skip
    found = [known[node.input[0]] for node in made.graph.node if node.op_type == "If" and node.input[0] in known]
    assert len(found) == counts["decide-if-by-rank"]
    return found


@pytest.mark.parametrize("after", ["y = Conv(z, w)", "r = Relu(z) y = Conv(r, w)"])
def test_the_branch_that_a_conv_can_read(after):
    assert decided(choice("Neg(x)", "Unsqueeze(x, zero)", after)) == [True]
    assert decided(choice("Unsqueeze(x, zero)", "Neg(x)", after)) == [False]


def test_through_squeeze_and_unsqueeze():
    assert decided(choice("Gather(x, zero)", "Gather<axis = 0>(x, i)", "q = Unsqueeze(z, zero) y = Conv(q, w)",
                          i=np.array(0))) == [False]  # fmt: skip
    assert decided(choice("Unsqueeze(x, zero)", "Neg(x)", "q = Squeeze(z, zero) y = Conv(q, w)")) == [True]


def test_states_of_recurrent_operators_are_of_rank_3():
    ports = "(float[7,1,3] x, float[1,1,4] h, bool c) => (float y)"
    source = choice("Squeeze(h, zero)", "Neg(h)", "y = GRU<hidden_size = 4>(x, g, r, , , z)", ports, g=(1, 12, 3),
                    r=(1, 12, 4))  # fmt: skip
    assert decided(source) == [False]


def test_all_that_read_the_condition_know_it():
    text = """g (float[2,3,5] x, float[3] d) => (float y, float k) {
        s = Size(d) c = Equal(s, two)
        z = If(c)<then_branch = t () => (u) { u = Neg(x) }, else_branch = e () => (v) { v = Unsqueeze(x, zero) }>
        k = If(c)<then_branch = a () => (m) { m = Abs(x) }, else_branch = b () => (n) { n = Exp(x) }>
        y = Conv(z, w)
    }"""
    assert decided(model(text, weights=W)) == [True, True]


@pytest.mark.parametrize(
    ("then", "otherwise", "after"),
    [
        ("Neg(x)", "Abs(x)", "y = Conv(z, w)"),  # both fit
        ("Unsqueeze(x, zero)", "Gather(x, two)", "y = Conv(z, w)"),  # none fits
        ("Neg(x)", "Unsqueeze(x, zero)", "y = Mul(z, two)"),  # any rank will do
        ("Neg(x)", "Unsqueeze(x, zero)", "y = Identity(z)"),
    ],
)
def test_where_the_reader_does_not_decide(then, otherwise, after):
    two = np.float32(2) if "Mul" in after else W["two"]
    assert_unchanged(decide_if_by_rank, choice(then, otherwise, after, two=two))


def test_a_reader_that_need_not_run_decides_nothing():
    text = """g (float[2,3,5] x, bool c, bool e) => (float y) {
        z = If(c)<then_branch = t () => (u) { u = Neg(x) }, else_branch = o () => (v) { v = Unsqueeze(x, zero) }>
        y = If(e)<then_branch = a () => (m) { m = Conv(z, w) }, else_branch = b () => (n) { n = Conv(x, w) }>
    }"""
    assert_unchanged(decide_if_by_rank, model(text, weights={"w": W["w"], "zero": W["zero"]}))


def test_what_is_known_inside_a_branch_is_not_known_outside():
    text = """g (float[2,3,5] x, bool e, float[3] d) => (float y, float k) {
        s = Size(d) c = Equal(s, two)
        y = If(e)<
            then_branch = t () => (p) {
                z = If(c)<then_branch = a () => (u) { u = Neg(x) },
                    else_branch = b () => (v) { v = Unsqueeze(x, zero) }>
                p = Conv(z, w)
            },
            else_branch = o () => (q) { q = Conv(x, w) }
        >
        k = If(c)<then_branch = f () => (m) { m = Abs(x) }, else_branch = h () => (n) { n = Exp(x) }>
    }"""
    made, counts = apply(model(text, weights=W), decide_if_by_rank)
    assert counts["decide-if-by-rank"] == 1
    assert next(node for node in made.graph.node if node.output[0] == "k").input[0] == "c"
