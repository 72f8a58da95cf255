"""Constants are lifted and folded; what is random, quantized, large or dangerous is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphopt_passes.constants import fold_constants, lift_constants, remove_dead_nodes
from onnx import numpy_helper

from graphopt.testing import apply, assert_unchanged, check_rule, model


def test_a_constant_node_becomes_an_initializer():
    check_rule(
        lift_constants,
        "g (float[2] x) => (float[2] y) { c = Constant<value = float[2] {1, 2}>() y = Add(x, c) }",
        model("g (float[2] x) => (float[2] y) { y = Add(x, c) }", weights={"c": np.array([1, 2], np.float32)}),
    )


@pytest.mark.parametrize(
    "attribute", ["value_float = 2.0", "value_int = 2", "value_ints = [2]", "value_floats = [2.0]"]
)
def test_constants_of_every_attribute(attribute):
    dtype = "float" if "float" in attribute else "int64"
    check_rule(lift_constants, f"g ({dtype}[1] x) => ({dtype}[1] y) {{ c = Constant<{attribute}>() y = Mul(x, c) }}")


def test_an_output_that_is_a_constant_keeps_its_node():
    assert_unchanged(lift_constants, "g () => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }")


def test_inside_functions_constants_are_written_as_nodes():
    source = (
        '<ir_version: 10, opset_import: ["" : 17, "f" : 1]> g (float[2] x) => (float[2] y) { y = f.Shift(x) }'
        '<domain: "f", opset_import: ["" : 17]> Shift (a) => (b) '
        "{ one = Constant<value = float {1.0}>() two = Add(one, one) b = Add(a, two) }"
    )
    result, counts = apply(source, lift_constants, fold_constants, remove_dead_nodes)
    assert counts["fold-constants"] == 1
    assert [node.op_type for node in result.functions[0].node] == ["Constant", "Add"]
    onnx.checker.check_model(result)


def test_what_depends_on_constants_alone_is_computed():
    weights = {"a": np.array([3, 4], np.float32), "b": np.float32(2)}
    check_rule(
        fold_constants,
        model("g (float[2] x) => (float[2] y) { c = Mul(a, b) d = Sqrt(c) y = Add(x, d) }", weights=weights),
        model(
            "g (float[2] x) => (float[2] y) { y = Add(x, d) }",
            weights={"d": np.sqrt(weights["a"] * weights["b"])},
        ),
    )


def test_zero_dimensional_stays_zero_dimensional():
    result = check_rule(
        fold_constants,
        model("g (float[2] x) => (float[2] y) { c = Neg(b) y = Mul(x, c) }", weights={"b": np.float32(2)}),
    )
    assert [list(t.dims) for t in result.graph.initializer] == [[]]


def test_a_constant_output_is_made_by_an_identity():
    result = check_rule(fold_constants, model("g () => (float[2] y) { y = Neg(a) }", weights={"a": (2,)}))
    assert [(node.op_type, list(node.output)) for node in result.graph.node] == [("Identity", ["y"])]


@pytest.mark.parametrize(
    "text",
    [
        "r = RandomUniform<shape = [2]>() y = Add(x, r)",
        "r = RandomNormalLike(a) y = Add(x, r)",
        "r = Bernoulli(half) y = Add(x, r)",
    ],
)
def test_random_operators_are_not_folded(text):
    weights = {"a": (2,), "half": np.full(2, 0.5, np.float32)}
    assert_unchanged(fold_constants, model(f"g (float[2] x) => (float[2] y) {{ {text} }}", weights=weights))


def test_quantization_is_left_for_tensorrt_to_read():
    weights = {"w": np.ones((4, 4), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    text = "g (float[2,4] x) => (float[2,4] y) { d = DequantizeLinear(w, s, z) y = MatMul(x, d) }"
    assert_unchanged(fold_constants, model(text, weights=weights))
    weights = {"w": np.ones((64, 64), np.int8), "s": np.float32(0.1)}
    text = "g (float[2,64] x) => (float[2,64] y) { f = Cast<to = 1>(w) d = Mul(f, s) y = MatMul(x, d) }"
    assert_unchanged(fold_constants, model(text, weights=weights))


def test_a_result_that_is_far_larger_than_its_inputs_is_not_folded():
    weights = {"shape": np.array([4096, 4096])}
    text = "g (float[1] x) => (float[4096,4096] y) { e = ConstantOfShape(shape) y = Add(x, e) }"
    assert_unchanged(fold_constants, model(text, weights=weights))


@pytest.mark.parametrize(("a", "b"), [([7, 8], [2, 0]), ([-(2**63), 1], [-1, 1])])
def test_integer_divisions_that_trap_are_not_folded(a, b):
    for op in ("Div", "Mod"):
        weights = {"a": np.array(a), "b": np.array(b)}
        text = f"g (int64[2] x) => (int64[2] y) {{ c = {op}(a, b) y = Add(x, c) }}"
        assert_unchanged(fold_constants, model(text, weights=weights))


def test_what_no_evaluator_knows_stays_and_the_rest_folds():
    weights = {"a": (2,)}
    source = model(
        "g (float[2] x) => (float[2] y) { f = com.x.Foo(a) n = Neg(a) s = Add(f, n) y = Add(x, s) }",
        weights=weights,
        **{"com.x": 1},
    )
    result, counts = apply(source, fold_constants)
    assert counts["fold-constants"] == 1
    assert [node.op_type for node in result.graph.node] == ["Foo", "Add", "Add"]


def test_an_overridable_default_is_no_constant():
    source = model("g (float[2] x, float[2] w) => (float[2] y) { n = Neg(w) y = Add(x, n) }")
    source.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    result, counts = apply(source, fold_constants)
    assert counts["fold-constants"] == 0
    assert [port.name for port in result.graph.input] == ["x", "w"]
    assert [tensor.name for tensor in result.graph.initializer] == ["w"]


def test_dead_nodes_go_with_what_only_they_read():
    check_rule(
        remove_dead_nodes,
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Relu(x) }",
        "g (float[2] x) => (float[2] y) { y = Relu(x) }",
    )
    assert_unchanged(
        remove_dead_nodes,
        """g (bool c, float[2] x) => (float[2] y) {
            a = Neg(x)
            y = If(c)<then_branch = t () => (u) { u = Relu(a) }, else_branch = e () => (v) { v = Abs(x) }>
        }""",
    )


def test_a_tied_embedding_stays_tied():
    """Gather and the last MatMul read one table; the transposed copy would cost as much again."""

    def tied(rows: int, first: str = "y = Gather(w, i)") -> onnx.ModelProto:
        ports = (
            f"(int64[2] i, float[2,64] x) => ({'int64[2]' if 'Neg' in first else 'float[2,64]'} y, float[2,{rows}] z)"
        )
        return model(
            f"g {ports} {{ {first} t = Transpose<perm = [1, 0]>(w) z = MatMul(x, t) }}", weights={"w": (rows, 64)}
        )

    assert_unchanged(fold_constants, tied(512))
    check_rule(fold_constants, tied(32), fires=1, shapes={"i": (2,), "x": (2, 64)})
    check_rule(fold_constants, tied(512, "y = Neg(i)"), fires=1)
