"""Transposes that meet, that move nothing, and that a reduction or product absorbs."""

from __future__ import annotations

import pytest
from graphopt_passes import matrix_products, movement
from graphopt_passes.elementwise import REDUCTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.testing import apply, assert_unchanged, check_rule, model


class TestCompose:
    def test_two_are_one(self):
        check_rule(
            movement.ComposeTransposes(),
            "g (float[A,B,C] x) => (float[C,A,B] y) { t = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[2,1,0]>(t) }",
            "g (float[A,B,C] x) => (float[C,A,B] y) { y = Transpose<perm=[2,0,1]>(x) }",
        )

    def test_there_and_back_is_none(self):
        check_rule(
            movement.ComposeTransposes(),
            """g (float[A,B,C] x) => (float[A,B,C] y) {
                r = Relu(x) t = Transpose<perm=[1,2,0]>(r) u = Transpose<perm=[2,0,1]>(t) y = Neg(u) }""",
            "g (float[A,B,C] x) => (float[A,B,C] y) { r = Relu(x) y = Neg(r) }",
        )

    def test_an_order_of_fewer_axes_than_the_operand_has_is_left_to_the_parser(self):
        assert_unchanged(
            movement.ComposeTransposes(),
            "g (float[A,B,C,D] x) => (y) { t = Transpose<perm=[0,2,1]>(x) y = Transpose<perm=[0,2,1]>(t) }",
        )

    def test_the_absent_perm_reverses(self):
        check_rule(
            movement.ComposeTransposes(),
            "g (float[A,B] x) => (float[A,B] y) { t = Transpose(x) u = Transpose(t) y = Neg(u) }",
            "g (float[A,B] x) => (float[A,B] y) { y = Neg(x) }",
        )

    def test_a_first_that_others_read_is_passed_by(self):
        check_rule(
            movement.ComposeTransposes(),
            """g (float[A,B] x) => (float[A,B] y, float[B,A] z) {
                t = Transpose<perm=[1,0]>(x) z = Neg(t) u = Transpose<perm=[1,0]>(t) y = Relu(u) }""",
            "g (float[A,B] x) => (float[A,B] y, float[B,A] z) { t = Transpose<perm=[1,0]>(x) z = Neg(t) y = Relu(x) }",
        )

    def test_an_unknown_rank_stays(self):
        proto = model("g (float x) => (int64 y) { t = Transpose(x) u = Transpose(t) y = Size(u) }")
        proto.graph.input[0].type.tensor_type.ClearField("shape")
        assert_unchanged(movement.ComposeTransposes(), proto)

    @settings(max_examples=40)
    @given(st.integers(1, 5).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=2, max_size=5)))
    def test_any_chain_is_one_at_most(self, perms):
        shape = ",".join(str(dim) for dim in (2, 3, 4, 5, 6)[: len(perms[0])])
        nodes = [f"t{i + 1} = Transpose<perm={perm}>(t{i})" for i, perm in enumerate(perms)]
        text = f"g (float[{shape}] x) => (float[{','.join('?' * len(perms[0]))}] y) {{ t0 = Relu(x) {' '.join(nodes)} y = Neg(t{len(perms)}) }}"  # noqa: E501
        result = check_rule(movement.ComposeTransposes(), text, seeds=1)
        assert sum(node.op_type == "Transpose" for node in result.graph.node) <= 1


class TestReshapeInstead:
    def test_moving_only_a_1_is_a_reshape(self):
        check_rule(
            movement.ReshapeInsteadOfTranspose(),
            "g (float[N,1,1,8] x) => (float[N,8,1,1] y) { y = Transpose<perm=[0,3,1,2]>(x) }",
            "g (float[N,1,1,8] x) => (float[N,8,1,1] y) <int64[4] s = {-1, 8, 1, 1}> { y = Reshape(x, s) }",
        )

    @pytest.mark.parametrize(
        ("shape", "perm"),
        [("N,2,1,8", [0, 2, 3, 1]), ("N,M", [1, 0]), ("N,M,1,K", [2, 0, 1, 3]), ("0,1", [1, 0])],
        ids=["moves 2 behind 8", "any may be 1", "three unknown sizes in new places", "empty"],
    )
    def test_anything_else_stays(self, shape, perm):
        text = f"g (float[{shape}] x) => (int64 y) {{ t = Transpose<perm={perm}>(x) y = Size(t) }}"
        assert_unchanged(movement.ReshapeInsteadOfTranspose(), text)

    @settings(max_examples=40)
    @given(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=5).flatmap(
        lambda dims: st.tuples(st.just(dims), st.permutations(range(len(dims))))))  # fmt: skip
    def test_where_it_fires_the_numbers_stay(self, case):
        dims, perm = case
        text = f"g (float{dims} x) => (float{[dims[i] for i in perm]} y) {{ y = Transpose<perm={perm}>(x) }}"
        if apply(text, movement.ReshapeInsteadOfTranspose())[1]["reshape-instead-of-transpose"]:
            check_rule(movement.ReshapeInsteadOfTranspose(), text, seeds=1)


REDUCE = {one.kind: one for one in movement.graphopt_passes() if hasattr(one, "kind")}


class TestReduce:
    @pytest.mark.parametrize("kind", sorted(REDUCTIONS))
    def test_it_reduces_before_it_transposes(self, kind):
        check_rule(
            REDUCE[kind],
            f"g (float[A,3,4] x) => (float[4,A,1] y) {{ t = Transpose<perm=[2,0,1]>(x) y = {kind}<axes=[2]>(t) }}"
            if kind != "ReduceSum"
            else "g (float[A,3,4] x) => (float[4,A,1] y) <int64[1] a={2}> { t = Transpose<perm=[2,0,1]>(x) y = ReduceSum(t, a) }",  # noqa: E501
        )

    def test_what_is_left_in_order_is_not_transposed(self):
        check_rule(
            REDUCE["ReduceMean"],
            """g (float[N,4,5,C] x) => (float[N,C] y) {
                t = Transpose<perm=[0,3,1,2]>(x) y = ReduceMean<axes=[-2,-1], keepdims=0>(t) }""",
            "g (float[N,4,5,C] x) => (float[N,C] y) { y = ReduceMean<axes=[1,2], keepdims=0>(x) }",
        )

    def test_it_stays_where_the_transpose_has_other_readers_or_all_is_reduced(self):
        shared = "t = Transpose<perm=[1,0]>(x) y = ReduceMax<axes=[0]>(t) z = Neg(t)"
        assert_unchanged(REDUCE["ReduceMax"], f"g (float[A,B] x) => (float[1,A] y, float[B,A] z) {{ {shared} }}")
        whole = "t = Transpose<perm=[1,0]>(x) y = ReduceMax(t)"
        assert_unchanged(REDUCE["ReduceMax"], f"g (float[A,B] x) => (float[1,1] y) {{ {whole} }}")

    @settings(max_examples=30)
    @given(st.permutations(range(4)), st.sets(st.integers(-4, 3), min_size=1, max_size=3), st.booleans())
    def test_any_perm_and_axes(self, perm, axes, keep):
        axes = sorted({axis % 4 for axis in axes})
        rank = 4 if keep else 4 - len(axes)
        text = f"""g (float[2,3,4,5] x) => (float[{",".join("?" * rank)}] y) {{
            t = Transpose<perm={perm}>(x) y = ReduceMax<axes={axes}, keepdims={int(keep)}>(t) }}"""
        check_rule(REDUCE["ReduceMax"], text, seeds=1)


class TestProducts:
    def test_matmul_and_bias_are_gemm(self):
        check_rule(
            matrix_products.GemmInsteadOfMatMulAdd(),
            model("g (float[N,3] x) => (float[N,5] y) { t = MatMul(x, w) y = Add(b, t) }", weights=W),
            model("g (float[N,3] x) => (float[N,5] y) { y = Gemm(x, w, b) }", weights=W),
        )

    @pytest.mark.parametrize("bias", [(1,), (5,), (1, 5), (1, 1)])
    def test_any_bias_that_fits(self, bias):
        text = "g (float[N,3] x) => (float[N,5] y) { t = MatMul(x, w) y = Add(t, b) }"
        check_rule(matrix_products.GemmInsteadOfMatMulAdd(), model(text, weights={"w": (3, 5), "b": bias}))

    @pytest.mark.parametrize(
        ("x", "bias"),
        [
            ("float[N,3]", (4, 5)),
            ("float[N,3]", (3, 5)),
            ("float[N,3]", (1, 1, 5)),
            ("float[M,N,3]", (5,)),
            ("float[3]", (5,)),
        ],
        ids=["may enlarge the rows", "is as long as the columns", "raises the rank", "rank 3", "a vector"],
    )
    def test_another_rank_or_bias_stays(self, x, bias):
        text = f"g ({x} x) => (int64 y) {{ t = MatMul(x, w) u = Add(t, b) y = Size(u) }}"
        assert_unchanged(matrix_products.GemmInsteadOfMatMulAdd(), model(text, weights={"w": (3, 5), "b": bias}))

    def test_a_computed_bias_integers_and_old_opsets_stay(self):
        rule = matrix_products.GemmInsteadOfMatMulAdd()
        computed = "g (float[N,3] x, float[5] b) => (float[N,5] y) { t = MatMul(x, w) y = Add(t, b) }"
        assert_unchanged(rule, model(computed, weights={"w": (3, 5)}))
        whole = (
            "g (int32[N,1] x) => (int32[N,1] y) <int32[1,1] w={2}, int32[1] b={3}> { t = MatMul(x, w) y = Add(t, b) }"
        )
        assert_unchanged(rule, whole)
        text = "g (float[N,3] x) => (float[N,5] y) { t = MatMul(x, w) y = Add(t, b) }"
        assert_unchanged(rule, model(text, weights=W, opset=9))

    def test_a_product_that_others_read_stays(self):
        text = "g (float[N,3] x) => (float[N,5] y, float[N,5] t) { t = MatMul(x, w) y = Add(t, b) }"
        assert_unchanged(matrix_products.GemmInsteadOfMatMulAdd(), model(text, weights=W))

    def test_gemm_takes_a_bias(self):
        check_rule(
            matrix_products.AddIntoGemm(),
            model(
                "g (float[3,N] x) => (float[N,5] y) { t = Gemm<transA=1, alpha=0.5>(x, w) y = Add(t, b) }", weights=W
            ),
            model("g (float[3,N] x) => (float[N,5] y) { y = Gemm<transA=1, alpha=0.5>(x, w, b) }", weights=W),
        )

    def test_a_bias_that_may_enlarge_the_rows_stays(self):
        text = "g (float[3,N] x) => (int64 y) { t = Gemm<transA=1>(x, w) u = Add(t, b) y = Size(u) }"
        assert_unchanged(matrix_products.AddIntoGemm(), model(text, weights={"w": (3, 5), "b": (3, 5)}))

    def test_transposed_matrices_are_flags(self):
        left = "g (float[3,N] x) => (float[N,5] y) { t = Transpose<perm=[1,0]>(x) y = %s }"
        after = "g (float[3,N] x) => (float[N,5] y) { y = Gemm<transA=1>(x, w) }"
        check_rule(
            matrix_products.GemmInsteadOfMatMulTransposed(),
            model(left % "MatMul(t, w)", weights={"w": (3, 5)}),
            model(after, weights={"w": (3, 5)}),
        )
        check_rule(movement.TransposeInGemm(), model(left % "Gemm(t, w, b)", weights=W))
        right = "g (float[N,3] x, float[5,3] w) => (float[N,5] y) { t = Transpose(w) y = %s }"
        check_rule(matrix_products.GemmInsteadOfMatMulTransposedRight(), right % "MatMul(x, t)")
        result = check_rule(movement.TransposeInGemmRight(), right % "Gemm<alpha=0.5>(x, t)")
        assert len(result.graph.node) == 1

    def test_transposed_batches_stay(self):
        text = (
            "g (float[B,3,N] x, float[B,3,5] w) => (float[B,N,5] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w) }"
        )
        assert_unchanged(matrix_products.GemmInsteadOfMatMulTransposed(), text)


W = {"w": (3, 5), "b": (5,)}
