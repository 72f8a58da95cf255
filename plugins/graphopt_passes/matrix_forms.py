"""Products of matrices and what stands around them, in the form of which TensorRT's parser makes least.

Counted with TensorRT-RTX 1.6.1's parser: Gemm with a bias is two layers more than without; Flatten of a tensor whose
shape is not known is 5 layers, Reshape 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.rewrite.value import Value

from .noop import begins_with

_MOST = 1 << 20
"""Biases of more elements are not read."""


class DropZeroGemmBias(graphopt.Rule):
    """Gemm(x, w, zeros) = Gemm(x, w), from opset 11 on: the third operand never enlarges the product.

    As with x + 0, a result of -0 stays -0.
    """

    def pattern(self, op: Any, x: Any, w: Any, b: Any, rest: Any) -> Any:
        return op.Gemm(x, w, op.Const(b), attrs=rest)

    def glance(self, node: gs.Node) -> bool:
        return len(node.inputs) > 2 and begins_with(node.inputs[2], 0)

    def check(self, op: Any, b: Value, rest: dict[str, Any]) -> str | None:
        beta = rest.get("beta", 1.0)
        if not isinstance(beta, (int, float)) or not np.isfinite(beta):
            return "zero times beta may be no number"
        values = b.const if (b.size or 0) <= _MOST else None
        return None if values is not None and not values.astype(np.float64).any() else "the bias is not zero"

    def rewrite(self, op: Any, x: Value, w: Value, rest: dict[str, Any]) -> Any:
        if op.opset < 11:
            raise graphopt.Skip("Gemm needs its third operand before opset 11")
        return op.Gemm(x, w, **rest)


class ReshapeInsteadOfFlatten(graphopt.Rule):
    """Flatten(x, axis) = Reshape(x, (-1, k)), k the product of the dimensions from `axis` on; or (k, -1) before it.

    Where the shape is not known as a whole and k is, and is not zero (-1 could be any number then).
    """

    stage = "fuse"

    def pattern(self, op: Any, x: Any, axis: Any) -> Any:
        return op.Flatten(x, axis=axis)

    def rewrite(self, op: Any, x: Value, axis: int) -> Any:
        shape = x.shape
        if shape is None or all(isinstance(dim, int) for dim in shape):
            raise graphopt.Skip("the rank is unknown" if shape is None else "the whole shape is known")
        place = axis + len(shape) if axis < 0 else axis
        rows, columns = (_product(dims) for dims in (shape[:place], shape[place:]))
        if columns:
            target = [0 if place == 1 else -1, columns]
        elif rows:
            target = [rows, -1]
        else:
            raise graphopt.Skip("neither of the two dimensions is known, or it is zero")
        return op.Reshape(x, np.array(target, np.int64))


def _product(dims: Any) -> int | None:
    return int(np.prod(dims, dtype=np.int64)) if all(isinstance(dim, int) for dim in dims) else None


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [DropZeroGemmBias(), ReshapeInsteadOfFlatten()]
