"""How an operator is spelled at an opset: operands that moved from attribute to input, and default values.

Rules are written in the newest spelling; this table is all that is needed to read and emit the older ones.
Source: the operator changelog of ONNX (docs/Changelog.md).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from graphopt.ir import dtypes, shapes


class Moved(NamedTuple):
    """An operand that is an attribute below `opset` and the input number `slot` from there on."""

    slot: int
    attribute: str
    opset: int
    dtype: str = "int64"
    """'like' = the dtype of the first input."""


_AXES_13, _AXES_18 = (Moved(1, "axes", 13),), (Moved(1, "axes", 18),)
MOVED: dict[str, tuple[Moved, ...]] = {
    "Squeeze": _AXES_13,
    "Unsqueeze": _AXES_13,
    "ReduceSum": _AXES_13,
    "Split": (Moved(1, "split", 13),),
    "Clip": (Moved(1, "min", 11, "like"), Moved(2, "max", 11, "like")),
    "Pad": (Moved(1, "pads", 11), Moved(2, "value", 11, "like")),
    "Slice": (Moved(1, "starts", 10), Moved(2, "ends", 10), Moved(3, "axes", 10)),
    "TopK": (Moved(1, "k", 10),),
    "Dropout": (Moved(1, "ratio", 12, "float32"),),
    **{
        f"Reduce{kind}": _AXES_18
        for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
}
COMMUTATIVE = frozenset("Add Mul And Or Xor Equal BitwiseAnd BitwiseOr BitwiseXor Max Min Sum Mean".split())
"""Operators whose operands may be swapped when there are two."""

RANDOM = frozenset("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli".split())

IGNORED = {"BatchNormalization": frozenset({"momentum"}), "Dropout": frozenset({"seed"})}
"""Attributes without a meaning in inference."""


def is_standard(node: gs.Node) -> bool:
    """Whether the node is of ONNX's own domain."""
    return node.domain in (None, "", "ai.onnx")


@cache
def moved(op: str, opset: int) -> tuple[Moved, ...]:
    """The operands of `op` that are attributes at this opset though inputs in the newest spelling."""
    return tuple(entry for entry in MOVED.get(op, ()) if opset < entry.opset)


@cache
def unnamed(op: str, opset: int, standard: bool) -> frozenset[str]:
    """Attributes that a pattern need not name: they are operands in the newest spelling, or have no meaning."""
    there = {entry.attribute for entry in moved(op, opset)} if standard else set()
    return IGNORED.get(op, frozenset()) | there


def attribute_operand(node: gs.Node, entry: Moved) -> np.ndarray[Any, Any] | None:
    """The value of a moved operand as the array that the newer spelling would have; None if absent."""
    value = node.attrs.get(entry.attribute)
    if value is None or isinstance(value, gs.Node.AttributeRef):
        return None
    dtype = dtypes.of(node.inputs[0]) if entry.dtype == "like" else np.dtype(entry.dtype)
    values = [value] if entry.attribute == "k" else value
    return np.asarray(values, dtype if dtype is not None else np.float32)


@cache
def schema(op: str, opset: int, domain: str = "") -> onnx.defs.OpSchema | None:
    """The operator's schema at this opset; None if there is none, or it is deprecated by then."""
    if not onnx.defs.has(op, opset, domain):
        return None
    found = onnx.defs.get_schema(op, opset, domain)
    return None if found.deprecated else found


@cache
def room(op: str, opset: int) -> tuple[frozenset[str], int] | None:
    """(attributes, most inputs) of an operator of ONNX at this opset, None if there is none: schemas are slow."""
    found = schema(op, opset)
    return None if found is None else (frozenset(found.attributes), found.max_input)


@cache
def _schema_default(op: str, opset: int, domain: str, name: str) -> Any:
    found = schema(op, opset, domain)
    if found is None or name not in found.attributes:
        return None
    value = found.attributes[name].default_value
    if value.type == onnx.AttributeProto.UNDEFINED:
        return None
    got = helper.get_attribute_value(value)
    return got.decode() if isinstance(got, bytes) else got


def default(node: gs.Node, name: str, opset: int) -> Any:
    """The value of an attribute that is absent: the schema's default, else what its text says it means."""
    value = _schema_default(node.op, opset, node.domain or "", name)
    if value is not None:
        return list(value) if isinstance(value, (list, tuple)) else value
    meaning = _MEANT.get((node.op, name)) or _MEANT.get(("*", name) if node.op in _WINDOWED else ("", ""))
    return meaning(node) if meaning else None


def _rank(node: gs.Node, slot: int = 0) -> int | None:
    shape = shapes.of(node.inputs[slot]) if len(node.inputs) > slot else None
    return None if shape is None else len(shape)


def _spatial(node: gs.Node) -> int | None:
    kernel = node.attrs.get("kernel_shape")
    if kernel is not None:
        return len(kernel)
    if node.op == "Col2Im":
        sizes = shapes.of(node.inputs[1])
        return sizes[0] if sizes and isinstance(sizes[0], int) else None
    rank = _rank(node, 1) if "Conv" in node.op else _rank(node)
    return None if rank is None else rank - 2


def _repeat(value: int, times: int = 1) -> Any:
    def make(node: gs.Node) -> list[int] | None:
        count = _spatial(node)
        return None if count is None else [value] * (count * times)

    return make


def _reversed_axes(node: gs.Node) -> list[int] | None:
    rank = _rank(node)
    return None if rank is None else list(range(rank))[::-1]


def _kernel(node: gs.Node) -> list[int] | None:
    shape = shapes.of(node.inputs[1]) if "Conv" in node.op and len(node.inputs) > 1 else None
    return None if shape is None or not shapes.is_static(shape) else [dim for dim in shape[2:] if isinstance(dim, int)]


_WINDOWED = frozenset("Conv ConvTranspose ConvInteger QLinearConv AveragePool MaxPool LpPool MaxUnpool Col2Im".split())
_MEANT: dict[tuple[str, str], Any] = {
    ("Transpose", "perm"): _reversed_axes,
    ("*", "strides"): _repeat(1),
    ("*", "dilations"): _repeat(1),
    ("*", "pads"): _repeat(0, 2),
    ("*", "kernel_shape"): _kernel,
    ("ConvTranspose", "output_padding"): _repeat(0),
}
