"""Declared types of values: from TypeProto and back, each distinct one worked out once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx

from graphopt.errors import ModelError

from . import dtypes
from .shapes import Dim, Shape


def read_type(kind: onnx.TypeProto, name: str) -> tuple[str, Any, Shape, bool]:
    """(which type, dtype, shape, whether that is all it says) of a value called `name`. Raises ModelError."""
    which = kind.WhichOneof("value") or ""
    if which != "tensor_type":
        return which, None, None, not which
    known = kind.tensor_type
    number = known.elem_type
    dtype = dtypes.from_onnx(number)
    if dtype is None and number:
        raise ModelError(f"value {name!r} has the unknown dtype {number}")
    plain, shape = not kind.denotation, None
    if known.HasField("shape"):
        plain = plain and not any(dim.denotation for dim in known.shape.dim)
        shape = tuple(map(_dim, known.shape.dim)) if number else None
    return which, dtype, shape, plain


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return prose(dim.dim_param) or None if kind else None


def write_type(number: int, shape: Shape, out: onnx.TypeProto) -> None:
    """Say dtype and shape in a type that may hold denotations of dims already."""
    kind = out.tensor_type
    if number:
        kind.elem_type = number
    if shape is None:
        return
    notes = [dim.denotation for dim in kind.shape.dim]
    kind.shape.SetInParent()
    del kind.shape.dim[:]
    for axis, dim in enumerate(shape):
        made = kind.shape.dim.add()
        if isinstance(dim, str):
            made.dim_param = dim
        elif dim is not None and dim >= 0:
            made.dim_value = int(dim)
        if axis < len(notes) and notes[axis]:
            made.denotation = notes[axis]


@lru_cache(1 << 14)
def type_bytes(number: int, shape: Shape) -> bytes:
    """A nameless ValueInfoProto of this type, serialized."""
    info = onnx.ValueInfoProto()
    write_type(number, shape, info.type)
    return bytes(info.SerializeToString())


def prose(text: Any) -> str:
    """Text for people, whatever bytes it is made of."""
    if type(text) is str:
        return text
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
