"""Linear maps and products that TensorRT has no operator for, as matrix products, convolutions and slices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite

_MOST = 1 << 22
"""Elements of a matrix that is made for one node."""


def _float(site: Site) -> np.dtype[Any]:
    dtype = site.dtype()
    if not dtypes.is_float(dtype):
        raise Skip(f"of {dtypes.name(dtype)}")
    return dtype


def cum_prod(site: Site) -> Value:
    """p[i] = x[0] * ... * x[i] in log2(n) steps: p = p * (p shifted by 1, 2, 4, ... with ones in front)."""
    op, x = site.op, site[0]
    axis = shapes.axis(int(site.const(1).reshape(())), site.rank())
    size = (x.shape or ())[axis]
    if not isinstance(size, int):
        raise Skip("the axis has a dynamic dimension")
    reverse, exclusive = int(site.attr("reverse", 0)), int(site.attr("exclusive", 0))
    first = op.Slice(x, [0], [1], [axis])
    one = np.asarray(1, x.dtype)

    def shifted(value: Value, by: int) -> Value:
        ones = op.Expand(one, op.Shape(first))
        fill = op.Concat(*[ones] * by, axis=axis) if by > 1 else ones
        kept = op.Slice(value, [by], [size], [axis]) if reverse else op.Slice(value, [0], [size - by], [axis])
        made: Value = op.Concat(kept, fill, axis=axis) if reverse else op.Concat(fill, kept, axis=axis)
        return made

    result, step = shifted(x, 1) if exclusive else x, 1
    while step < size:
        result = op.Mul(result, shifted(result, step))
        step *= 2
    return result


def _parts(site: Site, x: Value, axis: int) -> tuple[Value, Value | None]:
    """Real and imaginary part of (..., 1 or 2), with `axis` moved to the end."""
    op, rank = site.op, x.rank
    assert rank is not None
    last = (x.shape or ())[-1]
    if last not in (1, 2):
        raise Skip("whether it is complex is not known")
    order = [i for i in range(rank - 1) if i != axis] + [axis]
    parts = [op.Transpose(op.Gather(x, np.asarray(i, np.int64), axis=-1), perm=order) for i in range(int(last))]
    return parts[0], parts[1] if last == 2 else None


def _transform(site: Site, real: Value, imag: Value | None, size: int, length: int, count: int, inverse: bool) -> Any:
    """X[k] = sum over t < min(size, length) of x[t] e^(-2 pi i k t / length), k < count; conjugate, / length back."""
    if size * count > _MOST:
        raise Skip(f"a matrix of {size} x {count} would be too large: a custom layer is the way")
    t = np.arange(size)[:, None]
    angle = 2 * np.pi * (t * np.arange(count)[None, :] % length) / length * (1 if inverse else -1)
    used = (t < length) / (length if inverse else 1)
    kind = site.dtype()
    c, s = (np.cos(angle) * used).astype(kind), (np.sin(angle) * used).astype(kind)
    op = site.op
    if imag is None:
        return op.MatMul(real, c), op.MatMul(real, s)
    return (op.Sub(op.MatMul(real, c), op.MatMul(imag, s)), op.Add(op.MatMul(real, s), op.MatMul(imag, c)))


def _real_inverse(site: Site, real: Value, imag: Value | None, size: int, length: int) -> Any:
    """x[t] = sum over k <= length / 2 of w[k] (Re X[k] cos - Im X[k] sin)(2 pi k t / length) / length."""
    if imag is None or size * length > _MOST:
        raise Skip("a one-sided inverse of real numbers, or a matrix that would be too large")
    k = np.arange(size)[:, None]
    twice = np.where((k == 0) | (2 * k == length), 1, 2) * (2 * k <= length) / length
    angle = 2 * np.pi * (k * np.arange(length)[None, :] % length) / length
    c, s = ((part * twice).astype(site.dtype()) for part in (np.cos(angle), np.sin(angle)))
    return site.op.Sub(site.op.MatMul(real, c), site.op.MatMul(imag, s))


def dft(site: Site) -> Value:
    """Matrix products with cosines and sines; the sums are exact sums of the definition, in another order."""
    op, x, rank = site.op, site[0], site.rank()
    _float(site)
    if site.opset >= 20:
        axis = int(site.const(2).reshape(())) if site.input(2) is not None else -2
    else:
        axis = int(site.attr("axis", 1))
    axis = shapes.axis(axis, rank)
    size = (x.shape or ())[axis]
    if not isinstance(size, int):
        raise Skip("the axis has a dynamic dimension")
    length = int(site.const(1).reshape(())) if site.input(1) is not None else size
    inverse, onesided = bool(site.attr("inverse", 0)), bool(site.attr("onesided", 0))
    real, imag = _parts(site, x, axis)
    if inverse and onesided:
        length = int(site.const(1).reshape(())) if site.input(1) is not None else 2 * (size - 1)
        found: Any = (_real_inverse(site, real, imag, size, length),)
        order = [*range(axis), rank - 2, *range(axis, rank - 2)]
        return op.Unsqueeze(op.Transpose(found[0], perm=order), [-1])  # type: ignore[no-any-return]
    found = _transform(site, real, imag, size, length, length // 2 + 1 if onesided else length, inverse)
    order = [*range(axis), rank - 2, *range(axis, rank - 2)]
    return op.Concat(*(op.Unsqueeze(op.Transpose(part, perm=order), [-1]) for part in found), axis=-1)  # type: ignore[no-any-return]


def stft(site: Site) -> Value:
    """Frames by Gather, times the window, times the matrix of the transform: for windows that are computed."""
    op, x = site.op, site[0]
    _float(site)
    window = site.input(2)
    if window is None or window.is_const:
        raise Skip("STFT with a constant window is taken as it is")
    dims = site.dims()
    step = int(site.const(1).reshape(()))
    shape = window.shape or (None,)
    size = int(site.const(3).reshape(())) if site.input(3) is not None else shape[0]
    if not isinstance(size, int) or not step:
        raise Skip("the frame length is dynamic")
    count = 1 + (dims[1] - size) // step
    places = np.arange(count)[:, None] * step + np.arange(size)[None, :]
    real, imag = _parts(site, op.Unsqueeze(x, [2]) if len(dims) == 2 else x, 1)  # each (batch, samples)
    frames: list[Any] = [
        op.Mul(op.Gather(part, places, axis=1), window) if part is not None else None for part in (real, imag)
    ]
    bins = size // 2 + 1 if site.attr("onesided", 1) else size
    told = shapes.of(site.node.outputs[0])
    if told is not None and len(told) == 4 and told[2] not in (bins, None) and isinstance(told[2], int):
        raise Skip(f"its result is declared with {told[2]} frequencies, not {bins}")
    found = _transform(site, frames[0], frames[1], size, size, bins, False)
    return op.Concat(*(op.Unsqueeze(part, [-1]) for part in found), axis=-1)  # type: ignore[no-any-return]


def det(site: Site) -> Value:
    """det(a) = sum over j of (-1)**j a[0, j] det(a without row 0 and column j), for at most 4 x 4."""
    op, x = site.op, site[0]
    size = (x.shape or (None,))[-1]
    if not isinstance(size, int) or size > 4:
        raise Skip("determinants beyond 4 x 4 are not spelled out")
    rows = [op.Gather(x, np.asarray(i, np.int64), axis=-2) for i in range(size)]
    cells = [[op.Gather(row, np.asarray(j, np.int64), axis=-1) for j in range(size)] for row in rows]

    def minor(row: int, columns: tuple[int, ...]) -> Value:
        if len(columns) == 1:
            return cells[row][columns[0]]  # type: ignore[no-any-return]
        total: Any = None
        for number, column in enumerate(columns):
            term = op.Mul(cells[row][column], minor(row + 1, columns[:number] + columns[number + 1 :]))
            total = term if total is None else (op.Sub if number % 2 else op.Add)(total, term)
        return total  # type: ignore[no-any-return]

    return minor(0, tuple(range(size)))


def col2im(site: Site) -> Value:
    """ConvTranspose of the columns, as channels of a grid of blocks, by the identity: each adds where it came from."""
    op, x = site.op, site[0]
    _float(site)
    image, block = (site.const(slot).astype(int).tolist() for slot in (1, 2))
    spatial, kernel = len(image), math.prod(block)
    strides = list(site.attr("strides") or [1] * spatial)
    dilations = list(site.attr("dilations") or [1] * spatial)
    pads = list(site.attr("pads") or [0] * 2 * spatial)
    grid, extra = [], []
    for i in range(spatial):
        reach = image[i] + pads[i] + pads[i + spatial] - dilations[i] * (block[i] - 1) - 1
        grid.append(reach // strides[i] + 1)
        extra.append(reach % strides[i])
    width = (x.shape or (None, None))[1]
    if not isinstance(width, int):
        raise Skip("the number of channels is dynamic")
    cells = op.Reshape(x, [-1, kernel, *grid])
    weight = np.eye(kernel, dtype=x.dtype).reshape(kernel, 1, *block)
    made = op.ConvTranspose(cells, weight, strides=strides, dilations=dilations, pads=pads, output_padding=extra)
    return op.Reshape(made, [-1, width // kernel, *image])  # type: ignore[no-any-return]


def affine_grid(site: Site) -> Value:
    """grid[n, y, x] = theta[n] (x, y, 1), over the centres or corners of the cells of [-1, 1]."""
    op, size = site.op, site.const(1).astype(int).tolist()
    spatial = size[2:]
    axes = []
    for count in spatial:
        if site.attr("align_corners", 0):
            axes.append(np.linspace(-1, 1, count) if count > 1 else np.zeros(1))
        else:
            axes.append((2 * np.arange(count) + 1) / count - 1)
    places = np.meshgrid(*axes, indexing="ij")[::-1]
    base = np.stack([*(place.reshape(-1) for place in places), np.ones(math.prod(spatial))], -1)
    found = op.MatMul(base.astype(site.dtype())[None], op.Transpose(site[0], perm=[0, 2, 1]))
    return op.Reshape(found, [size[0], *spatial, len(spatial)])  # type: ignore[no-any-return]


def matmul_vector(site: Site) -> Value:
    """a @ B = squeeze((1, a) @ B), for a vector and a stack of matrices; TensorRT takes only ranks that go together."""
    op, left, right = site.op, site.rank(0), site.rank(1)
    if left == 1 and right > 2:
        return op.Squeeze(op.MatMul(op.Unsqueeze(site[0], [0]), site[1]), [-2])  # type: ignore[no-any-return]
    if right == 1 and left > 2:
        return op.Squeeze(op.MatMul(site[0], op.Unsqueeze(site[1], [1])), [-1])  # type: ignore[no-any-return]
    raise Skip("TensorRT multiplies these as they are")


HANDLERS = {
    "CumProd": cum_prod,
    "DFT": dft,
    "STFT": stft,
    "Det": det,
    "Col2Im": col2im,
    "AffineGrid": affine_grid,
    "MatMul": matmul_vector,
}


@graphopt.pass_("legalize", before=["expand-functions"], ops=tuple(HANDLERS))
def spell_linear(graph: gs.Graph, target: Target, model: Model) -> int:
    """DFT, STFT, CumProd, Det, Col2Im, AffineGrid = matrix products, convolutions and slices, for TensorRT only.

    The dimensions along which they work must be static.

    Accuracy: sums of products in float32, TF32 on the GPU; infinity times a zero of the matrix is NaN.
    """
    return rewrite(model, target, HANDLERS, "spell-linear")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_linear]
