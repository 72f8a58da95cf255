"""The values of a tensor without repetition."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks

from .compaction import ALIGNED, COMPACT, THREADS, tiles

UNIQUE_SOURCE = (
    COMPACT
    + r"""
constexpr int EACH = 16, TILE = THREADS * EACH, DIGITS = 256;

// A value as an unsigned number of its size, in the same order: zeros are equal, NaN is behind all.
template <class T> struct Key;
template <> struct Key<int> {
    using type = unsigned;
    static __device__ __forceinline__ type of(int v) { return unsigned(v) ^ 0x80000000u; }
};
template <> struct Key<i64> {
    using type = unsigned long long;
    static __device__ __forceinline__ type of(i64 v) { return type(v) ^ 0x8000000000000000ull; }
};
template <> struct Key<float> {
    using type = unsigned;
    static __device__ __forceinline__ type of(float v) {
        if (v != v) return ~0u;
        const unsigned u = v == 0.0f ? 0u : __float_as_uint(v);
        return u & 0x80000000u ? ~u : u | 0x80000000u;
    }
};
template <> struct Key<__half> {
    using type = unsigned short;
    static __device__ __forceinline__ type of(__half v) {
        const float wide = __half2float(v);
        if (wide != wide) return type(0xffff);
        unsigned short u;
        memcpy(&u, &v, 2);
        if (wide == 0.0f) u = 0;
        return type(u & 0x8000 ? ~u : u | 0x8000);
    }
};

// One pass of a radix sort, from the low digits of 8 bits to the high ones. FIRST: keys are made of x.
// A warp of a block's eight takes 16 rows of 32 elements.
template <class T, bool FIRST>
__device__ __forceinline__ typename Key<T>::type key(const T* x, const typename Key<T>::type* keys, i64 at) {
    if constexpr (FIRST) return Key<T>::of(x[at]);
    else return keys[at];
}
// counts[digit, tile]: how many keys of the tile have the digit.
template <class T, bool FIRST>
__global__ void histogram(const T* x, const typename Key<T>::type* keys, int n, int shift, int* counts) {
    __shared__ int found[WARPS][DIGITS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    for (int i = 0; i < WARPS; i++) found[i][threadIdx.x] = 0;
    __syncthreads();
    const i64 first = i64(blockIdx.x) * TILE + warp * (32 * EACH) + lane;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const i64 at = first + k * 32;
        const unsigned d = at < n ? unsigned(key<T, FIRST>(x, keys, at) >> shift) & (DIGITS - 1) : DIGITS;
        const unsigned same = __match_any_sync(ALL, d);
        if (lane == __ffs(same) - 1 && d < DIGITS) found[warp][d] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    int total = 0;
    for (int i = 0; i < WARPS; i++) total += found[i][threadIdx.x];
    counts[i64(threadIdx.x) * gridDim.x + blockIdx.x] = total;
}
// A block a digit: counts become those of the tiles before; totals: of all tiles.
__global__ void scan(int* counts, int tiles, int* totals) {
    __shared__ int part[WARPS];
    int* mine = counts + i64(blockIdx.x) * tiles;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    int base = 0;
    for (int from = 0; from < tiles; from += THREADS) {
        const int at = from + threadIdx.x, v = at < tiles ? mine[at] : 0, before = warp_before(v);
        __syncthreads();
        if (lane == 31) part[warp] = before + v;
        __syncthreads();
        int start = base;
        for (int i = 0; i < WARPS; i++) {
            if (i < warp) start += part[i];
            base += part[i];
        }
        if (at < tiles) mine[at] = start + before;
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = base;
}
template <class T, bool FIRST>
__global__ void scatter(const T* x, const typename Key<T>::type* keys, const int* places, int n, int shift,
                        const int* counts, const int* totals, typename Key<T>::type* to_keys, int* to_places) {
    __shared__ int found[WARPS][DIGITS], part[WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, digit = threadIdx.x;
    for (int i = 0; i < WARPS; i++) found[i][digit] = 0;
    __syncthreads();
    const i64 first = i64(blockIdx.x) * TILE + warp * (32 * EACH) + lane;
    typename Key<T>::type own[EACH];
    int before[EACH];  // keys of the same digit before this one, in its warp
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const i64 at = first + k * 32;
        own[k] = at < n ? key<T, FIRST>(x, keys, at) : 0;
        const unsigned d = at < n ? unsigned(own[k] >> shift) & (DIGITS - 1) : DIGITS;
        const unsigned same = __match_any_sync(ALL, d);
        const int leader = __ffs(same) - 1;
        int base = 0;
        if (lane == leader && d < DIGITS) {
            base = found[warp][d];
            found[warp][d] = base + __popc(same);
        }
        before[k] = __shfl_sync(ALL, base, leader) + __popc(same & ((1u << lane) - 1));
        __syncwarp();
    }
    // Where the keys of a digit go: behind those of lower digits, of tiles before, and of warps before.
    const int total = totals[digit], lower = warp_before(total);
    if (lane == 31) part[warp] = lower + total;
    __syncthreads();
    int start = lower + counts[i64(digit) * gridDim.x + blockIdx.x];
    for (int i = 0; i < warp; i++) start += part[i];
    for (int i = 0; i < WARPS; i++) {
        const int here = found[i][digit];
        found[i][digit] = start;
        start += here;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const i64 at = first + k * 32;
        if (at >= n) break;
        const int to = found[warp][unsigned(own[k] >> shift) & (DIGITS - 1)] + before[k];
        to_keys[to] = own[k];
        to_places[to] = FIRST ? int(at) : places[at];
    }
}

// The first of equal keys; NaN equals none.
template <class T> constexpr bool has_nan = is_half<T>;
template <> constexpr bool has_nan<float> = true;
template <class T> struct Head {
    const typename Key<T>::type* keys;
    __device__ __forceinline__ bool operator()(i64 at) const {
        using K = typename Key<T>::type;
        return at == 0 || keys[at] != keys[at - 1] || (has_nan<T> && keys[at] == K(~K(0)));
    }
};
template <class T> __global__ void count_heads(const typename Key<T>::type* keys, int n, int* counts) {
    count(n, counts, Head<T>{keys});
}
template <class T>
__global__ void unique(const T* x, const typename Key<T>::type* keys, const int* places, int n, const int* counts,
                       int* size, T* y, i64* indices, i64* inverse, int* firsts) {
    __shared__ int part[WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    int number;
    const int base = base_of(counts, &number, size);
    const unsigned mine = bits(n, Head<T>{keys});
    const int found = __popc(mine), before = warp_before(found), total = warp_total(found);
    if (lane == 0) part[warp] = total;
    __syncthreads();
    int start = base;
    for (int i = 0; i < warp; i++) start += part[i];
#pragma unroll 4
    for (int k = 0; k < ROWS; k++) {
        const unsigned row = __shfl_sync(ALL, mine, k), below = row & ((2u << lane) - 1);  // this one among them
        const int rank = start + __shfl_sync(ALL, before, k) + __popc(below) - 1;
        const i64 at = i64(blockIdx.x) * PER_BLOCK + (warp * ROWS + k) * 32 + lane;
        if (at >= n) continue;
        const int place = places[at];
        inverse[place] = rank;
        if (row >> lane & 1) {
            y[rank] = x[place];
            indices[rank] = place;
            firsts[rank] = int(at);
        }
    }
}
__global__ void lengths(const int* firsts, const int* number, i64* counts, int n) {
    const int real = *number;
    for (i64 at = thread(); at < real; at += threads()) counts[at] = (at + 1 < real ? firsts[at + 1] : n) - firsts[at];
}
"""
)
HISTOGRAM = graphopt.Kernel(UNIQUE_SOURCE, "histogram")
SCAN = graphopt.Kernel(UNIQUE_SOURCE, "scan")
SCATTER = graphopt.Kernel(UNIQUE_SOURCE, "scatter")
HEADS = graphopt.Kernel(UNIQUE_SOURCE, "count_heads")
UNIQUE = graphopt.Kernel(UNIQUE_SOURCE, "unique")
LENGTHS = graphopt.Kernel(UNIQUE_SOURCE, "lengths")
TILE = 16 * THREADS
"""Elements that one block sorts by one digit."""
DIGITS, DIGIT_BITS = 256, 8


def _sizes(n: int, itemsize: int) -> tuple[int, ...]:
    """Bytes of two copies of keys and of their places, counts of digits, their totals, sums of blocks, first places."""
    keys, places = n * itemsize, 4 * n
    return keys, keys, places, places, 4 * DIGITS * blocks(n, TILE), 4 * DIGITS, 4 * tiles(n), places


class FusedUnique(graphopt.Layer):
    """y = the sorted values of x without repetition; indices: where each stands first; x = y[inverse]; counts.

    x: any shape, flattened, fewer than 2^30 elements; every NaN is a value of its own, behind all others. y, indices,
    counts: (number,), which depends on the values; inverse: (elements,); the last three int64. A radix sort, stable, by
    digits of 8 bits. Source: ONNX Unique (opset 11), sorted, without an axis; torch.unique.
    """

    dtypes = ("float32", "float16", "int32", "int64")
    portable = False
    cases = (
        {"x": (7,)}, {"x": (3, 33)}, {"x": (0,)}, {"x": (1,)}, {"x": (1024,)}, {"x": (1025,)}, {"x": (3, 4099)},
        {"x": (70001,)},
    )  # fmt: skip

    def body(self, op: Any, x: Any) -> Any:
        return op.Unique(x, sorted=1, outputs=4)

    def check(self, x: Any) -> str | None:
        known = [size for size in x.shape if isinstance(size, int)]
        return None if np.prod(known, dtype=float) < 1 << 30 else "x has 2^30 elements or more"

    def infer(self, x: Any) -> Any:
        number = graphopt.Size(x.size, x.size)
        some = graphopt.tensor("int64", (number,))
        return graphopt.tensor(x.dtype, (number,)), some, graphopt.tensor("int64", (x.size,)), some

    def workspace(self, x: Any, *others: Any) -> int:
        return sum(blocks(size, ALIGNED) * ALIGNED for size in _sizes(int(x.size), x.dtype.itemsize))

    def enqueue(
        self, x: Any, y: Any, indices: Any, inverse: Any, lengths: Any, number: Any, workspace: Any = None
    ) -> None:
        n, kind, parts, at = x.size, x.dtype, [], 0
        for size in _sizes(n, kind.itemsize):
            parts.append(workspace[at : at + size])
            at += blocks(size, ALIGNED) * ALIGNED
        keys, other_keys, places, other_places, counts, totals, heads, firsts = parts
        sorted_tiles, block = blocks(n, TILE), (THREADS,)
        for digit in range(kind.itemsize):
            first, shift = digit == 0, digit * DIGIT_BITS
            HISTOGRAM[kind, first]((sorted_tiles,), block, (x, other_keys, n, shift, counts))
            SCAN((DIGITS if n else 0,), block, (counts, sorted_tiles, totals))
            arguments = (x, other_keys, other_places, n, shift, counts, totals, keys, places)
            SCATTER[kind, first]((sorted_tiles,), block, arguments)
            keys, other_keys, places, other_places = other_keys, keys, other_places, places
        grid = (tiles(n),)
        HEADS[kind](grid, block, (other_keys, n, heads))
        arguments = (x, other_keys, other_places, n, heads, number, y, indices, inverse, firsts)
        UNIQUE[kind](grid, block, arguments)
        LENGTHS((min(blocks(n, THREADS), 1 << 16),), block, (firsts, number, lengths, n))

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return rng.integers(-50, 50, shape)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedUnique]
