"""Resize in modes that TensorRT does not have, as one matrix an axis.

    y = x M', M[o, i] the weight of cell i in output o: by ONNX's definition of the coordinate and of the kernel

Interpolation is separable, so the axes come one after the other. Sizes must be static along the axes that change.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite

_NATIVE = ("align_corners", "tf_half_pixel_for_nn", "pytorch_half_pixel", "half_pixel", "asymmetric")


def origins(mode: str, n: int, out: int, scale: float, roi: tuple[float, float]) -> Any:
    """Where each output stands among the n inputs."""
    o, width = np.arange(out, dtype=np.float64), scale * n
    if mode == "align_corners":
        return np.zeros(out) if width == 1 else o * (n - 1) / (width - 1)
    if mode == "asymmetric":
        return o / scale
    if mode == "tf_crop_and_resize":
        span = (roi[1] - roi[0]) * (n - 1)
        return roi[0] * (n - 1) + (np.full(out, span / 2) if width == 1 else o * span / (width - 1))
    if mode == "tf_half_pixel_for_nn":
        return (o + 0.5) / scale
    half = (o + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel" and width == 1:
        return np.full(out, -0.5)
    if mode == "half_pixel_symmetric":
        return half + n / 2 * (1 - out / width)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return half
    raise Skip(f"the coordinates of {mode}")


def _kernel(kind: str, distance: Any, a: float) -> Any:
    d = np.abs(distance)
    if kind == "linear":
        return np.clip(1 - d, 0, None)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _nearest(x: Any, how: str) -> Any:
    if how == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if how == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.floor(x) if how == "floor" else np.ceil(x)


def matrix(x: Any, n: int, kind: str, scale: float, a: float, outside: bool, antialias: bool, nearest: str) -> Any:
    """M of shape (outputs, n); cells beyond an edge count for the edge, or, with exclude_outside, not at all."""
    result = np.zeros((len(x), n))
    if kind == "nearest":
        result[np.arange(len(x)), np.clip(_nearest(x, nearest), 0, n - 1).astype(int)] = 1
        return result
    shrink = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if kind == "linear" else 2) / shrink) + 1
    for row, place in enumerate(x):
        cells = math.floor(place) + np.arange(-reach, reach + 1)
        weights = _kernel(kind, (cells - place) * shrink, a)
        if outside:
            weights = np.where((cells >= 0) & (cells < n), weights, 0)
        if outside or antialias:
            weights = weights / weights.sum()
        np.add.at(result[row], np.clip(cells, 0, n - 1), weights)
    return result


def resize(site: Site) -> Value:
    op, x, rank = site.op, site[0], site.rank()
    if site.opset < 11:
        raise Skip("of an opset below 11")
    kind, mode = site.attr("mode", "nearest"), site.attr("coordinate_transformation_mode", "half_pixel")
    antialias, policy = bool(site.attr("antialias", 0)), site.attr("keep_aspect_ratio_policy", "stretch")
    outside, a = bool(site.attr("exclude_outside", 0)), float(site.attr("cubic_coeff_a", -0.75))
    axes = [axis % rank for axis in site.node.attrs.get("axes", range(rank))]
    shape = x.shape or ()
    by_scales = site.input(2) is not None and (site[2].size or 0) > 0
    if not by_scales and site.input(3) is None:
        raise Skip("neither scales nor sizes are given")
    given = site.const(2 if by_scales else 3)
    if _is_taken(site, kind, mode, antialias, policy, outside, a, by_scales, given):
        raise Skip("TensorRT resizes so itself")
    if not dtypes.is_float(site.dtype()) and kind != "nearest":
        raise Skip("not of floats")
    roi = (
        site.const(1).astype(float).tolist() if mode == "tf_crop_and_resize" else [0.0] * len(axes) + [1.0] * len(axes)
    )
    plan = _plan(axes, shape, given, by_scales, policy)
    extrapolated = float(site.attr("extrapolation_value", 0.0))
    masks: list[tuple[int, Any]] = []
    for place, (axis, n, out, scale) in enumerate(plan):
        if out == n and scale == 1 and mode != "tf_crop_and_resize":
            continue
        where = origins(mode, n, out, scale, (roi[place], roi[place + len(axes)]))
        if mode == "tf_crop_and_resize":
            masks.append((axis, (where >= 0) & (where <= n - 1)))
        weights = matrix(where, n, kind, scale, a, outside, antialias, site.attr("nearest_mode", "round_prefer_floor"))
        if kind == "nearest":
            x = op.Gather(x, weights.argmax(1).astype(np.int64), axis=axis)
            continue
        order = [i for i in range(rank) if i != axis] + [axis]
        back = np.argsort(order).tolist()
        wide = op.MatMul(op.Transpose(x, perm=order), weights.T.astype(site.dtype()))
        x = op.Transpose(wide, perm=back)
    for axis, mask in masks:
        if not mask.all():
            along = mask.reshape([-1 if i == axis else 1 for i in range(rank)])
            x = op.Where(along, x, np.asarray(extrapolated, site.dtype()))
    return x


def _plan(axes: list[int], shape: Any, given: Any, by_scales: bool, policy: str) -> list[tuple[int, int, int, float]]:
    """(axis, inputs, outputs, scale) for each axis."""
    values = given.reshape(-1).tolist()
    sizes = [shape[axis] for axis in axes]
    if by_scales:
        if any(not isinstance(n, int) and s != 1 for n, s in zip(sizes, values, strict=True)):
            raise Skip("a dimension that changes is dynamic")
        pairs = [(a, n, s) for a, n, s in zip(axes, sizes, values, strict=True) if isinstance(n, int)]
        return [(axis, n, math.floor(n * scale), float(scale)) for axis, n, scale in pairs]
    if not all(isinstance(n, int) for n in sizes):
        raise Skip("a dimension that changes is dynamic")
    scales = [size / n for size, n in zip(values, sizes, strict=True)]
    if policy != "stretch":
        one = min(scales) if policy == "not_larger" else max(scales)
        return [(a, n, math.floor(one * n + 0.5), one) for a, n in zip(axes, sizes, strict=True)]
    return [(a, n, int(v), s) for a, n, v, s in zip(axes, sizes, values, scales, strict=True)]


def _is_taken(
    site: Site, kind: str, mode: str, antialias: bool, policy: str, outside: bool, a: float, by_scales: bool, given: Any
) -> bool:
    if antialias or policy != "stretch" or mode not in _NATIVE or (outside and kind != "cubic"):
        return False
    if mode == "align_corners" and by_scales and kind != "nearest" and not _whole(site, given):
        return False
    if kind == "cubic":
        return site.rank() == 4 and not outside and dtypes.is_float(site.dtype())
    return dtypes.is_float(site.dtype())


def _whole(site: Site, scales: Any) -> bool:
    """Whether scales give whole sizes: with align_corners coordinates depend on the product before it is rounded."""
    shape = site[0].shape or ()
    return all(
        isinstance(n, int) and float(n * s).is_integer() for n, s in zip(shape, scales.reshape(-1), strict=False)
    )


@graphopt.pass_("legalize", ops=("Resize",))
def spell_resizes(graph: gs.Graph, target: Target, model: Model) -> int:
    """Resize = a matrix product or a Gather an axis, for the modes that TensorRT does not have.

    Accuracy: sums of products in float32, TF32 on the GPU; nearest is exact.
    """
    return rewrite(model, target, {"Resize": resize}, "spell-resizes")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_resizes]
