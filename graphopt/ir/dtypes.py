"""One dtype: NumPy's, with ml_dtypes for what NumPy lacks (bfloat16, float8, int4, ...)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

_NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
_SHORT = {"float": "float32", "double": "float64", "bool": "bool"}


@cache
def from_onnx(number: int) -> np.dtype[Any] | None:
    """The NumPy dtype of a TensorProto.DataType; None for UNDEFINED and numbers that this onnx does not know."""
    if number == onnx.TensorProto.UNDEFINED or number not in _NAMES:
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(number))


@cache
def from_name(text: str) -> np.dtype[Any] | None:
    """The NumPy dtype of 'float32', 'bfloat16', 'float8e4m3fn', ...; None for what is no dtype of ONNX."""
    long = {short: name for name, short in _SHORT.items()}.get(text, text)
    return next((from_onnx(number) for number, name in _NAMES.items() if name == long), None)


@cache
def to_onnx(dtype: Any) -> int:
    """The TensorProto.DataType of a NumPy dtype, scalar type, or number of one. Raises ValueError if there is none."""
    if isinstance(dtype, int):
        return dtype
    if np.dtype(dtype).kind in "OSU":
        return int(onnx.TensorProto.STRING)
    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{dtype} is no dtype of ONNX") from error


def of(tensor: Any) -> np.dtype[Any] | None:
    """The dtype of a graphsurgeon tensor, whichever of its three spellings it is stored in; None if unknown."""
    found = tensor.dtype
    if found is None or isinstance(found, np.dtype):
        return found
    return from_onnx(found) if isinstance(found, int) else np.dtype(found)


@cache
def name(dtype: Any) -> str:
    """'float32', 'bfloat16', 'int64', ... of any spelling of a dtype; '?' if unknown."""
    if dtype is None:
        return "?"
    text = _NAMES[to_onnx(dtype)]
    return str(_SHORT.get(text, text))


@cache
def is_float(dtype: Any) -> bool:
    """Whether values round: every floating dtype, the 8- and 4-bit ones included."""
    return dtype is not None and (np.dtype(dtype).kind == "f" or "float" in name(dtype))


@cache
def is_stored(dtype: Any) -> bool:
    """Whether a floating dtype is only stored, not computed with: 8 bits and fewer, behind a scale."""
    return is_float(dtype) and bits(dtype) <= 8


@cache
def bits(dtype: Any) -> int:
    """Bits of one stored element; strings count as 64."""
    label = name(dtype)
    for mark, width in (("int4", 4), ("int2", 2), ("float4e", 4), ("float6e", 6), ("string", 64)):
        if mark in label:
            return width
    return int(np.dtype(dtype).itemsize) * 8
