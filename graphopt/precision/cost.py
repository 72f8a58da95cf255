"""What a node costs in a dtype: the larger of its bytes and its arithmetic, or what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphopt.ir import shapes

from .flow import is_single

LAUNCH = 1e-6
"""Seconds of a kernel that does next to nothing: what a cast or a quantization costs beyond its bytes."""
FLOOR = 2e-6
"""Seconds that a layer takes in any dtype: fewer bits make only the rest of its time shorter."""
_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "float8e4m3fn": 1.0, "int4": 0.5625}
_SPEED = {"float32": 0.5, "float16": 1.0, "bfloat16": 1.0, "int8": 2.0, "float8e4m3fn": 2.0, "int4": 1.0}
"""Arithmetic per second, of that in float16; TF32 for float32."""
_UNKNOWN = 32
"""What a dimension counts whose size is not known."""


@dataclass(frozen=True)
class Machine:
    """Bytes per second, and multiplications and additions per second in float16, that a good kernel reaches."""

    bandwidth: float
    arithmetic: float


MACHINES: Mapping[tuple[int, int], Machine] = {
    (7, 5): Machine(2.6e11, 4.0e13),
    (8, 0): Machine(1.3e12, 1.9e14),
    (8, 6): Machine(5.0e11, 7.5e13),
    (8, 7): Machine(1.7e11, 2.6e13),
    (8, 9): Machine(2.5e11, 7.3e13),
    (9, 0): Machine(2.9e12, 6.0e14),
}
"""Compute capability -> a common GPU of it: T4, A100, A10, Orin, L4, H100. The last was measured; of the others these
are 85 % of the bandwidth and 60 % of the dense arithmetic that their data sheets give."""
_COMMON = (9, 0)


@dataclass
class Cost:
    """Seconds of nodes by dtype.

    measured: node name -> {dtype: seconds}, which takes precedence. Beyond FLOOR, a dtype that was not
    measured is to one that was as bytes and arithmetic say.
    """

    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    machine: Machine = MACHINES[_COMMON]

    def seconds(self, node: gs.Node, dtype: str) -> float:
        """Of one node that computes in dtype; 'int4' holds its weights only."""
        known = self.measured.get(node.name, {})
        if dtype in known:
            return known[dtype]
        estimate = self._estimate(node, dtype)
        for other in _BYTES:
            if other in known and (base := self._estimate(node, other)):
                fixed = min(known[other], FLOOR)
                return fixed + (known[other] - fixed) * estimate / base
        return estimate

    def border(self, tensor: gs.Tensor, *kinds: str) -> float:
        """Of a cast or a quantization: the tensor is read in the first dtype and written in the second."""
        return LAUNCH + _size(tensor) * sum(_BYTES[kind] for kind in kinds) / self.machine.bandwidth

    def _estimate(self, node: gs.Node, dtype: str) -> float:
        act = _BYTES["float16"] if dtype == "int4" else _BYTES[dtype]
        moved = sum(_size(t) * (_BYTES[dtype] if isinstance(t, gs.Constant) else act)
                    for t in (*node.inputs, *node.outputs) if t.name and is_single(t))  # fmt: skip
        return max(moved / self.machine.bandwidth, operations(node) / (self.machine.arithmetic * _SPEED[dtype]))


def machine_of(capability: tuple[int, int] | None) -> Machine:
    """The nearest that is known and not newer; of no capability, the one that was measured."""
    known = [one for one in MACHINES if capability is not None and one <= capability]
    return MACHINES[max(known, default=_COMMON)]


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
