"""Interp, and padding."""

from __future__ import annotations

from graphopt.errors import ModelError
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message


@layer("Interp", param="interp_param")
def interp(g: Graph, one: Layer, p: Message, x: Value, like: Value | None = None) -> Value:
    """Bilinear, corners on corners: to height x width, to the second bottom's, or by zoom_factor and shrink_factor.

    Before, pad_beg and pad_end, which are at most 0, are cut off.
    """
    begin, end = p.integer("pad_beg", 0), p.integer("pad_end", 0)
    if begin > 0 or end > 0:
        raise ModelError(f"pad_beg {begin} and pad_end {end}: only cropping, by numbers below 0, is supported")
    for axis in (2, 3):
        if begin or end:
            x = g.slice(x, axis, -begin, fixed(x, axis) + end)
    size = [fixed(x, 2), fixed(x, 3)]
    if like is not None:
        size = [fixed(like, 2), fixed(like, 3)]
        p.ignore("height", "width", "zoom_factor", "shrink_factor")
    elif "height" in p or "width" in p:
        size = [p.integer("height"), p.integer("width")]
        p.ignore("zoom_factor", "shrink_factor")
    else:
        shrink, zoom = p.integer("shrink_factor", 1), p.integer("zoom_factor", 1)
        if shrink < 1 or zoom < 1:
            raise ModelError(f"shrink_factor {shrink}, zoom_factor {zoom}")
        size = [(length - 1) // shrink + 1 for length in size]
        size = [length + (length - 1) * (zoom - 1) for length in size]
    return resized(g, x, size, True)


@layer("BilinearInterpolate", param="bilinear_interpolate_param")
def bilinear_interpolate(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Bilinear, to dst_h x dst_w."""
    size = [p.integer("dst_h"), p.integer("dst_w")]
    return resized(g, x, size, p.flag("align_corners", True))


def resized(g: Graph, x: Value, size: list[int], corners: bool) -> Value:
    if any(not 0 < length < 2**20 for length in size):
        raise ModelError(f"the size would be {size[0]}x{size[1]}")
    if tuple(size) == x.shape[2:]:
        return x
    sizes = g.ints([fixed(x, 0), fixed(x, 1), *size]) if isinstance(x.shape[0], int) else None
    scales = None if sizes else g.const([1, 1, *(to / fixed(x, 2 + i) for i, to in enumerate(size))])
    how = "align_corners" if corners else "half_pixel"
    return g.op("Resize", x, None, scales, sizes, mode="linear", coordinate_transformation_mode=how)


@layer("Pad", param="pad_param")
def pad(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Rows and columns around the image: a constant, the edge, or mirrored."""
    mode = p.choice("pad_type", "CONSTANT", {0: "CONSTANT", 1: "REPLICATE", 2: "REFLECT"})
    up, down, left, right = (p.integer(f"pad_{side}", 0) for side in "udlr")
    value = g.const(p.number("pad_value", 0.0))
    how = {"CONSTANT": "constant", "REPLICATE": "edge", "REFLECT": "reflect"}[mode]
    return g.op("Pad", x, g.ints([0, 0, up, left, 0, 0, down, right]), value if how == "constant" else None, mode=how)
