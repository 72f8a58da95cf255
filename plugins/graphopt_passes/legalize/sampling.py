"""Scatter with a reduction, n-gram counts, and sampling at computed places, by comparison and matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.backends.operators import table
from graphopt.backends.tensorrt import FLAVORS
from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite

_MOST_STEPS = 64


def _reduced(site: Site) -> Any:
    name = site.attr("reduction", "none")
    if name == "none":
        raise Skip("without reduction it is taken as it is")
    return {"add": site.op.Add, "mul": site.op.Mul, "max": site.op.Max, "min": site.op.Min}[name]


def scatter_elements(site: Site) -> Value:
    """y = where(i_j == place, f(y, update_j), y) for each slice j of the indices along the axis, in order."""
    op, join = site.op, _reduced(site)
    dims, spots = site.dims(0), site.dims(1)
    axis = site.axis()
    if any(a != b for i, (a, b) in enumerate(zip(dims, spots, strict=True)) if i != axis):
        raise Skip("the indices cover only a part of the data")
    if spots[axis] > _MOST_STEPS:
        raise Skip(f"more than {_MOST_STEPS} updates along the axis: a custom layer is the way")
    size = np.asarray(dims[axis], site.dtype(1))
    places = np.arange(dims[axis], dtype=site.dtype(1)).reshape([-1 if i == axis else 1 for i in range(len(dims))])
    index = op.Where(op.Less(site[1], np.zeros((), site.dtype(1))), op.Add(site[1], size), site[1])
    result = site[0]
    for j in range(spots[axis]):
        hit = op.Equal(op.Slice(index, [j], [j + 1], [axis]), places)
        result = op.Where(hit, join(result, op.Slice(site[2], [j], [j + 1], [axis])), result)
    return result


def scatter_nd(site: Site) -> Value:
    """y = where(place == i_j, f(y, update_j), y) for each index j, one after the other."""
    op, join = site.op, _reduced(site)
    dims, spots = site.dims(0), site.dims(1)
    depth, count = spots[-1], math.prod(spots[:-1])
    if count > _MOST_STEPS:
        raise Skip(f"more than {_MOST_STEPS} updates: a custom layer is the way")
    rest = dims[depth:]
    index = op.Reshape(site[1], [count, depth])
    updates = op.Reshape(site[2], [count, *[1] * depth, *rest])
    result, kind = site[0], site.dtype(1)
    for j in range(count):
        hit: Any = None
        for axis in range(depth):
            one = op.Reshape(op.Slice(index, [j, axis], [j + 1, axis + 1], [0, 1]), [1] * len(dims))
            one = op.Where(op.Less(one, np.zeros((), kind)), op.Add(one, np.asarray(dims[axis], kind)), one)
            along = [-1 if i == axis else 1 for i in range(len(dims))]
            same = op.Equal(np.arange(dims[axis], dtype=kind).reshape(along), one)
            hit = same if hit is None else op.And(hit, same)
        update = op.Squeeze(op.Slice(updates, [j], [j + 1], [0]), [0])
        result = op.Where(hit, join(result, update), result)
    return result


def tf_idf(site: Site) -> Value:
    """Counts of n-grams: for each length and skip, windows compared with the pool, summed over the windows."""
    op = site.op
    if site.node.attrs.get("pool_int64s") is None:
        raise Skip("of strings, which TensorRT does not have")
    dims, pool, starts = site.dims(), list(site.attr("pool_int64s")), list(site.attr("ngram_counts"))
    low, high, skips = (int(site.attr(n)) for n in ("min_gram_length", "max_gram_length", "max_skip_count"))
    columns = list(site.attr("ngram_indexes"))
    x = op.Cast(site[0] if len(dims) == 2 else op.Unsqueeze(site[0], [0]), to=dtypes.to_onnx(np.int64))
    size, offset, total = dims[-1], 0, None
    for number, start in enumerate(starts):
        length = number + 1
        end = starts[number + 1] if number + 1 < len(starts) else len(pool)
        grams = np.asarray(pool[start:end], np.int64).reshape(-1, length)
        into = columns[offset : offset + len(grams)]
        offset += len(grams)
        if not low <= length <= high or not len(grams):
            continue
        place = np.zeros((len(grams), max(columns) + 1), np.float32)
        place[np.arange(len(grams)), into] = 1
        for skip in range(skips + 1 if length > 1 else 1):
            windows = size - (length - 1) * (skip + 1)
            if windows <= 0:
                continue
            index = np.arange(windows)[:, None] + np.arange(length)[None] * (skip + 1)
            seen = op.Unsqueeze(op.Gather(x, index, axis=1), [2])
            same = op.Cast(op.Equal(seen, grams), to=dtypes.to_onnx(np.float32))
            hits = op.ReduceSum(op.ReduceMin(same, [3], keepdims=0), [1], keepdims=0)
            counted = op.MatMul(hits, place)
            total = counted if total is None else op.Add(total, counted)
    if total is None:
        raise Skip("no n-gram is short enough")
    mode, weights = site.attr("mode"), site.node.attrs.get("weights")
    if mode == "IDF":
        total = op.Cast(op.Greater(total, np.float32(0)), to=dtypes.to_onnx(np.float32))
    if mode != "TF" and weights is not None:
        ordered = np.ones(max(columns) + 1, np.float32)
        ordered[columns] = weights
        total = op.Mul(total, ordered)
    return total if len(dims) == 2 else op.Squeeze(total, [0])  # type: ignore[no-any-return]


def roi_align(site: Site) -> Value:
    """y[r] = A[r] x[batch[r]] B[r]': rows of A and B are means of hat functions max(0, 1 - |place - cell|)."""
    op = site.op
    if site.attr("mode", "avg") != "avg":
        raise Skip("maxima over samples")
    samples = int(site.attr("sampling_ratio", 0))
    shape = site[0].shape or ()
    if samples <= 0 or len(shape) != 4 or not all(isinstance(dim, int) for dim in shape[2:]):
        raise Skip("the number of samples depends on the regions, or the image is dynamic")
    kind, scale = site.dtype(), float(site.attr("spatial_scale", 1.0))
    half = (
        0.5
        if site.attr("coordinate_transformation_mode", "half_pixel" if site.opset >= 16 else "") == "half_pixel"
        else 0
    )
    maps = []
    for low, out, size in ((1, int(site.attr("output_height", 1)), int(shape[2] or 0)),
                           (0, int(site.attr("output_width", 1)), int(shape[3] or 0))):  # fmt: skip
        ends = [op.Slice(site[1], [i], [i + 1], [1]) for i in (low, low + 2)]
        start, end = (op.Sub(op.Mul(one, np.asarray(scale, kind)), np.asarray(half, kind)) for one in ends)
        length = op.Sub(end, start)
        if not half:
            length = op.Max(length, np.asarray(1, kind))
        step = (np.arange(out * samples) + 0.5) / (out * samples)
        place = op.Add(start, op.Mul(length, step.astype(kind)[None]))
        inside = op.And(op.GreaterOrEqual(place, np.asarray(-1, kind)), op.LessOrEqual(place, np.asarray(size, kind)))
        near = op.Unsqueeze(op.Clip(place, np.asarray(0, kind), np.asarray(size - 1, kind)), [2])
        distance = op.Abs(op.Sub(near, np.arange(size).astype(kind)))
        hat = op.Relu(op.Sub(np.asarray(1, kind), distance))
        hat = op.Mul(hat, op.Cast(op.Unsqueeze(inside, [2]), to=dtypes.to_onnx(kind)))
        mean = op.ReduceMean(op.Reshape(hat, [-1, out, samples, size]), [2], keepdims=0)
        maps.append(op.Unsqueeze(mean, [1]))
    picked = op.Gather(site[0], site[2], axis=0)
    rows = op.MatMul(maps[0], picked)
    return op.MatMul(rows, op.Transpose(maps[1], perm=[0, 1, 3, 2]))  # type: ignore[no-any-return]


def deform_conv(site: Site) -> Value:
    """sum over taps of W[tap] x(place + offset[tap]): each tap by GridSample, then a convolution of 1 x 1 over all."""
    op = site.op
    dims, w, shape = site.dims(0), site.dims(1), site[2].shape or ()
    if len(dims) != 4:
        raise Skip("not of two spatial dimensions")
    strides, dilations = list(site.attr("strides") or [1, 1]), list(site.attr("dilations") or [1, 1])
    pads, group = list(site.attr("pads") or [0] * 4), int(site.attr("group", 1))
    parts, kernel, kind = int(site.attr("offset_group", 1)), list(w[2:]), site.dtype()
    out = [int(dim) for dim in shape[2:] if isinstance(dim, int)]
    if len(out) != 2:
        raise Skip("the offsets have dynamic dimensions")
    taps = list(np.ndindex(*kernel))
    offset = op.Reshape(site[2], [dims[0], parts, len(taps), 2, *out])
    mask = op.Reshape(site[4], [dims[0], parts, len(taps), *out]) if site.input(4) is not None else None
    sampled = []
    for part in range(parts):
        width = dims[1] // parts
        x = op.Slice(site[0], [part * width], [(part + 1) * width], [1])
        for number, tap in enumerate(taps):
            grid = []
            for i in (1, 0):  # GridSample takes x first
                base = np.arange(out[i]) * strides[i] - pads[i] + tap[i] * dilations[i]
                base = base.reshape((1, -1, 1) if i == 0 else (1, 1, -1)).astype(kind)
                one = op.Slice(offset, [part, number, i], [part + 1, number + 1, i + 1], [1, 2, 3])
                place = op.Add(op.Reshape(one, [dims[0], *out]), base)
                unit = np.asarray(2 / max(dims[i + 2] - 1, 1), kind)
                grid.append(op.Unsqueeze(op.Sub(op.Mul(place, unit), np.asarray(1, kind)), [3]))
            value = op.GridSample(
                x, op.Concat(*grid, axis=3), align_corners=1, padding_mode="zeros", mode=_linear(site)
            )
            if mask is not None:
                one = op.Slice(mask, [part, number], [part + 1, number + 1], [1, 2])
                value = op.Mul(value, op.Reshape(one, [dims[0], 1, *out]))
            sampled.append(op.Unsqueeze(value, [2]))
    if min(dims[2:]) == 1:
        raise Skip("an image of one row or column")
    columns = [op.Concat(*sampled[p * len(taps) : (p + 1) * len(taps)], axis=2) if len(taps) > 1
               else sampled[p] for p in range(parts)]  # fmt: skip
    joined = op.Concat(*columns, axis=1) if parts > 1 else columns[0]
    flat = op.Reshape(joined, [dims[0], dims[1] * len(taps), *out])
    weight = op.Reshape(site[1], [w[0], w[1] * len(taps), 1, 1])
    made: Value = op.Conv(flat, weight, site.input(3), group=group)
    return made


def _linear(site: Site) -> str:
    return "linear" if site.opset >= 20 else "bilinear"


HANDLERS = {
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TfIdfVectorizer": tf_idf,
    "RoiAlign": roi_align,
    "DeformConv": deform_conv,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_sampling(graph: gs.Graph, target: Target, model: Model) -> int:
    """Reducing scatters, TfIdfVectorizer, RoiAlign, DeformConv = comparisons and products, for TensorRT only.

    Not where a plugin of the target takes them. Shapes must be static; scatters of at most 64 updates along the axis.

    Accuracy: updates in their order, as float32 rounds; TF32 in DeformConv and RoiAlign.
    """
    taken = table(target.backend, target.version).by_plugin if target.backend in FLAVORS else frozenset()
    return rewrite(model, target, {op: f for op, f in HANDLERS.items() if op not in taken}, "spell-sampling")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_sampling]
