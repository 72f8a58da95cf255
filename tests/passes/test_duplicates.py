"""What is there twice becomes one; what only looks equal does not."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.duplicates import merge_equal_nodes, merge_equal_weights, share_transposed_weights

from graphopt.testing import apply, assert_unchanged, check_rule, model


def test_equal_weights_are_one():
    w = np.arange(4, dtype=np.float32)
    result = check_rule(
        merge_equal_weights,
        model("g (float[4] x) => (float[4] y) { a = Add(x, v) y = Mul(a, w) }", weights={"v": w, "w": w.copy()}),
        fires=1,
    )
    assert len(result.graph.initializer) == 1


@pytest.mark.parametrize(
    "other",
    [
        np.arange(4, dtype=np.float64).astype(np.float32).reshape(1, 4),
        np.array([0, 1, 2, -3], np.float32),
        np.array([-0.0, 1, 2, 3], np.float32),
    ],
)
def test_other_shapes_values_and_signs_of_zero_are_other_weights(other):
    weights = {"v": np.arange(4, dtype=np.float32), "w": other}
    text = f"g (float[4] x) => (float[{','.join(map(str, other.shape))}] y) {{ a = Add(x, v) y = Mul(a, w) }}"
    assert_unchanged(merge_equal_weights, model(text, weights=weights))


def test_bytes_of_another_dtype_are_other_weights():
    weights = {"v": np.zeros(4, np.float32), "w": np.zeros(4, np.int32)}
    text = "g (float[4] x) => (float[4] y) { f = Cast<to = 1>(w) a = Add(x, v) y = Mul(a, f) }"
    assert_unchanged(merge_equal_weights, model(text, weights=weights))


def test_weights_are_shared_between_a_body_and_the_graph_around_it():
    w = np.arange(4, dtype=np.float32)
    source = model(
        """g (bool c, float[4] x) => (float[4] y) {
            a = Add(x, w)
            y = If(c)<then_branch = t () => (u) { u = Mul(a, v) }, else_branch = e () => (z) { z = Sub(a, o) }>
        }""",
        weights={"w": w, "v": w.copy(), "o": w.copy()},
    )
    result = check_rule(merge_equal_weights, source, fires=2)
    assert len(result.graph.initializer) == 1


def test_equal_nodes_are_one():
    check_rule(
        merge_equal_nodes,
        "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(x) c = Relu(a) d = Relu(b) y = Add(c, d) }",
        "g (float[4] x) => (float[4] y) { a = Neg(x) c = Relu(a) y = Add(c, c) }",
        fires=2,
    )


@pytest.mark.parametrize(
    "text",
    [
        "a = RandomUniformLike(x) b = RandomUniformLike(x) y = Sub(a, b)",
        "a = Bernoulli(x) b = Bernoulli(x) y = Sub(a, b)",
        "a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu<alpha = 0.2>(x) y = Sub(a, b)",
        "a = Sub(x, w) b = Sub(w, x) y = Sub(a, b)",
        "a = com.x.Read(x) b = com.x.Read(x) y = Sub(a, b)",
    ],
)
def test_what_only_looks_equal_stays(text):
    source = model(f"g (float[4] x) => (float[4] y) {{ {text} }}", weights={"w": (4,)}, **{"com.x": 1})
    _, counts = apply(source, merge_equal_nodes)
    assert counts["merge-equal-nodes"] == 0


def test_dropout_in_training_is_random():
    text = "a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b)"
    weights = {"r": np.float32(0.5), "t": np.bool_(True)}
    assert_unchanged(merge_equal_nodes, model(f"g (float[4] x) => (float[4] y) {{ {text} }}", weights=weights))


def test_two_graph_outputs_keep_their_names():
    source = "g (float[4] x) => (float[4] a, float[4] b) { a = Neg(x) b = Neg(x) }"
    result, _ = apply(source, merge_equal_nodes)
    assert [port.name for port in result.graph.output] == ["a", "b"]


def test_nodes_of_different_bodies_stay_apart():
    assert_unchanged(
        merge_equal_nodes,
        """g (bool c, float[4] x) => (float[4] y) {
            y = If(c)<then_branch = t () => (u) { u = Neg(x) }, else_branch = e () => (v) { v = Neg(x) }>
        }""",
    )


W = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)


@pytest.mark.parametrize(
    "text",
    [
        "a = Gemm(x, w) y = Gemm(a, v)",
        "a = Gemm<transB = 1>(x, v) y = Gemm<transB = 1>(a, w)",
        "a = Gemm(x, w) y = Gemm<transB = 1>(a, w) b = Gemm(a, v) z = Relu(b)",
    ],
)
def test_a_transposed_twin_is_read_through_the_flag_of_gemm(text):
    outputs = "float[3,48] y, float[3,48] z" if "z" in text else "float[3,48] y"
    weights = {"w": W, "v": np.ascontiguousarray(W.T)}
    source = model(f"g (float[3,48] x) => ({outputs}) {{ {text} }}", weights=weights)
    result = check_rule(share_transposed_weights, source, fires=1)
    assert len(result.graph.initializer) == 1
    assert len(result.graph.node) == len(source.graph.node)


@pytest.mark.parametrize(
    ("text", "v"),
    [
        ("a = Gemm(x, w) b = MatMul(a, v) y = Relu(b)", W.T),
        ("a = Gemm(x, w) b = Gemm(a, v) n = Neg(v) s = ReduceSum(n) y = Add(b, s)", W.T),
        ("a = Gemm(x, w) y = Gemm(a, v)", np.nextafter(W.T, np.float32(9))),
    ],
)
def test_other_readers_and_other_numbers_keep_their_weight(text, v):
    weights = {"w": W, "v": np.ascontiguousarray(v)}
    source = model(f"g (float[3,48] x) => (float[3,48] y) {{ {text} }}", weights=weights)
    _, counts = apply(source, share_transposed_weights)
    if "MatMul" in text or "Neg" in text:  # w itself is read by a Gemm alone, and may take the other's place
        assert counts["share-transposed-weights"] <= 1
    else:
        assert counts["share-transposed-weights"] == 0


def test_a_symmetric_weight_is_its_own_twin():
    w = (np.eye(64) * 2).astype(np.float32)
    source = model(
        "g (float[3,64] x) => (float[3,64] y) { a = Gemm(x, w) y = Gemm(a, v) }", weights={"w": w, "v": w + 1}
    )
    assert_unchanged(share_transposed_weights, source)
