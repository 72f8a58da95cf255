"""TFLite_Detection_PostProcess, the custom operator that ends the detectors of TensorFlow's own collection."""

from __future__ import annotations

from typing import Any

import numpy as np

from .handlers import handles
from .reader import Operator
from .scope import Scope

NAME = "custom TFLite_Detection_PostProcess"


@handles(NAME)
def detections(scope: Scope, operator: Operator) -> None:
    """Boxes (1, n, 4), classes (1, n), scores (1, n) and how many there are (1,), of n = max_detections.

    Boxes are decoded from anchors: center = anchor + size * t / scale, size = size * exp(t / scale). The best class of
    each suppresses the others (regular NMS: each class those of its own). Rows after the last detection are zeros.
    """
    options = operator.options
    if not isinstance(options, dict):
        raise scope.error(operator, "it has no options")
    if int(options.get("max_classes_per_detection", 1)) != 1 and not options.get("use_regular_nms", False):
        raise scope.error(operator, "several classes of one detection have no counterpart")
    most = int(options["max_detections"])
    make, number = scope.build, scope.build.ints
    every = make(
        "Slice", scope.real(operator.inputs[1]), number(-int(options["num_classes"])), number(1 << 40), number(2)
    )
    boxes = _decoded(scope, operator, options)
    scores = make("Transpose", every, perm=[0, 2, 1])
    regular = bool(options.get("use_regular_nms", False))
    ranked = scores if regular else make("Transpose", _largest(scope, every), perm=[0, 2, 1])
    each = int(options.get("detections_per_class", 100)) if regular else most
    least = np.nextafter(np.float32(options["nms_score_threshold"]), np.float32(-np.inf))  # equal scores are kept
    picked = make(
        "NonMaxSuppression", boxes, ranked, number(each), make.float(float(options["nms_iou_threshold"])),
        make.const(np.float32(least)),
    )  # fmt: skip
    place = make("Gather", picked, make.const(np.int64(2)), axis=1)
    kind = make("Gather", picked, make.const(np.int64(1)), axis=1)
    if not regular:
        best = make("Squeeze", make("ArgMax", every, axis=2, keepdims=0), number(0))
        kind = make("Gather", best, place)
    pairs = make("Slice", picked, number(1), number(3), number(1))
    score = make("GatherND", make("Squeeze", ranked, number(0)), pairs)
    score, order = make.several("TopK", [_padded(scope, score, most, -1.0), number(most)], 2, axis=0)
    real = make("Greater", score, make.float(-0.5))
    found = make("Gather", make("Squeeze", boxes, number(0)), place)
    rows = [
        make("Gather", _padded(scope, found, most, 0.0, 4), order),
        make("Gather", _padded(scope, make.cast(kind, np.float32), most, 0.0), order),
        make("Where", real, score, make.float(0.0)),
    ]
    rows.append(make("ReduceSum", make.cast(real, np.float32), keepdims=1))
    for index, (out, value) in enumerate(zip(operator.outputs, rows, strict=True)):
        scope.put(out, value if index == 3 else make("Unsqueeze", value, number(0)))


def _decoded(scope: Scope, operator: Operator, options: dict[str, Any]) -> str:
    """(1, anchors, 4): top, left, bottom, right."""
    make = scope.build
    codes, anchors = scope.real(operator.inputs[0]), scope.real(operator.inputs[2])

    def columns(value: str, first: int, last: int) -> str:
        return make("Slice", value, make.ints(first), make.ints(last), make.ints(-1))

    center, size = columns(anchors, 0, 2), columns(anchors, 2, 4)
    scales = [float(options[f"{name}_scale"]) for name in "yxhw"]
    moved = make("Div", columns(codes, 0, 2), make.const(np.array(scales[:2], np.float32)))
    grown = make("Exp", make("Div", columns(codes, 2, 4), make.const(np.array(scales[2:], np.float32))))
    middle = make("Add", make("Mul", moved, size), center)
    half = make("Mul", make("Mul", grown, make.float(0.5)), size)
    return make("Concat", make("Sub", middle, half), make("Add", middle, half), axis=-1)


def _largest(scope: Scope, scores: str) -> str:
    """Of each anchor; axes are an input from opset 18 on."""
    if scope.build.opset < 18:
        return scope.build("ReduceMax", scores, axes=[2], keepdims=1)
    return scope.build("ReduceMax", scores, scope.build.ints(2), keepdims=1)


def _padded(scope: Scope, value: str, rows: int, fill: float, *width: int) -> str:
    return scope.build("Concat", value, scope.build.const(np.full((rows, *width), fill, np.float32)), axis=0)
