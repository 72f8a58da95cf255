"""Loops whose turns are known."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.constants import fold_constants
from graphopt_passes.loops import unroll_loops

from graphopt.testing import apply, assert_unchanged, check_rule, model


def loop(body: str, *, turns: object = 3, opset: int = 17, start: str = "go", result: str = "float[2] y"):
    row = ", float[2] r" if "," in result else ""
    text = f"""g (float[2] x) => ({result}) {{ {result_names(result)} = Loop (n, {start}, x)
        <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w{row}) {{ {body} }}> }}"""
    weights = {"n": np.int64(turns), "go": np.array(True), "stop": np.array(False)}
    return model(text, weights={name: value for name, value in weights.items() if name in text}, opset=opset)


def result_names(result: str) -> str:
    return ", ".join(part.split()[-1] for part in result.split(", "))


def ops(proto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_turns_follow_each_other():
    result = check_rule(unroll_loops, loop("d = Identity(c) a = Exp(v) w = Neg(a)"))
    assert [op for op in ops(result) if op != "Identity"] == ["Exp", "Neg"] * 3


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_values_of_each_turn_are_joined(opset: int):
    body = "d = Identity(c) f = Cast<to=1>(i) w = Add(v, f) r = Neg(w)"
    check_rule(unroll_loops, loop(body, opset=opset, result="float[2] y, float[3,2] z"))


def test_one_turn():
    result = check_rule(
        unroll_loops, loop("d = Identity(c) w = Exp(v) r = Neg(v)", turns=1, result="float[2] y, float[1,2] z")
    )
    assert "Concat" not in ops(result)


def test_a_value_that_is_handed_on_unchanged():
    check_rule(unroll_loops, loop("d = Identity(c) w = Identity(v)"))


def test_a_condition_that_is_always_true():
    check_rule(unroll_loops, loop("d = Constant<value = bool {1}>() w = Exp(v)"))


def test_without_a_condition():
    check_rule(unroll_loops, loop("d = Identity(c) w = Exp(v)", start=""))


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("s = ReduceSum<keepdims=0>(v) z = Constant<value_float=0.5>() d = Less(s, z) w = Exp(v)", {}),
        ("d = Constant<value = bool {0}>() w = Exp(v)", {}),
        ("d = Identity(c) w = Exp(v)", {"start": "stop"}),
        ("d = Identity(c) w = Exp(v)", {"turns": 0}),
        ("d = Identity(c) w = Exp(v)", {"turns": 300}),
        ("d = Identity(c) u = RandomUniformLike(v) w = Add(u, v)", {}),
    ],
)
def test_loops_that_stay(body: str, more: dict):
    """Turns that depend on values; ended after the first; never begun; none; too many; random numbers."""
    assert_unchanged(unroll_loops, loop(body, **more))


def test_a_number_of_turns_that_is_given():
    assert_unchanged(
        unroll_loops,
        "g (float[2] x, int64 n, bool go) => (float[2] y) { y = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v)"
        " => (bool d, float[2] w) { d = Identity(c) w = Exp(v) }> }",
    )


def test_captures_and_loops_in_loops():
    text = """g (float[2] x, float[2] k) => (float[2] y) { o = Exp(k) y = Loop (n, go, x) <
        body = b (int64 i, bool c, float[2] v)
        => (bool d, float[2] w) { d = Identity(c) m = Mul(v, o) w = Loop (n, go, m) <
        body = e (int64 j, bool q, float[2] t)
        => (bool h, float[2] u) { h = Identity(q) u = Add(t, m) }> }> }"""
    result = check_rule(unroll_loops, model(text, weights={"n": np.int64(2), "go": np.array(True)}))
    assert "Loop" not in ops(result)


def test_numbers_of_turns_fold():
    result, _ = apply(loop("d = Identity(c) f = Cast<to=1>(i) w = Add(v, f)"), unroll_loops, fold_constants)
    assert [op for op in ops(result) if op != "Identity"] == ["Add"] * 3


SCAN = """g (float[2] s, float[3,2] x, float[2,3] z) => (float[2] y, float[{shape}] r) {{
    y, r = Scan <num_scan_inputs=2, scan_input_axes=[0, {axis}], scan_input_directions=[{way}, 0],
    scan_output_axes=[{out}], scan_output_directions=[{way}], body = b (float[2] v, float[2] p, float[2] q)
    => (float[2] w, float[2] t) {{ a = Mul(v, p) w = Add(a, q) t = Neg(w) }}> (s, x, z) }}"""


@pytest.mark.parametrize(("axis", "way", "out"), [(1, 0, 0), (-1, 1, 1), (1, 1, -1)])
def test_scans_along_any_axis_both_ways(axis: int, way: int, out: int):
    text = SCAN.format(axis=axis, way=way, out=out, shape="3,2" if out == 0 else "2,3")
    result = check_rule(unroll_loops, text)
    assert "Scan" not in ops(result)


@pytest.mark.parametrize(("turns", "left"), [(8, False), (9, True)])
def test_a_scan_of_many_turns_is_no_slower_as_it_is(turns: int, left: bool):
    text = f"""g (float[2] s, float[{turns},2] x) => (float[2] y, float[{turns},2] r) {{
        y, r = Scan <num_scan_inputs=1, body = b (float[2] v, float[2] p)
        => (float[2] w, float[2] t) {{ w = Mul(v, p) t = Neg(w) }}> (s, x) }}"""
    result, fired = apply(text, unroll_loops)
    assert fired == {"unroll-loops": int(not left)}
    assert ("Scan" in ops(result)) == left
