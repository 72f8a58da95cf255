"""What is computed from shapes: constant where it is known, and simpler where it is partly known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from graphopt_passes.partly_known import Numbers, Unknown, compare
from graphopt_passes.shape_arithmetic import ShapeOfOperand, evaluate_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.rewrite.worklist import Model
from graphopt.testing import apply, assert_unchanged, check_rule, model


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONSTANTS = {
    "i0": np.int64(0),
    "i1": np.int64(1),
    "v0": numbers(0),
    "v1": numbers(1),
    "v2": numbers(2),
    "v3": numbers(3),
    "m1": numbers(-1),
    "c64": numbers(64),
}
"""What the models below may name: i for scalars, v for vectors of one element."""


def with_constants(text: str, opset: int = 17):
    return model(text, weights={name: value for name, value in CONSTANTS.items() if name in text}, opset=opset)


def check(before: str, after: str | None = None, opset: int = 17):
    wanted = None if after is None else with_constants(after, opset)
    return check_rule(evaluate_shapes, with_constants(before, opset), wanted)


def unchanged(before: str) -> None:
    assert_unchanged(evaluate_shapes, with_constants(before))


class TestKnownSizes:
    def test_the_shape_of_a_static_tensor(self):
        check(
            "g (float[2,3] x) => (int64[2] y) { s = Shape(x) y = Neg(s) }",
            "g (float[2,3] x) => (int64[2] y) <int64[2] s = {2, 3}> { y = Neg(s) }",
        )

    def test_a_part_of_a_shape(self):
        check(
            "g (float[N,3,5] x) => (int64[2] y) { s = Shape<start=-2>(x) y = Neg(s) }",
            "g (float[N,3,5] x) => (int64[2] y) <int64[2] s = {3, 5}> { y = Neg(s) }",
        )

    @pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
    def test_a_size_picked_from_a_shape_that_is_partly_unknown(self, opset):
        check(
            "g (float[N,3] x) => (int64 y) { s = Shape(x) g = Gather(s, i1) y = Abs(g) }",
            "g (float[N,3] x) => (int64 y) <int64 g = {3}> { y = Abs(g) }",
            opset,
        )

    def test_arithmetic_of_sizes(self):
        check(
            """g (float[N,3,8] x) => (int64[2] y) { s = Shape(x) a = Slice(s, v1, v3) b = Mul(a, c64) c = Div(b, v3)
                d = Sub(c, v1) y = Abs(d) }""",
            "g (float[N,3,8] x) => (int64[2] y) <int64[2] d = {63, 169}> { y = Abs(d) }",
        )

    def test_the_size_of_a_tensor(self):
        check(
            "g (float[2,3] x) => (int64 y) { s = Size(x) y = Abs(s) }",
            "g (float[2,3] x) => (int64 y) <int64 s = {6}> { y = Abs(s) }",
        )

    def test_division_truncates_and_by_zero_stays(self):
        made = Numbers()
        assert made.compute("Div", -7, 2) == -3
        assert made.compute("Mod", -7, 2) == 1
        assert made.compute("Div", 7, 0) is None
        assert made.compute("Mul", 2**40, 2**40) is None

    @pytest.mark.parametrize(
        "text",
        [
            "g (float[N] x) => (int64[1] y) { s = Shape(x) y = Abs(s) }",
            "g (float[2,3] x) => (int64[2] y) { y = Shape(x) }",
            "g (float[N,M] x) => (int64 y) { s = Shape(x) g = Gather(s, i0) y = Abs(g) }",
        ],
        ids=["a symbol", "a graph output", "a symbol picked"],
    )
    def test_it_stays(self, text):
        unchanged(text)

    def test_an_unknown_rank_stays(self):
        proto = model("g (float x) => (int64[N] y) { s = Shape(x) y = Abs(s) }")
        proto.graph.input[0].type.tensor_type.ClearField("shape")
        assert_unchanged(evaluate_shapes, proto)


class TestReshape:
    def test_flattening_heads(self):
        """view(batch, length, 4, 16), as PyTorch exports it."""
        check(
            """g (float[N,L,64] x) => (float[N,L,4,16] y) <int64[2] k = {4, 16}> {
                s = Shape(x) a = Gather(s, i0) b = Gather(s, i1) c = Unsqueeze(a, v0) d = Unsqueeze(b, v0)
                t = Concat<axis=0>(c, d, k) y = Reshape(x, t) }""",
            "g (float[N,L,64] x) => (float[N,L,4,16] y) <int64[4] t = {0, 0, 4, 16}> { y = Reshape(x, t) }",
        )

    def test_one_unknown_size_is_minus_1(self):
        check(
            """g (float[N,8,8] x) => (float[N,64] y) {
                s = Shape(x) a = Slice(s, v0, v1) t = Concat<axis=0>(a, m1) y = Reshape(x, t) }""",
            "g (float[N,8,8] x) => (float[N,64] y) <int64[2] t = {-1, 64}> { y = Reshape(x, t) }",
        )

    def test_through_casts_and_int32_as_paddle_exports_it(self):
        check(
            """g (float[?,?,64] x) => (float[?,?,8,8] y) <int64[2] K = {8, 8}, int64[1] z = {0}> {
                s = Shape(x) a = Cast<to=6>(s) b = Slice(a, v1, v2, z) c = Cast<to=7>(b)
                t = Concat<axis=0>(z, c, K) y = Reshape(x, t) }""",
            "g (float[?,?,64] x) => (float[?,?,8,8] y) <int64[4] t = {0, 0, 8, 8}> { y = Reshape(x, t) }",
        )

    def test_a_product_of_two_sizes_is_one_unknown(self):
        check(
            """g (float[N,L,64] x) => (float[M,64] y) {
                s = Shape(x) a = Slice(s, v0, v1) b = Slice(s, v1, v2) c = Mul(a, b)
                t = Concat<axis=0>(c, c64) y = Reshape(x, t) }""",
            "g (float[N,L,64] x) => (float[M,64] y) <int64[2] t = {-1, 64}> { y = Reshape(x, t) }",
        )

    def test_the_source_may_be_another_tensor_of_the_same_sizes(self):
        """The shape is taken before operators that keep it, at opsets and dims without names."""
        result = check(
            """g (float[?,?,8] x) => (float[?,?,2,4] y) <int64[2] K = {2, 4}> {
                s = Shape(x) a = Slice(s, v0, v2) r = Relu(x) u = Add(r, x)
                t = Concat<axis=0>(a, K) y = Reshape(u, t) }"""
        )
        assert [node.op_type for node in result.graph.node] == ["Relu", "Add", "Reshape"]

    def test_reshaping_to_its_own_shape_is_nothing(self):
        check(
            "g (float[N,M] x) => (float[N,M] y) { r = Relu(x) s = Shape(x) u = Reshape(r, s) y = Neg(u) }",
            "g (float[N,M] x) => (float[N,M] y) { r = Relu(x) y = Neg(r) }",
        )

    @pytest.mark.parametrize(
        "text",
        [
            """g (float[N,L,64] x) => (int64 y) { s = Shape(x) a = Slice(s, v0, v1) b = Slice(s, v1, v2)
                t = Concat<axis=0>(b, a, c64) u = Reshape(x, t) y = Size(u) }""",
            """g (float[N,6] x, int64[1] n) => (int64 y) {
                s = Shape(x) a = Slice(s, v0, v1) t = Concat<axis=0>(n, a, m1) u = Reshape(x, t) y = Size(u) }""",
            """g (float[0,M] x) => (int64 y) { s = Shape(x) a = Slice(s, v1, v2)
                t = Concat<axis=0>(a, v0) u = Reshape<allowzero=1>(x, t) y = Size(u) }""",
        ],
        ids=["two sizes change places", "a number that is fed", "an empty result"],
    )
    def test_it_stays(self, text):
        unchanged(text)

    def test_equal_placeholders_are_not_equal_sizes(self):
        """Paddle calls every unknown dimension '?'."""
        text = """g (float[Q,W] x, float[E,R] z) => (int64 y) {
            s = Shape(z) u = Reshape(x, s) y = Size(u) }"""
        proto = model(text)
        for value in proto.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_param = "?"
        assert_unchanged(evaluate_shapes, proto)

    @settings(max_examples=60)
    @given(st.data())
    def test_any_regrouping_by_sizes_of_the_tensor_itself(self, data):
        dims = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        names = [data.draw(st.sampled_from([str(dim), f"D{i}", "?"])) for i, dim in enumerate(dims)]
        order = list(range(len(dims)))
        cut = sorted(data.draw(st.sets(st.sampled_from(order))) | {0, len(dims)})
        groups = [order[a:b] for a, b in itertools.pairwise(cut)]
        if data.draw(st.booleans()):
            groups = data.draw(st.permutations(groups))
        nodes, parts = [], []
        for number, group in enumerate(groups):
            for axis in group:
                nodes.append(f"p{axis} = Slice(s, n{axis}, n{axis + 1})")
            nodes.append(f"q{number}0 = Identity(p{group[0]})")
            for step, axis in enumerate(group[1:]):
                nodes.append(f"q{number}{step + 1} = Mul(q{number}{step}, p{axis})")
            parts.append(f"q{number}{len(group) - 1}")
        if data.draw(st.booleans()):
            parts[data.draw(st.integers(0, len(parts) - 1))] = "m1"
        rank = ",".join("?" * len(parts))
        weights = {f"n{axis}": numbers(axis) for axis in range(len(dims) + 1)} | {"m1": numbers(-1)}
        text = f"""g (float[{",".join(names)}] x) => (float[{rank}] y) {{ r = Neg(x) s = Shape(r)
            {" ".join(nodes)} t = Concat<axis=0>({", ".join(parts)}) u = Reshape(x, t) y = Neg(u) }}"""
        proto = model(text, weights=weights)
        if apply(proto, evaluate_shapes)[1]["evaluate-shapes"]:
            check_rule(evaluate_shapes, proto, shapes={"x": tuple(dims)}, seeds=1)


class TestExpandAndSlice:
    def test_an_expand_to_the_same_sizes_is_nothing(self):
        check(
            "g (float[N,3] x) => (float[N,3] y) { s = Shape(x) r = Relu(x) u = Expand(r, s) y = Neg(u) }",
            "g (float[N,3] x) => (float[N,3] y) { r = Relu(x) y = Neg(r) }",
        )

    def test_an_expand_to_sizes_that_stay_or_are_known_is_constant(self):
        check(
            """g (float[N,1] x) => (float[N,5] y) <int64[1] k = {5}> {
                s = Shape(x) a = Slice(s, v0, v1) t = Concat<axis=0>(a, k) y = Expand(x, t) }""",
            "g (float[N,1] x) => (float[N,5] y) <int64[2] t = {1, 5}> { y = Expand(x, t) }",
        )

    def test_torch_expand_with_minus_1(self):
        """expand(-1, n): a Where over -1, whose sizes are known not to be -1."""
        result = check(
            """g (float[N,1] x, float[M] z) => (float[?,?] y) <int64[1] one = {1}, int64[2] ones = {1, 1}> {
                s = Shape(z) a = Concat<axis=0>(one, s) e = Equal(a, m1) w = Where(e, ones, a) y = Expand(x, w) }"""
        )
        assert [node.op_type for node in result.graph.node] == ["Shape", "Concat", "Expand"]

    def test_an_expand_by_an_unknown_size_stays(self):
        unchanged("g (float[1] x, float[N] z) => (int64 y) { s = Shape(z) t = Expand(x, s) y = Size(t) }")

    def test_a_slice_up_to_the_size_is_nothing(self):
        check(
            """g (float[N,M] x) => (float[N,M] y) {
                s = Shape(x) n = Slice(s, v1, v2) u = Slice(x, v0, n, v1) y = Neg(u) }""",
            "g (float[N,M] x) => (float[N,M] y) { y = Neg(x) }",
        )

    def test_a_slice_up_to_another_size_stays(self):
        unchanged(
            "g (float[N,M] x) => (int64 y) { s = Shape(x) n = Slice(s, v0, v1) u = Slice(x, v0, n, v1) y = Size(u) }"
        )


class TestOnceOnly:
    def test_equal_sizes_are_computed_once(self):
        check(
            """g (float[N,M] x, float[N,K] z) => (int64 y) {
                s = Shape(x) a = Gather(s, i0) t = Shape(z) b = Gather(t, i0) y = Add(a, b) }""",
            """g (float[N,M] x, float[N,K] z) => (int64 y) {
                s = Shape(x) a = Gather(s, i0) y = Add(a, a) }""",
        )

    def test_not_from_what_went_with_a_shape_that_became_constant(self):
        check(
            """g (float[N,8,8] x) => (float[N,64] y, int64[3] z) {
                s = Shape(x) a = Slice(s, v0, v1) t = Concat<axis=0>(a, c64)
                y = Reshape(x, t) u = Shape(x) z = Abs(u) }""",
            """g (float[N,8,8] x) => (float[N,64] y, int64[3] z) <int64[2] t = {-1, 64}> {
                y = Reshape(x, t) u = Shape(x) z = Abs(u) }""",
        )

    def test_unequal_symbols_are_not(self):
        unchanged(
            """g (float[N,M] x, float[L,K] z) => (int64 y) {
                s = Shape(x) a = Gather(s, i0) t = Shape(z) b = Gather(t, i0) y = Add(a, b) }"""
        )

    def test_the_shape_of_an_elementwise_result_is_that_of_its_operand(self):
        check_rule(
            ShapeOfOperand(),
            "g (float[N] x) => (int64[1] y) { r = Relu(x) c = Cast<to=10>(r) y = Shape(c) }",
            "g (float[N] x) => (int64[1] y) { y = Shape(x) }",
            fires=2,
        )
        assert_unchanged(ShapeOfOperand(), "g (float[N] x, float[M] z) => (int64[1] y) { r = Add(x, z) y = Shape(r) }")


def test_comparisons_of_what_is_partly_known():
    made = Numbers()
    size, other = made.of("a", is_size=True), made.of("b", is_size=False)
    assert compare("Equal", size, -1) == 0
    assert compare("Equal", -1, size) == 0
    assert compare("Less", size, -1) == 0
    assert compare("Less", -1, size) == 1
    assert compare("Greater", size, -1) == 1
    assert compare("GreaterOrEqual", -1, size) == 0
    assert compare("Equal", size, size) == 1
    assert compare("Less", size, size) == 0
    assert compare("Equal", size, 3) is None
    assert compare("Equal", other, -1) is None
    assert compare("Equal", size, other) is None


def test_products_cancel_only_what_is_equal():
    made = Numbers()
    n, m = made.of("n", is_size=True), made.of("m", is_size=True)
    assert made.quotient([n, m, 12], [n, 3, 4]) is m
    assert made.quotient([n, 12], [n, 3]) == 4
    assert made.quotient([n, 40, 3], [made.compute("Mul", n, 40)]) == 3
    assert made.quotient([made.compute("Mul", m, 6), n], [n, made.compute("Mul", m, 2)]) == 3
    assert made.quotient([n, 12], [m, 12]) is None
    assert made.quotient([n, 7], [2]) is None
    assert made.quotient([n, 0], [0]) is None
    assert made.compute("Mul", n, m) is made.compute("Mul", m, n)
    assert made.compute("Sub", n, m) is not made.compute("Sub", m, n)
    assert not made.compute("Sub", n, m).is_size


def test_a_product_divided_by_its_factor():
    made = Numbers()
    n = made.of("n", is_size=True)
    twelve = made.compute("Mul", n, 12)
    assert made.compute("Div", twelve, 12) is n
    assert made.compute("Div", twelve, 4) is made.compute("Mul", n, 3)
    assert made.compute("Mod", twelve, 6) == 0
    assert isinstance(made.compute("Div", twelve, 8), Unknown)
    assert isinstance(made.compute("Mod", twelve, 8), Unknown)
    assert isinstance(made.compute("Div", twelve, -4), Unknown)
    assert made.compute("Div", twelve, 0) is not n
    assert isinstance(made.compute("Mod", made.compute("Mul", made.of("any", is_size=False), 4), 4), Unknown)


def test_one_walk_learns_the_sizes_behind_a_chain():
    """What a Reshape is shaped by becomes known, so the Conv behind it, and so the next Reshape."""
    block = """r{n} = Reshape(x{n}, three) s{n} = Shape(x{n}) q{n} = Reshape(r{n}, s{n})
        x{m} = Conv<pads = [1, 1, 1, 1]>(q{n}, w)"""
    body = " ".join(block.format(n=n, m=n + 1) for n in range(5))
    source = model(
        f"g (float[N,4,6,6] x0) => (float[N,4,6,6] y) {{ {body} y = Neg(x5) }}",
        weights={"three": np.array([0, 2, -1]), "w": (4, 4, 3, 3)},
    )
    graph = load(source)
    rewriting = Model(graph)
    rewriting.infer()
    evaluate_shapes.function(graph, Target(), model=rewriting)
    rewriting.editor.flush()
    assert [node.op for node in graph.nodes].count("Shape") == 0
