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
from .integer_products import (
    RANGE,
    conv_integer,
    less_number,
    matmul_integer,
    number,
    qlinear_conv,
    qlinear_matmul,
    whole_of,
)  # fmt: skip
from .site import Site, rewrite

_PORTS = ("float8e4m3fn", "int4", "float4e2m1")
"""Dtypes of inputs and outputs that TensorRT has, but no Cast of which it builds."""
_NATIVE = ("int8", "float8e4m3fn", "int4", "float4e2m1")


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
        if x.rank == 0 or (x.producer is not None and is_pack(x.producer)):
            return False  # the parser counts the axis of a number, which has none
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
    if narrow in RANGE:
        low, high = RANGE[narrow]
        rounded = op.Round(quotient)
        point = number(zero)
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
    point, whole = number(zero), whole_of(site, x)
    if whole is not None and (zero is None or point is not None):
        scale = site.cast(_spread(site, site[1], x), kind)
        return site.cast(op.Mul(less_number(site, whole, point or 0), scale), site.out_dtype())
    wide = unpack(site, x)
    if zero is not None:
        if wide.dtype is not None and wide.dtype.kind == "i":
            wide = op.Sub(wide, _spread(site, unpack(site, zero), x))
        else:
            wide = op.Sub(wide, site.cast(_spread(site, unpack(site, zero), x), np.float32))
    scale = site.cast(_spread(site, site[1], x), kind)
    return site.cast(op.Mul(site.cast(wide, kind), scale), site.out_dtype())


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
"""onnxruntime's own operators that quantize as they compute: no library takes them, no exact arithmetic is short."""

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

    Accuracy: exact, on TF32 too; QuantizeLinear divides in float32, as onnxruntime does. Of QLinearMatMul a sum of a
    length that is not known may round the other way, where it is beyond 2**24.
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
