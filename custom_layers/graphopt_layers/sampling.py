"""Values taken at places between the elements, and windows put back into an image."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks, vector

THREADS = 256
MOST = 65535
"""Blocks along the second axis of a grid."""


def _grid(count: int) -> tuple[int]:
    return (min(blocks(count, THREADS), 1 << 20),)


SAMPLE = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// MODE 0: zeros, 1: border, 2: reflection.
template <int MODE> __device__ __forceinline__ float inside(float at, int n, bool corners) {
    if constexpr (MODE == 1) return fminf(fmaxf(at, 0.0f), float(n - 1));
    if constexpr (MODE == 2) {
        const float low = corners ? 0.0f : -0.5f, span = corners ? float(n - 1) : float(n);
        if (span <= 0.0f) return 0.0f;
        const float from = fabsf(at - low), turn = floorf(from / span), rest = from - turn * span;
        const float back = fmodf(turn, 2.0f) == 0.0f ? rest : span - rest;
        return fminf(fmaxf(back + low, 0.0f), float(n - 1));
    }
    return at;
}

// x: (batch, channels, D, H, W); grid: (batch, places, 3), of W, H, D in -1 .. 1; y: (batch, channels, places).
template <class T, int MODE>
__global__ void sample(const T* x, const T* grid, T* y, i64 count, int channels, i64 places, int d, int h, int w,
                       bool corners) {
    const i64 plane = i64(h) * w, volume = plane * d;
    for (i64 at = thread(); at < count; at += threads()) {
        const i64 batch = at / places, place = at - batch * places;
        const T* where = grid + at * 3;
        const int n[3] = {w, h, d};
        int low[3];
        float part[3];
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const float g = to_float(where[k]);
            const float real = corners ? (g + 1) * 0.5f * (n[k] - 1) : ((g + 1) * n[k] - 1) * 0.5f;
            // beyond twice the size everything is zero, and an int would overflow
            const float to = fminf(fmaxf(inside<MODE>(real, n[k], corners), -2.0f), float(n[k]) + 1.0f);
            const float base = floorf(to);
            low[k] = int(base);
            part[k] = to - base;
        }
        for (int c = 0; c < channels; c++) {
            const T* from = x + (batch * channels + c) * volume;
            float sum = 0;
#pragma unroll
            for (int corner = 0; corner < 8; corner++) {
                float weight = 1;
                bool in = true;
                int place3[3];
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    const int up = corner >> k & 1;
                    place3[k] = low[k] + up;
                    weight *= up ? part[k] : 1 - part[k];
                    in = in && place3[k] >= 0 && place3[k] < n[k];
                }
                if (in) sum += weight * to_float(from[place3[2] * plane + i64(place3[1]) * w + place3[0]]);
            }
            y[(batch * channels + c) * places + place] = from_float<T>(sum);
        }
    }
}
""",
    "sample",
)
MODES = {"zeros": 0, "border": 1, "reflection": 2}


class FusedGridSample3D(graphopt.Layer):
    """y[b, c, p] = x[b, c] at the place grid[b, p], trilinear.

    x: (batch, channels, D, H, W); grid: (batch, d, h, w, 3), in -1 .. 1, finite; y: (batch, channels, d, h, w).
    padding_mode: "zeros", "border" or "reflection"; align_corners: 0 or 1. Accumulates in float32.
    Source: ONNX GridSample (opset 20), volumes; torch.nn.functional.grid_sample.
    """

    padding_mode: str = "zeros"
    align_corners: int = 0
    portable = False
    cases = (
        {"x": (2, 3, 4, 5, 6), "grid": (2, 3, 4, 5, 3)},
        {"x": (1, 2, 3, 4, 5), "grid": (1, 2, 7, 3, 3), "padding_mode": "border"},
        {"x": (1, 2, 3, 4, 5), "grid": (1, 2, 7, 3, 3), "padding_mode": "reflection", "align_corners": 1},
        {"x": (1, 2, 1, 4, 5), "grid": (1, 1, 7, 3, 3), "align_corners": 1},
    )

    def body(self, op: Any, x: Any, grid: Any) -> Any:
        return op.GridSample(x, grid, mode="linear", padding_mode=self.padding_mode, align_corners=self.align_corners)

    def check(self, x: Any, grid: Any) -> str | None:
        if x.rank != 5 or grid.rank != 5:
            return "on images TensorRT has the operator"
        if self.padding_mode not in MODES:
            return "there is no such padding mode"
        return None if x.shape[0] == grid.shape[0] else "the batches are not proved to be equal"

    def infer(self, x: Any, grid: Any) -> Any:
        return graphopt.tensor(x.dtype, (*x.shape[:2], *grid.shape[1:4]))

    def enqueue(self, x: Any, grid: Any, y: Any) -> None:
        batch, channels, *sizes = x.shape
        places = int(np.prod(grid.shape[1:4]))
        arguments = (x, grid, y, batch * places, channels, places, *sizes, bool(self.align_corners))
        SAMPLE[x.dtype, MODES[self.padding_mode]](_grid(batch * places), (THREADS,), arguments)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """Places on a grid of eighths: near a border, a rounded place must not fall on its other side."""
        return rng.integers(-10, 11, shape) / 8 if name == "grid" else None


UNPOOL = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

template <class T, int WIDTH> __global__ void clear(T* y, i64 count) {
    Vector<T, WIDTH> zeros;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) zeros[k] = from_float<T>(0.0f);
    for (i64 at = thread(); at < count / WIDTH; at += threads()) store<WIDTH>(y + at * WIDTH, zeros);
}
template <class T, int WIDTH> __global__ void unpool(const T* x, const i64* indices, T* y, i64 count, i64 most) {
    for (i64 at = thread(); at < count / WIDTH; at += threads()) {
        const auto to = load<WIDTH>(indices + at * WIDTH);
        const auto v = load<WIDTH>(x + at * WIDTH);
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            if (to[k] >= 0 && to[k] < most) y[to[k]] = v[k];
    }
}
""",
    "unpool",
)
CLEAR = graphopt.Kernel(UNPOOL.source, "clear")


class FusedMaxUnpool(graphopt.Layer):
    """y = 0; y.flat[indices] = x: a max pool undone.

    x, indices (int64, into the whole of y): (batch, channels, h, w); y: size = (n - 1) * stride + kernel - pads of each
    of the two axes. Where places are named twice, one of the values stays. Source: ONNX MaxUnpool (opset 9, 11).
    """

    kernel_shape: tuple[int, ...] = (2, 2)
    strides: tuple[int, ...] = (2, 2)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    types = {"indices": "int64"}
    portable = False
    cases = (
        {"x": (2, 3, 4, 5), "indices": (2, 3, 4, 5)},
        {"x": (1, 2, 3, 3), "indices": (1, 2, 3, 3), "kernel_shape": (3, 3)},
        {"x": (1, 1, 64, 33), "indices": (1, 1, 64, 33)},
        {"x": (0, 3, 4, 5), "indices": (0, 3, 4, 5)},
    )

    def body(self, op: Any, x: Any, indices: Any) -> Any:
        return op.MaxUnpool(x, indices, kernel_shape=self.kernel_shape, strides=self.strides, pads=self.pads)

    def check(self, x: Any, indices: Any) -> str | None:
        if x.rank != 4 or len(self.kernel_shape) != 2 or len(self.strides) != 2 or len(self.pads) != 4:
            return "it is not over two axes"
        return None if list(x.shape) == list(indices.shape) else "x and indices are not proved to be alike"

    def infer(self, x: Any, indices: Any) -> Any:
        sizes = [
            (x.shape[2 + axis] - 1) * self.strides[axis]
            + self.kernel_shape[axis] - self.pads[axis] - self.pads[2 + axis]
            for axis in range(2)
        ]  # fmt: skip
        return graphopt.tensor(x.dtype, (*x.shape[:2], *sizes))

    def enqueue(self, x: Any, indices: Any, y: Any) -> None:
        width = vector(y)
        CLEAR[y.dtype, width](_grid(y.size // width), (THREADS,), (y, y.size))
        width = vector(x, indices)
        UNPOOL[x.dtype, width](_grid(x.size // width), (THREADS,), (x, indices, y, x.size, y.size))

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        if name != "indices":
            return None
        made = self.infer(graphopt.tensor("float32", shape), None)
        return rng.permutation(int(made.size))[: int(np.prod(shape))].reshape(shape)


COL2IM = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// x: (images, KH * KW, lh * lw) -> y: (images, h, w), strides S and dilations D; a thread gathers one element.
template <class T, int KH, int KW, int SH, int SW, int DH, int DW>
__global__ void col2im(const T* x, T* y, int images, int h, int w, int lh, int lw, int ph, int pw) {
    const int plane = h * w, windows = lh * lw, at = int(thread());
    if (at >= plane) return;
    const int row = at / w, column = at - row * w;
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const T* from = x + i64(image) * (KH * KW) * windows;
        float sum = 0;
#pragma unroll KH * KW <= 64 ? KH : 1
        for (int i = 0; i < KH; i++) {
            const int top = row + ph - i * DH, r = top / SH;
            const bool in = top >= 0 && top % SH == 0 && r < lh;
#pragma unroll KH * KW <= 64 ? KW : 1
            for (int j = 0; j < KW; j++) {
                const int left = column + pw - j * DW, c = left / SW;
                if (in && left >= 0 && left % SW == 0 && c < lw)
                    sum += to_float(from[i64(i * KW + j) * windows + r * lw + c]);
            }
        }
        y[i64(image) * plane + at] = from_float<T>(sum);
    }
}
""",
    "col2im",
)


class FusedCol2Im(graphopt.Layer):
    """y[b, c, r, s] = the sum of x[b, (c, i, j), (p, q)] over all windows (p, q) and places (i, j) in them there.

    x: (batch, channels * kh * kw, windows); y: (batch, channels, h, w). image_shape: (h, w); block_shape: (kh, kw).
    Accumulates in float32, in a fixed order. Source: ONNX Col2Im (opset 18), images; torch.nn.Fold.
    """

    image_shape: tuple[int, ...] = (5, 5)
    block_shape: tuple[int, ...] = (2, 2)
    dilations: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    strides: tuple[int, ...] = (1, 1)
    portable = False
    cases = (
        {"x": (2, 12, 16)},
        {"x": (1, 9, 4), "block_shape": (3, 3), "strides": (2, 2)},
        {"x": (2, 8, 36), "pads": (1, 1, 0, 0), "image_shape": (6, 6)},
        {"x": (1, 4, 9), "dilations": (2, 2)},
    )

    def body(self, op: Any, x: Any) -> Any:
        return op.Col2Im(
            x, self.image_shape, self.block_shape, dilations=self.dilations, pads=self.pads, strides=self.strides
        )

    def _windows(self) -> list[int]:
        return [
            (self.image_shape[k] + self.pads[k] + self.pads[2 + k] - self.dilations[k] * (self.block_shape[k] - 1) - 1)
            // self.strides[k] + 1
            for k in range(2)
        ]  # fmt: skip

    def check(self, x: Any) -> str | None:
        wanted = {"image_shape": 2, "block_shape": 2, "dilations": 2, "strides": 2, "pads": 4}
        if any(len(getattr(self, name)) != count for name, count in wanted.items()) or x.rank != 3:
            return "it is not of images"
        if min(*self.image_shape, *self.block_shape, *self.dilations, *self.strides) < 1 or min(self.pads) < 0:
            return "a size is not positive"
        columns, windows = x.shape[1:]
        if not isinstance(columns, int) or columns % int(np.prod(self.block_shape)):
            return "the second axis is not proved to be whole windows"
        return None if windows == int(np.prod(self._windows())) else "the windows are not proved to cover the image"

    def infer(self, x: Any) -> Any:
        return graphopt.tensor(x.dtype, (x.shape[0], x.shape[1] // int(np.prod(self.block_shape)), *self.image_shape))

    def enqueue(self, x: Any, y: Any) -> None:
        plane = int(np.prod(self.image_shape))
        images = y.size // plane
        template = (x.dtype, *self.block_shape, *self.strides, *self.dilations)
        arguments = (x, y, images, *self.image_shape, *self._windows(), *self.pads[:2])
        COL2IM[template]((blocks(plane, THREADS), min(images, MOST)), (THREADS,), arguments)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedGridSample3D, FusedMaxUnpool, FusedCol2Im]
