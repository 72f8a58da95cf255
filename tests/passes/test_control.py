"""An If whose condition is known is the branch that runs."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.control import inline_known_if

from graphopt.testing import apply, assert_unchanged, check_rule, model

TEXT = """g (float[4] x) => (float[4] y) {
    a = Neg(x)
    b = If(c)<
        then_branch = t () => (u) { p = Relu(a) u = Add(p, w) },
        else_branch = e () => (v) { v = Abs(a) }
    >
    y = Mul(b, x)
}"""


@pytest.mark.parametrize(("value", "inside"), [(True, "p = Relu(a) b = Add(p, w)"), (False, "b = Abs(a)")])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_branch_that_runs(value, inside, shape):
    weights = {"c": np.full(shape, value), "w": (4,)}
    after = {"w": weights["w"]} if value else {}
    check_rule(
        inline_known_if,
        model(TEXT, weights=weights),
        model(f"g (float[4] x) => (float[4] y) {{ a = Neg(x) {inside} y = Mul(b, x) }}", weights=after),
    )


def test_an_if_that_makes_a_graph_output_keeps_the_name():
    text = """g (float[4] x) => (float[4] y) {
        y = If(c)<then_branch = t () => (u) { u = Relu(x) }, else_branch = e () => (v) { v = Abs(x) }>
    }"""
    check_rule(
        inline_known_if,
        model(text, weights={"c": np.bool_(True)}),
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
    )


def test_nested():
    text = """g (float[4] x) => (float[4] y) {
        y = If(c)<
            then_branch = t () => (u) {
                u = If(c)<then_branch = tt () => (p) { p = Relu(x) }, else_branch = te () => (q) { q = Exp(x) }>
            },
            else_branch = e () => (v) { v = Abs(x) }
        >
    }"""
    source = model(text, weights={"c": np.bool_(True)})
    check_rule(inline_known_if, source, "g (float[4] x) => (float[4] y) { y = Relu(x) }", fires=2)


def test_an_unknown_condition_stays():
    assert_unchanged(inline_known_if, model(TEXT.replace("(float[4] x)", "(bool c, float[4] x)"), weights={"w": (4,)}))


def test_two_results_of_a_branch_may_be_one_value():
    result, _ = apply(  # not compared: onnxruntime gives zeros for the first of such results
        model(
            """g (float[4] x) => (float[4] y, float[4] z) {
                y, z = If(c)<then_branch = t () => (u, u) { u = Relu(x) }, else_branch = e () => (v, v) { v = Abs(x) }>
            }""",
            weights={"c": np.array(True)},
        ),
        inline_known_if,
    )
    assert [(list(node.input), list(node.output)) for node in result.graph.node] == [(["x"], ["y"]), (["y"], ["z"])]
