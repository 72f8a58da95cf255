"""Pooling, resizing and reducing with nothing to pool, resize or reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.ir import shapes
from graphopt.rewrite.value import Value

from .noop import NoOp

_EXACT_MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
"""At scale 1 they map each place to itself (tf_half_pixel_for_nn is half a pixel off, tf_crop_and_resize crops)."""


class RemovePoolOfOne(NoOp):
    """MaxPool(x) = AveragePool(x) = x where the window is 1 wide, the stride 1 and no padding is added.

    Not where MaxPool's indices are read.
    """

    def pattern(self, op: Any, x: Any, kernel: Any, rest: Any) -> Any:
        return graphopt.alternatives(
            op.MaxPool(x, kernel_shape=kernel, attrs=rest), op.AveragePool(x, kernel_shape=kernel, attrs=rest)
        )

    def check(self, op: Any, x: Value, kernel: Sequence[int] | None, rest: dict[str, Any]) -> str | None:
        if not kernel or not _all_are(kernel, 1):
            return "its window is wider than 1"
        if not _all_are(rest.get("strides"), 1) or not _all_are(rest.get("pads"), 0):
            return "it strides or pads"
        return None


class RemoveGlobalPoolOfOne(NoOp):
    """GlobalAveragePool(x) = GlobalMaxPool(x) = x where every spatial dimension is 1."""

    def pattern(self, op: Any, x: Any) -> Any:
        return graphopt.alternatives(op.GlobalAveragePool(x), op.GlobalMaxPool(x))

    def check(self, op: Any, x: Value) -> str | None:
        shape = x.shape
        return None if shape is not None and _all_are(shape[2:], 1) else "a spatial dimension may differ from 1"


class RemoveReduceOfOne(NoOp):
    """Reduce(x, axes, keepdims=1) = x for Sum, Mean, Max, Min and Prod where the dimensions of the axes are 1."""

    def pattern(self, op: Any, x: Any, axes: Any, noop: Any) -> Any:
        kinds = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
        return graphopt.alternatives(
            *(getattr(op, kind)(x, op.maybe(op.Const(axes)), keepdims=1, noop_with_empty_axes=noop) for kind in kinds)
        )

    def glance(self, node: gs.Node) -> bool:
        shape = node.inputs[0].shape
        return not shape or 1 in shape or "noop_with_empty_axes" in node.attrs

    def check(self, op: Any, x: Value, axes: Value | None, noop: int | None) -> str | None:
        wanted = [] if axes is None or axes.const is None else [int(axis) for axis in axes.const.ravel()]
        if not wanted and noop:
            return None
        shape = x.shape
        if shape is None:
            return "the rank is unknown"
        wanted = wanted or list(range(len(shape)))
        in_range = all(-len(shape) <= axis < len(shape) for axis in wanted)
        return None if in_range and all(shape[axis] == 1 for axis in wanted) else "it reduces, or may"


class RemoveResizeToSame(NoOp):
    """Resize(x, scales=1) = Resize(x, sizes=shape of x) = x.

    Not where coordinates are shifted (tf_half_pixel_for_nn), cropped (tf_crop_and_resize) or filtered (antialias).
    """

    def pattern(self, op: Any, x: Any, a: Any, b: Any, c: Any, rest: Any) -> Any:
        return op.Resize(x, op.maybe(a), op.maybe(b), op.maybe(c), attrs=rest)

    def check(
        self, op: Any, x: Value, a: Value | None, b: Value | None, c: Value | None, rest: dict[str, Any]
    ) -> str | None:
        mode = rest.get("coordinate_transformation_mode", "half_pixel" if op.opset >= 11 else "asymmetric")
        if mode not in _EXACT_MODES or rest.get("antialias"):
            return "coordinates are shifted, cropped or filtered"
        scales, sizes = (b, c) if op.opset >= 11 else (a, None)
        if c is None and scales is not None and scales.size != 0:
            factors = scales.const
            return None if factors is not None and bool(np.all(factors == 1)) else "it scales"
        shape, wanted = x.shape, sizes.const if sizes is not None else None
        if shape is None or wanted is None:
            return "the sizes are not known"
        along = rest.get("axes") or range(len(shape))
        pairs = zip(along, wanted.tolist(), strict=True)
        return None if all(shapes.same_dim(shape[axis], size) for axis, size in pairs) else "it may change the sizes"


class RemoveUpsampleToSame(NoOp):
    """Upsample(x, scales=1) = x (opset 9)."""

    def pattern(self, op: Any, x: Any, scales: Any, rest: Any) -> Any:
        return op.Upsample(x, op.Const(scales), attrs=rest)

    def check(self, op: Any, x: Value, scales: Value) -> str | None:
        factors = scales.const
        return None if factors is not None and bool(np.all(factors == 1)) else "it scales"


def _all_are(values: Sequence[Any] | None, number: int) -> bool:
    return values is None or all(value == number for value in values)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        RemovePoolOfOne(),
        RemoveGlobalPoolOfOne(),
        RemoveReduceOfOne(),
        RemoveResizeToSame(),
        RemoveUpsampleToSame(),
    ]
