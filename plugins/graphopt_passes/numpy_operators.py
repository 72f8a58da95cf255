"""Operators that NumPy computes bit by bit as onnxruntime does: movement, comparison, whole numbers, + - * / sqrt.

An onnxruntime session costs milliseconds, whatever little it computes; most of what exporters leave to be folded is
found here. None leaves a node to onnxruntime: functions of libm, narrow floats, everything with a corner that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes

Array = np.ndarray[Any, Any]
_EXACT = frozenset(map(np.dtype, ("float32", "float64", "int32", "int64")))
_BOOL = frozenset((np.dtype(np.bool_),))
_WIDE = frozenset(map(np.dtype, ("float32", "float64")))
_PLAIN = _EXACT | set(map(np.dtype, ("bool", "int8", "int16", "uint8", "uint16", "uint32", "uint64", "float16")))


def calculate(node: gs.Node, operands: Sequence[Array | None], opset: int) -> Array | None:
    """The only output of a standard node; None where NumPy is not known to agree with onnxruntime."""
    function = _FUNCTIONS.get(node.op)
    if function is None or len(node.outputs) != 1:
        return None
    given = [one for one in operands if one is not None]
    if any(one is None for one in operands[: len(given)]) or any(one.dtype not in _PLAIN for one in given):
        return None
    try:
        found = function(node, given, opset)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return None  # malformed: onnxruntime has the last word
    return None if found is None else np.asarray(found, order="C")


def _numbers(node: gs.Node, name: str, given: list[Array], slot: int, opset: int, since: int) -> list[int] | None:
    if opset < since:
        value = node.attrs.get(name)
        return None if value is None else [int(one) for one in value]
    return [int(one) for one in given[slot].ravel()] if len(given) > slot else None


def _cast(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    to = node.attrs["to"]
    target = dtypes.from_onnx(to) if isinstance(to, int) else np.dtype(to)
    x = given[0]
    if target is None or target not in _PLAIN:
        return None
    if target.kind in "iu" and x.dtype.kind != "b":
        bounds = np.iinfo(target)
        if x.size and not (np.isfinite(x).all() and x.min() >= bounds.min and x.max() <= bounds.max // 2 * 2):
            return None
    with np.errstate(all="ignore"):
        return x.astype(target)


def _arithmetic(function: Callable[..., Any], allowed: frozenset[Any]) -> Callable[..., Array | None]:
    def compute(node: gs.Node, given: list[Array], opset: int) -> Array | None:
        if opset < 7 or node.attrs or any(one.dtype != given[0].dtype for one in given):
            return None
        if given[0].dtype not in allowed:
            return None
        with np.errstate(all="ignore"):
            return np.asarray(function(*given))

    return compute


def _concat(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    return np.concatenate(given, axis=int(node.attrs["axis"])) if len(given) == len(node.inputs) else None


def _gather(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    x, indices = given
    axis = int(node.attrs.get("axis", 0))
    size = x.shape[axis]
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        return None
    return np.take(x, indices, axis=axis)


def _slice(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    if opset < 10 or len(given) < 3 or len(given) != len(node.inputs):
        return None
    x, starts, ends = given[0], given[1].ravel(), given[2].ravel()
    axes = given[3].ravel() if len(given) > 3 else np.arange(len(starts))
    steps = given[4].ravel() if len(given) > 4 else np.ones(len(starts), np.int64)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not step:
            return None
        place = int(axis) % x.ndim
        stop = int(end)
        if step < 0 and start < -x.shape[place]:
            start = 0  # NumPy would begin before the first element
        cut[place] = slice(int(start), None if step < 0 and stop < -x.shape[place] else stop, int(step))
    return x[tuple(cut)]


def _unsqueeze(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    axes = _numbers(node, "axes", given, 1, opset, 13)
    return None if axes is None else np.expand_dims(given[0], tuple(axes))


def _squeeze(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    axes = _numbers(node, "axes", given, 1, opset, 13)
    return np.squeeze(given[0], None if axes is None else tuple(axes))


def _reshape(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    if opset < 5 or node.attrs.get("allowzero", 0):
        return None
    x = given[0]
    return x.reshape([x.shape[place] if dim == 0 else int(dim) for place, dim in enumerate(given[1])])


def _transpose(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    return np.transpose(given[0], node.attrs.get("perm"))


def _expand(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    x, shape = given[0], tuple(int(dim) for dim in given[1])
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))


def _constant_of_shape(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    value = node.attrs.get("value")
    one = value.values.reshape(()) if isinstance(value, gs.Constant) else np.zeros((), np.float32)
    return (
        np.full(tuple(int(dim) for dim in given[0]), one, one.dtype)
        if value is None or value.values.size == 1
        else None
    )


def _range(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    start, limit, step = (int(one.reshape(())) for one in given)
    if given[0].dtype.kind != "i" or not step:
        return None
    return np.arange(start, limit, step, dtype=given[0].dtype)


def _shape(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    return np.array(given[0].shape[node.attrs.get("start", 0) : node.attrs.get("end")], np.int64)


def _where(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    return np.where(*given) if given[1].dtype == given[2].dtype else None


def _identity(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    return given[0]


_FUNCTIONS: dict[str, Callable[[gs.Node, list[Array], int], Array | None]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Where": _where,
    "Add": _arithmetic(np.add, _EXACT),
    "Sub": _arithmetic(np.subtract, _EXACT),
    "Mul": _arithmetic(np.multiply, _EXACT),
    "Div": _arithmetic(np.divide, _WIDE),
    "Sqrt": _arithmetic(np.sqrt, _WIDE),
    "Neg": _arithmetic(np.negative, _EXACT),
    "Equal": _arithmetic(np.equal, _EXACT | _BOOL),
    "Less": _arithmetic(np.less, _EXACT),
    "Greater": _arithmetic(np.greater, _EXACT),
    "LessOrEqual": _arithmetic(np.less_equal, _EXACT),
    "GreaterOrEqual": _arithmetic(np.greater_equal, _EXACT),
    "And": _arithmetic(np.logical_and, _BOOL),
    "Or": _arithmetic(np.logical_or, _BOOL),
    "Not": _arithmetic(np.logical_not, _BOOL),
}
