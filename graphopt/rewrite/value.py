"""What a rule's variables are bound to: tensors with `.shape`, `.dtype`, `.const`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import put
from graphopt.ir.weights import read, size

if TYPE_CHECKING:
    from .build import Ops

Array = np.ndarray[Any, Any]


def constant_of(tensor: gs.Tensor) -> gs.Constant | None:
    """The constant that a tensor is, or that a Constant node puts into it; None if it is computed."""
    if isinstance(tensor, gs.Constant):
        return tensor
    if tensor.inputs and tensor.inputs[0].op == "Constant":
        node = tensor.inputs[0]
        found: gs.Constant | None = getattr(node, "_constant", None)
        if found is None:
            found = lifted(node)
            put(node, "_constant", found)
        return found
    return None


def lifted(node: gs.Node) -> gs.Constant | None:
    """The value of a Constant node, whichever attribute holds it; None for sparse and referred ones."""
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, gs.Constant):
            return value
        if isinstance(value, gs.Node.AttributeRef):
            return None
        kind = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        if name in kind:
            return gs.Constant(node.outputs[0].name, np.array(value, kind[name]))
        if name in ("value_string", "value_strings"):
            return gs.Constant(node.outputs[0].name, np.array(value, object))
    return None


class Value:
    """A tensor of the graph, or an operand that an old opset keeps in an attribute.

    Arithmetic on it inside `rewrite` adds nodes: `x * w` is `op.Mul(x, w)`.
    """

    __slots__ = ("_ops", "array", "tensor")

    def __init__(self, tensor: gs.Tensor | None, array: Array | None = None, ops: Ops | None = None) -> None:
        self.tensor = tensor
        self.array = array
        self._ops = ops

    @property
    def name(self) -> str:
        return self.tensor.name if self.tensor is not None else ""

    @property
    def shape(self) -> shapes.Shape:
        """A tuple of int, str (symbol), None (unknown); None for an unknown rank."""
        if self.tensor is None:
            assert self.array is not None
            return tuple(self.array.shape)
        known: shapes.Shape = shapes.of(self.tensor)
        if known is None and self._ops is not None:
            self._ops.infer(self.tensor)
            known = shapes.of(self.tensor)
        return known

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        if self.tensor is None:
            assert self.array is not None
            return np.dtype(self.array.dtype)
        known: np.dtype[Any] | None = dtypes.of(self.tensor)
        if known is None and self._ops is not None:
            self._ops.infer(self.tensor)
            known = dtypes.of(self.tensor)
        return known

    @property
    def is_const(self) -> bool:
        """Whether the value is known; does not read it."""
        return self.tensor is None or constant_of(self.tensor) is not None

    @property
    def const(self) -> Array | None:
        """The value of a constant, None of anything else."""
        if self.tensor is None:
            return self.array
        found = constant_of(self.tensor)
        return None if found is None else read(found)

    @property
    def size(self) -> int | None:
        """Number of elements if known."""
        if self.tensor is not None and isinstance(self.tensor, gs.Constant):
            return size(self.tensor)
        return shapes.volume(self.shape)

    @property
    def producer(self) -> gs.Node | None:
        """The node that computes it."""
        return self.tensor.inputs[0] if self.tensor is not None and self.tensor.inputs else None

    def is_same(self, other: Value) -> bool:
        """Whether both are one tensor, or constants of equal dtype, shape and (few) values."""
        if self.tensor is not None and self.tensor is other.tensor:
            return True
        if not (self.is_const and other.is_const) or self.dtype != other.dtype or self.shape != other.shape:
            return False
        if (self.size or 0) > 64:
            return False
        a, b = self.const, other.const
        return a is not None and b is not None and a.tobytes() == b.tobytes()

    def __repr__(self) -> str:
        return f"<{self.name or 'attribute'}: {dtypes.name(self.dtype)} {shapes.text(self.shape)}>"

    def _op(self, name: str, *operands: Any) -> Any:
        if self._ops is None:
            raise TypeError("arithmetic on values adds nodes: it belongs into rewrite(self, op, ...)")
        return getattr(self._ops, name)(*operands)

    def __add__(self, other: Any) -> Any:
        return self._op("Add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._op("Add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._op("Sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._op("Sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._op("Mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._op("Mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._op("Div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._op("Div", other, self)

    def __neg__(self) -> Any:
        return self._op("Neg", self)
