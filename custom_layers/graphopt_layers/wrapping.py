"""Padding that repeats the tensor itself."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.layers.launch import VECTOR_BYTES, blocks

PAD = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// MODE 0: wrap (period n), 1: reflect (the edge once), 2: edge.
template <int MODE> __device__ __forceinline__ int source(int at, int n) {
    if constexpr (MODE == 0) return at < 0 ? at + n : at >= n ? at - n : at;
    if constexpr (MODE == 1) return at < 0 ? -at : at >= n ? 2 * (n - 1) - at : at;
    return at < 0 ? 0 : at >= n ? n - 1 : at;
}

// Axes (a0, a1, a2, columns): n are the input's sizes, m the output's, p what is before. A thread writes WIDTH columns.
template <class T, int WIDTH, int MODE>
__global__ void pad(const T* x, T* y, i64 count, int n0, int n1, int n2, int n3, int m1, int m2, int m3,
                    int p0, int p1, int p2, int p3) {
    const unsigned per_row = (m3 + WIDTH - 1) / WIDTH;
    for (i64 at = thread(); at < count; at += threads()) {
        const i64 row = at / per_row;
        const int begin = int(at - row * per_row) * WIDTH;
        const i64 plane = row / m2, volume = plane / m1;
        const int i2 = source<MODE>(int(row - plane * m2) - p2, n2);
        const int i1 = source<MODE>(int(plane - volume * m1) - p1, n1);
        const int i0 = source<MODE>(int(volume) - p0, n0);
        const T* from = x + ((i64(i0) * n1 + i1) * n2 + i2) * n3;
        T* to = y + row * m3 + begin;
        const int shifted = begin - p3, many = min(WIDTH, m3 - begin);
        Vector<T, WIDTH> v;
        const bool inside = shifted >= 0 && shifted + WIDTH <= n3;
        if (inside && (reinterpret_cast<unsigned long long>(from + shifted) & (sizeof(T) * WIDTH - 1)) == 0) {
            v = load<WIDTH>(from + shifted);
        } else {
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (k < many) v[k] = from[inside ? shifted + k : source<MODE>(shifted + k, n3)];
        }
        if (many == WIDTH && (reinterpret_cast<unsigned long long>(to) & (sizeof(T) * WIDTH - 1)) == 0) {
            store<WIDTH>(to, v);
        } else {
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (k < many) to[k] = v[k];
        }
    }
}
""",
    "pad",
)
MODES = {"wrap": 0, "reflect": 1, "edge": 2}
THREADS = 256


class FusedPadRepeat(graphopt.Layer):
    """y = x with what is beyond its ends taken from x itself: around (wrap), mirrored (reflect), the end (edge).

    x: (a, b, c, d); y: each axis longer by its two pads; float32, float16, bfloat16, int32, int64.
    pads: 8 numbers >= 0, those before every axis first; before and after at most the size (wrap), the size - 1
    (reflect). mode: "wrap", "reflect" or "edge". Source: ONNX Pad (opset 19 for wrap); torch's circular padding.
    """

    pads: tuple[int, ...] = (0, 0, 1, 1, 0, 0, 1, 1)
    mode: str = "wrap"
    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    portable = False
    cases = (
        {"x": (2, 3, 5, 7)},
        {"x": (1, 2, 4, 9), "mode": "reflect", "pads": (0, 0, 2, 3, 0, 0, 1, 4)},
        {"x": (2, 3, 4, 64), "pads": (1, 0, 2, 3, 0, 2, 1, 40)},
        {"x": (2, 3, 4, 16), "mode": "edge", "pads": (0, 1, 2, 30, 0, 0, 0, 5)},
        {"x": (0, 3, 4, 16)},
    )

    def body(self, op: Any, x: Any) -> Any:
        return op.Pad(x, self.pads, mode=self.mode)

    def check(self, x: Any) -> str | None:
        if x.rank != 4 or self.mode not in MODES or len(self.pads) != 2 * x.rank or min(self.pads) < 0:
            return "pads are not eight numbers of at least 0 in a mode that repeats"
        for size, before, after in zip(x.shape, self.pads[: x.rank], self.pads[x.rank :], strict=True):
            if before == after == 0:
                continue
            most = {"wrap": size, "reflect": size - 1, "edge": 1 << 30}[self.mode]
            if not isinstance(size, int) or size < 1 or max(before, after) > most:
                return "a pad is not proved to be at most the axis"
        return None

    def infer(self, x: Any) -> Any:
        ends = zip(x.shape, self.pads[: x.rank], self.pads[x.rank :], strict=True)
        return graphopt.tensor(x.dtype, [size + before + after for size, before, after in ends])

    def enqueue(self, x: Any, y: Any) -> None:
        width = VECTOR_BYTES // x.itemsize
        count = y.size // y.shape[3] * blocks(y.shape[3], width)
        arguments = (x, y, count, *x.shape, *y.shape[1:], *self.pads[:4])
        PAD[x.dtype, width, MODES[self.mode]]((min(blocks(count, THREADS), 1 << 20),), (THREADS,), arguments)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedPadRepeat]
