"""The values of a tensor without repetition."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks

from .compaction import COMPACT, COUNT, PER_BLOCK, SUM, THREADS

UNIQUE_SOURCE = (
    COMPACT
    + r"""
// Keys in order, NaN last, equal ones by their place; places of n and more are padding and stand behind all.
template <class T> __device__ __forceinline__ bool after(T a, int i, T b, int j, int n) {
    if (i >= n || j >= n) return i > j;
    const bool none = a != a, other = b != b;
    if (none || other) return none && other ? i > j : none;
    return a > b || (a == b && i > j);
}
template <class T> __device__ __forceinline__ void exchange(T* keys, int* from, int a, int b, bool up, int n) {
    const T ka = keys[a], kb = keys[b];
    const int pa = from[a], pb = from[b];
    if (after(ka, pa, kb, pb, n) == up) {
        keys[a] = kb, keys[b] = ka;
        from[a] = pb, from[b] = pa;
    }
}
template <class T> __global__ void begin(const T* x, T* keys, int* from, int n, int padded) {
    for (i64 at = thread(); at < padded; at += threads()) {
        keys[at] = at < n ? x[at] : T(0);
        from[at] = int(at);
    }
}
// Bitonic merge (Batcher, 1968): one step in memory; and all steps of a tile of 1024 in a block.
template <class T> __global__ void step(T* keys, int* from, int n, int half, int width, int stride) {
    const int t = int(thread());
    if (t >= half) return;
    const int a = 2 * t - (t & (stride - 1));
    exchange(keys, from, a, a + stride, (a & width) == 0, n);
}
template <class T> __global__ void tile(T* keys, int* from, int n, i64 first, i64 last) {
    __shared__ alignas(16) unsigned char raw[1024 * sizeof(T)];
    T* k = reinterpret_cast<T*>(raw);
    __shared__ int p[1024];
    const int base = blockIdx.x * 1024, t = threadIdx.x;
    for (int at = t; at < 1024; at += blockDim.x) k[at] = keys[base + at], p[at] = from[base + at];
    __syncthreads();
    for (i64 width = first; width <= last; width *= 2) {
        for (int stride = int(min(width / 2, i64(512))); stride > 0; stride /= 2) {
            const int a = 2 * t - (t & (stride - 1));
            exchange(k, p, a, a + stride, ((base + a) & width) == 0, n);
            __syncthreads();
        }
    }
    for (int at = t; at < 1024; at += blockDim.x) keys[base + at] = k[at], from[base + at] = p[at];
}
template <class T> __global__ void heads(const T* keys, bool* head, int n) {
    for (i64 at = thread(); at < n; at += threads()) head[at] = at == 0 || keys[at] != keys[at - 1];
}
// ranks: which value each key is; firsts: where each value begins.
template <class T> __global__ void rank(const T* head, i64 count, const i64* starts, int* firsts, int* ranks) {
    const i64 first = i64(blockIdx.x) * PER_BLOCK + threadIdx.x * EACH;
    int mine = 0, total;
#pragma unroll
    for (int k = 0; k < EACH; k++) mine += first + k < count && head[first + k];
    i64 at = starts[blockIdx.x] + before_mine(mine, &total);
    for (int k = 0; k < EACH; k++) {
        if (first + k >= count) break;
        if (head[first + k]) firsts[at++] = int(first + k);
        ranks[first + k] = int(at) - 1;
    }
}
template <class T>
__global__ void unique(const T* keys, const int* from, const int* firsts, const int* ranks, const int* number, T* y,
                       i64* indices, i64* inverse, i64* counts, int n) {
    const int real = *number;
    for (i64 at = thread(); at < n; at += threads()) {
        inverse[from[at]] = ranks[at];
        if (at >= real) continue;
        const int first = firsts[at];
        y[at] = keys[first];
        indices[at] = from[first];
        counts[at] = (at + 1 < real ? firsts[at + 1] : n) - first;
    }
}
"""
)
BEGIN = graphopt.Kernel(UNIQUE_SOURCE, "begin")
STEP = graphopt.Kernel(UNIQUE_SOURCE, "step")
TILE = graphopt.Kernel(UNIQUE_SOURCE, "tile")
HEADS = graphopt.Kernel(UNIQUE_SOURCE, "heads")
RANK = graphopt.Kernel(UNIQUE_SOURCE, "rank")
UNIQUE = graphopt.Kernel(UNIQUE_SOURCE, "unique")
SORTED = 1024
"""Elements that one block sorts."""
ALIGNED = 256


def _grid(count: int) -> tuple[int]:
    return (min(blocks(count, THREADS), 1 << 20),)


def _sizes(n: int, itemsize: int) -> tuple[int, ...]:
    """Bytes of sorted keys, their places, the heads of runs, sums of blocks, first places, ranks."""
    padded = max(SORTED, 1 << max(n - 1, 0).bit_length())
    return padded * itemsize, 4 * padded, n, 8 * (blocks(n, PER_BLOCK) + 1), 4 * n, 4 * n


class FusedUnique(graphopt.Layer):
    """y = the sorted values of x without repetition; indices: where each stands first; x = y[inverse]; counts.

    x: any shape, flattened, fewer than 2^30 elements; every NaN is a value of its own, behind all others. y, indices,
    counts: (number,), which depends on the values; inverse: (elements,); the last three int64. A bitonic sort in
    memory: n log^2 n steps. Source: ONNX Unique (opset 11), sorted, without an axis; torch.unique.
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
        self, x: Any, y: Any, indices: Any, inverse: Any, counts: Any, number: Any, workspace: Any = None
    ) -> None:
        n, kind, parts, at = x.size, x.dtype, [], 0
        for size in _sizes(n, kind.itemsize):
            parts.append(workspace[at : at + size])
            at += blocks(size, ALIGNED) * ALIGNED
        keys, places, head, starts, firsts, ranks = parts
        padded, tiles = places.size // 4, blocks(n, PER_BLOCK)
        BEGIN[kind](_grid(padded), (THREADS,), (x, keys, places, n, padded))
        TILE[kind]((padded // SORTED,), (SORTED // 2,), (keys, places, n, 2, SORTED))
        width = 2 * SORTED
        while width <= padded:
            stride = width // 2
            while stride >= SORTED:
                STEP[kind]((padded // 2 // THREADS,), (THREADS,), (keys, places, n, padded // 2, width, stride))
                stride //= 2
            TILE[kind]((padded // SORTED,), (SORTED // 2,), (keys, places, n, width, width))
            width *= 2
        HEADS[kind](_grid(n), (THREADS,), (keys, head, n))
        COUNT["bool"]((tiles,), (THREADS,), (head, n, starts))
        SUM["int32"]((1,), (THREADS,), (starts, tiles, number))
        RANK["bool"]((tiles,), (THREADS,), (head, n, starts, firsts, ranks))
        arguments = (keys, places, firsts, ranks, number, y, indices, inverse, counts, n)
        UNIQUE[kind](_grid(n), (THREADS,), arguments)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return rng.integers(-50, 50, shape)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedUnique]
