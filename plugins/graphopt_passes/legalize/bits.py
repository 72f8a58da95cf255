"""Bits by arithmetic: TensorRT has no operator that looks at them.

    bit i of x >= 0 = mod(x / 2**i, 2);  the sign bit of a negative x is taken apart first (x - least)
    x AND y = sum of bit_i(x) * bit_i(y) * 2**i;  OR takes the larger bit, XOR mod(sum, 2)
    x << s = x * 2**s, wrapped;  x >> s = (x - mod(x, 2**s)) / 2**s, which is the floor: the sign fills up

Exact for all integers of the dtype. A shift by the width or more, or by a negative number, shifts everything out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .carried import CARRIER, carrier, hold, pack, unpack, wrap
from .site import Site, rewrite

_WIDTH = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


def _width(site: Site) -> tuple[int, bool]:
    """(bits, whether the highest is a sign) of the integers, as they are carried."""
    name = dtypes.name(site.dtype())
    if name == "bool" or "int" not in name:
        raise Skip(f"bits of {name}")
    bits = _WIDTH.get(name) or site.dtype().itemsize * 8
    return bits, not name.startswith("u") or name == "uint64"


def _done(site: Site, wide: Value, *, wraps: bool = False) -> Value:
    dtype = site.out_dtype()
    if carrier(dtype) is None:
        return wide
    return pack(site, hold(site, wide, dtype) if wraps else wide, dtype)


def bit_shift(site: Site) -> Value:
    op, (bits, _) = site.op, _width(site)
    x, s = unpack(site, site[0]), unpack(site, site[1])
    kind = x.dtype
    assert kind is not None
    word = kind.itemsize * 8
    table = np.array([1 << i for i in range(word)], object)
    table[-1] = -(1 << (word - 1))
    powers = op.const(table.astype(kind))
    zero, most = np.zeros((), kind), np.asarray(bits - 1, kind)
    inside = op.And(op.GreaterOrEqual(s, zero), op.LessOrEqual(s, most))
    place = op.Where(inside, s, zero)
    power = op.Gather(powers, place)
    if site.attr("direction") == "LEFT":
        return _done(site, op.Where(inside, op.Mul(x, power), zero), wraps=True)
    last = np.asarray(word - 2, kind)
    power = op.Gather(powers, op.Min(place, last))
    floor = op.Div(op.Sub(x, op.Mod(x, power)), power)
    sign = op.Where(op.Less(x, zero), np.asarray(-1, kind), zero)
    near = op.And(inside, op.LessOrEqual(s, last))
    return _done(site, op.Where(near, floor, sign))


def bitwise_not(site: Site) -> Value:
    bits, signed = _width(site)
    x = unpack(site, site[0])
    return _done(site, site.op.Sub(np.asarray(-1 if signed else (1 << bits) - 1, x.dtype), x))


def _bitwise(site: Site) -> Value:
    op, (bits, signed) = site.op, _width(site)
    low = bits - 1 if signed else bits
    kind = unpack(site, site[0]).dtype
    assert kind is not None
    powers = np.array([1 << i for i in range(low)], kind)
    least, zero = np.asarray(-(1 << (bits - 1)) if signed else 0, kind), np.zeros((), kind)
    half = np.asarray(1 << (bits - 2), kind)  # x - least in one step is x itself on TensorRT-RTX 1.6 (int32, H100)
    planes, signs = [], []
    for slot in (0, 1):
        x = unpack(site, site[slot])
        if signed:
            negative = op.Less(x, zero)
            signs.append(negative)
            x = op.Where(negative, op.Add(op.Add(x, half), half), x)
        planes.append(op.Mod(op.Div(op.Unsqueeze(x, [-1]), powers), np.asarray(2, kind)))
    a, b = planes
    both = {"BitwiseAnd": op.Mul, "BitwiseOr": op.Max}.get(site.node.op)
    joined = both(a, b) if both else op.Mod(op.Add(a, b), np.asarray(2, kind))
    result = op.ReduceSum(op.Mul(joined, powers), [-1], keepdims=0)
    if signed:
        word = {"BitwiseAnd": op.And, "BitwiseOr": op.Or, "BitwiseXor": op.Xor}[site.node.op]
        result = op.Add(result, op.Where(word(*signs), least, zero))
    return _done(site, result)


def bit_cast(site: Site) -> Value:
    """Between signed and unsigned integers of one width: the congruent number."""
    old, new = dtypes.name(site.dtype()), dtypes.name(site.out_dtype())
    if old.lstrip("u") != new.lstrip("u") or "int" not in old:
        raise Skip(f"no arithmetic makes {new} of the bits of {old}")
    x, kind = unpack(site, site[0]), carrier(site.out_dtype()) or site.out_dtype()
    if new.startswith("u"):
        return _done(site, site.cast(x, kind), wraps=True)
    half = 1 << (site.out_dtype().itemsize * 8 - 1)
    if x.dtype == np.int64 and new != "int64":
        x = site.op.Where(
            site.op.Less(x, np.asarray(half, np.int64)), x, site.op.Sub(x, np.asarray(2 * half, np.int64))
        )
        return _done(site, site.cast(x, kind))
    return _done(site, wrap(site, site.cast(x, kind), site.out_dtype()) if new in CARRIER else site.cast(x, kind))


HANDLERS = {
    "BitShift": bit_shift,
    "BitwiseNot": bitwise_not,
    "BitwiseAnd": _bitwise,
    "BitwiseOr": _bitwise,
    "BitwiseXor": _bitwise,
    "BitCast": bit_cast,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_bits(graph: gs.Graph, target: Target, model: Model) -> int:
    """BitShift, BitwiseAnd, Or, Xor, Not = products, quotients and sums of powers of two, for TensorRT only."""
    return rewrite(model, target, HANDLERS, "spell-bits")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_bits]
