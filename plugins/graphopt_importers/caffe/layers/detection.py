"""SSD: PriorBox, and DetectionOutput."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from onnx import TensorProto

from graphopt.errors import ModelError
from graphopt_importers.caffe.caffemodel import Array
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message

from .suppression import kept

_NONE = -3e38
"""The score of a place without a detection."""
_CODES = {1: "CORNER", 2: "CENTER_SIZE", 3: "CORNER_SIZE"}
_MOST_PRIORS = 2**24


@layer("PriorBox", param="prior_box_param")
def prior_box(g: Graph, one: Layer, p: Message, x: Value, image: Value) -> Value:
    """Boxes of every place of x in parts of the image, and their variances: [1, 2, places * priors * 4], a constant.

    A place has, for each min_size: its square; the square of sqrt(min_size * max_size); one for each other ratio.
    Sizes are whole numbers, as Caffe takes them.
    """
    height, width = fixed(x, 2), fixed(x, 3)
    size = p.integer("img_size", 0)
    rows, columns = p.integer("img_h", size), p.integer("img_w", size)
    if not rows or not columns:
        rows, columns = fixed(image, 2), fixed(image, 3)
    step = p.number("step", 0.0)
    down, right = p.number("step_h", step), p.number("step_w", step)
    if not down or not right:
        down, right = float(np.float32(rows / height)), float(np.float32(columns / width))
    sides = _sides(p)
    if height * width * len(sides) > _MOST_PRIORS or rows < 0 or columns < 0:
        raise ModelError(f"{len(sides)} boxes at {height}x{width} places of a {rows}x{columns} image")
    offset = np.float32(p.number("offset", 0.5))
    centre_y = (np.arange(height, dtype=np.float32) + offset) * np.float32(down)
    centre_x = (np.arange(width, dtype=np.float32) + offset) * np.float32(right)
    grid = np.stack(np.broadcast_arrays(centre_x[None, :], centre_y[:, None]), -1)[:, :, None, :].astype(np.float64)
    half = np.array(sides, np.float32).astype(np.float64) / 2
    boxes = np.concatenate([grid - half, grid + half], -1) / np.array([columns, rows] * 2)
    if p.flag("clip", False):
        boxes = np.clip(boxes, 0, 1)
    variances = p.floats("variance") or [0.1]
    if len(variances) not in (1, 4):
        raise ModelError(f"{len(variances)} variances: one or four")
    spread = np.broadcast_to(np.array(variances * (4 // len(variances))), boxes.shape)
    return g.const(np.stack([boxes.ravel(), spread.ravel()])[None])


def _sides(p: Message) -> list[tuple[float, float]]:
    """Width and height of the boxes of a place."""
    least, most = p.floats("min_size"), p.floats("max_size")
    if not least or (most and len(most) != len(least)):
        raise ModelError(f"{len(least)} times min_size, {len(most)} times max_size")
    ratios = [1.0]
    flip = p.flag("flip", True)
    for ratio in p.floats("aspect_ratio"):
        if ratio <= 0:
            raise ModelError(f"aspect_ratio {ratio}")
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    found = []
    for i, small in enumerate(least):
        side = float(int(small))
        found.append((side, side))
        if most:
            between = float(np.sqrt(side * int(most[i])))
            found.append((between, between))
        found += [(side * r**0.5, side / r**0.5) for r in ratios if abs(r - 1) >= 1e-6]
    return found


@dataclass(frozen=True)
class _Sizes:
    """images x priors x classes, of which `shown` are no background; kept: candidates a class, rows an image."""

    images: int
    priors: int
    classes: int
    shown: list[int]
    candidates: int
    rows: int


@layer(
    "DetectionOutput",
    param="detection_output_param",
    ignored=("save_output_param", "visualize", "visualize_threshold", "save_file"),
)
def detection_output(g: Graph, one: Layer, p: Message, loc: Value, conf: Value, priors: Value, *more: Value) -> Value:
    """Rows image, label, score, xmin, ymin, xmax, ymax: [1, 1, rows, 7], by image, label, and falling score.

    Of each class but the background: the top_k best above confidence_threshold, without what overlaps a better one by
    more than nms_threshold; of these the keep_top_k best of an image. Without any: a row image, -1, ..., -1 an image.
    """
    if more:
        raise ModelError(f"{3 + len(more)} bottoms: refinement of boxes (RefineDet) is not supported")
    nms = p.message("nms_param")
    if "nms_param" not in p:
        raise ModelError("nms_param is missing")
    if nms.number("eta", 1.0) != 1:
        raise ModelError("nms_param.eta: adaptive thresholds are not supported")
    classes, shared = p.integer("num_classes"), p.flag("share_location", True)
    background = p.integer("background_label_id", 0)
    sizes = _sizes(p, nms, loc, conf, priors, classes, background, 1 if shared else classes)
    boxes = _decoded(g, p, loc, priors, sizes, 1 if shared else classes)
    apart = g.op("Transpose", g.reshape(conf, [sizes.images, sizes.priors, classes]), perm=[0, 2, 1])
    scores = apart if len(sizes.shown) == classes else g.op("Gather", apart, g.ints(sizes.shown), axis=1)
    best, places = g.ops("TopK", 2, scores, g.ints([sizes.candidates]), axis=2)
    candidates = _candidates(g, boxes, places, sizes, shared)
    threshold = p.number("confidence_threshold", -1e38)
    remaining = _suppressed(g, candidates, best, nms.number("nms_threshold", 0.3), threshold, sizes)
    return _listed(g, remaining, candidates, sizes)


def _sizes(
    p: Message, nms: Message, loc: Value, conf: Value, priors: Value, classes: int, background: int, boxes: int
) -> _Sizes:
    images, number = fixed(loc, 0), prod(fixed(priors, i) for i in range(priors.rank)) // 8
    shown = [label for label in range(max(classes, 0)) if label != background]
    found = [prod(fixed(x, i) for i in range(1, x.rank)) for x in (loc, conf)]
    if not shown or found != [number * boxes * 4, number * classes] or fixed(conf, 0) != images:
        raise ModelError(f"{number} priors, {classes} classes; {found[0]} locations and {found[1]} confidences")
    top, keep = nms.integer("top_k", -1), p.integer("keep_top_k", -1)
    candidates = number if top < 0 else min(top, number)
    everything = candidates * len(shown)
    rows = everything if keep < 0 else min(keep, everything)
    if not candidates or not rows or images * everything > _MOST_PRIORS:
        raise ModelError(f"top_k {top}, keep_top_k {keep}, {number} priors, {len(shown)} classes")
    return _Sizes(images, number, classes, shown, candidates, rows)


def _decoded(g: Graph, p: Message, loc: Value, priors: Value, sizes: _Sizes, boxes: int) -> Value:
    """The boxes that locations mean: images x priors x boxes x 4."""
    code = p.choice("code_type", "CORNER", _CODES)
    table = g.reshape(priors, [2, sizes.priors, 1, 4])
    prior, variance = g.slice(table, 0, 0, 1), g.slice(table, 0, 1, 2)
    shift = g.reshape(loc, [sizes.images, sizes.priors, boxes, 4])
    if not p.flag("variance_encoded_in_target", False):
        shift = g.op("Mul", shift, variance)
    if code == "CORNER":
        return g.op("Add", prior, shift)
    low, high = g.slice(prior, 3, 0, 2), g.slice(prior, 3, 2, 4)
    size = g.op("Sub", high, low)
    if code == "CORNER_SIZE":
        return g.op("Add", prior, g.op("Mul", shift, g.op("Concat", size, size, axis=3)))
    middle = g.scaled(g.op("Add", low, high), 0.5)
    centre = g.op("Add", g.op("Mul", g.slice(shift, 3, 0, 2), size), middle)
    half = g.scaled(g.op("Mul", g.op("Exp", g.slice(shift, 3, 2, 4)), size), 0.5)
    return g.op("Concat", g.op("Sub", centre, half), g.op("Add", centre, half), axis=3)


def _candidates(g: Graph, boxes: Value, places: Value, sizes: _Sizes, shared: bool) -> Value:
    """The boxes of the best scores: images x classes * candidates x 4."""
    number = len(sizes.shown) * sizes.candidates
    if shared:
        flat = g.reshape(boxes, [sizes.images, sizes.priors, 4])
        return g.op("GatherND", flat, g.reshape(places, [sizes.images, number, 1]), batch_dims=1)
    apart = g.op("Gather", g.op("Transpose", boxes, perm=[0, 2, 1, 3]), g.ints(sizes.shown), axis=1)
    indices = g.reshape(places, [*places.shape, 1])
    return g.reshape(g.op("GatherND", apart, indices, batch_dims=2), [sizes.images, number, 4])


def _suppressed(g: Graph, boxes: Value, scores: Value, overlap: float, threshold: float, sizes: _Sizes) -> Value:
    """The scores of what remains, _NONE elsewhere: images x classes * candidates. A class of an image is a batch."""
    batches, k = sizes.images * len(sizes.shown), sizes.candidates
    table = g.reshape(scores, [batches, k])
    stays = kept(g, g.reshape(boxes, [batches, k, 4]), table, overlap, threshold)
    filled = g.op("Where", stays, table, g.const(_NONE))
    return g.reshape(filled, [sizes.images, len(sizes.shown) * k])


def _listed(g: Graph, scores: Value, boxes: Value, sizes: _Sizes) -> Value:
    """The best rows of each image, in the order of classes and candidates, then rows that are none."""
    images, rows = sizes.images, sizes.rows
    number = fixed(scores, 1)
    fixed_rows = g.options.get("detections") == "fixed"
    if rows < number or fixed_rows:
        best, places = g.ops("TopK", 2, scores, g.ints([rows]), axis=1)
        # In the order of places; what is no detection goes behind the last one.
        behind = g.op("Where", g.op("Greater", best, g.const(_NONE / 2)), g.cast(places), g.const(float(number)))
        ordered, _ = g.ops("TopK", 2, behind, g.ints([rows]), axis=1, largest=0)
        there = g.op("Less", ordered, g.const(float(number)))
        places = g.cast(g.op("Min", ordered, g.const(float(number - 1))), TensorProto.INT64)
        scores = g.op("GatherElements", scores, places, axis=1)
        boxes = g.op("GatherND", boxes, g.reshape(places, [images, rows, 1]), batch_dims=1)
        label = g.op("Gather", g.const(_labels(sizes)), places)
    else:
        there = g.op("Greater", scores, g.const(_NONE / 2))
        label = g.const(np.broadcast_to(_labels(sizes), (images, rows)))
    image = np.arange(images, dtype=np.float32)
    table = g.op(
        "Concat",
        g.const(np.broadcast_to(image[:, None, None], (images, rows, 1))),
        g.reshape(label, [images, rows, 1]),
        g.reshape(scores, [images, rows, 1]),
        boxes,
        axis=2,
    )
    table, there = g.reshape(table, [images * rows, 7]), g.reshape(there, [images * rows])
    if fixed_rows:
        found = g.op("Where", g.reshape(there, [images * rows, 1]), table, g.const(-1.0))
        return g.reshape(found, [1, 1, images * rows, 7])
    none = g.op("Not", g.cast(g.reduce("ReduceMax", g.cast(there), [0]), TensorProto.BOOL))
    fake = np.full((images, 7), -1, np.float32)
    fake[:, 0] = image
    table = g.op("Concat", table, g.const(fake), axis=0)
    there = g.op("Concat", there, *[none] * images, axis=0)
    places = replace(g.op("NonZero", there), shape=(1, "detections"))
    return g.op("Unsqueeze", g.op("Gather", table, places, axis=0), g.ints([0]))


def _labels(sizes: _Sizes) -> Array:
    return np.repeat(np.array(sizes.shown, np.float32), sizes.candidates)
