"""Layers that move numbers, and change none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np

from graphopt.errors import ModelError
from graphopt_importers.caffe.emit import Dim, Graph, Value, count, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message


def axis_of(p: Message, name: str, default: int, rank: int) -> int:
    """An axis; negative ones count from the end."""
    axis = p.integer(name, default)
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < rank:
        raise ModelError(f"{name} {axis} of {rank} dimensions")
    return found


@layer("Concat", param="concat_param")
def concat(g: Graph, one: Layer, p: Message, *xs: Value) -> Value:
    axis = axis_of(p, "axis", p.integer("concat_dim", 1), xs[0].rank)
    if all(x.array is not None for x in xs):
        return g.const(np.concatenate([x.array for x in xs], axis), None)
    return g.op("Concat", *xs, axis=axis) if len(xs) > 1 else xs[0]


@layer("Slice", param="slice_param")
def slice_(g: Graph, one: Layer, p: Message, x: Value) -> Sequence[Value]:
    """Parts of x along axis, cut at slice_point, or equal ones."""
    axis = axis_of(p, "axis", p.integer("slice_dim", 1), x.rank)
    length, parts = fixed(x, axis), len(one.tops)
    points = p.ints("slice_point")
    if not points:
        if length % parts:
            raise ModelError(f"{length} does not fall into {parts} equal parts")
        points = list(range(length // parts, length, length // parts))
    edges = [0, *points, length]
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    if len(sizes) != parts or min(sizes) < 1:
        raise ModelError(f"slice_point {points} of {length}, for {parts} tops")
    if parts == 1:
        return [x]
    return g.ops("Split", parts, x, g.ints(sizes), axis=axis)


@layer("Reshape", param="reshape_param")
def reshape(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """num_axes dims from axis on become `shape`: 0 keeps the dim at its place, -1 is what is left."""
    axis = p.integer("axis", 0)
    axis = axis + x.rank + 1 if axis < 0 else axis
    number = p.integer("num_axes", -1)
    stop = x.rank if number == -1 else axis + number
    dims = p.message("shape").ints("dim")
    if not 0 <= axis <= stop <= x.rank or number < -1:
        raise ModelError(f"axis {axis} and num_axes {number} of {x.rank} dimensions")
    made: list[Dim] = list(x.shape[:axis])
    free = None
    for i, dim in enumerate(dims):
        if dim == 0:
            if axis + i >= x.rank:
                raise ModelError(f"dim 0 at {i}: the bottom has no dimension {axis + i}")
            made.append(x.shape[axis + i])
        elif dim == -1 and free is None:
            free = len(made)
            made.append(1)
        elif dim > 0:
            made.append(dim)
        else:
            raise ModelError(f"shape {dims}: one -1 at most, and no other negative number")
    made += x.shape[stop:]
    if free is not None:
        made[free] = _left(list(x.shape), made[:free] + made[free + 1 :])
    elif count(x.shape) != count(made) and all(isinstance(dim, int) for dim in [*x.shape, *made]):
        raise ModelError(f"{'x'.join(map(str, x.shape))} cannot become {'x'.join(map(str, made))}")
    return g.reshape(x, made)


def _left(given: list[Dim], taken: list[Dim]) -> Dim:
    """The product of given, by that of taken; names cancel."""
    for dim in [dim for dim in taken if isinstance(dim, str)]:
        if dim not in given:
            raise ModelError(f"dimension {dim} is needed as a number", hint="give it with --shapes")
        given.remove(dim)
        taken.remove(dim)
    names = [dim for dim in given if isinstance(dim, str)]
    number, by = prod(dim for dim in given if isinstance(dim, int)), prod(dim for dim in taken if isinstance(dim, int))
    if names:
        return names[0] if number == by and len(names) == 1 else "*".join([*names, f"{number}/{by}"])
    if by == 0 or number % by:
        raise ModelError(f"{number} numbers do not fall into groups of {by}")
    return number // by


@layer("Flatten", param="flatten_param")
def flatten(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Dimensions axis to end_axis become one."""
    axis, last = axis_of(p, "axis", 1, x.rank), axis_of(p, "end_axis", -1, x.rank)
    if last < axis:
        raise ModelError(f"end_axis {last} is before axis {axis}")
    return g.reshape(x, [*x.shape[:axis], count(x.shape[axis : last + 1]), *x.shape[last + 1 :]])


@layer("Permute", param="permute_param")
def permute(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Dimension i is dimension order[i] of the bottom; those that order leaves out follow."""
    order = p.ints("order")
    order += [axis for axis in range(x.rank) if axis not in order]
    if sorted(order) != list(range(x.rank)):
        raise ModelError(f"order {order} of {x.rank} dimensions")
    return x if order == sorted(order) else g.op("Transpose", x, perm=order)


@layer("Crop", param="crop_param")
def crop(g: Graph, one: Layer, p: Message, x: Value, like: Value) -> Value:
    """From axis on, the size of the second bottom, from offset on: one number, or one each dimension."""
    axis = axis_of(p, "axis", 2, x.rank)
    offsets = p.ints("offset") or [0]
    offsets = offsets * (x.rank - axis) if len(offsets) == 1 else offsets
    if len(offsets) != x.rank - axis or like.rank != x.rank:
        raise ModelError(f"{len(offsets)} offsets from axis {axis} of {x.rank} dimensions, like one of {like.rank}")
    axes: list[int] = []
    stops: list[int] = []
    starts: list[int] = []
    for i, offset in enumerate(offsets, axis):
        if x.shape[i] == like.shape[i] and offset == 0:
            continue
        size, room = fixed(like, i), fixed(x, i)
        if offset < 0 or offset + size > room:
            raise ModelError(f"{size} from offset {offset} on does not fit into {room} of dimension {i}")
        axes, starts, stops = [*axes, i], [*starts, offset], [*stops, offset + size]
    return g.op("Slice", x, g.ints(starts), g.ints(stops), g.ints(axes)) if axes else x


@layer("Tile", param="tile_param")
def tile(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """The bottom tiles times, one after the other along axis."""
    axis, tiles = axis_of(p, "axis", 1, x.rank), p.integer("tiles")
    if not 0 < tiles < 2**20:
        raise ModelError(f"tiles is {tiles}")
    return g.op("Tile", x, g.ints([tiles if i == axis else 1 for i in range(x.rank)]))


@layer("ShuffleChannel", param="shuffle_channel_param")
def shuffle_channel(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Channel i of group j becomes channel i * groups + j."""
    groups, channels = p.integer("group", 1), fixed(x, 1)
    if groups < 1 or channels % groups:
        raise ModelError(f"{channels} channels do not fall into {groups} groups")
    apart = g.reshape(x, [x.shape[0], groups, channels // groups, *x.shape[2:]])
    order = [0, 2, 1, *range(3, x.rank + 1)]
    return g.reshape(g.op("Transpose", apart, perm=order), x.shape)


@layer("PixelShuffle", param="pixelshuffle_param")
def pixel_shuffle(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """Channels r * r * c become r x r places."""
    return g.op("DepthToSpace", x, blocksize=p.integer("upscale_factor"), mode="CRD")


@layer("Reverse", param="reverse_param")
def reverse(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """The bottom backwards along axis."""
    axis = axis_of(p, "axis", 0, x.rank)
    return g.slice(x, axis, -1, -(2**31), -1)


@layer("Parameter", param="parameter_param", ignored=("shape",))
def parameter(g: Graph, one: Layer, p: Message) -> Value:
    """The blob itself."""
    return g.const(one.blob(0, p.message("shape").ints("dim"), "values"))
