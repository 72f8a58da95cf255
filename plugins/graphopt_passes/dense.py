"""What maps each column of a matrix product by itself becomes part of its constant right side."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.rewrite.value import Array, Value

from .affine import (
    Affine,
    batch_norm,
    exact,
    foldable,
    per_channel,
    reciprocal,
    rounded,
    scaled,
    shifted,
    whole_number,
)


def _columns(w: Value, transposed: int = 0) -> int:
    if w.shape is None or len(w.shape) != 2:
        raise graphopt.Skip("the right side is no matrix")
    return int(w.shape[0 if transposed else 1])  # type: ignore[arg-type]


def _per_column(w: Value, k: Array, transposed: int = 0) -> Array:
    return k.reshape(-1, 1) if transposed else k.reshape(1, -1)


class _AfterGemm(graphopt.Rule):
    """f(Gemm(a, w, b)) = Gemm(a, w', b')."""

    def gemm(self, op: Any, a: Any, w: Any, b: Any, gemm: Any) -> Any:
        return op.Gemm(a, op.Const(w), op.maybe(op.Const(b)), attrs=gemm)

    def fold(self, op: Any, a: Value, w: Value, b: Value | None, gemm: dict[str, Any], affine: Affine) -> Any:
        foldable(w)
        transposed = whole_number(gemm, "transB", 0)
        alpha, beta = (gemm.get(name, 1.0) for name in ("alpha", "beta"))
        if not isinstance(alpha, (int, float)) or not isinstance(beta, (int, float)):
            raise graphopt.Skip("alpha or beta is a parameter of the enclosing function")
        attrs = {name: value for name, value in gemm.items() if name not in ("beta", "broadcast")}
        channels = _columns(w, transposed)
        whole = Affine(np.array([beta * 1.0]) if affine.scale is None else affine.scale * beta, affine.shift)
        if b is not None:
            b = _as_row(b, channels)
        bias = shifted(b, whole, channels, w.dtype)
        weights: Any = w
        if affine.scale is not None:
            attrs.pop("alpha", None)
            weights = scaled(w, _per_column(w, affine.scale * alpha, transposed))
        if op.opset < 7:
            attrs["broadcast"] = 1
        if bias is None and op.opset < 11:
            bias = np.zeros(channels, w.dtype)
        return op.Gemm(a, weights, bias, **attrs)


def _as_row(b: Value, channels: int) -> Value:
    """Gemm's third input as one number per column. Raises Skip where it differs between rows."""
    values = per_channel(b, 2, channels, axis=1)
    return Value(None, np.broadcast_to(values, (channels,)))


class FoldGemmBn(_AfterGemm):
    """BN(Gemm(a, w, b)) = Gemm(a, w * k, (b - mean) * k + bias), k = scale / sqrt(var + epsilon)."""

    def pattern(
        self, op: Any, a: Any, w: Any, b: Any, scale: Any, bias: Any, mean: Any, var: Any, gemm: Any, bn: Any
    ) -> Any:
        return op.BatchNormalization(
            self.gemm(op, a, w, b, gemm), op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn
        )

    def rewrite(
        self,
        op: Any,
        a: Value,
        w: Value,
        b: Value | None,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        gemm: dict[str, Any],
        bn: dict[str, Any],
    ) -> Any:
        channels = _columns(w, whole_number(gemm, "transB", 0))
        return self.fold(op, a, w, b, gemm, batch_norm(op, scale, bias, mean, var, bn, channels))


class _GemmThenConstant(_AfterGemm):
    """Gemm(a, w, b) and a constant of one number, or one number per column."""

    adds = False

    def rewrite(
        self, op: Any, a: Value, w: Value, b: Value | None, c: Value, gemm: dict[str, Any], how: dict[str, Any]
    ) -> Any:
        dtype = foldable(w)
        channels = _columns(w, whole_number(gemm, "transB", 0))
        values = per_channel(c, 2, channels, how, axis=1, adds=dtype if self.adds else "")
        return self.fold(op, a, w, b, gemm, self.affine(values))

    def affine(self, c: Array) -> Affine:
        raise NotImplementedError


class FoldGemmMul(_GemmThenConstant):
    """Gemm(a, w, b) * c = Gemm(a, w * c, b * c), c constant per column."""

    def pattern(self, op: Any, a: Any, w: Any, b: Any, c: Any, gemm: Any, how: Any, y: Any) -> Any:
        return op.Mul(self.gemm(op, a, w, b, gemm), op.Const(c), attrs=how, label=y)

    def check(self, op: Any, w: Value, y: Value) -> str | None:
        return exact(w, y)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=c)


class FoldGemmDiv(_GemmThenConstant):
    """Gemm(a, w, b) / c = Gemm(a, w / c, b / c), c constant per column and not zero."""

    def pattern(self, op: Any, a: Any, w: Any, b: Any, c: Any, gemm: Any, how: Any) -> Any:
        return op.Div(self.gemm(op, a, w, b, gemm), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=reciprocal(c))


class FoldGemmAdd(_GemmThenConstant):
    """Gemm(a, w, b) + c = Gemm(a, w, b + c), c constant per column."""

    adds = True

    def pattern(self, op: Any, a: Any, w: Any, b: Any, c: Any, gemm: Any, how: Any) -> Any:
        return op.Add(self.gemm(op, a, w, b, gemm), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=c)


class FoldGemmSub(_GemmThenConstant):
    """Gemm(a, w, b) - c = Gemm(a, w, b - c), c constant per column."""

    adds = True

    def pattern(self, op: Any, a: Any, w: Any, b: Any, c: Any, gemm: Any, how: Any) -> Any:
        return op.Sub(self.gemm(op, a, w, b, gemm), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=-c)


class FoldBnIntoGemm(graphopt.Rule):
    """Gemm(BN(a), w, b) = Gemm(a, w * k, b + shift @ w), BN(a) = a * k + shift, a not transposed."""

    def pattern(
        self, op: Any, a: Any, w: Any, b: Any, scale: Any, bias: Any, mean: Any, var: Any, gemm: Any, bn: Any
    ) -> Any:
        norm = op.BatchNormalization(a, op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn)
        return op.Gemm(norm, op.Const(w), op.maybe(op.Const(b)), transA=0, attrs=gemm)

    def rewrite(
        self,
        op: Any,
        a: Value,
        w: Value,
        b: Value | None,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        gemm: dict[str, Any],
        bn: dict[str, Any],
    ) -> Any:
        transposed = whole_number(gemm, "transB", 0)
        columns = _columns(w, transposed)
        rows = _columns(w, 1 - transposed)
        foldable(w)
        if any(gemm.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or op.opset < 7:
            raise graphopt.Skip("alpha or beta is not 1, or the opset is below 7")
        affine = batch_norm(op, scale, bias, mean, var, bn, rows)
        assert affine.scale is not None
        assert affine.shift is not None
        array = w.const
        assert array is not None
        wide = array.astype(np.float64)
        moved = Affine(shift=affine.shift @ (wide.T if transposed else wide))
        inner = shifted(None if b is None else _as_row(b, columns), moved, columns, w.dtype)
        weights = scaled(w, affine.scale.reshape(1, -1) if transposed else affine.scale.reshape(-1, 1))
        return op.Gemm(a, weights, np.zeros(columns, w.dtype) if inner is None else inner, **gemm)


class _AfterMatMul(graphopt.Rule):
    """f(MatMul(x, w) + b) with a map of each column: MatMul(x, w') + b'."""

    def scale(self, op: Any, x: Value, w: Value, b: Value | None, c: Value, k: Array) -> Any:
        """(x @ w + b) * k."""
        y = op.MatMul(x, scaled(w, _per_column(w, k)))
        if b is None:
            return y
        old = b.const
        assert old is not None
        wide = old.astype(np.float64) * k
        if wide.size > max(old.size, _columns(w)):
            raise graphopt.Skip("the scaled bias would be larger")
        return op.Add(y, rounded(wide if old.ndim else wide.reshape(-1), old.dtype))

    def number(self, x: Value, w: Value, c: Value) -> Array:
        """The constant per column. Raises Skip where it may raise the rank."""
        foldable(w)
        columns = _columns(w)
        if (c.rank or 0) > 1 and (x.rank is None or x.rank < (c.rank or 0)):
            raise graphopt.Skip("the constant may raise the rank")
        return per_channel(c, max(c.rank or 0, 1), columns, axis=-1)


class FoldMatmulMul(_AfterMatMul):
    """(x @ w) * c = x @ (w * c), c constant per column."""

    def pattern(self, op: Any, x: Any, w: Any, c: Any, y: Any) -> Any:
        return op.Mul(op.MatMul(x, op.Const(w)), op.Const(c), label=y)

    def check(self, op: Any, w: Value, y: Value) -> str | None:
        return exact(w, y)

    def rewrite(self, op: Any, x: Value, w: Value, c: Value) -> Any:
        return self.scale(op, x, w, None, c, self.number(x, w, c))


class FoldMatmulDiv(_AfterMatMul):
    """(x @ w) / c = x @ (w / c), c constant per column and not zero."""

    def pattern(self, op: Any, x: Any, w: Any, c: Any) -> Any:
        return op.Div(op.MatMul(x, op.Const(w)), op.Const(c))

    def rewrite(self, op: Any, x: Value, w: Value, c: Value) -> Any:
        return self.scale(op, x, w, None, c, reciprocal(self.number(x, w, c)))


class FoldMatmulAddMul(_AfterMatMul):
    """(x @ w + b) * c = x @ (w * c) + b * c, c constant per column."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, y: Any) -> Any:
        return op.Mul(op.Add(op.MatMul(x, op.Const(w)), op.Const(b)), op.Const(c), label=y)

    def check(self, op: Any, w: Value, y: Value) -> str | None:
        return exact(w, y)

    def rewrite(self, op: Any, x: Value, w: Value, b: Value, c: Value) -> Any:
        return self.scale(op, x, w, b, c, self.number(x, w, c))


class FoldMatmulAddDiv(_AfterMatMul):
    """(x @ w + b) / c = x @ (w / c) + b / c, c constant per column and not zero."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any) -> Any:
        return op.Div(op.Add(op.MatMul(x, op.Const(w)), op.Const(b)), op.Const(c))

    def rewrite(self, op: Any, x: Value, w: Value, b: Value, c: Value) -> Any:
        return self.scale(op, x, w, b, c, reciprocal(self.number(x, w, c)))


class _BnAfterMatMul(graphopt.Rule):
    """BN over a product of rank 2, where channels are columns; of rank 3 they are rows."""

    def fold(self, op: Any, x: Value, w: Value, b: Value | None, affine: Affine) -> Any:
        foldable(w)
        columns = _columns(w)
        assert affine.scale is not None
        row = None if b is None else Value(None, np.broadcast_to(per_channel(b, 2, columns, axis=1), (columns,)))
        shift = shifted(row, affine, columns, w.dtype)
        y = op.MatMul(x, scaled(w, _per_column(w, affine.scale)))
        return y if shift is None else op.Add(y, shift)

    def norm(self, op: Any, x: Value, w: Value, params: tuple[Value, ...], bn: dict[str, Any]) -> Affine:
        if x.rank != 2:
            raise graphopt.Skip("x is not of rank 2, so that channels are not columns")
        scale, bias, mean, var = params
        return batch_norm(op, scale, bias, mean, var, bn, _columns(w))


class FoldMatmulBn(_BnAfterMatMul):
    """BN(x @ w) = x @ (w * k) + (bias - mean * k), k = scale / sqrt(var + epsilon), x of rank 2."""

    def pattern(self, op: Any, x: Any, w: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any) -> Any:
        y = op.MatMul(x, op.Const(w))
        return op.BatchNormalization(y, op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn)

    def rewrite(
        self, op: Any, x: Value, w: Value, scale: Value, bias: Value, mean: Value, var: Value, bn: dict[str, Any]
    ) -> Any:
        return self.fold(op, x, w, None, self.norm(op, x, w, (scale, bias, mean, var), bn))


class FoldMatmulAddBn(_BnAfterMatMul):
    """BN(x @ w + b) = x @ (w * k) + ((b - mean) * k + bias), k = scale / sqrt(var + epsilon), x of rank 2."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any) -> Any:
        y = op.Add(op.MatMul(x, op.Const(w)), op.Const(b))
        return op.BatchNormalization(y, op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn)

    def rewrite(
        self,
        op: Any,
        x: Value,
        w: Value,
        b: Value,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        bn: dict[str, Any],
    ) -> Any:
        return self.fold(op, x, w, b, self.norm(op, x, w, (scale, bias, mean, var), bn))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        FoldGemmBn(),
        FoldGemmMul(),
        FoldGemmDiv(),
        FoldGemmAdd(),
        FoldGemmSub(),
        FoldBnIntoGemm(),
        FoldMatmulMul(),
        FoldMatmulDiv(),
        FoldMatmulAddMul(),
        FoldMatmulAddDiv(),
        FoldMatmulBn(),
        FoldMatmulAddBn(),
    ]
