"""A factor of one number becomes part of constant weights."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.scales import GatherFactorsOfProduct, fold_scale_into_weights
from onnx import numpy_helper

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32
PORTS = "(float[N,5,8] x) => (float[N,2,5,3] y)"
QUERY = """p = MatMul(x, w) q = Add(p, b) r = Reshape(q, n) t = Transpose<perm = [0, 2, 1, 3]>(r) y = Mul(t, c)"""
WEIGHTS = {"w": (8, 6), "b": (6,), "n": np.array([0, 0, 2, 3]), "c": F(0.125)}


def graph(body=QUERY, ports=PORTS, **weights):
    return model(f"g {ports} {{ {body} }}", weights={**WEIGHTS, **weights})


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def values(proto):
    return {tuple(t.dims): numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_the_scale_of_queries_goes_into_their_projection():
    source = graph()
    result = check_rule(fold_scale_into_weights, source, fires=1)
    assert operators(result) == ["MatMul", "Add", "Reshape", "Transpose"]
    np.testing.assert_array_equal(values(result)[8, 6], values(source)[8, 6] / 8)
    np.testing.assert_array_equal(values(result)[6,], values(source)[6,] / 8)


def test_what_got_the_scale_stands_for_itself_and_for_the_scale():
    source = graph()
    for node in source.graph.node:
        node.name = f"my_{node.op_type}"
    result = check_rule(fold_scale_into_weights, source, fires=1)
    [product] = [node for node in result.graph.node if node.op_type == "MatMul"]
    told = {entry.key: entry.value for entry in product.metadata_props}
    assert "my_MatMul" in told["graphopt.origin"]
    assert "my_Mul" in told["graphopt.origin"]


@pytest.mark.parametrize("c", [F(8), F([[8]]), F(0.3)], ids=str)
def test_division(c):
    result = check_rule(fold_scale_into_weights, graph(QUERY.replace("Mul(t", "Div(t"), c=c), fires=1)
    assert operators(result) == ["MatMul", "Add", "Reshape", "Transpose"]


def test_the_half_of_gelu_goes_into_the_matrix_that_follows():
    body = "e = Erf(x) m = Mul(x, e) h = Mul(c, m) y = MatMul(h, w)"
    result = check_rule(fold_scale_into_weights, graph(body, "(float[N,5,8] x) => (float[N,5,6] y)"), fires=1)
    assert operators(result) == ["Erf", "Mul", "MatMul"]


BODIES = {
    "the projection is read elsewhere": (QUERY, PORTS[:-1] + ", float[N,5,6] p)"),
    "the weights are read elsewhere": (QUERY + " z = Neg(w)", PORTS[:-1] + ", float[8,6] z)"),
    "one divides by it": (QUERY.replace("Mul(t, c)", "Div(c, t)"), PORTS),
    "something that does not commute is between": (QUERY.replace("r = Reshape(q", "g = Relu(q) r = Reshape(g"), PORTS),
    "something is added that is not constant": (QUERY.replace("Add(p, b)", "Add(p, p)"), PORTS),
    "the constant is on the left of the product": (
        "h = Mul(x, c) y = MatMul(k, h)",
        "(float[N,5,8] x) => (float[N,4,8] y)",
    ),
}


@pytest.mark.parametrize(("body", "ports"), BODIES.values(), ids=BODIES)
def test_what_stays(body, ports):
    assert_unchanged(fold_scale_into_weights, graph(body, ports, k=(4, 5)))


@pytest.mark.parametrize("c", [F(0), F(np.inf), F([1, 2, 3]), F(1e38), F(1e-43)], ids=str)
def test_constants_that_stay(c):
    assert_unchanged(fold_scale_into_weights, graph(c=c, w=np.linspace(1, 1e3, 48, dtype=F).reshape(8, 6)))


def test_a_constant_that_raises_the_rank_stays():
    ports = "(float[N,5,8] x) => (float[1,N,2,5,3] y)"
    assert_unchanged(fold_scale_into_weights, graph(ports=ports, c=np.full((1, 1, 1, 1, 1), 0.5, F)))


def test_both_factors_of_a_product_are_one():
    body = "l = Mul(x, c) r = Mul(d, z) y = MatMul(l, r)"
    ports = "(float[N,5,8] x, float[N,8,5] z) => (float[N,5,5] y)"
    result = check_rule(GatherFactorsOfProduct(), graph(body, ports, d=F(0.5)), fires=1)
    assert operators(result) == ["Mul", "MatMul"]
    assert values(result)[()] == 0.0625
    assert_unchanged(GatherFactorsOfProduct(), graph(body, ports, d=F([1, 2, 3, 4, 5])))
    assert_unchanged(GatherFactorsOfProduct(), graph(body, ports, d=F(1e30), c=F(1e30)))
    assert_unchanged(GatherFactorsOfProduct(), graph(body, ports[:-1] + ", float[N,8,5] r)", d=F(0.5)))


SCORES = """p = MatMul(x, w) q = Add(p, b) r = Reshape(q, n) t = Transpose<perm = [0, 2, 1, 3]>(r)
            s = MatMul({}) y = Mul(s, c)"""


@pytest.mark.parametrize(("operands", "ports"), [("t, z", "float[N,2,3,5] z"), ("z, t", "float[N,2,3,5] z")])
def test_the_scale_of_scores_goes_into_either_projection(operands, ports):
    ports = f"(float[N,5,8] x, {ports}) => (float[N,2,?,?] y)"
    source = graph(SCORES.format(operands), ports)
    result = check_rule(fold_scale_into_weights, source, fires=1)
    assert operators(result) == ["MatMul", "Add", "Reshape", "Transpose", "MatMul"]


def test_a_sum_after_the_product_of_two_computed_tensors_stops_it():
    body = SCORES.format("t, z").replace("y = Mul(s, c)", "a = Add(s, d) y = Mul(a, c)")
    ports = "(float[N,5,8] x, float[N,2,3,5] z) => (float[N,2,5,5] y)"
    assert_unchanged(fold_scale_into_weights, graph(body, ports, d=F(1)))
    assert_unchanged(fold_scale_into_weights, graph(SCORES.format("t, z"), ports, c=F(2)))


@pytest.mark.parametrize("body", ["h = Mul(x, c) m = Mul(h, e)", "h = Mul(c, e) m = Mul(x, h)"])
def test_a_factor_passes_a_gate_on_its_way_to_the_matrix_that_follows(body):
    text = f"e = Erf(x) {body} y = MatMul(m, w)"
    ports = "(float[N,5,8] x) => (float[N,5,6] y)"
    result = check_rule(fold_scale_into_weights, graph(text, ports, c=F(0.5)), fires=1)
    assert operators(result) == ["Erf", "Mul", "MatMul"]
    assert_unchanged(fold_scale_into_weights, graph(text, ports, c=F(0.25)))
