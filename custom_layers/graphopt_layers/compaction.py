"""Outputs whose size depends on data: what is not zero, and what a condition keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks

THREADS = 256
PER_BLOCK = 4 * THREADS

COMPACT = r"""
#include <graphopt.cuh>
using namespace go;

constexpr int THREADS = 256, EACH = 4, PER_BLOCK = THREADS * EACH;

template <class T> __device__ __forceinline__ bool is_set(const T* x, i64 at, i64 count) {
    return at < count && to_float(x[at]) != 0.0f;
}
template <> __device__ __forceinline__ bool is_set<i64>(const i64* x, i64 at, i64 count) {
    return at < count && x[at] != 0;
}
template <> __device__ __forceinline__ bool is_set<int>(const int* x, i64 at, i64 count) {
    return at < count && x[at] != 0;
}

// The number of set elements before this thread's own, in its block; all threads must call it.
__device__ __forceinline__ int before_mine(int mine, int* total) {
    __shared__ int part[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int sum = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
    }
    __syncthreads();
    if (lane == 31) part[warp] = sum;
    __syncthreads();
    int base = 0, all = 0;
    for (int i = 0; i < THREADS / 32; i++) {
        if (i < warp) base += part[i];
        all += part[i];
    }
    *total = all;
    return base + sum - mine;
}

template <class T> __global__ void count_set(const T* x, i64 count, i64* starts) {
    const i64 first = i64(blockIdx.x) * PER_BLOCK + threadIdx.x * EACH;
    int mine = 0, total;
#pragma unroll
    for (int k = 0; k < EACH; k++) mine += is_set(x, first + k, count);
    before_mine(mine, &total);
    if (threadIdx.x == 0) starts[blockIdx.x] = total;
}

// starts[b] becomes the number before block b; the number of all goes to starts[n] and, as int, to size.
template <class S> __global__ void sum_up(i64* starts, int n, S* size) {
    __shared__ i64 base;
    if (threadIdx.x == 0) base = 0;
    __syncthreads();
    for (int from = 0; from < n; from += THREADS) {
        const int at = from + threadIdx.x;
        const int mine = at < n ? int(starts[at]) : 0;
        int total;
        const int before = before_mine(mine, &total);
        const i64 start = base;
        __syncthreads();
        if (at < n) starts[at] = start + before;
        if (threadIdx.x == 0) base = start + total;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        starts[n] = base;
        *size = S(base);
    }
}

// y: (rank, number), packed; the coordinates of element i in column i.
template <class T>
__global__ void coordinates(const T* x, i64 count, const i64* starts, int n, i64* y, int rank, i64 d0, i64 d1, i64 d2,
                            i64 d3, i64 d4, i64 d5, i64 d6, i64 d7) {
    const i64 dims[8] = {d0, d1, d2, d3, d4, d5, d6, d7}, first = i64(blockIdx.x) * PER_BLOCK + threadIdx.x * EACH;
    int mine = 0, total;
#pragma unroll
    for (int k = 0; k < EACH; k++) mine += is_set(x, first + k, count);
    i64 column = starts[blockIdx.x] + before_mine(mine, &total);
    const i64 number = starts[n];
    for (int k = 0; k < EACH; k++) {
        if (!is_set(x, first + k, count)) continue;
        i64 rest = first + k;
#pragma unroll
        for (int axis = 7; axis >= 0; axis--)
            if (axis < rank) {
                y[axis * number + column] = rest % dims[axis];
                rest /= dims[axis];
            }
        column++;
    }
}

// place[i]: the number of set elements before i, -1 where i is not set.
template <class T> __global__ void places(const T* keep, i64 count, const i64* starts, int* place) {
    const i64 first = i64(blockIdx.x) * PER_BLOCK + threadIdx.x * EACH;
    int mine = 0, total;
#pragma unroll
    for (int k = 0; k < EACH; k++) mine += first + k < count && keep[first + k];
    i64 at = starts[blockIdx.x] + before_mine(mine, &total);
    for (int k = 0; k < EACH; k++)
        if (first + k < count) place[first + k] = keep[first + k] ? int(at++) : -1;
}

// x: (outer, n, inner) -> y: (outer, number, inner).
template <class T>
__global__ void kept(const T* x, const int* place, const i64* number, T* y, i64 count, i64 n, i64 inner) {
    for (i64 at = thread(); at < count; at += threads()) {
        const i64 row = at / inner, column = at - row * inner, outer = row / n;
        const int to = place[row - outer * n];
        if (to >= 0) y[(outer * *number + to) * inner + column] = x[at];
    }
}
"""
COUNT = graphopt.Kernel(COMPACT, "count_set")
SUM = graphopt.Kernel(COMPACT, "sum_up")
COORDINATES = graphopt.Kernel(COMPACT, "coordinates")
PLACES = graphopt.Kernel(COMPACT, "places")
KEPT = graphopt.Kernel(COMPACT, "kept")


def _known(shape: Sequence[Any]) -> float:
    """The product of the sizes that are known."""
    return float(np.prod([size for size in shape if isinstance(size, int)], dtype=float))


class FusedNonZero(graphopt.Layer):
    """y[:, i] = the coordinates of the i-th element of x that is not zero, in row-major order.

    x: 1 to 8 axes, below 2^31 elements; y: (rank, number), int64, the number known after the run only.
    Source: ONNX NonZero (opset 9, 13).
    """

    dtypes = ("float32", "float16", "int32", "int64", "bool")
    portable = False
    cases = ({"x": (7,)}, {"x": (3, 5, 2)}, {"x": (5000,)}, {"x": (0, 3)}, {"x": (3, 700, 500)})

    def body(self, op: Any, x: Any) -> Any:
        return op.NonZero(x)

    def check(self, x: Any) -> str | None:
        if not 1 <= x.rank <= 8:
            return "it has no axes, or more than 8"
        return None if _known(x.shape) < 1 << 31 else "x has 2^31 elements or more"

    def infer(self, x: Any) -> Any:
        return graphopt.tensor("int64", (x.rank, graphopt.Size(x.size, x.size // 2)))

    def workspace(self, x: Any, y: Any) -> int:
        return 8 * (blocks(int(x.size), PER_BLOCK) + 1)

    def enqueue(self, x: Any, y: Any, number: Any, workspace: Any = None) -> None:
        n = blocks(x.size, PER_BLOCK)
        dims = [*x.shape, *[1] * (8 - x.ndim)]
        COUNT[x.dtype]((n,), (THREADS,), (x, x.size, workspace))
        SUM["int32"]((1,), (THREADS,), (workspace, n, number))
        COORDINATES[x.dtype]((n,), (THREADS,), (x, x.size, workspace, n, y, x.ndim, *dims))

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return rng.integers(0, 3, shape)


class FusedCompress(graphopt.Layer):
    """y = x without the slices along an axis for which keep is false; flat: without the elements.

    x: (outer, n, inner) about the axis; keep: (n), bool, or, flat, one for each element of x; y: (outer, number,
    inner), or (number), the number known after the run. Source: ONNX Compress (opset 9, 11); tf.boolean_mask; x[mask].
    """

    axis: int = 0
    flat: bool = False
    variants = ({"flat": False}, {"flat": True})
    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    types = {"keep": "bool"}
    ops = ("Compress", "NonZero")
    portable = False
    cases = (
        {"x": (7, 3), "keep": (7,)},
        {"x": (2, 9, 5), "keep": (9,), "axis": 1},
        {"x": (3, 4), "keep": (4,), "axis": -1},
        {"x": (5000, 3), "keep": (5000,)},
        {"x": (0, 4), "keep": (4,), "axis": 1},
        {"x": (4, 6), "keep": (24,)},
        {"x": (33,), "keep": (33,)},
        {"x": (2, 3, 700), "keep": (4200,)},
    )

    def body(self, op: Any, x: Any, keep: Any) -> Any:
        return op.Compress(x, keep) if self.flat else op.Compress(x, keep, axis=self.axis)

    def masked(self, op: Any, x: Any, keep: Any) -> Any:
        """tf.boolean_mask: the places of what is kept, as a column, squeezed."""
        return self._gathered(op, x, keep, lambda places: op.Squeeze(op.Transpose(places, perm=[1, 0]), [1]))

    def squeezed(self, op: Any, x: Any, keep: Any) -> Any:
        return self._gathered(op, x, keep, lambda places: op.Squeeze(places, [0]))

    def reshaped(self, op: Any, x: Any, keep: Any) -> Any:
        return self._gathered(op, x, keep, lambda places: op.Reshape(places, [-1]))

    def _gathered(self, op: Any, x: Any, keep: Any, row: Callable[[Any], Any]) -> Any:
        if self.flat:
            raise graphopt.Skip("a gather has an axis")
        return op.Gather(x, row(op.NonZero(keep)), axis=self.axis)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.masked, self.squeezed, self.reshaped]

    def check(self, x: Any, keep: Any) -> str | None:
        if keep.rank != 1 or x.rank < 1 or not -x.rank <= self.axis < x.rank:
            return "it is not along an axis of x"
        n = x.size if self.flat else x.shape[self.axis]
        if not isinstance(n, int) or n != keep.shape[0]:
            return "the condition is not proved to be as long as the axis"
        return None if n < 1 << 31 else "the axis is 2^31 long or more"

    def infer(self, x: Any, keep: Any) -> Any:
        number = graphopt.Size(keep.shape[0], keep.shape[0])
        if self.flat:
            return graphopt.tensor(x.dtype, (number,))
        axis = self.axis % x.rank
        return graphopt.tensor(x.dtype, [number if at == axis else dim for at, dim in enumerate(x.shape)])

    def workspace(self, x: Any, keep: Any, y: Any) -> int:
        n = int(keep.size)
        return 8 * (blocks(n, PER_BLOCK) + 1) + 4 * n

    def enqueue(self, x: Any, keep: Any, y: Any, number: Any, workspace: Any = None) -> None:
        size = keep.size
        n = blocks(size, PER_BLOCK)
        starts, place = workspace[: 8 * (n + 1)], workspace[8 * (n + 1) :]
        inner = 1 if self.flat else max(int(np.prod(x.shape[self.axis % x.ndim + 1 :])), 1)
        COUNT["bool"]((n,), (THREADS,), (keep, size, starts))
        SUM["int32"]((1,), (THREADS,), (starts, n, number))
        PLACES["bool"]((n,), (THREADS,), (keep, size, starts, place))
        grid = (min(blocks(x.size, THREADS), 1 << 20),)
        KEPT[x.dtype](grid, (THREADS,), (x, place, starts[8 * n :], y, x.size, size, inner))


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedNonZero, FusedCompress]
