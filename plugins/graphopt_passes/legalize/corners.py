"""Operators that TensorRT has, in forms that it refuses: the same in a form that it takes."""

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

from .carried import CARRIER
from .site import Site, rewrite


def mod(site: Site) -> Value:
    """mod(x, y) of floats with y's sign = r + y where r = fmod(x, y) is not 0 and of the other sign, else r."""
    op, x, y = site.op, site[0], site[1]
    if site.attr("fmod", 0) or not dtypes.is_float(site.dtype()):
        raise Skip("taken as it is")
    endless = op.And(op.IsInf(y), op.Not(op.IsInf(x)))
    rest = op.Where(endless, x, op.Mod(x, y, fmod=1))  # TensorRT says NaN there
    zero = np.zeros((), site.dtype())
    other = op.Xor(op.Less(rest, zero), op.Less(y, zero))
    off = op.And(op.Not(op.Equal(rest, zero)), other)
    return op.Where(off, op.Add(rest, y), rest)  # type: ignore[no-any-return]


def reduce_bool(site: Site) -> Value:
    """The largest, or least, of truth values is that of 0 and 1; of none, false, or true."""
    op = site.op
    if site.dtype() != np.dtype(bool):
        raise Skip("taken as it is")
    operands = [op.Cast(site[0], to=dtypes.to_onnx(np.int32)), *site.inputs[1 : len(site.node.inputs)]]
    made = op.raw(site.node.op, operands, dict(site.node.attrs), 1)[0]
    return op.Greater(made, np.zeros((), np.int32))  # type: ignore[no-any-return]


def random_like(site: Site) -> Value:
    """float64, and what is no float, drawn as float32 and cast."""
    op = site.op
    wanted = site.out_dtype()
    taken = ("float32", "float16", "bfloat16")
    if dtypes.name(wanted) in taken and dtypes.name(site.dtype()) in taken:
        raise Skip("taken as it is")
    attrs = {key: value for key, value in site.node.attrs.items() if key != "dtype"}
    like = site.cast(site[0], np.float32)
    made = op.raw(site.node.op, [like], {**attrs, "dtype": dtypes.to_onnx(np.float32)}, 1)[0]
    return op.Cast(made, to=dtypes.to_onnx(wanted))  # type: ignore[no-any-return]


def prelu(site: Site) -> Value:
    """A slope of lower rank, with ones in front: TensorRT spreads only among equal ranks."""
    missing = site.rank(0) - site.rank(1)
    if missing <= 0 or site[1].is_const:
        raise Skip("taken as it is")
    return site.op.PRelu(site[0], site.op.Unsqueeze(site[1], list(range(missing))))  # type: ignore[no-any-return]


def clip(site: Site) -> Value:
    """Clip of whole numbers = Min(Max(x, low), high)."""
    op, name = site.op, dtypes.name(site.dtype())
    if dtypes.is_float(site.dtype()) or name in CARRIER:
        raise Skip("taken as it is, or widened")
    x = site[0]
    if site.input(1) is not None:
        x = op.Max(x, site[1])
    if site.input(2) is not None:
        x = op.Min(x, site[2])
    return x if x is not site[0] else op.Identity(x)


def optional_has_element(site: Site) -> Value:
    """False without an input; True for a tensor or a sequence."""
    value = site.input(0)
    if value is None:
        return site.op.const(np.asarray(False))
    if getattr(value.tensor, "type", "tensor_type") == "optional_type":
        raise Skip("whether the optional value is there is known at run time")
    return site.op.const(np.asarray(True))


def optional_get_element(site: Site) -> Value:
    """A tensor is its own element."""
    if getattr(site[0].tensor, "type", "tensor_type") == "optional_type":
        raise Skip("whether the optional value is there is known at run time")
    return site.op.Identity(site[0])  # type: ignore[no-any-return]


def tensor_scatter(site: Site) -> Value:
    """cache[n, ..., (w[n] + s) mod S, ...] = update[n, ..., s, ...], gathered where a place was written."""
    op, cache, update = site.op, site[0], site[1]
    rank = site.rank()
    axis = int(site.attr("axis", -2)) % rank
    circular = site.attr("mode", "linear") == "circular"
    if not circular and rank == 4:
        raise Skip("taken as it is")
    size, steps = (cache.shape or ())[axis], (update.shape or ())[axis]
    if not isinstance(size, int) or not isinstance(steps, int):
        raise Skip("the axis has a dynamic dimension")
    if not dtypes.is_float(site.dtype()):
        raise Skip("not of floats")
    starts = site.input(2)
    places = np.arange(size, dtype=np.int64)
    start = op.Unsqueeze(starts, [1]) if starts is not None else op.const(np.zeros((1, 1), np.int64))
    offset = op.Sub(places[None], start)
    if circular:
        offset = op.Mod(op.Add(offset, np.asarray(size, np.int64)), np.asarray(size, np.int64))
    inside = op.And(op.GreaterOrEqual(offset, np.zeros((), np.int64)), op.Less(offset, np.asarray(steps, np.int64)))
    clipped = op.Where(inside, offset, np.zeros((), np.int64))
    along = [-1 if i == 0 else size if i == axis else 1 for i in range(rank)]
    index = op.Expand(op.Reshape(clipped, along), op.Shape(cache))
    return op.Where(op.Reshape(inside, along), op.GatherElements(update, index, axis=axis), cache)  # type: ignore[no-any-return]


HANDLERS = {
    "Mod": mod,
    "ReduceMax": reduce_bool,
    "ReduceMin": reduce_bool,
    "RandomUniformLike": random_like,
    "RandomNormalLike": random_like,
    "Clip": clip,
    "PRelu": prelu,
    "OptionalHasElement": optional_has_element,
    "OptionalGetElement": optional_get_element,
    "TensorScatter": tensor_scatter,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def mend_corners(graph: gs.Graph, target: Target, model: Model) -> int:
    """Forms of operators that TensorRT refuses = the same in forms that it takes (float Mod, maxima of bools)."""
    return rewrite(model, target, HANDLERS, "mend-corners")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [mend_corners]
