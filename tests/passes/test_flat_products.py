"""Products that exporters made flat, and numbers around products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphopt_passes.dense import FoldMatmulMul
from graphopt_passes.flat_products import move_scale_to_weights, unflatten_products
from graphopt_passes.scales import GatherFactorsOfProduct

from graphopt.testing import apply, assert_unchanged, check_rule, model

W = {"w": (8, 6), "t": (6, 8), "b": (6,), "rows": (2, 6), "flat": np.array([-1, 8]), "half": np.float32(0.5)}


def text(body: str, head: str = "float[B,S,8] x", result: str = "float[B,S,6] y", **more: object):
    weights = {name: value for name, value in {**W, **more}.items() if name in body}
    return model(f"g ({head}) => ({result}) {{ {body} }}", weights=weights)


BACK = np.array([0, 0, 6])


class TestFlatGemm:
    def test_it_is_a_matmul_and_an_addition(self):
        check_rule(
            unflatten_products,
            text(
                "a = Reshape(x, flat) c = Gemm(a, w, b) y = Reshape(c, back)",
                "float[2,5,8] x",
                "float[2,5,6] y",
                back=np.array([2, 5, 6]),
            ),
            text("a = MatMul(x, w) y = Add(a, b)", "float[2,5,8] x", "float[2,5,6] y"),
        )

    def test_weights_the_other_way_round_are_turned(self):
        result = check_rule(
            unflatten_products,
            text(
                "a = Reshape(x, flat) c = Gemm<transB=1>(a, t) y = Reshape(c, back)",
                "float[2,5,8] x",
                "float[2,5,6] y",
                back=np.array([2, 5, 6]),
            ),
        )
        assert [node.op_type for node in result.graph.node] == ["MatMul"]

    @pytest.mark.parametrize("gemm", ["Gemm<alpha=0.5>(a, w, b)", "Gemm<beta=2.0>(a, w, b)", "Gemm<transA=1>(a, w, b)"])
    def test_it_does_no_more(self, gemm: str):
        head, back = ("float[8,1,8] x", np.array([8, 1, 6]))
        assert_unchanged(
            unflatten_products,
            text(f"a = Reshape(x, flat) c = {gemm} y = Reshape(c, back)", head, "float[8,1,6] y", back=back),
        )

    def test_heads_are_joined_and_rows_parted_at_once(self):
        """As attention ends in exports of Conv1D: (batch, rows, heads, width) to (batch * rows, k) and back."""
        check_rule(
            unflatten_products,
            text(
                "a = Reshape(x, flat) c = Gemm(a, w, b) y = Reshape(c, back)",
                "float[2,5,4,2] x",
                "float[2,5,6] y",
                back=np.array([2, 5, 6]),
            ),
            text(
                "a = Reshape(x, joined) m = MatMul(a, w) y = Add(m, b)",
                "float[2,5,4,2] x",
                "float[2,5,6] y",
                joined=np.array([2, 5, 8]),
            ),
        )

    @pytest.mark.parametrize(
        ("back", "result"), [([5, 2, 6], "5,2,6"), ([3, -1, 6], "3,Q,6"), ([5, 1, 2, 6], "5,1,2,6")]
    )
    def test_the_leading_dimensions_change(self, back: list[int], result: str):
        head = "float[3,S,8] x" if "Q" in result else "float[2,5,8] x"
        after = check_rule(
            unflatten_products,
            text("a = Reshape(x, flat) c = Gemm(a, w) y = Reshape(c, back)", head, f"float[{result}] y",
                 back=np.array(back)),
        )  # fmt: skip
        assert [node.op_type for node in after.graph.node][-2:] == ["Reshape", "MatMul"]

    @pytest.mark.parametrize(
        ("head", "back", "result"),
        [
            ("float[B,S,8] x", [2, -1, 6], "P,Q,6"),
            ("float[0,5,8] x", [5, 0, 6], "5,0,6"),
            ("float[2,5,8] x", [10, 6], "10,6"),
        ],
    )
    def test_what_is_not_known_or_empty_or_flat_stays(self, head: str, back: list[int], result: str):
        more = {"back": np.array(back)}
        flow = "a = Reshape(x, flat) c = Gemm(a, w) y = Reshape(c, back)"
        if "P" in result:
            flow, head = flow.replace("back", "shape"), f"{head}, int64[3] shape"
        elif 0 in back:
            flow = flow.replace("Reshape(c", "Reshape<allowzero=1>(c")
        assert_unchanged(unflatten_products, text(flow, head, f"float[{result}] y", **more))

    def test_unknown_dimensions_that_stay_are_copied(self):
        sizes = "s = Shape<end=2>(x) shape = Concat<axis=0>(s, six)"
        flow = f"{sizes} a = Reshape(x, flat) c = Gemm(a, w, b) y = Reshape(c, shape)"
        after = check_rule(unflatten_products, text(flow, "float[B,S,4,2] x", "float[B,S,6] y", six=np.array([6])))
        assert [node.op_type for node in after.graph.node][-3:] == ["Reshape", "MatMul", "Add"]
        shape = next(one for one in after.graph.initializer if one.name in after.graph.node[-3].input)
        assert list(onnx.numpy_helper.to_array(shape)) == [0, 0, 8]

    def test_a_flat_operand_that_others_read_is_not_made_anew_beside_a_bias(self):
        flow = "a = Reshape(x, flat) c = Gemm(a, w, b) y = Reshape(c, back) z = Neg(a)"
        args = "float[2,5,4,2] x", "float[2,5,6] y, float[10,8] z"
        assert_unchanged(unflatten_products, text(flow, *args, back=np.array([2, 5, 6])))

    def test_a_bias_with_rows(self):
        assert_unchanged(
            unflatten_products,
            text(
                "a = Reshape(x, flat) c = Gemm(a, w, rows) y = Reshape(c, back)",
                "float[1,2,8] x",
                "float[1,2,6] y",
                back=np.array([1, 2, 6]),
            ),
        )

    def test_something_else_reads_the_product(self):
        assert_unchanged(
            unflatten_products,
            text(
                "a = Reshape(x, flat) z = Gemm(a, w, b) y = Reshape(z, back)",
                "float[2,5,8] x",
                "float[2,5,6] y, float[10,6] z",
                back=np.array([2, 5, 6]),
            ),
        )


class TestScales:
    HEAD = "float[2,3,8] x, float[2,8,5] z"

    def test_two_become_one(self):
        check_rule(
            GatherFactorsOfProduct(),
            text("a = Mul(x, c) d = Mul(z, c) y = MatMul(a, d)", self.HEAD, "float[2,3,5] y", c=np.float32(0.25)),
            text("a = Mul(x, c) y = MatMul(a, z)", self.HEAD, "float[2,3,5] y", c=np.float32(0.0625)),
        )

    @pytest.mark.parametrize("c", [np.float32(8), np.float32(1e-3), np.float32(np.inf), np.float32(0)])
    def test_numbers_too_large_or_small(self, c: np.ndarray):
        assert_unchanged(
            GatherFactorsOfProduct(),
            text(
                "a = Mul(x, c) d = Mul(z, c) y = MatMul(a, d)",
                self.HEAD,
                "float[2,3,5] y",
                c=c,
            ),
        )

    def test_a_number_moves_before_the_movements_and_into_the_weights(self):
        parted = np.array([0, 0, 2, 3])
        before = text(
            "a = MatMul(x, w) r = Reshape(a, parted) p = Transpose<perm=[0,2,1,3]>(r) y = Mul(p, half)",
            result="float[B,2,S,3] y",
            parted=parted,
        )
        check_rule(
            move_scale_to_weights,
            before,
            text(
                "a = MatMul(x, w) m = Mul(a, half) r = Reshape(m, parted) y = Transpose<perm=[0,2,1,3]>(r)",
                result="float[B,2,S,3] y",
                parted=parted,
            ),
        )
        result, _ = apply(before, move_scale_to_weights, FoldMatmulMul())
        assert [node.op_type for node in result.graph.node] == ["MatMul", "Reshape", "Transpose"]

    def test_a_bias_is_scaled_with_it(self):
        check_rule(
            move_scale_to_weights,
            text(
                "a = MatMul(x, w) c = Add(a, b) p = Transpose<perm=[1,0,2]>(c) y = Mul(p, half)",
                result="float[S,B,6] y",
            ),
        )

    @pytest.mark.parametrize(
        "body",
        [
            "a = Relu(x) p = Transpose<perm=[1,0,2]>(a) y = Mul(p, half)",
            "z = MatMul(x, w) p = Transpose<perm=[1,0,2]>(z) y = Mul(p, half)",
            "a = MatMul(x, w) y = Mul(a, half)",
            "a = MatMul(x, w) p = Transpose<perm=[1,0,2]>(a) y = Mul(p, b)",
            "a = MatMul(x, w) p = Transpose<perm=[1,0,2]>(a) y = Div(half, p)",
        ],
    )
    def test_nothing_takes_it_in(self, body: str):
        """No product; read elsewhere; already there; no single number; the number is divided."""
        result = "float[?,?,?] y" + (", float[B,S,6] z" if "z =" in body else "")
        assert_unchanged(
            move_scale_to_weights, text(body, result=result.replace("?", "P", 1).replace("?", "Q", 1).replace("?", "R"))
        )
