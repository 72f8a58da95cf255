"""BN and constants behind Gemm and MatMul, BN before Gemm."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.dense import (
    FoldBnIntoGemm,
    FoldGemmAdd,
    FoldGemmBn,
    FoldGemmDiv,
    FoldGemmMul,
    FoldGemmSub,
    FoldMatmulAddBn,
    FoldMatmulAddDiv,
    FoldMatmulAddMul,
    FoldMatmulBn,
    FoldMatmulDiv,
    FoldMatmulMul,
)

from graphopt.testing import apply, assert_unchanged, check_rule, model

COLUMNS = np.linspace(1, 2, 5, dtype=np.float32)
BN = {"s": (5,), "t": (5,), "m": (5,), "v": COLUMNS}


def operators(proto):
    return [node.op_type for node in proto.graph.node]


GEMM_RULES = [
    (FoldGemmBn(), "BatchNormalization(c, s, t, m, v)"),
    (FoldGemmMul(), "Mul(k, c)"),
    (FoldGemmDiv(), "Div(c, k)"),
    (FoldGemmAdd(), "Add(c, k)"),
    (FoldGemmSub(), "Sub(c, k)"),
]


def gemm(behind: str, attrs: str = "", *, b=(5,), w=(4, 5), x="N,4", opset: int = 17, **weights):
    inputs = "x, w, b" if b is not None else "x, w"
    constants = {"w": w, "k": COLUMNS, **weights} | ({"b": b} if b is not None else {})
    return model(
        f"g (float[{x}] x) => (float[N,5] y) {{ c = Gemm{attrs}({inputs}) y = {behind} }}",
        weights=constants,
        opset=opset,
    )


@pytest.mark.parametrize("b", [None, (), (1,), (5,), (1, 5), (1, 1)], ids=str)
@pytest.mark.parametrize(("rule", "behind"), GEMM_RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_behind_gemm_with_each_form_of_bias(rule, behind, b):
    b = None if b is None else np.asarray(np.random.default_rng(0).standard_normal(b), np.float32)
    source = gemm(behind, "<alpha = 2.0, beta = 3.0>", b=b, **BN)
    assert operators(check_rule(rule, source, fires=1, seeds=1)) == ["Gemm"]


@pytest.mark.parametrize(("rule", "behind"), GEMM_RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_behind_gemm_of_transposed_operands(rule, behind):
    source = gemm(behind, "<transA = 1, transB = 1, alpha = 0.5>", w=(5, 4), x="4,N", **BN)
    assert operators(check_rule(rule, source, fires=1)) == ["Gemm"]


def test_below_opset_11_gemm_needs_a_bias():
    text = "g (float[N,4] x) => (float[N,5] y) {{ c = Gemm{}(x, w, b) y = Mul(c, k) }}"
    weights = {"w": (4, 5), "b": np.zeros(5, np.float32), "k": COLUMNS}
    assert operators(check_rule(FoldGemmMul(), model(text.format(""), weights=weights, opset=9), fires=1)) == ["Gemm"]


def test_below_opset_7_gemm_says_that_it_broadcasts():
    text = "g (float[3,4] x) => (float[3,5] y) { c = Gemm<broadcast = 1>(x, w, b) y = Mul<broadcast = 1>(c, k) }"
    result, _ = apply(model(text, weights={"w": (4, 5), "b": (5,), "k": COLUMNS}, opset=6), FoldGemmMul())
    assert operators(result) == ["Gemm"]
    assert [a.name for a in result.graph.node[0].attribute] == ["broadcast"]


@pytest.mark.parametrize(
    ("why", "source"),
    [
        ("the bias differs between rows", gemm("Mul(c, k)", b=(3, 5), x="3,4")),
        ("a column of biases", gemm("Mul(c, k)", b=(3, 1), x="3,4")),
        ("the constant differs between rows", gemm("Mul(c, k)", x="3,4", k=np.ones((3, 1), np.float32))),
        ("it raises the rank", gemm("Mul(c, k)", k=np.ones((1, 1, 5), np.float32))),
        ("NaN", gemm("Mul(c, k)", k=COLUMNS * np.float32(np.nan))),
        ("integers", model("g (int32[3,4] x) => (int32[3,5] y) { c = Gemm(x, w, b) y = Mul(c, k) }",
                           weights={"w": np.ones((4, 5), np.int32), "b": np.ones(5, np.int32),
                                    "k": np.ones(5, np.int32)})),
    ],
)  # fmt: skip
def test_gemm_stays(why, source):
    for output in source.graph.output:
        dims = output.type.tensor_type.shape.dim
        if source.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
            dims[0].dim_value = 3
        if "rank" in why:
            dims.insert(0, type(dims[0])(dim_value=1))
    assert_unchanged(FoldGemmMul(), source)


def test_a_computed_bias_stays():
    text = "g (float[N,4] x, float[5] b) => (float[N,5] y) { c = Gemm(x, w, b) y = Mul(c, k) }"
    assert_unchanged(FoldGemmMul(), model(text, weights={"w": (4, 5), "k": COLUMNS}))


def test_division_of_gemm_by_zero_stays():
    assert_unchanged(FoldGemmDiv(), gemm("Div(c, k)", k=COLUMNS * np.float32(0)))


@pytest.mark.parametrize("attrs", ["", "<transB = 1>"])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_before_gemm(attrs, bias):
    text = f"""g (float[N,5] x) => (float[N,3] y) {{
        c = BatchNormalization(x, s, t, m, v)
        y = Gemm{attrs}(c, w{", b" if bias else ""})
    }}"""
    w = (3, 5) if attrs else (5, 3)
    source = model(text, weights={"w": w, **({"b": (3,)} if bias else {}), **BN})
    assert operators(check_rule(FoldBnIntoGemm(), source, fires=1)) == ["Gemm"]


@pytest.mark.parametrize("attrs", ["<transA = 1>", "<alpha = 2.0>"])
def test_batch_norm_before_a_transposed_or_scaled_gemm_stays(attrs):
    text = f"""g (float[5,5] x) => (float[5,3] y) {{
        c = BatchNormalization(x, s, t, m, v)
        y = Gemm{attrs}(c, w)
    }}"""
    assert_unchanged(FoldBnIntoGemm(), model(text, weights={"w": (5, 3), **BN}))


# -- MatMul --------------------------------------------------------------------------------------------------------

MATMUL_RULES = [
    (FoldMatmulMul(), "c = MatMul(x, w) y = Mul(k, c)", ["MatMul"]),
    (FoldMatmulDiv(), "c = MatMul(x, w) y = Div(c, k)", ["MatMul"]),
    (FoldMatmulAddMul(), "a = MatMul(x, w) c = Add(b, a) y = Mul(c, k)", ["MatMul", "Add"]),
    (FoldMatmulAddDiv(), "a = MatMul(x, w) c = Add(a, b) y = Div(c, k)", ["MatMul", "Add"]),
]


def matmul(body: str, dims: str = "N,3,4", out: str = "N,3,5", **weights):
    constants = {"w": (4, 5), "b": (5,), "k": COLUMNS, **weights}
    used = {name: value for name, value in constants.items() if name in body.replace("(", " ").replace(",", " ")}
    return model(f"g (float[{dims}] x) => (float[{out}] y) {{ {body} }}", weights=used)


@pytest.mark.parametrize("k", [np.float32(2), np.float32([2]), COLUMNS, COLUMNS.reshape(1, 5)], ids=lambda k: k.shape)
@pytest.mark.parametrize(("dims", "out"), [("N,4", "N,5"), ("N,3,4", "N,3,5")])
@pytest.mark.parametrize(("rule", "body", "left"), MATMUL_RULES, ids=lambda value: value if type(value) is str else "")
def test_a_constant_per_column_behind_matmul(rule, body, left, dims, out, k):
    source = matmul(body, dims, out, k=k)
    assert operators(check_rule(rule, source, fires=1, seeds=1)) == left


def test_the_bias_behind_matmul_may_be_of_any_shape():
    body = "a = MatMul(x, w) c = Add(a, b) y = Mul(c, k)"
    assert operators(check_rule(FoldMatmulAddMul(), matmul(body, b=(3, 5)), fires=1)) == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("why", "extra", "out"),
    [
        ("it differs between rows", {"k": np.ones((3, 1), np.float32)}, "N,3,5"),
        ("it raises the rank", {"k": np.ones((1, 1, 1, 5), np.float32)}, "1,N,3,5"),
        ("the right side is a batch", {"w": (3, 4, 5)}, "3,3,5"),
        ("infinity", {"k": COLUMNS * np.float32(np.inf)}, "N,3,5"),
    ],
)
def test_matmul_stays(why, extra, out):
    dims = "3,3,4" if "batch" in why else "N,3,4"
    assert_unchanged(FoldMatmulMul(), matmul("c = MatMul(x, w) y = Mul(k, c)", dims, out, **extra))


def test_a_product_with_a_vector_stays():
    text = "g (float[3,4] x) => (float[3] y) { c = MatMul(x, w) y = Mul(c, k) }"
    assert_unchanged(FoldMatmulMul(), model(text, weights={"w": (4,), "k": np.float32([2])}))


def test_a_bias_that_the_scale_would_enlarge_stays():
    """3 numbers, one per row, would become 15."""
    body = "a = MatMul(x, w) c = Add(a, b) y = Mul(c, k)"
    assert_unchanged(FoldMatmulAddMul(), matmul(body, "3,4", "3,5", b=np.ones((3, 1), np.float32)))


def test_inside_a_function_an_alpha_that_is_its_parameter_stays():
    text = """<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
        g (float[3,2] x) => (float[3,1] y) { y = f.block <a = 2.0> (x) }
        <domain: "f", opset_import: ["" : 17]>
        block <a> (x) => (y) {
            w = Constant<value = float[2,1] {3.0, 5.0}>()
            k = Constant<value_float = 2.0>()
            c = Gemm<alpha: float = @a>(x, w)
            y = Mul(c, k)
        }"""
    assert_unchanged(FoldGemmMul(), text)


def test_a_product_of_integers_stays():
    text = "g (int32[3,4] x) => (int32[3,5] y) { c = MatMul(x, w) y = Mul(c, k) }"
    ones = {"w": np.ones((4, 5), np.int32), "k": np.ones(5, np.int32)}
    assert_unchanged(FoldMatmulMul(), model(text, weights=ones))


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (FoldMatmulBn(), "c = MatMul(x, w) y = BatchNormalization(c, s, t, m, v)"),
        (FoldMatmulAddBn(), "a = MatMul(x, w) c = Add(a, b) y = BatchNormalization(c, s, t, m, v)"),
    ],
)
def test_batch_norm_behind_a_product_of_matrices(rule, body):
    assert operators(check_rule(rule, matmul(body, "N,4", "N,5", **BN), fires=1)) == ["MatMul", "Add"]


def test_batch_norm_behind_a_product_of_rank_3_is_per_row():
    body = "c = MatMul(x, w) y = BatchNormalization(c, s, t, m, v)"
    assert_unchanged(FoldMatmulBn(), matmul(body, "N,5,4", "N,5,5", **BN))
