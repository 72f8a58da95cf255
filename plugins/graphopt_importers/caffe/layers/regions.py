"""Pooling of regions: Fast R-CNN's, and R-FCN's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.errors import ModelError
from graphopt_importers.caffe.caffemodel import Array
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message

from .suppression import kept


@layer("ROIPooling", param="roi_pooling_param")
def roi_pooling(g: Graph, one: Layer, p: Message, x: Value, regions: Value) -> Value:
    """The largest number in each of pooled_h x pooled_w parts of a region image, x1, y1, x2, y2; 0 in empty parts."""
    size = [p.integer("pooled_h"), p.integer("pooled_w")]
    return g.op("MaxRoiPool", x, _rows(g, regions), pooled_shape=size, spatial_scale=p.number("spatial_scale", 1.0))


@layer("PSROIPooling", param="psroi_pooling_param")
def psroi_pooling(g: Graph, one: Layer, p: Message, x: Value, regions: Value) -> Value:
    """The mean of part i, j of a region, in the channels that belong to i, j: [regions, output_dim, groups, groups].

    Sums over parts are products with matrices of 0 and 1. Of one image.
    """
    outputs, groups, scale = p.integer("output_dim"), p.integer("group_size"), p.number("spatial_scale")
    height, width = fixed(x, 2), fixed(x, 3)
    if fixed(x, 0) != 1 or groups < 1 or fixed(x, 1) != outputs * groups * groups:
        raise ModelError(f"{'x'.join(map(str, x.shape))} is not one image of {outputs} x {groups} x {groups} channels")
    table = _rows(g, regions)
    down, rows = _inside(g, table, 2, groups, height, scale)
    right, columns = _inside(g, table, 1, groups, width, scale)
    number = table.shape[0]
    parts = g.reshape(x, [outputs, groups, groups, height, width])
    parts = g.op("Transpose", parts, perm=[1, 2, 0, 3, 4])
    across = g.op("MatMul", g.reshape(parts, [groups, groups, outputs * height, width]), right)
    across = g.reshape(across, [groups, groups, outputs, height, number])
    weights = g.reshape(down, [groups, 1, 1, height, number])
    sums = g.reduce("ReduceSum", g.op("Mul", across, weights), [3], keepdims=0)
    sums = g.op("Transpose", sums, perm=[3, 2, 0, 1])
    area = g.op("Mul", g.reshape(rows, [number, 1, groups, 1]), g.reshape(columns, [number, 1, 1, groups]))
    return g.op("Div", sums, g.op("Max", area, g.const(1.0)))


def _rows(g: Graph, regions: Value) -> Value:
    """Regions as [number, 5], for some networks say [number, 5, 1, 1]."""
    if regions.rank < 2 or regions.shape[1] != 5:
        raise ModelError(f"regions of {'x'.join(map(str, regions.shape))}: five numbers each were expected")
    return g.reshape(regions, [regions.shape[0], 5])


def _inside(g: Graph, table: Value, column: int, groups: int, length: int, scale: float) -> tuple[Value, Value]:
    """(1 where a place lies in a part: groups x length x regions; the number of places: regions x groups)."""
    number = table.shape[0]

    def rounded(at: int) -> Value:
        return g.op("Floor", g.scaled(g.slice(table, 1, at, at + 1), shift=0.5))

    start = g.scaled(rounded(column), scale)
    end = g.scaled(g.scaled(rounded(column + 2), shift=1.0), scale)
    size = g.scaled(g.op("Max", g.op("Sub", end, start), g.const(0.1)), 1 / groups)
    places = np.arange(groups, dtype=np.float32)[None]
    low = g.op("Floor", g.op("Add", g.op("Mul", size, g.const(places)), start))
    high = g.op("Ceil", g.op("Add", g.op("Mul", size, g.const(places + 1)), start))
    low, high = (g.op("Clip", edge, g.const(0.0), g.const(float(length))) for edge in (low, high))
    count = g.op("Max", g.op("Sub", high, low), g.const(0.0))
    line = g.const(np.arange(length, dtype=np.float32)[None, :, None])
    turned = [g.reshape(g.op("Transpose", edge, perm=[1, 0]), [groups, 1, number]) for edge in (low, high)]
    after = g.op("GreaterOrEqual", line, turned[0])
    return g.cast(g.op("And", after, g.op("Less", line, turned[1]))), count


@layer("Proposal", param="proposal_param")
def proposal(g: Graph, one: Layer, p: Message, scores: Value, deltas: Value, image: Value) -> list[Value]:
    """Faster R-CNN's regions: rows 0, x1, y1, x2, y2, by falling score, at most post_nms_topn; and their scores.

    scores: [1, 2 anchors, h, w], the second half counts; deltas: [1, 4 anchors, h, w]; image: height, width, scale. A
    box of less than min_size * scale has score 0. Of one image.
    """
    if fixed(scores, 0) != 1:
        raise ModelError("proposals of one image only")
    stride, anchors = p.integer("feat_stride", 16), _anchors(p)
    height, width = fixed(scores, 2), fixed(scores, 3)
    number = len(anchors)
    if fixed(scores, 1) != 2 * number or deltas.shape != (1, 4 * number, height, width):
        raise ModelError(f"{number} anchors; scores of {scores.shape[1]} and deltas of {deltas.shape[1]} channels")
    every = height * width * number
    corner = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) * stride
    boxes = (np.tile(corner, 2)[:, :, None, :] + anchors).reshape(every, 4)
    size = boxes[:, 2:] - boxes[:, :2] + 1
    shift = g.op("Transpose", g.reshape(deltas, [number, 4, height, width]), perm=[2, 3, 0, 1])
    shift = g.reshape(shift, [every, 4])
    centre = g.op("Mul", g.slice(shift, 1, 0, 2), g.const(size))
    centre = g.op("Add", centre, g.const(boxes[:, :2] + 0.5 * size))
    half = g.scaled(g.op("Mul", g.op("Exp", g.slice(shift, 1, 2, 4)), g.const(size)), 0.5)
    extent = g.op("Gather", g.reshape(image, [fixed(image, image.rank - 1)]), g.ints([1, 0]), axis=0)
    extent = g.scaled(extent, shift=-1.0)
    ends = [g.op("Max", g.op("Min", g.op(kind, centre, half), extent), g.const(0.0)) for kind in ("Sub", "Add")]
    least = g.scaled(g.slice(g.reshape(image, [fixed(image, image.rank - 1)]), 0, 2, 3), p.number("min_size", 16))
    wide = g.op("GreaterOrEqual", g.scaled(g.op("Sub", ends[1], ends[0]), shift=1.0), least)
    wide = g.reduce("ReduceMin", g.cast(wide), [1], keepdims=0)
    front = g.slice(g.reshape(scores, [2 * number, height, width]), 0, number, 2 * number)
    front = g.op("Mul", g.reshape(g.op("Transpose", front, perm=[1, 2, 0]), [every]), wide)
    number = min(p.integer("pre_nms_topn", 6000), every)
    best, places = g.ops("TopK", 2, front, g.ints([number]), axis=0)
    table = g.op("Gather", g.op("Concat", *ends, axis=1), places, axis=0)
    stays = kept(
        g, g.reshape(table, [1, number, 4]), g.reshape(best, [1, number]), p.number("nms_thresh", 0.7), -1e38, 1.0
    )
    rows = replace(g.op("NonZero", g.reshape(stays, [number])), shape=(1, "kept"))
    rows = replace(g.slice(rows, 1, 0, p.integer("post_nms_topn", 300)), shape=(1, "regions"))
    rows = g.reshape(rows, ["regions"])
    found = g.op("Pad", g.op("Gather", table, rows, axis=0), g.ints([0, 1, 0, 0]))
    return [found, g.op("Gather", best, rows, axis=0)]


def _anchors(p: Message) -> Array:
    """Boxes about the first place: for each ratio of height to width, each scale."""
    base = p.integer("base_size", 16)
    ratios, scales = p.floats("ratio"), p.floats("scale")
    if base < 1 or not ratios or not scales or min(*ratios, *scales) <= 0:
        raise ModelError(f"base_size {base}, ratios {ratios}, scales {scales}")
    found = []
    for ratio in ratios:
        width = (base * base / ratio) ** 0.5
        for scale in scales:
            sides = [np.trunc(side * scale / base - 1 + 0.5) / 2 for side in (width, width * ratio)]
            middle = (base - 1) / 2
            found.append([middle - sides[0], middle - sides[1], middle + sides[0], middle + sides[1]])
    return np.array(found)
