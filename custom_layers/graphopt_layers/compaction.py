"""Outputs whose size depends on data: what is not zero, and what a condition keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks, vector

THREADS = 256
PER_BLOCK = 32 * THREADS

COMPACT = r"""
#include <graphopt.cuh>
using namespace go;

constexpr unsigned ALL = 0xffffffffu;
constexpr int THREADS = 256, WARPS = THREADS / 32, ROWS = 32, PER_BLOCK = THREADS * ROWS;

template <class T> __device__ __forceinline__ bool is_set(T v) { return to_float(v) != 0.0f; }
template <> __device__ __forceinline__ bool is_set<i64>(i64 v) { return v != 0; }
template <> __device__ __forceinline__ bool is_set<int>(int v) { return v != 0; }

__device__ __forceinline__ int warp_total(int v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(ALL, v, step);
    return v;
}
// The sum over the lanes before this one.
__device__ __forceinline__ int warp_before(int v) {
    const int lane = threadIdx.x & 31;
    int sum = v;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(ALL, sum, step);
        if (lane >= step) sum += other;
    }
    return sum - v;
}
// The sum over all threads of the block, which must all call it.
__device__ __forceinline__ int block_total(int v) {
    __shared__ int part[WARPS];
    v = warp_total(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    int total = 0;
    for (int i = 0; i < WARPS; i++) total += part[i];
    return total;
}

// A warp looks at 32 rows of 32 elements; lane i gets the bits of row i: which elements are set.
template <class F> __device__ __forceinline__ unsigned bits(i64 count, const F& set) {
    const int lane = threadIdx.x & 31;
    const i64 first = i64(blockIdx.x) * PER_BLOCK + (threadIdx.x / 32) * (32 * ROWS) + lane;
    unsigned mine = 0;
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const i64 at = first + k * 32;
        const unsigned row = __ballot_sync(ALL, at < count && set(at));
        if (lane == k) mine = row;
    }
    return mine;
}
template <class F> __device__ __forceinline__ void count(i64 count, int* counts, const F& set) {
    const int total = block_total(__popc(bits(count, set)));
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}
// What each block counted, summed up: over those before this one, and over all, which goes to size.
__device__ __forceinline__ int base_of(const int* counts, int* number, int* size) {
    int before = 0, all = 0;
    for (int at = threadIdx.x; at < int(gridDim.x); at += THREADS) {
        const int v = counts[at];
        all += v;
        if (at < int(blockIdx.x)) before += v;
    }
    *number = block_total(all);
    if (blockIdx.x == 0 && threadIdx.x == 0) *size = *number;
    return block_total(before);
}
// Places of what is set in this block, relative to its first, packed in shared memory; returns how many.
template <class F> __device__ __forceinline__ int pack(i64 count, unsigned short* packed, const F& set) {
    __shared__ int starts[WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const unsigned mine = bits(count, set);
    const int found = __popc(mine), before = warp_before(found), total = warp_total(found);
    if (lane == 0) starts[warp] = total;
    __syncthreads();
    int start = 0, all = 0;
    for (int i = 0; i < WARPS; i++) {
        if (i < warp) start += starts[i];
        all += starts[i];
    }
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const unsigned row = __shfl_sync(ALL, mine, k);
        const int to = start + __shfl_sync(ALL, before, k) + __popc(row & ((1u << lane) - 1));
        if (row >> lane & 1) packed[to] = (unsigned short)((warp * ROWS + k) * 32 + lane);
    }
    __syncthreads();
    return all;
}

template <class T> __global__ void count_set(const T* x, i64 elements, int* counts) {
    count(elements, counts, [x](i64 at) { return is_set(x[at]); });
}

// y: (RANK, number), packed; the coordinates of the i-th set element in column i. RANK 0: its place in all.
template <class T, int RANK, class I>
__global__ void coordinates(const T* x, i64 elements, const int* counts, int* size, I* y, unsigned d0, unsigned d1,
                            unsigned d2, unsigned d3, unsigned d4, unsigned d5, unsigned d6, unsigned d7) {
    const unsigned dims[8] = {d0, d1, d2, d3, d4, d5, d6, d7};
    __shared__ unsigned short packed[PER_BLOCK];
    int number;
    const int base = base_of(counts, &number, size);
    const int found = pack(elements, packed, [x](i64 at) { return is_set(x[at]); });
    for (int i = threadIdx.x; i < found; i += THREADS) {
        unsigned rest = blockIdx.x * PER_BLOCK + packed[i];
        if constexpr (RANK == 0) y[base + i] = I(rest);
#pragma unroll
        for (int axis = RANK - 1; axis >= 0; axis--) {
            const unsigned above = axis ? rest / dims[axis] : 0;
            y[i64(axis) * number + base + i] = I(rest - above * dims[axis]);
            rest = above;
        }
    }
}

// x: (outer, n, inner) -> y: (outer, number, inner): row j is the row from[j]. blockDim.x threads copy a row.
template <class T, int WIDTH>
__global__ void kept(const T* x, const int* from, const int* number, T* y, i64 outer, i64 n, i64 inner) {
    const i64 row = i64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= *number) return;
    const i64 source = from[row];
    for (i64 image = blockIdx.y; image < outer; image += gridDim.y) {
        const T* a = x + (image * n + source) * inner;
        T* b = y + (image * *number + row) * inner;
        for (i64 at = i64(threadIdx.x) * WIDTH; at < inner; at += i64(blockDim.x) * WIDTH)
            store<WIDTH>(b + at, load<WIDTH>(a + at));
    }
}
"""
COUNT = graphopt.Kernel(COMPACT, "count_set")
COORDINATES = graphopt.Kernel(COMPACT, "coordinates")
KEPT = graphopt.Kernel(COMPACT, "kept")
ALIGNED = 256
"""What parts of the scratch memory begin at."""
MOST = 65535
"""Blocks along the second axis of a grid."""


def tiles(n: int) -> int:
    """Blocks that look through n elements: one at least, which writes the size."""
    return max(blocks(n, PER_BLOCK), 1)


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
        return 4 * tiles(int(x.size))

    def enqueue(self, x: Any, y: Any, number: Any, workspace: Any = None) -> None:
        grid, block = (tiles(x.size),), (THREADS,)
        COUNT[x.dtype](grid, block, (x, x.size, workspace))
        dims = [*x.shape, *[1] * (8 - x.ndim)]
        COORDINATES[x.dtype, x.ndim, "int64"](grid, block, (x, x.size, workspace, number, y, *dims))

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
        return ALIGNED * blocks(4 * tiles(int(keep.size)), ALIGNED) + 4 * int(keep.size)

    def enqueue(self, x: Any, keep: Any, y: Any, number: Any, workspace: Any = None) -> None:
        n = keep.size
        grid, block = (tiles(n),), (THREADS,)
        places = workspace[ALIGNED * blocks(4 * tiles(n), ALIGNED) :]
        COUNT["bool"](grid, block, (keep, n, workspace))
        COORDINATES["bool", 0, "int32"](grid, block, (keep, n, workspace, number, places, *[1] * 8))
        inner = 1 if self.flat else int(np.prod(x.shape[self.axis % x.ndim + 1 :]))
        outer = x.size // max(n * inner, 1)
        width = vector(x, y, columns=inner)
        while inner % width:
            width //= 2
        along = 1
        while along < min(inner // width, THREADS):
            along *= 2
        grid = (blocks(n, THREADS // along), min(outer, MOST))
        KEPT[x.dtype, width](grid, (along, THREADS // along), (x, places, number, y, outer, n, inner))


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedNonZero, FusedCompress]
