"""Values of dtypes that TensorRT lacks, carried exactly in wider ones.

    pack(w) = Cast(w, to=D)   where w, of the carrier's dtype, holds a value of D
    unpack(pack(w)) = w

A node over D becomes: unpack its operands, compute in the carrier, wrap or round to what D holds, pack. Packs that only
unpacked nodes read vanish; what is left stands at the model's interface.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import dtypes
from graphopt.ir.promote import CARRIER, NEVER_TAKEN, carrier, is_pack, mark
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value

from .site import Site

__all__ = ["CARRIER", "NEVER_TAKEN", "carrier", "hold", "is_pack", "pack", "round_to", "unpack", "wrap"]

_WIDTH = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4}
_FLOATS = {
    "float8e4m3fn": (3, -6, 8, 448.0),
    "float8e4m3fnuz": (3, -7, 7, 240.0),
    "float8e5m2": (2, -14, 15, 57344.0),
    "float8e5m2fnuz": (2, -15, 15, 57344.0),
    "float4e2m1": (1, 0, 2, 6.0),
}
"""Bits of the mantissa, least and largest exponent, largest value."""


def pack(site: Site, wide: Value, dtype: Any) -> Value:
    """The carried value as a tensor of its own dtype."""
    made: Value = site.op.Cast(wide, to=dtypes.to_onnx(dtype))
    mark(site.op.made[-1])
    return made


def unpack(site: Site, x: Value) -> Value:
    """x in its carrier's dtype; x itself where it needs none."""
    wide = carrier(x.dtype)
    if wide is None:
        return x
    if x.is_const:
        array = x.const
        assert array is not None
        return site.op.const(array.astype(wide))
    producer = x.producer
    if producer is not None and is_pack(producer):
        return Value(producer.inputs[0], ops=site.op)
    made: Value = site.op.Cast(x, to=dtypes.to_onnx(wide))
    return made


def wrap(site: Site, wide: Value, dtype: Any) -> Value:
    """The value of D that is congruent: mod(x, 2**k), and mod(x + 2**(k-1), 2**k) - 2**(k-1) for signed D of k bits."""
    name, op = dtypes.name(dtype), site.op
    bits = _WIDTH.get(name) or np.dtype(dtype).itemsize * 8
    if name == "uint64":
        return wide
    kind = carrier(dtype)
    modulus = np.asarray(1 << bits, kind)
    if name.startswith("u"):
        return op.Mod(wide, modulus)  # type: ignore[no-any-return]
    half = np.asarray(1 << (bits - 1), kind)
    return op.Sub(op.Mod(op.Add(wide, half), modulus), half)  # type: ignore[no-any-return]


def round_to(site: Site, x: Value, dtype: Any, saturate: bool = True) -> Value:
    """The nearest value of a small float dtype, ties to even: round(x / step) * step, step = 2**(exponent - mantissa).

    Exact: the step is a power of two, taken from a table by comparing |x| with the powers of two of the dtype. Beyond
    the largest value: that value, else infinity for float8e5m2 and NaN for the others. NaN stays NaN, and is 0 for float4e2m1.
    """
    name, op = dtypes.name(dtype), site.op
    if name not in _FLOATS:
        raise Skip(f"{name} is not rounded to")
    mantissa, low, high, largest = _FLOATS[name]
    x = site.cast(x, np.float32)
    size = op.Abs(x)
    powers = np.exp2(np.arange(low, high + 1)).astype(np.float32)
    steps = np.exp2(np.arange(low, high + 1) - mantissa).astype(np.float32)
    least = np.float32(2.0 ** (low - mantissa))
    above = op.GreaterOrEqual(op.Unsqueeze(size, [-1]), powers)
    step = op.ReduceMax(op.Where(above, steps, least), [-1], keepdims=0)
    near = op.Mul(op.Round(op.Div(x, step)), step)
    bound = np.float32(largest)
    over = op.Greater(op.Abs(near), bound)
    if saturate or name == "float4e2m1":
        limit = op.Mul(op.Sign(x), bound)
    elif name == "float8e5m2":
        limit = op.Mul(op.Sign(x), np.float32(np.inf))
    else:
        limit = np.float32(np.nan)
    result = op.Where(over, limit, near)
    nothing = np.float32(0) if name == "float4e2m1" else x  # which has no NaN
    return op.Where(op.IsNaN(x), nothing, result)  # type: ignore[no-any-return]


def hold(site: Site, wide: Value, dtype: Any) -> Value:
    """What D makes of a value computed in its carrier: wrapped for integers, rounded for floats."""
    kind = carrier(dtype)
    if kind is None:
        return wide
    return wrap(site, wide, dtype) if kind.kind == "i" else round_to(site, wide, dtype)
