"""Types of the most frequent operators' outputs, worked out here: asking ONNX's schemas costs fifty times as much.

Each function answers what the operator's inference of ONNX answers, or more where symbols allow it; None leaves the
node to that. A test compares the two over the operator models and over real networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from . import dtypes, shapes
from .shapes import Dim, Shape
from .weights import read, size

Type = tuple[Any, Shape]
"""(NumPy dtype or None, shape)."""
Answer = list[Type] | None


def known(node: gs.Node, opset: int) -> Answer:
    """(dtype, shape) of each output of a standard operator; None where this file does not know."""
    function = _FUNCTIONS.get(node.op)
    if function is None:
        return None
    for tensor in node.inputs:
        if type(tensor) is not gs.Constant and tensor.type != "tensor_type":
            return None
    try:
        return function(node, opset)
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # malformed, or attributes that refer to a function's: the schema has the last word


def _first(node: gs.Node) -> tuple[Any, tuple[Dim, ...]]:
    shape = shapes.of(node.inputs[0])
    if shape is None:
        raise ValueError("unknown rank")
    return dtypes.of(node.inputs[0]), shape


def _numbers(node: gs.Node, name: str, slot: int, opset: int, since: int) -> list[int] | None:
    """Integers of an attribute that is an input since an opset; None if they are absent. Raises if not constant."""
    if opset < since:
        value = node.attrs.get(name)
        return None if value is None else [int(one) for one in value]
    if len(node.inputs) <= slot or not node.inputs[slot].name:
        return None
    tensor = node.inputs[slot]
    if type(tensor) is not gs.Constant or size(tensor) > 64:
        raise ValueError("not constant")
    return [int(one) for one in read(tensor).ravel()]


def _normalization(node: gs.Node, opset: int) -> Answer:
    return [_first(node)] if len(node.outputs) == 1 else None


def _convolution(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    w = shapes.of(node.inputs[1])
    attrs = node.attrs
    if w is None or len(w) != len(x) or len(x) < 3 or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = [int(dim) for dim in (attrs.get("kernel_shape") or w[2:])]  # type: ignore[arg-type]
    return [(dtype, (x[0], w[0], *_windows(x[2:], kernel, attrs, False)))]


def _pool(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    attrs = node.attrs
    if len(node.outputs) != 1 or attrs.get("auto_pad", "NOTSET") != "NOTSET" or attrs.get("ceil_mode", 0):
        return None
    return [(dtype, (*x[:2], *_windows(x[2:], list(attrs["kernel_shape"]), attrs, True)))]


def _windows(spatial: tuple[Dim, ...], kernel: list[int], attrs: dict[str, Any], pool: bool) -> list[Dim]:
    rank = len(spatial)
    strides, dilations = attrs.get("strides") or [1] * rank, attrs.get("dilations") or [1] * rank
    pads = attrs.get("pads") or [0] * (2 * rank)
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise ValueError("ranks differ")
    found: list[Dim] = []
    for axis, dim in enumerate(spatial):
        if not isinstance(dim, int):
            found.append(None)
            continue
        room = dim + pads[axis] + pads[axis + rank] - (kernel[axis] - 1) * dilations[axis] - 1
        if room < 0:
            raise ValueError("the window is larger than the input")
        found.append(room // strides[axis] + 1)
    return found


def _global_pool(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    return [(dtype, (*x[:2], *(1,) * (len(x) - 2)))] if len(x) > 2 else None


def _matrix_product(node: gs.Node, opset: int) -> Answer:
    dtype, a = _first(node)
    b = shapes.of(node.inputs[1])
    if b is None or len(a) < 2 or len(b) < 2:
        return None
    if isinstance(a[-1], int) and isinstance(b[-2], int) and a[-1] != b[-2]:
        return None
    batch = shapes.broadcast(a[:-2], b[:-2])
    return None if batch is None else [(dtype, (*batch, a[-2], b[-1]))]


def _gemm(node: gs.Node, opset: int) -> Answer:
    dtype, a = _first(node)
    b = shapes.of(node.inputs[1])
    if b is None or len(a) != 2 or len(b) != 2:
        return None
    return [(dtype, (a[1 if int(node.attrs.get("transA", 0)) else 0], b[0 if int(node.attrs.get("transB", 0)) else 1]))]


def _transpose(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    perm = node.attrs.get("perm")
    perm = list(range(len(x)))[::-1] if perm is None else list(perm)
    if sorted(perm) != list(range(len(x))):
        return None
    return [(dtype, tuple(x[axis] for axis in perm))]


def _concat(node: gs.Node, opset: int) -> Answer:
    dtype, first = _first(node)
    axis = shapes.axis(int(node.attrs["axis"]), len(first))
    parts = [shapes.of(tensor) for tensor in node.inputs]
    if any(part is None or len(part) != len(first) for part in parts):
        return None
    result: list[Dim] = []
    for place in range(len(first)):
        dims = [part[place] for part in parts if part is not None]
        if place == axis:
            result.append(sum(dims) if all(isinstance(dim, int) for dim in dims) else None)  # type: ignore[arg-type]
            continue
        merged = dims[0]
        for dim in dims[1:]:
            if isinstance(merged, int) and isinstance(dim, int) and merged != dim:
                return None
            merged = dim if merged is None or isinstance(dim, int) else merged
        result.append(merged)
    if len(parts) == 1:
        result[axis] = first[axis]
    return [(dtype, tuple(result))]


def _unsqueeze(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    axes = _numbers(node, "axes", 1, opset, 13)
    if axes is None:
        return None
    rank = len(x) + len(axes)
    places = {shapes.axis(axis, rank) for axis in axes}
    if len(places) != len(axes):
        return None
    rest = iter(x)
    return [(dtype, tuple(1 if place in places else next(rest) for place in range(rank)))]


def _squeeze(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    axes = _numbers(node, "axes", 1, opset, 13)
    if axes is None:
        return None
    places = {shapes.axis(axis, len(x)) for axis in axes}
    if any(isinstance(x[place], int) and x[place] != 1 for place in places):
        return None
    return [(dtype, tuple(dim for place, dim in enumerate(x) if place not in places))]


def _shape(node: gs.Node, opset: int) -> Answer:
    _, x = _first(node)
    if node.attrs:
        return None
    return [(np.dtype(np.int64), (len(x),))]


def _gather(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    indices = shapes.of(node.inputs[1])
    if indices is None:
        return None
    axis = shapes.axis(int(node.attrs.get("axis", 0)), len(x))
    return [(dtype, (*x[:axis], *indices, *x[axis + 1 :]))]


def _reduction(since: int) -> Callable[[gs.Node, int], Answer]:
    def reduce(node: gs.Node, opset: int) -> Answer:
        dtype, x = _first(node)
        axes = _numbers(node, "axes", 1, opset, since)
        if not axes:
            return None
        places = {shapes.axis(axis, len(x)) for axis in axes}
        if int(node.attrs.get("keepdims", 1)):
            return [(dtype, tuple(1 if place in places else dim for place, dim in enumerate(x)))]
        return [(dtype, tuple(dim for place, dim in enumerate(x) if place not in places))]

    return reduce


def _reshape(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    if opset < 5 or node.attrs.get("allowzero", 0):
        return None
    target = node.inputs[1]
    if type(target) is not gs.Constant:
        count = shapes.of(target)
        known = opset >= 13 and count is not None and len(count) == 1 and isinstance(count[0], int)
        return [(dtype, (None,) * count[0])] if known else None  # type: ignore[index, operator]
    wanted = _numbers(node, "shape", 1, opset, 5)
    if wanted is None:
        return None
    dims: list[Dim] = [x[place] if dim == 0 else dim for place, dim in enumerate(wanted)]
    copied = {place for place, dim in enumerate(wanted) if dim == 0 and not isinstance(x[place], int)}
    left = [dim for place, dim in enumerate(x) if place not in copied]
    made = math.prod(dim for place, dim in enumerate(dims) if place not in copied)  # type: ignore[misc]
    if -1 in wanted:
        if wanted.count(-1) > 1 or made >= 0:
            return None
        at = wanted.index(-1)
        dims[at] = None
        if shapes.is_static(tuple(left)):
            whole = math.prod(left)  # type: ignore[arg-type]
            if whole % made:
                return None
            dims[at] = whole // -made
    elif not copied and shapes.is_static(x) and made != math.prod(x):  # type: ignore[arg-type]
        return None
    return [(dtype, tuple(dims))]


def _slice(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    if opset < 10:
        return None
    starts, ends = _numbers(node, "", 1, opset, 10), _numbers(node, "", 2, opset, 10)
    if starts is None or ends is None:
        return None
    axes = _numbers(node, "", 3, opset, 10) or list(range(len(starts)))
    steps = _numbers(node, "", 4, opset, 10) or [1] * len(starts)
    dims = list(x)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = shapes.axis(axis, len(x))
        dim = x[place]
        dims[place] = len(range(*slice(start, end, step).indices(dim))) if isinstance(dim, int) else None
    forward = all(step > 0 for step in steps)  # backwards, ONNX and Python differ on a start before the first
    return [(dtype, tuple(dims))] if forward and len(set(axes)) == len(axes) else None


def _split(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    place, count = shapes.axis(int(node.attrs.get("axis", 0)), len(x)), len(node.outputs)
    sizes = _numbers(node, "split", 1, opset, 13)
    dim = x[place]
    if not isinstance(dim, int):
        return [(dtype, (*x[:place], None, *x[place + 1 :]))] * count
    if sizes is None:
        if dim % count:
            return None
        sizes = [dim // count] * count
    if len(sizes) != count or sum(sizes) != dim:
        return None
    return [(dtype, (*x[:place], size, *x[place + 1 :])) for size in sizes]


def _expand(node: gs.Node, opset: int) -> Answer:
    dtype, x = _first(node)
    wanted = _numbers(node, "", 1, opset, 8)
    return None if wanted is None else [(dtype, _broadcast(x, tuple(wanted)))]


def _filled(node: gs.Node, opset: int) -> Answer:
    wanted, value = _numbers(node, "", 0, opset, 9), node.attrs.get("value")
    if wanted is None or any(dim < 0 for dim in wanted):
        return None
    return [(np.dtype(np.float32) if value is None else dtypes.of(value), tuple(wanted))]


def _extreme(node: gs.Node, opset: int) -> Answer:
    every = [shapes.of(tensor) for tensor in node.inputs]
    return None if None in every or opset < 8 else [(dtypes.of(node.inputs[0]), _broadcast(*every))]


def _broadcast(*every: Shape) -> Shape:
    """The shape that these broadcast to. Raises ValueError where they do not."""
    result = shapes.broadcast(*every)
    for shape in every:
        for dim, whole in zip(reversed(shape or ()), reversed(result or ()), strict=False):
            if isinstance(dim, int) and dim != 1 and dim != whole:
                raise ValueError("the shapes do not fit each other")
    return result


def _constant(node: gs.Node, opset: int) -> Answer:
    value = node.attrs.get("value")
    return [(dtypes.of(value), tuple(value.shape))] if type(value) is gs.Constant else None


def _where(node: gs.Node, opset: int) -> Answer:
    shape = shapes.broadcast(*(shapes.of(tensor) for tensor in node.inputs))
    return None if shape is None else [(dtypes.of(node.inputs[1]), shape)]


_FUNCTIONS: dict[str, Callable[[gs.Node, int], Answer]] = {
    "BatchNormalization": _normalization,
    "InstanceNormalization": _normalization,
    "LayerNormalization": _normalization,
    "GroupNormalization": _normalization,
    "Conv": _convolution,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Shape": _shape,
    "Gather": _gather,
    "Where": _where,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Min": _extreme,
    "Max": _extreme,
    "Constant": _constant,
    "ReduceSum": _reduction(13),
    **{f"Reduce{kind}": _reduction(18) for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare")},
}


def clash(old: Type, new: Type) -> str:
    """'from float32 to int64', 'from 2x3 to 6' where the types prove that the two cannot be one value, else ''."""
    if old[0] is not None and new[0] is not None and old[0] != new[0]:
        return f"from {dtypes.name(old[0])} to {dtypes.name(new[0])}"
    x, y = old[1], new[1]
    if x is None or y is None:
        return ""
    differ = len(x) != len(y) or any(
        isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(x, y, strict=True)
    )
    return f"from shape {shapes.text(x)} to {shapes.text(y)}" if differ else ""
