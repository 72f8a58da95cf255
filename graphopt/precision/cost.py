"""What a node costs in a dtype: the larger of its bytes and its arithmetic, or what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphopt.ir import shapes

from .flow import is_single

_BYTES_PER_SECOND = 2.9e12
_OPERATIONS_PER_SECOND = {"float32": 3.0e14, "float16": 6.0e14, "bfloat16": 6.0e14, "int8": 1.2e15,
                          "float8e4m3fn": 1.2e15, "int4": 6.0e14}  # fmt: skip
_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "float8e4m3fn": 1.0, "int4": 0.5625}
_UNKNOWN = 32
"""What a dimension counts whose size is not known."""


@dataclass
class Cost:
    """Seconds of nodes by dtype.

    measured: node name -> {dtype: seconds}, which takes precedence. A dtype that was not measured is to one that was as
    bytes and arithmetic say.
    """

    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def seconds(self, node: gs.Node, dtype: str) -> float:
        """Of one node that computes in dtype; 'int4' holds its weights only."""
        known = self.measured.get(node.name, {})
        if dtype in known:
            return known[dtype]
        estimate = self._estimate(node, dtype)
        for other in _BYTES:
            if other in known and (base := self._estimate(node, other)):
                return known[other] * estimate / base
        return estimate

    def _estimate(self, node: gs.Node, dtype: str) -> float:
        act = _BYTES["float16"] if dtype == "int4" else _BYTES[dtype]
        moved = sum(_size(t) * (_BYTES[dtype] if isinstance(t, gs.Constant) else act)
                    for t in (*node.inputs, *node.outputs) if t.name and is_single(t))  # fmt: skip
        return max(moved / _BYTES_PER_SECOND, operations(node) / _OPERATIONS_PER_SECOND[dtype])


def operations(node: gs.Node) -> float:
    """Multiplications and additions of a product or convolution; of anything else one per element of its result."""
    out = float(_size(node.outputs[0])) if node.outputs else 0.0
    if len(node.inputs) > 1 and not node.domain:
        weight = _dims(node.inputs[1])
        if node.op == "Conv" and weight:
            inner = 1
            for dim in weight[1:]:
                inner *= dim
            return 2.0 * out * inner
        if node.op in ("MatMul", "Gemm") and len(weight) >= 2:
            return 2.0 * out * (weight[-1] if node.attrs.get("transB", 0) else weight[-2])
    return out


def _dims(tensor: gs.Tensor) -> tuple[int, ...]:
    if isinstance(tensor, gs.Constant):
        return tuple(tensor._values.shape)
    return tuple(dim if isinstance(dim, int) else _UNKNOWN for dim in shapes.of(tensor) or ())


def _size(tensor: gs.Tensor) -> int:
    size = 1
    for dim in _dims(tensor):
        size *= dim
    return size
