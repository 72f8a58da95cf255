"""MatMul and Gemm: a product of matrices with a bias is one Gemm."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.value import Value


class GemmInsteadOfMatMulAdd(graphopt.Rule):
    """MatMul(x, w) + b = Gemm(x, w, b) for matrices.

    Not for other ranks, integers, or a bias that is no constant or would enlarge the product.
    """

    def pattern(self, op: Any, x: Any, w: Any, b: Any) -> Any:
        return op.Add(op.MatMul(x, w), op.Const(b))

    def check(self, op: Any, x: Value, w: Value, b: Value) -> str | None:
        return _no_matrices(op, x, w) or _enlarges(b, x, w)

    def rewrite(self, op: Any, x: Value, w: Value, b: Value) -> Any:
        return op.Gemm(x, w, b)


class AddIntoGemm(graphopt.Rule):
    """Gemm(x, w) + b = Gemm(x, w, b), for a constant b that doesn't enlarge the product."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, ta: Any, tb: Any, rest: Any) -> Any:
        return op.Add(op.Gemm(x, w, transA=ta, transB=tb, attrs=rest), op.Const(b))

    def check(self, op: Any, x: Value, w: Value, b: Value, ta: int, tb: int, rest: dict[str, Any]) -> str | None:
        if x.dtype is None or not dtypes.is_float(x.dtype):
            return "it is no product of floating-point numbers"
        return _enlarges(b, x, w, ta, tb)

    def rewrite(self, op: Any, x: Value, w: Value, b: Value, ta: int, tb: int, rest: dict[str, Any]) -> Any:
        rest = {name: value for name, value in rest.items() if name != "beta"}
        return op.Gemm(x, w, b, transA=ta or None, transB=tb or None, **rest)


class GemmInsteadOfMatMulTransposed(graphopt.Rule):
    """MatMul(Transpose(x), w) = Gemm(x, w, transA=1), MatMul(x, Transpose(w)) = Gemm(x, w, transB=1) for matrices."""

    def pattern(self, op: Any, x: Any, w: Any) -> Any:
        return op.MatMul(op.Transpose(x, perm=[1, 0]), w)

    def check(self, op: Any, x: Value, w: Value) -> str | None:
        return _no_matrices(op, x, w)

    def rewrite(self, op: Any, x: Value, w: Value) -> Any:
        return op.Gemm(x, w, transA=1)


class GemmInsteadOfMatMulTransposedRight(graphopt.Rule):
    """MatMul(x, Transpose(w)) = Gemm(x, w, transB=1) for matrices."""

    def pattern(self, op: Any, x: Any, w: Any) -> Any:
        return op.MatMul(x, op.Transpose(w, perm=[1, 0]))

    def check(self, op: Any, x: Value, w: Value) -> str | None:
        return _no_matrices(op, x, w)

    def rewrite(self, op: Any, x: Value, w: Value) -> Any:
        return op.Gemm(x, w, transB=1)


def _no_matrices(op: Any, x: Value, w: Value) -> str | None:
    if x.rank != 2 or w.rank != 2:
        return "an operand is no matrix, or its rank is unknown"
    if op.opset < 11:
        return "Gemm without C, or broadcasting C both ways, needs opset 11"
    return None if x.dtype is not None and dtypes.is_float(x.dtype) else "it is no product of floating-point numbers"


def _enlarges(bias: Value, x: Value, w: Value, ta: int = 0, tb: int = 0) -> str | None:
    rows, columns = x.shape, w.shape
    if rows is None or columns is None or len(rows) != 2 or len(columns) != 2:
        return "the shape of the product is unknown"
    product = (rows[1 if ta else 0], columns[0 if tb else 1])
    return None if shapes.expands(bias.shape, product) else "the bias may enlarge the product"


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        GemmInsteadOfMatMulAdd(),
        AddIntoGemm(),
        GemmInsteadOfMatMulTransposed(),
        GemmInsteadOfMatMulTransposedRight(),
    ]
