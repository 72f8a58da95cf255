"""Quantized integer operators that TensorRT does not take, in arithmetic that is exact.

    QuantizeLinear(x, s, z) = clip(round(x / s) + z, least, largest), of NaN the least, as in onnxruntime
    DequantizeLinear(q, s, z) = (q - z) * s
    MatMulInteger(a, b) = sum over parts of MatMul(a - za, b - zb): whole numbers below 2**24 are exact in float32, and
    so are the operands in TF32

Native where the target has them: int8 with a constant zero point of 0, per tensor or per axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .carried import CARRIER, carrier, is_pack, pack, round_to, unpack
from .site import Site, rewrite

_RANGE = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535), "int4": (-8, 7),
    "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3),
}  # fmt: skip
_PORTS = ("float8e4m3fn", "int4", "float4e2m1")
"""Dtypes of inputs and outputs that TensorRT has, but no Cast of which it builds."""
_NATIVE = ("int8", "float8e4m3fn", "int4", "float4e2m1")
_EXACT = 1 << 24


def _native(site: Site, narrow: str) -> bool:
    """Whether the target quantizes so: symmetric, with constant scales, and no block of an odd size."""
    if narrow not in _NATIVE:
        return False
    zero, scale = site.input(2), site[1]
    if zero is not None and (not zero.is_const or bool(np.asarray(zero.const).astype(np.float32).any())):
        return False
    if not scale.is_const or dtypes.name(scale.dtype) not in ("float32", "float16", "bfloat16"):
        return False
    if site.node.op == "DequantizeLinear":
        x = site[0]
        if x.producer is not None and is_pack(x.producer):
            return False
        if narrow in ("int4", "float4e2m1") and (x.size is None or x.size % 2):
            return False
    if site.node.op == "QuantizeLinear" and any(
        reader.op not in ("DequantizeLinear", "Reshape", "Transpose") for reader in site.node.outputs[0].outputs
    ):
        return False
    return site.attr("block_size", 0) == 0 or narrow in ("int4", "float4e2m1")


def _spread(site: Site, value: Value, x: Value) -> Any:
    """A scale or zero point in a shape that broadcasts with x: as it is, along an axis, or repeated in blocks."""
    op, rank = site.op, value.rank
    if rank is None or x.rank is None:
        raise Skip("a rank is unknown")
    if rank == 0 or (rank == 1 and value.shape == (1,)):
        return op.Reshape(value, [1] * 0) if rank == 1 and x.rank == 0 else value
    axis = shapes.axis(int(site.attr("axis", 1)), x.rank)
    if rank == 1:
        return op.Reshape(value, [1] * axis + [-1] + [1] * (x.rank - axis - 1))
    block = int(site.attr("block_size", 0))
    if not block:
        raise Skip("a scale or zero point is neither a number nor a vector, and not in blocks")
    if value.shape is None or not shapes.is_static(value.shape):
        raise Skip("a blocked scale has dynamic dimensions")
    dims = [int(dim) for dim in value.shape if isinstance(dim, int)]
    wide = op.Unsqueeze(value, [axis + 1])
    wide = op.Expand(wide, [*dims[: axis + 1], block, *dims[axis + 1 :]])
    repeated = op.Reshape(wide, [*dims[:axis], dims[axis] * block, *dims[axis + 1 :]])
    size = (x.shape or ())[axis]
    if size == dims[axis] * block:
        return repeated
    if not isinstance(size, int):
        raise Skip("the blocked dimension is dynamic")
    return op.Slice(repeated, [0], [size], [axis])


def quantize(site: Site) -> Value:
    narrow = dtypes.name(site.out_dtype())
    if _native(site, narrow):
        raise Skip("TensorRT quantizes so itself")
    if narrow in _PORTS and site.model.editor.is_result(site.node.outputs[0]):
        raise Skip("such an output is made by QuantizeLinear alone; --promote-io gives it another dtype")
    op, x, scale, zero = site.op, site[0], site[1], site.input(2)
    divisor = dtypes.from_onnx(int(site.attr("precision", 0) or 0)) or np.dtype(np.float32)
    if dtypes.name(x.dtype) in ("float64",):
        raise Skip("of float64")
    x, scale = site.cast(x, divisor), site.cast(scale, divisor)
    quotient = site.cast(op.Div(x, _spread(site, scale, x)), np.float32)
    if narrow in _RANGE:
        low, high = _RANGE[narrow]
        rounded = op.Round(quotient)
        point = _number(zero)
        if zero is not None and point is None:
            rounded = op.Add(rounded, site.cast(_spread(site, unpack(site, zero), x), np.float32))
        first, last = np.float32(low - (point or 0)), np.float32(high - (point or 0))
        least = op.Where(op.Greater(rounded, first), rounded, first)  # of NaN, too
        clipped = op.Min(least, last)
        if point:
            clipped = op.Add(clipped, np.float32(point))
        return pack(site, site.cast(clipped, carrier(site.out_dtype())), site.out_dtype())
    if zero is not None:
        quotient = op.Add(quotient, site.cast(_spread(site, unpack(site, zero), x), np.float32))
    saturate = bool(site.attr("saturate", 1))
    return pack(site, round_to(site, quotient, site.out_dtype(), saturate), site.out_dtype())


def _number(zero: Value | None) -> int | None:
    """A constant zero point of one element."""
    if zero is None or zero.const is None or zero.const.size != 1 or dtypes.name(zero.dtype) not in _RANGE:
        return None
    return int(zero.const.astype(np.int64).reshape(-1)[0])


def _whole(site: Site, x: Value) -> Value | None:
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


def _less_number(site: Site, whole: Value, point: int) -> Value:
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


def dequantize(site: Site) -> Value:
    narrow = dtypes.name(site.dtype())
    if narrow not in CARRIER and narrow != "int32":
        raise Skip(f"of {narrow}")
    if narrow in _NATIVE and _native(site, narrow):
        raise Skip("TensorRT dequantizes so itself")
    op, x, zero = site.op, site[0], site.input(2)
    if narrow in _PORTS and x.tensor is not None and site.model.editor.is_input(x.tensor):
        raise Skip("such an input is read by DequantizeLinear alone; --promote-io gives it another dtype")
    kind = np.dtype(np.float32)
    point, whole = _number(zero), _whole(site, x)
    if whole is not None and (zero is None or point is not None):
        scale = site.cast(_spread(site, site[1], x), kind)
        return site.cast(op.Mul(_less_number(site, whole, point or 0), scale), site.out_dtype())
    wide = unpack(site, x)
    if zero is not None:
        if wide.dtype is not None and wide.dtype.kind == "i":
            wide = op.Sub(wide, _spread(site, unpack(site, zero), x))
        else:
            wide = op.Sub(wide, site.cast(_spread(site, unpack(site, zero), x), np.float32))
    scale = site.cast(_spread(site, site[1], x), kind)
    return site.cast(op.Mul(site.cast(wide, kind), scale), site.out_dtype())


def _less(site: Site, slot: int, zero: int, axis: int | None = None) -> Value:
    """float32 of an integer operand less its zero point, which stands along `axis` where it is a vector."""
    op, point = site.op, site.input(zero)
    whole = _whole(site, site[slot])
    if whole is not None and (point is None or point.rank == 0):
        number, computed = _number(point), None if point is None else _whole(site, point)
        if point is None or number is not None:
            return _less_number(site, whole, number or 0)
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
        values = np.abs(weight.const.astype(np.int64) - _along(point, weight.const.ndim, slot == 1 and len(axes) == 1))
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
    a, b = _less(site, 0, 2, -2), _less(site, 1, 3, -1)
    if len(parts) == 1:
        return site.cast(site.op.MatMul(a, b), np.int32)
    along = -2 if site.rank(1) > 1 else -1
    total = None
    for part in parts:
        product = site.cast(site.op.MatMul(_piece(site, a, part, -1), _piece(site, b, part, along)), np.int32)
        total = product if total is None else site.op.Add(total, product)
    assert total is not None
    return total


def conv_integer(site: Site) -> Value:
    parts = _parts(site, 1, 3, tuple(range(1, site.rank(1))))
    attrs = dict(site.node.attrs)
    if len(parts) > 1 and int(site.attr("group", 1)) != 1:
        raise Skip("sums over groups of channels may not be exact in float32")
    x, w = _less(site, 0, 2), _less(site, 1, 3, 0)
    if len(parts) == 1:
        return site.cast(site.op.raw("Conv", [x, w], attrs, 1)[0], np.int32)
    total = None
    for part in parts:
        operands = [_piece(site, x, part, 1), _piece(site, w, part, 1)]
        product = site.cast(site.op.raw("Conv", operands, attrs, 1)[0], np.int32)
        total = product if total is None else site.op.Add(total, product)
    assert total is not None
    return total


def _requantized(site: Site, value: Value, scale: Value, zero: Value) -> Value:
    op, narrow = site.op, dtypes.name(site.out_dtype())
    low, high = _RANGE[narrow]
    rounded = op.Round(op.Div(value, scale))
    shifted = op.Add(rounded, site.cast(unpack(site, zero), np.float32))
    clipped = op.Clip(shifted, np.float32(low), np.float32(high))
    return pack(site, site.cast(clipped, carrier(site.out_dtype())), site.out_dtype())


def qlinear_matmul(site: Site) -> Value:
    op = site.op
    if dtypes.name(site.out_dtype()) not in _RANGE:
        raise Skip("of small floats")
    a = op.Mul(_less(site, 0, 2, -2), _scale(site, 1, 0, -2))
    b = op.Mul(_less(site, 3, 5, -1), _scale(site, 4, 3, -1))
    return _requantized(site, op.MatMul(a, b), site.cast(site[6], np.float32), site[7])


def _scale(site: Site, slot: int, of: int, axis: int) -> Value:
    value = site.cast(site[slot], np.float32)
    if value.rank != 1 or value.shape == (1,):
        return value
    rank = site.rank(of)
    place = axis % rank
    made: Value = site.op.Reshape(value, [1] * place + [-1] + [1] * (rank - place - 1))
    return made


def qlinear_conv(site: Site) -> Value:
    op = site.op
    if len(_parts(site, 3, 5, tuple(range(1, site.rank(3))))) > 1:
        raise Skip("its sums may not be exact in float32")
    x, w = _less(site, 0, 2), _less(site, 3, 5, 0)
    total = op.raw("Conv", [x, w], dict(site.node.attrs), 1)[0]
    rank = site.rank(0)
    bias = site.input(8)
    along = [1, -1] + [1] * (rank - 2)
    if bias is not None:
        total = op.Add(total, op.Reshape(site.cast(bias, np.float32), along))
    scale = site.cast(site[4], np.float32)
    scale = op.Reshape(scale, along) if scale.rank == 1 and scale.shape != (1,) else scale
    return _requantized(site, op.Mul(total, op.Mul(site.cast(site[1], np.float32), scale)),
                        site.cast(site[6], np.float32), site[7])  # fmt: skip


def dynamic_quantize(site: Site) -> list[Any]:
    """s = (max(x, 0) - min(x, 0)) / 255, z = round(-min(x, 0) / s), y = clip(round(x / s) + z, 0, 255).

    s is 1 where x is all zeros, as in onnxruntime; the definition would divide by 0.
    """
    op, x = site.op, site[0]
    zero, most = np.zeros((), np.float32), np.float32(255)
    low = op.Min(op.ReduceMin(x, keepdims=0), zero)
    span = op.Sub(op.Max(op.ReduceMax(x, keepdims=0), zero), low)
    scale = op.Where(op.Equal(span, zero), np.ones((), np.float32), op.Div(span, most))
    point = op.Round(op.Clip(op.Neg(op.Div(low, scale)), zero, most))
    y = op.Clip(op.Add(op.Round(op.Div(x, scale)), point), zero, most)
    packed = [pack(site, site.cast(value, np.int32), np.uint8) for value in (y, point)]
    return [packed[0], scale, packed[1]]


_CONTRIBUTED = ("DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization")
"""onnxruntime's own operators that quantize as they compute: no engine runs them, no exact arithmetic is short."""

HANDLERS = {
    "DynamicQuantizeLinear": dynamic_quantize,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "MatMulInteger": matmul_integer,
    "ConvInteger": conv_integer,
    "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
}


def _obstacle(model: Model) -> gs.Node | None:
    """A node that no engine runs, whatever becomes of the others."""
    if not model.editor.census.has_any(_CONTRIBUTED):
        return None
    bodies = {(function.name, function.domain) for function in model.graph.functions}
    for node in model.editor.nodes():
        if node.op in _CONTRIBUTED and node.domain == "com.microsoft" and (node.op, node.domain) not in bodies:
            return node
    return None


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_quantized(graph: gs.Graph, target: Target, model: Model) -> int:
    """Quantized integer operators = float32 arithmetic on whole numbers, where TensorRT does not take them.

    A sum that may exceed 2**24, beyond which float32 does not hold every whole number, is taken in parts, which are
    added in int32.

    Not in a model with an operator of onnxruntime's own that no engine runs: the integers are faster where it does run.

    Accuracy: exact, on TF32 too; QuantizeLinear divides in float32, as onnxruntime does.
    """
    if obstacle := _obstacle(model):
        for node in model.editor.nodes():
            if node.op in HANDLERS and is_standard(node):
                model.left[node.name] = (
                    f"spell-quantized: node {obstacle.name!r} ({obstacle.op}) keeps all from an engine"
                )
        return 0
    return rewrite(model, target, HANDLERS, "spell-quantized")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_quantized]
