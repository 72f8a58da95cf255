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

// Axes (a0, a1, a2, columns): n are the sizes of the input, m of the output, p what is before. blockDim.x threads write
// a row: vectors of WIDTH, at aligned places, of what is copied from one place of x; then single elements at both ends.
template <class T, int WIDTH, int MODE>
__global__ void pad(const T* x, T* y, int n0, int n1, int n2, int n3, int m0, int m1, int m2, int m3, int p0, int p1,
                    int p2, int p3) {
    const char* const begin = reinterpret_cast<const char*>(x);
    const char* const end = reinterpret_cast<const char*>(x + i64(n0) * n1 * n2 * n3);
    const int r2 = blockIdx.x * blockDim.y + threadIdx.y;
    if (r2 >= m2) return;
    const int i2 = source<MODE>(r2 - p2, n2);
    for (int r0 = blockIdx.z; r0 < m0; r0 += gridDim.z) {
        for (int r1 = blockIdx.y; r1 < m1; r1 += gridDim.y) {
            const i64 plane = i64(source<MODE>(r0 - p0, n0)) * n1 + source<MODE>(r1 - p1, n1);
            const T* from = x + (plane * n2 + i2) * n3;
            T* to = y + ((i64(r0) * m1 + r1) * m2 + r2) * m3;
            const int phase = int((-reinterpret_cast<unsigned long long>(to) & 15) / sizeof(T));
            const int first = phase + (max(p3 - phase, 0) + WIDTH - 1) / WIDTH * WIDTH;
            const int last = first + max(p3 + n3 - first, 0) / WIDTH * WIDTH;
            for (int at = first + threadIdx.x * WIDTH; at < last; at += blockDim.x * WIDTH) {
                const char* p = reinterpret_cast<const char*>(from + (at - p3));
                const unsigned off = reinterpret_cast<unsigned long long>(p) & 15;
                if (p - off >= begin && p - off + 32 <= end) {
                    *reinterpret_cast<uint4*>(to + at) = unaligned(p);
                } else {
                    for (int k = 0; k < WIDTH; k++) to[at + k] = from[at - p3 + k];
                }
            }
            const int head = min(first, m3), tail = max(last, head);
            for (int k = threadIdx.x; k < head + m3 - tail; k += blockDim.x) {
                const int at = k < head ? k : k - head + tail;
                to[at] = from[source<MODE>(at - p3, n3)];
            }
        }
    }
}
""",
    "pad",
)
MODES = {"wrap": 0, "reflect": 1, "edge": 2}
THREADS = 128
SHARES = (128, 64, 32, 16, 8)
"""Of a block's threads, that write one row: the number that leaves the fewest idle."""
MOST = 65535
"""Blocks along the second and third axis of a grid."""


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
        if y.size == 0:
            return
        width = VECTOR_BYTES // x.itemsize
        vectors = max(1, y.shape[3] // width)
        along = max(SHARES, key=lambda share: (round(vectors / (blocks(vectors, share) * share), 2), share))
        grid = (blocks(y.shape[2], THREADS // along), min(y.shape[1], MOST), min(y.shape[0], MOST))
        arguments = (x, y, *x.shape, *y.shape, *self.pads[:4])
        PAD[x.dtype, width, MODES[self.mode]](grid, (along, THREADS // along), arguments)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedPadRepeat]
