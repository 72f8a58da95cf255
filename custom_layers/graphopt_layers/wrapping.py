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

// 16 bytes from any address whose aligned pieces are within [begin, end).
__device__ __forceinline__ uint4 unaligned(const char* at) {
    const unsigned off = reinterpret_cast<unsigned long long>(at) & 15;
    const uint4* from = reinterpret_cast<const uint4*>(at - off);
    const uint4 low = from[0];
    if (off == 0) return low;
    const uint4 high = from[1];
    unsigned w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 6; i++) w[i] = off & 8 ? w[i + 2] : w[i];
#pragma unroll
    for (int i = 0; i < 5; i++) w[i] = off & 4 ? w[i + 1] : w[i];
    const unsigned bits = (off & 3) * 8;
    return make_uint4(__funnelshift_r(w[0], w[1], bits), __funnelshift_r(w[1], w[2], bits),
                      __funnelshift_r(w[2], w[3], bits), __funnelshift_r(w[3], w[4], bits));
}

// Axes (a0, a1, a2, columns): n are the input's sizes, m the output's, p what is before. A thread writes WIDTH
// elements, aligned, of the output as one row of `size`; WIDTH <= m3. INDEX holds the output's size.
template <class T, int WIDTH, int MODE, class INDEX>
__global__ void pad(const T* x, T* y, i64 size, int n0, int n1, int n2, int n3, int m1, int m2, int m3,
                    int p0, int p1, int p2, int p3) {
    const T* const end = x + i64(n0) * n1 * n2 * n3;
    const auto row_of = [&](INDEX row) {
        const INDEX plane = row / INDEX(m2), volume = plane / INDEX(m1);
        const int i2 = source<MODE>(int(row - plane * INDEX(m2)) - p2, n2);
        const int i1 = source<MODE>(int(plane - volume * INDEX(m1)) - p1, n1);
        const int i0 = source<MODE>(int(volume) - p0, n0);
        return x + ((i64(i0) * n1 + i1) * n2 + i2) * n3;
    };
    for (i64 at = thread() * WIDTH; at < size; at += threads() * WIDTH) {
        const INDEX row = INDEX(at) / INDEX(m3);
        const int column = int(INDEX(at) - row * INDEX(m3)), shifted = column - p3;
        const T* from = row_of(row);
        if constexpr (WIDTH > 1) {
            const char* first = reinterpret_cast<const char*>(from + shifted);
            const bool within = shifted >= 0 && shifted + WIDTH <= n3;
            const unsigned off = reinterpret_cast<unsigned long long>(first) & 15;
            if (within && first - off >= reinterpret_cast<const char*>(x) &&
                first - off + (off ? 32 : 16) <= reinterpret_cast<const char*>(end)) {
                const uint4 v = unaligned(first);
                *reinterpret_cast<uint4*>(y + at) = v;
                continue;
            }
        }
        const T* next = column + WIDTH > m3 && at + WIDTH <= size ? row_of(row + 1) : from;
        Vector<T, WIDTH> v;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            const int here = column + k;
            if (at + k < size)
                v[k] = here < m3 ? from[source<MODE>(here - p3, n3)] : next[source<MODE>(here - m3 - p3, n3)];
        }
        if (at + WIDTH <= size) {
            store<WIDTH>(y + at, v);
        } else {
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (at + k < size) y[at + k] = v[k];
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
        if y.data.ptr % VECTOR_BYTES or width > y.shape[3]:
            width = 1
        index = "unsigned" if y.size < 1 << 31 else "unsigned long long"
        arguments = (x, y, y.size, *x.shape, *y.shape[1:], *self.pads[:4])
        grid = min(blocks(y.size, THREADS * width), 1 << 20)
        PAD[x.dtype, width, MODES[self.mode], index]((grid,), (THREADS,), arguments)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedPadRepeat]
