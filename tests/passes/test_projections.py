"""Queries, keys and values of one tensor are one product."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.projections import merge_projections
from onnx import numpy_helper

from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32
SHAPES = {"wq": (8, 6), "wk": (8, 4), "wv": (8, 4), "bq": (6,), "bk": (4,), "bv": (4,)}
PORTS = "(float[2,5,8] x) => (float[2,5,6] q, float[2,5,4] k, float[2,5,4] v)"
BODY = "a = MatMul(x, wq) q = Add(a, bq) b = MatMul(x, wk) k = Add(bk, b) c = MatMul(x, wv) v = Add(c, bv)"
BARE = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"


def graph(body=BODY, ports=PORTS, *, opset=17, shapes=SHAPES):
    weights = {name: shape for name, shape in shapes.items() if name in body}
    return model(f"g {ports} {{ {body} }}", weights=weights, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def test_three_products_are_one():
    source = graph()
    result = check_rule(merge_projections, source, fires=3)
    assert operators(result) == ["MatMul", "Add", "Split"]
    arrays = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
    merged = [numpy_helper.to_array(t) for t in result.graph.initializer]
    np.testing.assert_array_equal(merged[0], np.concatenate([arrays[n] for n in ("wq", "wk", "wv")], 1))
    np.testing.assert_array_equal(merged[1], np.concatenate([arrays[n] for n in ("bq", "bk", "bv")]))


def test_a_missing_bias_is_zero():
    body = BODY.replace("b = MatMul(x, wk) k = Add(bk, b)", "k = MatMul(x, wk)")
    assert operators(check_rule(merge_projections, graph(body), fires=3)) == ["MatMul", "Add", "Split"]


def test_without_any_bias():
    assert operators(check_rule(merge_projections, graph(BARE), fires=3)) == ["MatMul", "Split"]


def test_where_layers_would_rise_they_stay():
    flat = PORTS.replace("2,5,", "2,")
    assert_unchanged(merge_projections, graph(BARE, flat))  # 3 layers against 1 and 3 slices
    two = "q = MatMul(x, wq) k = MatMul(x, wk)"
    assert_unchanged(merge_projections, graph(two, PORTS.replace(", float[2,5,4] v", "")))
    one_bias = two.replace("q = MatMul(x, wq)", "a = MatMul(x, wq) q = Add(a, bq)")
    assert_unchanged(merge_projections, graph(one_bias, PORTS.replace(", float[2,5,4] v", "")))


def test_two_with_a_bias_each():
    body = BODY[: BODY.index("c =")]
    assert operators(check_rule(merge_projections, graph(body, PORTS.replace(", float[2,5,4] v", "")), fires=2)) == [
        "MatMul",
        "Add",
        "Split",
    ]


def test_shared_weights_stay_where_they_are():
    result = check_rule(merge_projections, graph(BODY + " z = Neg(wv)", PORTS[:-1] + ", float[8,4] z)"), fires=2)
    assert operators(result) == ["MatMul", "Add", "Split", "MatMul", "Add", "Neg"]


def test_products_of_different_tensors_stay():
    ports = "(float[2,5,8] x, float[2,5,8] z) => (float[2,5,6] q, float[2,5,4] k, float[2,5,4] v)"
    assert_unchanged(merge_projections, graph(BARE.replace("MatMul(x, wv)", "MatMul(z, wv)"), ports))


def test_a_product_that_is_a_result_keeps_its_bias_apart():
    body = "q = MatMul(x, wq) a = Add(q, bq) k = MatMul(x, wk) v = MatMul(x, wv)"
    ports = PORTS[:-1] + ", float[2,5,6] a)"
    result = check_rule(merge_projections, graph(body, ports), fires=3)
    assert operators(result) == ["MatMul", "Split", "Add"]


def test_a_bias_that_is_no_vector_stays_apart():
    wide = SHAPES | {"bq": (1, 1, 6), "bk": (1, 1, 4), "bv": (1, 1, 4)}
    assert operators(check_rule(merge_projections, graph(shapes=wide), fires=3)).count("Add") == 3


@pytest.mark.parametrize("opset", [11, 12])
def test_below_opset_13(opset):
    assert_unchanged(merge_projections, graph(opset=opset))


def test_dynamic_shapes_where_a_split_is_many_layers():
    assert_unchanged(merge_projections, graph(ports=PORTS.replace("2,5,", "N,5,")))


def test_an_unknown_rank():
    body = "r = Reshape(x, n) " + BARE.replace("(x", "(r")
    assert_unchanged(merge_projections, graph(body, "(float[N] x, int64[k] n) => (float q, float k, float v)"))
