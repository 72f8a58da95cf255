"""Convolutions, pooling, resizing: channels last there, channels first here."""

from __future__ import annotations

import numpy as np

from .handlers import activated, handles, known, operands
from .reader import Operator
from .scope import Scope

SAME = 0
_Pair = tuple[int, int]


def _pads(scope: Scope, operator: Operator, kernel: _Pair, strides: _Pair, dilations: _Pair) -> dict[str, object]:
    """total = max((ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0), the less first."""
    if operator.option("Padding") != SAME:
        return {}
    begin, end = [], []
    for size, k, stride, dilation in zip(
        scope.tensor(operator.inputs[0]).dims[1:3], kernel, strides, dilations, strict=True
    ):
        reach = (k - 1) * dilation + 1
        if size < 0 and stride != 1:
            return {"auto_pad": "SAME_UPPER"}
        total = reach - 1 if stride == 1 else max((-(-size // stride) - 1) * stride + reach - size, 0)
        begin.append(total // 2)
        end.append(total - total // 2)
    return {"pads": begin + end} if any(begin + end) else {}


def _pair(operator: Operator, names: tuple[str, str], default: int = 1) -> tuple[int, int]:
    return int(operator.option(names[0], default)), int(operator.option(names[1], default))


@handles("CONV_2D", "DEPTHWISE_CONV_2D")
def convolution(scope: Scope, operator: Operator) -> None:
    """Weights (out, h, w, in / groups), of a depthwise one (1, h, w, out), become (out, in / groups, h, w)."""
    x, w = operator.inputs[:2]
    dims = scope.tensor(w).dims
    channels = scope.tensor(x).dims[3]
    if operator.op == "CONV_2D":
        weight, group = scope.weight(w, 0, 3, 1, 2), channels // dims[3] if dims[3] else 1
    else:
        weight, group = scope.weight(w, 3, 0, 1, 2), channels
    strides, dilations = (
        _pair(operator, ("StrideH", "StrideW")),
        _pair(operator, ("DilationHFactor", "DilationWFactor")),
    )
    kernel = (dims[1], dims[2])
    bias = scope.real(operator.inputs[2]) if len(operator.inputs) > 2 else ""
    made = scope.build(
        "Conv",
        scope.first(x),
        weight,
        bias,
        kernel_shape=list(kernel),
        strides=list(strides),
        dilations=list(dilations),
        group=group,
        **_pads(scope, operator, kernel, strides, dilations),
    )
    scope.put(operator.outputs[0], activated(scope, operator, made), True)


@handles("TRANSPOSE_CONV")
def transposed_convolution(scope: Scope, operator: Operator) -> None:
    """out = (in - 1) * stride + kernel - pads + output_padding, `out` as asked for, or in * stride for SAME."""
    shape, w, x = operator.inputs[:3]
    wanted = scope.const(shape)
    dims = scope.tensor(w).dims
    strides = _pair(operator, ("StrideH", "StrideW"))
    begin, end, extra = [], [], []
    for axis, (k, stride) in enumerate(zip(dims[1:3], strides, strict=True), 1):
        size = scope.tensor(x).dims[axis]
        out = scope.tensor(operator.outputs[0]).dims[axis] if wanted is None else int(wanted[axis])
        if size < 0 or out < 0:
            size, out = 1, stride if operator.option("Padding") == SAME else stride + max(k - stride, 0)
        total = (size - 1) * stride + k - out
        begin.append(max(total, 0) // 2)
        end.append(max(total, 0) - max(total, 0) // 2)
        extra.append(max(-total, 0))
        if extra[-1] >= max(stride, 1) and extra[-1] > 0:
            raise scope.error(operator, f"its output is {extra[-1]} larger than its input reaches")
    bias = scope.real(operator.inputs[3]) if len(operator.inputs) > 3 else ""
    made = scope.build(
        "ConvTranspose",
        scope.first(x),
        scope.weight(w, 3, 0, 1, 2),
        bias,
        kernel_shape=[dims[1], dims[2]],
        strides=list(strides),
        pads=begin + end,
        output_padding=extra if any(extra) else None,
    )
    scope.put(operator.outputs[0], activated(scope, operator, made), True)


@handles("CONV_3D")
def convolution_3d(scope: Scope, operator: Operator) -> None:
    """Weights (d, h, w, in, out); explicit SAME padding needs known sizes."""
    x, w = operator.inputs[:2]
    dims = scope.tensor(w).dims
    strides = [int(operator.option(name, 1)) for name in ("StrideD", "StrideH", "StrideW")]
    dilations = [int(operator.option(name, 1)) for name in ("DilationDFactor", "DilationHFactor", "DilationWFactor")]
    build = scope.build
    made = build(
        "Conv",
        build.transpose(scope.real(x), 0, 4, 1, 2, 3),
        scope.weight(w, 4, 3, 0, 1, 2),
        scope.real(operator.inputs[2]) if len(operator.inputs) > 2 else "",
        strides=strides,
        dilations=dilations,
        kernel_shape=list(dims[:3]),
        auto_pad="SAME_UPPER" if operator.option("Padding") == SAME else None,
    )
    scope.put(operator.outputs[0], build.transpose(activated(scope, operator, made), 0, 2, 3, 4, 1))


@handles("AVERAGE_POOL_2D", "MAX_POOL_2D")
def pooling(scope: Scope, operator: Operator) -> None:
    """Averages leave padding out of the count."""
    kernel, strides = _pair(operator, ("FilterHeight", "FilterWidth")), _pair(operator, ("StrideH", "StrideW"))
    made = scope.build(
        "AveragePool" if operator.op == "AVERAGE_POOL_2D" else "MaxPool",
        scope.first(operator.inputs[0]),
        kernel_shape=list(kernel),
        strides=list(strides),
        **_pads(scope, operator, kernel, strides, (1, 1)),
    )
    scope.put(operator.outputs[0], activated(scope, operator, made), True)


@handles("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(scope: Scope, operator: Operator) -> None:
    """Coordinates: aligned corners, half pixels, or x * in / out; nearest rounds them down, or half up."""
    x = operator.inputs[0]
    size = known(scope, operator, 1, "size")
    corners, half = bool(operator.option("AlignCorners")), bool(operator.option("HalfPixelCenters"))
    where = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    linear = operator.op == "RESIZE_BILINEAR"
    n, h, w, c = scope.tensor(x).dims
    rounding = None if linear else "round_prefer_ceil" if corners or half else "floor"
    target = [int(size[0]), int(size[1])]
    if n > 0 and c > 0:
        sizing = {"inputs": ("", "", scope.build.ints(n, c, *target))}
    elif h > 0 and w > 0:
        scales = scope.build.const(np.array([1, 1, target[0] / h, target[1] / w], np.float32))
        sizing = {"inputs": ("", scales, "")}
    else:
        shape = scope.build("Shape", scope.first(x), start=0, end=2)
        sizing = {"inputs": ("", "", scope.build("Concat", shape, scope.build.ints(*target), axis=0))}
    made = scope.build(
        "Resize",
        scope.first(x),
        *sizing["inputs"],
        mode="linear" if linear else "nearest",
        coordinate_transformation_mode=where,
        nearest_mode=rounding,
    )
    scope.put(operator.outputs[0], made, True)


@handles("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")
def depth(scope: Scope, operator: Operator) -> None:
    """Channels last, the block's position is outside of the channel: DCR; SpaceToDepth of ONNX is ordered alike."""
    op = "SpaceToDepth" if operator.op == "SPACE_TO_DEPTH" else "DepthToSpace"
    made = scope.build(op, scope.first(operator.inputs[0]), blocksize=int(operator.option("BlockSize")))
    scope.put(operator.outputs[0], made, True)


@handles("LOCAL_RESPONSE_NORMALIZATION")
def lrn(scope: Scope, operator: Operator) -> None:
    """x / (bias + alpha * sum of squares)^beta over 2 * radius + 1 channels; ONNX divides alpha by their number."""
    size = 2 * int(operator.option("Radius")) + 1
    alpha, beta, bias = (float(operator.option(name)) for name in ("Alpha", "Beta", "Bias"))
    made = scope.build("LRN", scope.first(operator.inputs[0]), size=size, alpha=alpha * size, beta=beta, bias=bias)
    scope.put(operator.outputs[0], made, True)


@handles("L2_NORMALIZATION")
def l2_normalization(scope: Scope, operator: Operator) -> None:
    """x / sqrt(max(sum of squares of the last dimension, 1e-6))"""
    build = scope.build
    (x,), first = operands(scope, operator.inputs[:1])
    squares = build("ReduceSumSquare", x, build.ints(1 if first else -1), keepdims=1)
    root = build("Sqrt", build("Max", squares, build.float(1e-6)))
    scope.put(operator.outputs[0], activated(scope, operator, build("Div", x, root)), first)


@handles("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
def batches(scope: Scope, operator: Operator) -> None:
    """Blocks of the spatial dims move to the batch, or come back from it; both by reshaping and transposing.

    Of rank 4 with two blocked dims, or rank 3 with one; the block's position is outside of the batch.
    """
    build = scope.build
    x = operator.inputs[0]
    block = [int(v) for v in known(scope, operator, 1, "block shape")]
    edge = [[int(v) for v in row] for row in known(scope, operator, 2, "paddings")]
    dims, spatial = list(scope.tensor(x).dims), len(block)
    if any(d < 0 for d in dims[:-1]) or len(dims) != spatial + 2 or not 1 <= spatial <= 2:
        raise scope.error(operator, "it needs known sizes, and one or two spatial dims")
    value = scope.real(x)
    if operator.op == "SPACE_TO_BATCH_ND":
        pads = [0, *[e[0] for e in edge], 0, 0, *[e[1] for e in edge], 0]
        if any(pads):
            value = build("Pad", value, build.ints(*pads))
        sizes = [d + sum(e) for d, e in zip(dims[1:-1], edge, strict=True)]
        split = [n for s, b in zip(sizes, block, strict=True) for n in (s // b, b)]
        order = [*range(2, 2 + 2 * spatial, 2), 0, *range(1, 1 + 2 * spatial, 2), 1 + 2 * spatial]
        value = build.transpose(build.reshape(value, dims[0], *split, dims[-1]), *order)
        whole = [dims[0] * int(np.prod(block)), *[s // b for s, b in zip(sizes, block, strict=True)], dims[-1]]
        scope.put(operator.outputs[0], build.reshape(value, *whole))
        return
    batch = dims[0] // int(np.prod(block))
    value = build.reshape(value, *block, batch, *dims[1:])
    order = [spatial, *[n for s in range(spatial) for n in (spatial + 1 + s, s)], 2 * spatial + 1]
    value = build.reshape(
        build.transpose(value, *order), batch, *[d * b for d, b in zip(dims[1:-1], block, strict=True)], dims[-1]
    )
    if any(map(any, edge)):
        starts = [e[0] for e in edge]
        ends = [d * b - e[1] for d, b, e in zip(dims[1:-1], block, edge, strict=True)]
        value = build("Slice", value, build.ints(*starts), build.ints(*ends), build.ints(*range(1, spatial + 1)))
    scope.put(operator.outputs[0], value)
