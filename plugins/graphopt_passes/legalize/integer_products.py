"""Products of integers less their zero points, in float32 arithmetic that is exact, and rounded to integers again.

A sum that may exceed 2**24, beyond which float32 does not hold every whole number, is taken in parts, which are added
in int32. The scale behind it stays a factor of its own: folded into the weights it would round every product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value

from .carried import carrier, is_pack, pack, unpack
from .site import Site

RANGE = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535), "int4": (-8, 7),
    "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3),
}  # fmt: skip
_EXACT = 1 << 24


def number(zero: Value | None) -> int | None:
    """A constant zero point of one element."""
    if zero is None or zero.const is None or zero.const.size != 1 or dtypes.name(zero.dtype) not in RANGE:
        return None
    return int(zero.const.astype(np.int64).reshape(-1)[0])


def whole_of(site: Site, x: Value) -> Value | None:
    """float32 of a packed integer that was made of a float32 of whole numbers: Cast(Cast(f, int32), float32) = f."""
    if x.producer is None or not is_pack(x.producer):
        return None
    cast = Value(x.producer.inputs[0]).producer
    if cast is None or cast.op != "Cast" or not is_standard(cast):
        return None
    found = Value(cast.inputs[0], ops=site.op)
    return found if found.dtype == np.float32 and _is_whole(found, 6) else None


def _is_whole(x: Value, depth: int) -> bool:
    """Whether a value of ours has whole numbers only: rounded, or chosen among and added of such."""
    if x.const is not None:
        return x.const.size <= 1 and bool((x.const == np.round(x.const)).all())
    node = x.producer
    if node is None or not depth or not is_standard(node):
        return False
    if node.op == "Round":
        return True
    operands = {"Min": node.inputs, "Add": node.inputs, "Clip": node.inputs[:1], "Where": node.inputs[1:]}.get(node.op)
    return bool(operands) and all(_is_whole(Value(tensor), depth - 1) for tensor in operands or ())


def less_number(site: Site, whole: Value, point: int) -> Value:
    """f - z, and g where f is g + z."""
    if not point:
        return whole
    node = whole.producer
    if node is not None and node.op == "Add" and is_standard(node):
        added = [Value(tensor, ops=site.op) for tensor in node.inputs]
        if added[1].const is not None and added[1].const.size == 1 and float(added[1].const.reshape(-1)[0]) == point:
            return added[0]
    made: Value = site.op.Sub(whole, np.float32(point))
    return made


def _less(site: Site, slot: int, zero: int, axis: int | None = None) -> Value:
    """float32 of an integer operand less its zero point, which stands along `axis` where it is a vector."""
    op, point = site.op, site.input(zero)
    whole = whole_of(site, site[slot])
    if whole is not None and (point is None or point.rank == 0):
        known, computed = number(point), None if point is None else whole_of(site, point)
        if point is None or known is not None:
            return less_number(site, whole, known or 0)
        if computed is not None:
            return op.Sub(whole, computed)  # type: ignore[no-any-return]
    x = unpack(site, site[slot])
    if point is not None:
        wide = unpack(site, point)
        if wide.rank == 1 and wide.shape != (1,) and axis is not None:
            rank = site.rank(slot)
            place = axis % rank
            wide = op.Reshape(wide, [1] * place + [-1] + [1] * (rank - place - 1))
        x = op.Sub(x, wide)
    return site.cast(x, np.float32)


def _parts(site: Site, slot: int, zero: int, axes: tuple[int, ...]) -> list[slice]:
    """The summed axis (the first of `axes`) of a weight in parts of which each sum is exact in float32.

    A sum is at most 255 sum |w - z|, or 255 * 255 for each product where the weight is computed. Raises Skip where its
    length is dynamic.
    """
    weight, point = site[slot], site.input(zero)
    shape = weight.shape or ()
    places = [axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape)]
    if len(places) < len(axes) or not all(isinstance(shape[place], int) for place in places):
        raise Skip("the length of the sum is dynamic, so that it may not be exact in float32")
    length = int(shape[places[0]])  # type: ignore[arg-type]
    each = np.full(length, 255 * int(np.prod([shape[place] for place in places[1:]], dtype=np.int64)))  # type: ignore[arg-type]
    if weight.const is not None and (point is None or point.const is not None):
        values = np.abs(weight.const.astype(np.int64) - _along(point, weight.const.ndim, len(axes) == 1))
        values = values.sum(axis=tuple(places[1:]), keepdims=True)
        values = np.moveaxis(values, places[0], 0).reshape(length, -1)
        if int(values.sum(axis=0).max(initial=0)) * 255 <= _EXACT:
            return [slice(0, length)]
        each = values.max(axis=1)
    found, start, total = [], 0, 0
    for place, most in enumerate(each.tolist()):
        if most * 255 > _EXACT:
            raise Skip(f"sums of {most // 255} products may not be exact in float32")
        if (total + most) * 255 > _EXACT:
            found.append(slice(start, place))
            start, total = place, 0
        total += most
    return [*found, slice(start, length)]


def _along(point: Value | None, rank: int, last: bool) -> Any:
    """A constant zero point so that it broadcasts with its weight: along the last axis, or the first."""
    if point is None or point.const is None:
        return 0
    values = point.const.astype(np.int64)
    if values.size == 1:
        return values.reshape(-1)[0]
    return values if last or values.ndim > 1 else values.reshape([-1] + [1] * (rank - 1))


def _piece(site: Site, x: Value, part: slice, axis: int) -> Value:
    made: Value = site.op.Slice(x, [part.start], [part.stop], [axis])
    return made


def matmul_integer(site: Site) -> Value:
    parts = _parts(site, 1, 3, (-2,) if site.rank(1) > 1 else (-1,))
    return site.cast(_product(site, 0, 1, 2, 3, parts), np.int32)


def _product(site: Site, left: int, right: int, left_zero: int, right_zero: int, parts: list[slice]) -> Value:
    """The whole numbers (a - za) @ (b - zb): float32 where that is one part, else int32."""
    a, b = _less(site, left, left_zero, -2), _less(site, right, right_zero, -1)
    if len(parts) == 1:
        return site.op.MatMul(a, b)  # type: ignore[no-any-return]
    along = -2 if site.rank(right) > 1 else -1
    pieces = ((_piece(site, a, part, -1), _piece(site, b, part, along)) for part in parts)
    return _total(site, [site.op.MatMul(*both) for both in pieces])


def _total(site: Site, sums: list[Value]) -> Value:
    """Of whole numbers that are exact in float32 each, in int32."""
    total = site.cast(sums[0], np.int32)
    for one in sums[1:]:
        total = site.op.Add(total, site.cast(one, np.int32))
    return total


def conv_integer(site: Site) -> Value:
    return site.cast(_convolved(site, 0, 1, 2, 3), np.int32)


def _convolved(site: Site, data: int, weight: int, zero: int, weight_zero: int) -> Value:
    """The whole numbers Conv(x - zx, w - zw): float32 where each is exact in it, else int32."""
    parts = _parts(site, weight, weight_zero, tuple(range(1, site.rank(weight))))
    attrs = dict(site.node.attrs)
    if len(parts) > 1 and int(site.attr("group", 1)) != 1:
        raise Skip("sums over groups of channels may not be exact in float32")
    x, w = _less(site, data, zero), _less(site, weight, weight_zero, 0)
    if len(parts) == 1:
        return site.op.raw("Conv", [x, w], attrs, 1)[0]
    pieces = ([_piece(site, x, part, 1), _piece(site, w, part, 1)] for part in parts)
    return _total(site, [site.op.raw("Conv", both, attrs, 1)[0] for both in pieces])


def _requantized(site: Site, total: Value, scales: tuple[Value, Value, Value], zero: Value) -> Value:
    """clip(round(total * (sa * sb / sy)) + z), the three scales made one number as onnxruntime makes them."""
    op, (a, b, y) = site.op, scales
    if a.const is not None and b.const is not None and y.const is not None:
        factor: Any = (a.const * b.const / y.const).astype(np.float32)
    else:
        factor = op.Div(op.Mul(a, b), y)
    return _into(site, op.Round(op.Mul(site.cast(total, np.float32), factor)), zero)


def _into(site: Site, whole: Value, zero: Value) -> Value:
    """Whole numbers of float32, their zero point added and clipped, as the dtype of the node's output."""
    op, (low, high), point = site.op, RANGE[dtypes.name(site.out_dtype())], number(zero)
    if point is None:
        shifted = op.Add(whole, site.cast(unpack(site, zero), np.float32))
        clipped = op.Clip(shifted, np.float32(low), np.float32(high))
    else:
        clipped = op.Clip(whole, np.float32(low - point), np.float32(high - point))
        clipped = op.Add(clipped, np.float32(point)) if point else clipped
    return pack(site, site.cast(clipped, carrier(site.out_dtype())), site.out_dtype())


def qlinear_matmul(site: Site) -> Value:
    if dtypes.name(site.out_dtype()) not in RANGE:
        raise Skip("of small floats")
    axis = -2 if site.rank(3) > 1 else -1
    is_known = isinstance((site[3].shape or ())[axis], int)
    parts = _parts(site, 3, 5, (axis,)) if is_known else [slice(0, None)]  # rounded soon, so that it need not be exact
    scales = _scale(site, 1, 0, -2), _scale(site, 4, 3, -1), site.cast(site[6], np.float32)
    return _requantized(site, _product(site, 0, 3, 2, 5, parts), scales, site[7])


def _scale(site: Site, slot: int, of: int, axis: int) -> Value:
    """A scale of one number, or of one for each place along an axis of the operand, so that it broadcasts."""
    value = site.cast(site[slot], np.float32)
    if value.rank != 1 or value.shape == (1,):
        return value
    rank = site.rank(of)
    place = axis % rank
    return _reshaped(site, value, [1] * place + [-1] + [1] * (rank - place - 1))


def _reshaped(site: Site, value: Value, target: list[int]) -> Value:
    if value.const is not None:
        return Value(None, value.const.reshape(target), site.op)
    made: Value = site.op.Reshape(value, target)
    return made


def qlinear_conv(site: Site) -> Value:
    op = site.op
    total = _convolved(site, 0, 3, 2, 5)
    along = [1, -1] + [1] * (site.rank(0) - 2)
    bias = site.input(8)
    if bias is not None:
        whole = total.producer is not None and total.producer.op != "Conv"
        total = op.Add(total, site.cast(_reshaped(site, bias, along), np.int32 if whole else np.float32))
    scale = site.cast(site[4], np.float32)
    scale = _reshaped(site, scale, along) if scale.rank == 1 and scale.shape != (1,) else scale
    return _requantized(site, total, (site.cast(site[1], np.float32), scale, site.cast(site[6], np.float32)), site[7])
