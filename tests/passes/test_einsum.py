"""Einsum in plainer operators, and Transposes in its equation."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes import constants, einsum
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.testing import assert_unchanged, check_rule, model


def one(equation: str, inputs: str, result: str, more: str = "") -> str:
    names = ", ".join(part.split()[-1] for part in inputs.split(", "))
    return f'g ({inputs}) => ({result} z) {{ z = Einsum<equation = "{equation}">({names}) {more}}}'


class TestPlain:
    def test_of_one_operand_that_turns_is_transpose(self):
        check_rule(
            einsum.TransposeInsteadOfEinsum(),
            one("i j k -> k i j", "float[2,N,4] x", "float[4,2,N]"),
            "g (float[2,N,4] x) => (float[4,2,N] z) { z = Transpose<perm = [2, 0, 1]>(x) }",
        )

    @pytest.mark.parametrize("opset", [12, 13])
    def test_of_one_operand_that_sums_is_reduce_sum(self, opset):
        source = model(one("ijk->ik", "float[2,N,4] x", "float[2,4]"), opset=opset)
        check_rule(einsum.ReduceSumInsteadOfEinsum(), source, fires=1)

    def test_over_everything_is_a_scalar(self):
        check_rule(
            einsum.ReduceSumInsteadOfEinsum(),
            one("ij->", "float[2,N] x", "float"),
            "g (float[2,N] x) => (float z) <int64[2] a = {0, 1}> { z = ReduceSum<keepdims = 0>(x, a) }",
        )

    def test_of_the_same_letters_is_a_product_element_by_element(self):
        check_rule(
            einsum.MulInsteadOfEinsum(),
            one("ij,ij->ij", "float[2,N] x, float[2,N] y", "float[2,N]"),
            "g (float[2,N] x, float[2,N] y) => (float[2,N] z) { z = Mul(x, y) }",
        )

    @pytest.mark.parametrize(
        ("equation", "inputs", "result", "order"),
        [
            ("ij,jk->ik", "float[2,N] x, float[N,3] y", "float[2,3]", "x, y"),
            ("abij,abjk->abik", "float[B,2,3,4] x, float[B,2,4,5] y", "float[B,2,3,5]", "x, y"),
            ("bjk,bij->bik", "float[2,4,5] x, float[2,3,4] y", "float[2,3,5]", "y, x"),
        ],
    )
    def test_of_matrices_is_matmul(self, equation, inputs, result, order):
        after = f"g ({inputs}) => ({result} z) {{ z = MatMul({order}) }}"
        check_rule(einsum.MatMulInsteadOfEinsum(), one(equation, inputs, result), after)

    @pytest.mark.parametrize(
        ("equation", "inputs", "result"),
        [
            ("ij,jk->ik", "float[2,N] x, float[M,3] y", "float[2,3]"),  # M or N may be 1, which is repeated
            ("ij,jk->ik", "float[2,1] x, float[4,3] y", "float[2,3]"),
            ("ij,kj->ik", "float[2,4] x, float[3,4] y", "float[2,3]"),
            ("ij,jk->ki", "float[2,4] x, float[4,3] y", "float[3,2]"),
            ("ij,jk->ijk", "float[2,4] x, float[4,3] y", "float[2,4,3]"),
            ("ij,ji->i", "float[2,4] x, float[4,2] y", "float[2]"),
            ("bij,jk->bik", "float[2,3,4] x, float[4,3] y", "float[2,3,3]"),
            ("ii->i", "float[2,2] x", "float[2]"),
            ("...ij,...jk->...ik", "float[2,3,4] x, float[2,4,5] y", "float[2,3,5]"),
            ("ij,jk", "float[2,4] x, float[4,3] y", "float[2,3]"),
            ("ij,jk->ik", "int32[2,4] x, int32[4,3] y", "int32[2,3]"),
            ("ijk->kj", "float[2,3,4] x", "float[4,3]"),
            ("ij,j->ij", "float[2,4] x, float[4] y", "float[2,4]"),
        ],
    )
    def test_others_stay(self, equation, inputs, result):
        for rule in (
            einsum.TransposeInsteadOfEinsum(),
            einsum.ReduceSumInsteadOfEinsum(),
            einsum.MulInsteadOfEinsum(),
            einsum.MatMulInsteadOfEinsum(),
        ):
            assert_unchanged(rule, one(equation, inputs, result))


class TestTransposes:
    def test_of_operands_and_result_are_in_the_equation(self):
        check_rule(
            einsum.transposes_into_einsum,
            """g (float[2,3,4] x, float[4,5,2] y) => (float[5,3,2] z) {
                a = Transpose<perm = [2, 0, 1]>(x) b = Transpose(y)
                c = Einsum<equation = "kbi,bjk->bij">(a, b) z = Transpose<perm = [2, 1, 0]>(c) }""",
            """g (float[2,3,4] x, float[4,5,2] y) => (float[5,3,2] z) {
                z = Einsum<equation = "bik,kjb->jib">(x, y) }""",
        )

    def test_that_several_einsums_read_goes(self):
        check_rule(
            einsum.transposes_into_einsum,
            """g (float[2,3] x) => (float[3,3] y, float[3,2] z) { t = Transpose(x)
                y = Einsum<equation = "ij,kj->ik">(t, t) z = Einsum<equation = "ij->ij">(t) }""",
            """g (float[2,3] x) => (float[3,3] y, float[3,2] z) {
                y = Einsum<equation = "ji,jk->ik">(x, x) z = Einsum<equation = "ji->ij">(x) }""",
        )

    @pytest.mark.parametrize(
        "body",
        [
            't = Transpose(x) y = Einsum<equation = "ij->i">(t) z = Neg(t)',
            'e = Einsum<equation = "ij->ji">(x) z = Transpose(e) y = ReduceSum<keepdims = 0>(e, a)',
            't = Transpose(x) y = Einsum<equation = "...j->...">(t) z = Neg(x)',
        ],
    )
    def test_that_something_else_reads_stays(self, body):
        text = f"g (float[2,2] x) => (float[2] y, float[2,2] z) <int64[1] a = {{1}}> {{ {body} }}"
        assert_unchanged(einsum.transposes_into_einsum, text)

    def test_that_is_an_output_stays(self):
        text = 'g (float[2,2] x) => (float[2,2] t, float[2] y) { t = Transpose(x) y = Einsum<equation = "ij->i">(t) }'
        assert_unchanged(einsum.transposes_into_einsum, text)

    @settings(max_examples=30)
    @given(
        st.permutations(range(3)), st.permutations(range(3)), st.permutations("bik"), st.sampled_from(["bi", "kb", "k"])
    )
    def test_any_order(self, first, second, letters, result):
        x, last = "".join(letters), "".join(result)
        sizes = {"b": 2, "i": 3, "k": 4}
        shape = ",".join(str(sizes[letters[list(first).index(axis)]]) for axis in range(3))
        back = list(np.argsort(second))[: len(result)]
        perm = [int(axis) for axis in np.argsort(back)]
        text = f"""g (float[{shape}] x) => (y) {{ t = Transpose<perm = {list(first)}>(x)
            e = Einsum<equation = "{x}->{last}">(t) y = Transpose<perm = {perm}>(e) }}"""
        source = model(text.replace("=> (y)", f"=> (float[{','.join(str(sizes[last[p]]) for p in perm)}] y)"))
        check_rule(einsum.transposes_into_einsum, source, fires=1, seeds=1)


def test_of_empty_constants_is_not_computed():
    """onnxruntime divides by their sizes, which ends the process."""
    body = 'e = Einsum<equation = "bij,bkj->bik">(p, q) s = ReduceSum<keepdims = 0>(e, a) z = Add(x, s)'
    text = f"g (float[1] x) => (float[1] z) {{ {body} }}"
    weights = {"p": np.zeros((2, 2, 0), np.float32), "q": np.zeros((2, 2, 0), np.float32), "a": np.array([0, 1, 2])}
    assert_unchanged(constants.fold_constants, model(text, weights=weights))
