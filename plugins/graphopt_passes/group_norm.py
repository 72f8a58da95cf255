"""GroupNormalization as exporters spell it, over InstanceNormalization; from opset 21, where it scales each channel.

TensorRT-RTX 1.6.1: 3 layers in place of 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.value import Value

from .affine import Affine, batch_norm, numbers, per_channel, rounded

_DTYPES = ("float32", "float16", "bfloat16")


class FuseGroupNorm(graphopt.Rule):
    """Reshape(InstanceNormalization(Reshape(x, (n, g, -1)), s, b), shape of x) = GroupNormalization(x, s', b').

    x: (n, channels, ...), s', b': s and b repeated for the channels of a group. From opset 21 on: before, the operator
    is deprecated. Not where the first dimension is not proved to stay, nor for float64, since it computes in float32.
    """

    stage = "fuse"

    def glance(self, node: gs.Node) -> bool:
        makers = node.inputs[0].inputs if node.inputs else []
        return bool(makers) and makers[0].op == "InstanceNormalization"

    def pattern(
        self, op: Any, x: Any, first: Any, s: Any, b: Any, last: Any, epsilon: Any, u: Any, v: Any, parted: Any, y: Any
    ) -> Any:
        groups = op.Reshape(x, first, allowzero=u, label=parted)
        normal = op.InstanceNormalization(groups, op.Const(s), op.Const(b), epsilon=epsilon)
        return op.Reshape(normal, last, allowzero=v, label=y)

    def check(
        self, op: Any, x: Value, first: Value, last: Value, s: Value, b: Value, parted: Value, y: Value, u: int
    ) -> str | None:
        shape, between = x.shape, parted.shape
        if op.opset < 21:
            return "the operator is deprecated before opset 21"
        if dtypes.name(x.dtype) not in _DTYPES or dtypes.name(s.dtype) not in _DTYPES:
            return f"the dtype is {dtypes.name(x.dtype)}"
        if shape is None or between is None or len(shape) < 3 or len(between) < 3:
            return "a rank is unknown, or there is nothing to normalize over"
        channels, count = shape[1], between[1]
        if not isinstance(channels, int) or not isinstance(count, int) or not count or channels % count:
            return "channels or groups are unknown, or do not fit"
        if s.shape != (count,) or b.shape != (count,):
            return "scale or bias is no vector of the groups"
        copied = first.const is not None and first.const.size and first.const.reshape(-1)[0] == 0 and not u
        if not copied and not shapes.same_dim(shape[0], between[0]):
            return "the first dimension may not stay"
        back = last.producer
        whole = back is not None and back.op == "Shape" and not back.attrs and back.inputs[0] is x.tensor
        return None if whole or _same(shape, y.shape) else "the result may have another shape than x"

    def rewrite(self, op: Any, x: Value, s: Value, b: Value, parted: Value, epsilon: float) -> Any:
        assert x.shape is not None
        assert parted.shape is not None
        each = int(x.shape[1]) // int(parted.shape[1])  # type: ignore[arg-type]
        scale, bias = (rounded(np.repeat(numbers(one), each), s.dtype) for one in (s, b))
        return op.GroupNormalization(x, scale, bias, epsilon=epsilon, num_groups=int(parted.shape[1]))  # type: ignore[arg-type]


def _same(shape: tuple[shapes.Dim, ...], result: shapes.Shape) -> bool:
    """Whether shapes of as many elements are equal: where all dimensions but one are proved to be."""
    if result is None or len(shape) != len(result) or 0 in shape:
        return False
    return sum(not shapes.same_dim(a, b) for a, b in zip(shape, result, strict=True)) <= 1


class _AfterGroupNorm(graphopt.Rule):
    """A GroupNormalization and a map of each channel behind it."""

    stage = "fuse"

    def group(self, op: Any, x: Any, s: Any, b: Any, rest: Any) -> Any:
        return op.GroupNormalization(x, op.Const(s), op.Const(b), attrs=rest)

    def check(self, op: Any, s: Value, b: Value) -> str | None:
        if s.rank != 1 or s.shape != b.shape:
            return "scale or bias is no vector of the channels"
        return "scale and bias are per group before opset 21" if op.opset < 21 else None

    def with_map(self, op: Any, x: Value, s: Value, b: Value, rest: dict[str, Any], then: Affine) -> Any:
        scale, bias = numbers(s), numbers(b)
        if then.scale is not None:
            scale, bias = scale * then.scale, bias * then.scale
        if then.shift is not None:
            bias = bias + then.shift
        return op.GroupNormalization(x, rounded(scale, s.dtype), rounded(bias, s.dtype), **rest)


class FoldGroupNormMul(_AfterGroupNorm):
    """GroupNormalization(x, s, b) * c = GroupNormalization(x, s * c, b * c), c constant per channel."""

    def pattern(self, op: Any, x: Any, s: Any, b: Any, c: Any, rest: Any) -> Any:
        return op.Mul(self.group(op, x, s, b, rest), op.Const(c))

    def rewrite(self, op: Any, x: Value, s: Value, b: Value, c: Value, rest: dict[str, Any]) -> Any:
        return self.with_map(op, x, s, b, rest, Affine(scale=per_channel(c, x.rank or 0, s.size or 0)))


class FoldGroupNormAdd(_AfterGroupNorm):
    """GroupNormalization(x, s, b) + c = GroupNormalization(x, s, b + c), c constant per channel."""

    def pattern(self, op: Any, x: Any, s: Any, b: Any, c: Any, rest: Any) -> Any:
        return op.Add(self.group(op, x, s, b, rest), op.Const(c))

    def rewrite(self, op: Any, x: Value, s: Value, b: Value, c: Value, rest: dict[str, Any]) -> Any:
        return self.with_map(op, x, s, b, rest, Affine(shift=per_channel(c, x.rank or 0, s.size or 0)))


class FoldGroupNormBn(_AfterGroupNorm):
    """BN(GroupNormalization(x, s, b)) = GroupNormalization(x, s * k, b * k + shift), BN(x) = x * k + shift."""

    def pattern(
        self, op: Any, x: Any, s: Any, b: Any, rest: Any, scale: Any, bias: Any, mean: Any, var: Any, bn: Any
    ) -> Any:
        params = (op.Const(scale), op.Const(bias), op.Const(mean), op.Const(var))
        return op.BatchNormalization(self.group(op, x, s, b, rest), *params, attrs=bn)

    def rewrite(
        self,
        op: Any,
        x: Value,
        s: Value,
        b: Value,
        rest: dict[str, Any],
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        bn: dict[str, Any],
    ) -> Any:
        return self.with_map(op, x, s, b, rest, batch_norm(op, scale, bias, mean, var, bn, s.size or 0))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [FuseGroupNorm(), FoldGroupNormMul(), FoldGroupNormAdd(), FoldGroupNormBn()]
