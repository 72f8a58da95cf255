"""What follows a convolution and maps each output channel by itself becomes part of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.rewrite.value import Array, Value

from .affine import Affine, batch_norm, exact, foldable, per_channel, reciprocal, scaled, shifted, whole_number
from .noop import begins_with


class _AfterConv(graphopt.Rule):
    """f(Conv(x, w, b)) = Conv(x, w', b'). Weights with other readers are not changed: Conv gets its own."""

    operator = "Conv"

    def conv(self, op: Any, x: Any, w: Any, b: Any, conv: Any) -> Any:
        return getattr(op, self.operator)(x, op.Const(w), op.maybe(op.Const(b)), attrs=conv)

    def channels(self, w: Value, conv: dict[str, Any]) -> int:
        """Output channels of weights (out, in / group, ...)."""
        assert w.shape is not None
        return int(w.shape[0])  # type: ignore[arg-type]

    def factors(self, w: Value, k: Array, conv: dict[str, Any]) -> Array:
        """One number per output channel, laid out to multiply the weights."""
        assert w.rank is not None
        return k.reshape(-1, *(1,) * (w.rank - 1))

    def fold(self, op: Any, x: Value, w: Value, b: Value | None, conv: dict[str, Any], affine: Affine) -> Any:
        """The convolution followed by the map."""
        foldable(w)
        bias = shifted(b, affine, self.channels(w, conv), w.dtype)
        weights = w if affine.scale is None else scaled(w, self.factors(w, affine.scale, conv))
        return getattr(op, self.operator)(x, weights, bias, **conv)


class FoldConvBn(_AfterConv):
    """BN(Conv(x, w, b)) = Conv(x, w * k, (b - mean) * k + bias), k = scale / sqrt(var + epsilon)."""

    def pattern(
        self, op: Any, x: Any, w: Any, b: Any, scale: Any, bias: Any, mean: Any, var: Any, conv: Any, bn: Any
    ) -> Any:
        return op.BatchNormalization(
            self.conv(op, x, w, b, conv), op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var), attrs=bn
        )

    def rewrite(
        self,
        op: Any,
        x: Value,
        w: Value,
        b: Value | None,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        conv: dict[str, Any],
        bn: dict[str, Any],
    ) -> Any:
        return self.fold(op, x, w, b, conv, batch_norm(op, scale, bias, mean, var, bn, self.channels(w, conv)))


class _ConvThenConstant(_AfterConv):
    """Conv(x, w, b) and a constant of one number, or one number per output channel."""

    adds = False

    def rewrite(
        self, op: Any, x: Value, w: Value, b: Value | None, c: Value, conv: dict[str, Any], how: dict[str, Any]
    ) -> Any:
        dtype = foldable(w)
        assert w.rank is not None
        values = per_channel(c, w.rank, self.channels(w, conv), how, adds=dtype if self.adds else "")
        return self.fold(op, x, w, b, conv, self.affine(values))

    def affine(self, c: Array) -> Affine:
        raise NotImplementedError


class FoldConvMul(_ConvThenConstant):
    """Conv(x, w, b) * c = Conv(x, w * c, b * c), c constant per output channel."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any, y: Any) -> Any:
        return op.Mul(self.conv(op, x, w, b, conv), op.Const(c), attrs=how, label=y)

    def check(self, op: Any, w: Value, y: Value) -> str | None:
        return exact(w, y)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=c)


class FoldConvDiv(_ConvThenConstant):
    """Conv(x, w, b) / c = Conv(x, w / c, b / c), c constant per output channel and not zero."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Div(self.conv(op, x, w, b, conv), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(scale=reciprocal(c))


class FoldConvAdd(_ConvThenConstant):
    """Conv(x, w, b) + c = Conv(x, w, b + c), c constant per output channel."""

    adds = True

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Add(self.conv(op, x, w, b, conv), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=c)


class FoldConvSub(_ConvThenConstant):
    """Conv(x, w, b) - c = Conv(x, w, b - c), c constant per output channel."""

    adds = True

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Sub(self.conv(op, x, w, b, conv), op.Const(c), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(shift=-c)


class FoldConvSubFrom(_ConvThenConstant):
    """c - Conv(x, w, b) = Conv(x, -w, c - b), c constant per output channel."""

    adds = True

    def pattern(self, op: Any, x: Any, w: Any, b: Any, c: Any, conv: Any, how: Any) -> Any:
        return op.Sub(op.Const(c), self.conv(op, x, w, b, conv), attrs=how)

    def affine(self, c: Array) -> Affine:
        return Affine(np.array([-1.0]), c)


class FoldConvNeg(_AfterConv):
    """-Conv(x, w, b) = Conv(x, -w, -b)."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, conv: Any) -> Any:
        return op.Neg(self.conv(op, x, w, b, conv))

    def rewrite(self, op: Any, x: Value, w: Value, b: Value | None, conv: dict[str, Any]) -> Any:
        return self.fold(op, x, w, b, conv, Affine(np.array([-1.0])))


class _AfterConvTranspose(_AfterConv):
    """The same over ConvTranspose, whose weights are (in, out / group, ...)."""

    operator = "ConvTranspose"

    def channels(self, w: Value, conv: dict[str, Any]) -> int:
        assert w.shape is not None
        return int(w.shape[1]) * whole_number(conv, "group", 1)  # type: ignore[arg-type]

    def factors(self, w: Value, k: Array, conv: dict[str, Any]) -> Array:
        assert w.shape is not None
        assert w.rank is not None
        if k.size == 1:
            return k
        group = whole_number(conv, "group", 1)
        rows = np.repeat(k.reshape(group, -1), int(w.shape[0]) // group, axis=0)  # type: ignore[arg-type]
        return rows.reshape(*rows.shape, *(1,) * (w.rank - 2))


class FoldConvTransposeBn(_AfterConvTranspose, FoldConvBn):
    """BN(ConvTranspose(x, w, b)) = ConvTranspose(x, w * k, (b - mean) * k + bias), k = scale / sqrt(var + epsilon)."""


class FoldConvTransposeMul(_AfterConvTranspose, FoldConvMul):
    """ConvTranspose(x, w, b) * c = ConvTranspose(x, w * c, b * c), c constant per output channel."""


class FoldConvTransposeDiv(_AfterConvTranspose, FoldConvDiv):
    """ConvTranspose(x, w, b) / c = ConvTranspose(x, w / c, b / c), c constant per output channel and not zero."""


class FoldConvTransposeAdd(_AfterConvTranspose, FoldConvAdd):
    """ConvTranspose(x, w, b) + c = ConvTranspose(x, w, b + c), c constant per output channel."""


class FoldConvTransposeSub(_AfterConvTranspose, FoldConvSub):
    """ConvTranspose(x, w, b) - c = ConvTranspose(x, w, b - c), c constant per output channel."""


class FoldConvTransposeSubFrom(_AfterConvTranspose, FoldConvSubFrom):
    """c - ConvTranspose(x, w, b) = ConvTranspose(x, -w, c - b), c constant per output channel."""


class FoldConvTransposeNeg(_AfterConvTranspose, FoldConvNeg):
    """-ConvTranspose(x, w, b) = ConvTranspose(x, -w, -b)."""


class RemoveZeroBias(_AfterConv):
    """Conv(x, w, 0) = Conv(x, w)."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any, conv: Any) -> Any:
        return getattr(op, self.operator)(x, w, op.Const(b), attrs=conv)

    def glance(self, node: gs.Node) -> bool:
        return len(node.inputs) > 2 and begins_with(node.inputs[2], 0)

    def rewrite(self, op: Any, x: Value, w: Value, b: Value, conv: dict[str, Any]) -> Any:
        values = b.const
        if values is None or values.any():
            raise graphopt.Skip("the bias is not zero")
        return getattr(op, self.operator)(x, w, **conv)


class RemoveZeroBiasOfConvTranspose(_AfterConvTranspose, RemoveZeroBias):
    """ConvTranspose(x, w, 0) = ConvTranspose(x, w)."""


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        FoldConvBn(),
        FoldConvMul(),
        FoldConvDiv(),
        FoldConvAdd(),
        FoldConvSub(),
        FoldConvSubFrom(),
        FoldConvNeg(),
        FoldConvTransposeBn(),
        FoldConvTransposeMul(),
        FoldConvTransposeDiv(),
        FoldConvTransposeAdd(),
        FoldConvTransposeSub(),
        FoldConvTransposeSubFrom(),
        FoldConvTransposeNeg(),
        RemoveZeroBias(),
        RemoveZeroBiasOfConvTranspose(),
    ]
