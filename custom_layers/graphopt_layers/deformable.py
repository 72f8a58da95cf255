"""Attention that samples a few places of feature maps of several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks, vector

from .targets import gives

DEFORM = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// acc += weight * the WIDTH channels of a map at (row, column); nothing beyond its ends.
template <int WIDTH, class T>
__device__ __forceinline__ void add(Vector<float, WIDTH>& acc, const T* map, int row, int column, int height, int width,
                                    i64 pitch, float weight) {
    if (row < 0 || row >= height || column < 0 || column >= width) return;
    const Vector<float, WIDTH> v = floats(load<WIDTH>(map + (i64(row) * width + column) * pitch));
#pragma unroll
    for (int k = 0; k < WIDTH; k++) acc[k] += weight * v[k];
}

// The pixel left of x in -1 .. 1, and how far right of its middle x is: rounded once, however wide the map.
__device__ __forceinline__ int pixel(float x, int size, float& right) {
    const float half = 0.5f * size, middle = 0.5f * (size - 1);
    // beyond the ends everything is zero, and an int would overflow
    float left = floorf(fminf(fmaxf(fmaf(x, half, middle), -2.0f), size + 1.0f));
    right = fmaf(x, half, middle - left);
    if (right < 0.0f) left -= 1.0f, right += 1.0f;
    return int(left);
}

// value: (batch, total, heads, channels); places: (batch, queries, heads, LEVELS, points, 2) of x, y in -1 .. 1;
// weights: (batch, queries, heads, LEVELS, points); y: (batch, queries, heads, channels). A thread makes WIDTH of them.
template <class T, int WIDTH, int LEVELS>
__global__ void deform(const T* value, const T* places, const T* weights, T* y, i64 count, i64 queries, i64 total,
                       int heads, int channels, int points, int h0, int w0, int h1, int w1, int h2, int w2, int h3,
                       int w3) {
    const int heights[4] = {h0, h1, h2, h3}, widths[4] = {w0, w1, w2, w3};
    const int per_head = channels / WIDTH;
    const i64 pitch = i64(heads) * channels;
    for (i64 at = thread(); at < count; at += threads()) {
        const i64 site = at / per_head, row = site / heads, batch = row / queries;
        const int channel = int(at - site * per_head) * WIDTH, head = int(site - row * heads);
        const T* map = value + (batch * total * heads + head) * channels + channel;
        Vector<float, WIDTH> acc;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) acc[k] = 0.0f;
        i64 point = site * LEVELS * points;
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            const int height = heights[level], width = widths[level];
            for (int p = 0; p < points; p++, point++) {
                const Vector<T, 2> place = {places[2 * point], places[2 * point + 1]};
                const float weight = to_float(weights[point]);
                float right, bottom;
                const int column = pixel(to_float(place[0]), width, right);
                const int line = pixel(to_float(place[1]), height, bottom);
                add(acc, map, line, column, height, width, pitch, weight * (1 - bottom) * (1 - right));
                add(acc, map, line, column + 1, height, width, pitch, weight * (1 - bottom) * right);
                add(acc, map, line + 1, column, height, width, pitch, weight * bottom * (1 - right));
                add(acc, map, line + 1, column + 1, height, width, pitch, weight * bottom * right);
            }
            map += i64(height) * width * pitch;
        }
        store<WIDTH>(y + site * channels + channel, rounded<T>(acc));
    }
}
""",
    "deform",
)
THREADS = 256


class FusedDeformableAttention(graphopt.Layer):
    """y[b, q, h] = sum over levels l and points p of weights[b, q, h, l, p] * (map l of value[b, :, h] at places[...]).

    value: (batch, total, heads, channels), the maps after each other, total = sum of height * width; places: (batch,
    queries, heads, levels, points, 2), x and y in -1 .. 1, finite; weights: (batch, queries, heads, levels, points);
    y: (batch, queries, heads * channels); one dtype, all sizes known; bilinear, zero beyond the maps, corners not
    aligned; computed in float32. levels: 3 (RT-DETR) or 4 (Deformable-DETR). The tuples are the operands of Split and
    of the Reshapes around GridSample as the model holds them: `maps` (batch * heads, channels, height, width).
    Source: Zhu et al., "Deformable DETR", 2021, multi-scale deformable attention as its exports spell it.
    """

    levels: int = 3
    sizes: tuple[int, ...] = (20, 6, 2)
    rows0: tuple[int, ...] = (2, 20, 24)
    rows1: tuple[int, ...] = (2, 6, 24)
    rows2: tuple[int, ...] = (2, 2, 24)
    rows3: tuple[int, ...] = (2, 1, 24)
    maps0: tuple[int, ...] = (6, 8, 4, 5)
    maps1: tuple[int, ...] = (6, 8, 2, 3)
    maps2: tuple[int, ...] = (6, 8, 1, 2)
    maps3: tuple[int, ...] = (6, 8, 1, 1)
    sites: tuple[int, ...] = (6, 7, 4, 2)
    joined: tuple[int, ...] = (6, 8, 7, 12)
    spread: tuple[int, ...] = (6, 1, 7, 12)
    result: tuple[int, ...] = (2, 24, 7)
    allowzero: int = 0
    variants = ({"levels": 3}, {"levels": 4})
    cases = (
        {"value": (2, 28, 3, 8), "places": (2, 7, 3, 3, 4, 2), "weights": (2, 7, 3, 3, 4)},
        {
            "value": (2, 29, 3, 8), "places": (2, 7, 3, 4, 4, 2), "weights": (2, 7, 3, 4, 4), "levels": 4,
            "sizes": (20, 6, 2, 1), "joined": (6, 8, 7, -1), "spread": (6, 1, 7, 16), "sites": (-1, 7, 4, 2),
        },
        {
            "value": (1, 84, 2, 5), "places": (1, 33, 2, 3, 1, 2), "weights": (1, 33, 2, 3, 1), "sizes": (64, 16, 4),
            "rows0": (1, 64, -1), "rows1": (1, 16, -1), "rows2": (1, 4, -1), "maps0": (2, 5, 8, 8),
            "maps1": (2, 5, 4, 4), "maps2": (2, 5, 2, 2), "sites": (2, 33, 1, 2), "joined": (2, 5, 33, 3),
            "spread": (2, 1, 33, 3), "result": (1, 10, 33), "allowzero": 1,
        },
        {
            "value": (1, 8400, 8, 32), "places": (1, 300, 8, 3, 4, 2), "weights": (1, 300, 8, 3, 4),
            "sizes": (6400, 1600, 400), "rows0": (1, 6400, 256), "rows1": (1, 1600, 256), "rows2": (1, 400, 256),
            "maps0": (8, 32, 80, 80), "maps1": (8, 32, 40, 40), "maps2": (8, 32, 20, 20), "sites": (8, 300, 4, 2),
            "joined": (8, 32, 300, 12), "spread": (8, 1, 300, 12), "result": (1, 256, 300),
        },
    )  # fmt: skip

    def _of_levels(self, stem: str) -> list[Any]:
        return [getattr(self, f"{stem}{level}") for level in range(self.levels)]

    def body(self, op: Any, value: Any, places: Any, weights: Any) -> Any:
        return op.like(self._sum(op, op.float32(value), op.float32(places), op.float32(weights)), value)

    def narrow(self, op: Any, value: Any, places: Any, weights: Any) -> Any:
        """Every operator in the tensors' own dtype."""
        return self._sum(op, value, places, weights)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow]

    def _sum(self, op: Any, value: Any, places: Any, weights: Any) -> Any:
        def reshaped(x: Any, shape: Any) -> Any:
            return op.Reshape(x, shape, allowzero=self.allowzero)

        mode = "bilinear" if op.opset < 20 else "linear"
        parts = op.Split(value, self.sizes, axis=1, outputs=self.levels)
        taken = []
        for level, (part, rows, maps) in enumerate(
            zip(parts, self._of_levels("rows"), self._of_levels("maps"), strict=True)
        ):
            image = reshaped(op.Transpose(reshaped(part, rows), perm=[0, 2, 1]), maps)
            grid = reshaped(op.Transpose(op.Gather(places, level, axis=3), perm=[0, 2, 1, 3, 4]), self.sites)
            sample = op.GridSample(image, grid, mode=mode, padding_mode="zeros", align_corners=0)
            taken.append(op.Unsqueeze(sample, [-2]))
        joined = reshaped(op.Concat(*taken, axis=-2), self.joined)
        spread = reshaped(op.Transpose(weights, perm=[0, 2, 1, 3, 4]), self.spread)
        total = op.ReduceSum(joined * spread, [-1], keepdims=0)
        return op.Transpose(reshaped(total, self.result), perm=[0, 2, 1])

    def check(self, value: Any, places: Any, weights: Any) -> str | None:
        every = (*value.shape, *places.shape, *weights.shape)
        if not all(isinstance(size, int) and size > 0 for size in every):
            return "a size is not known, or nothing"
        if (value.rank, places.rank, weights.rank) != (4, 6, 5):
            return "these are not maps, places and weights"
        batch, total, heads, channels = value.shape
        queries, levels, points = weights.shape[1], weights.shape[3], weights.shape[4]
        both = batch * heads
        wanted = [
            (tuple(places.shape), (*weights.shape, 2)),
            (tuple(weights.shape[:4]), (batch, queries, heads, self.levels)),
            (self.sites, (both, queries, points, 2)),
            (self.joined, (both, channels, queries, levels * points)),
            (self.spread, (both, 1, queries, levels * points)),
            (self.result, (batch, heads * channels, queries)),
        ]
        if len(self.sizes) != self.levels or sum(self.sizes) != total:
            return "the maps do not make up the value"
        for size, rows, maps in zip(self.sizes, self._of_levels("rows"), self._of_levels("maps"), strict=True):
            if len(maps) != 4 or min(maps[2:]) < 1 or maps[2] * maps[3] != size:
                return "height and width of a map are not known"
            wanted += [(rows, (batch, size, heads * channels)), (maps, (both, channels, *maps[2:]))]
        return None if all(gives(got, want) for got, want in wanted) else "its shapes are those of something else"

    def infer(self, value: Any, places: Any, weights: Any) -> Any:
        return graphopt.tensor(value.dtype, (value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]))

    def enqueue(self, value: Any, places: Any, weights: Any, y: Any) -> None:
        _, total, heads, channels = value.shape
        queries, points = weights.shape[1], weights.shape[4]
        width = vector(value, y, columns=channels)
        count = y.size // width
        edges = [edge for maps in self._of_levels("maps") for edge in maps[2:]]
        sizes = (count, queries, total, heads, channels, points, *edges, *[0] * (8 - len(edges)))
        grid = (min(blocks(count, THREADS), 1 << 20),)
        DEFORM[value.dtype, width, self.levels](grid, (THREADS,), (value, places, weights, y, *sizes))

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        if name == "places":
            return rng.uniform(-1.2, 1.2, shape)
        return rng.random(shape) if name == "weights" else None


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedDeformableAttention]
