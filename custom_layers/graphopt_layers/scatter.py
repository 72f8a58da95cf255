"""Scattering with a reduction, which TensorRT's ScatterND and ScatterElements do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks, vector

SCATTER = r"""
#include <graphopt.cuh>
using namespace go;

template <class A, class T> __device__ __forceinline__ A widen(T v) {
    if constexpr (sizeof(T) == sizeof(A)) return A(v); else return to_float(v);
}

template <class A, class T, int WIDTH> __global__ void spread(const T* x, A* y, i64 count) {
    for (i64 at = thread(); at < count; at += threads()) {
        const Vector<T, WIDTH> v = load<WIDTH>(x + at * WIDTH);
        Vector<A, WIDTH> out;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) out[k] = widen<A>(v[k]);
        store<WIDTH>(y + at * WIDTH, out);
    }
}

template <class T, int WIDTH> __global__ void narrow(const float* x, T* y, i64 count) {
    for (i64 at = thread(); at < count; at += threads()) {
        const Vector<float, WIDTH> v = load<WIDTH>(x + at * WIDTH);
        Vector<T, WIDTH> out;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) out[k] = from_float<T>(v[k]);
        store<WIDTH>(y + at * WIDTH, out);
    }
}

// KIND 0: add, 1: mul, 2: max, 3: min.
template <class A, int KIND> __device__ __forceinline__ A reduced(A a, A b) {
    if constexpr (KIND == 0) return a + b;
    if constexpr (KIND == 1) return a * b;
    if constexpr (KIND == 2) return a > b || a != a ? a : b;
    return a < b || a != a ? a : b;
}
template <class A> struct Word { using type = unsigned; };
template <> struct Word<long long> { using type = unsigned long long; };
template <class A, int KIND> __device__ __forceinline__ void accumulate(A* to, A v) {
    if constexpr (KIND == 0 && sizeof(A) == 4) { atomicAdd(to, v); return; }
    using W = typename Word<A>::type;
    W* word = reinterpret_cast<W*>(to);
    W seen = *word;
    while (true) {
        A before;
        memcpy(&before, &seen, sizeof(A));
        const A after = reduced<A, KIND>(before, v);
        W wanted;
        memcpy(&wanted, &after, sizeof(A));
        if (wanted == seen) return;
        const W found = atomicCAS(word, seen, wanted);
        if (found == seen) return;
        seen = found;
    }
}

// indices: (rows, depth), which address the first `depth` axes of sizes n and strides s; updates: (rows, inner), each
// row by blockDim.x threads.
template <class A, class T, int KIND>
__global__ void scatter_nd(const i64* indices, const T* updates, A* y, i64 rows, i64 inner, int depth,
                           i64 n0, i64 n1, i64 n2, i64 n3, i64 s0, i64 s1, i64 s2, i64 s3) {
    const i64 n[4] = {n0, n1, n2, n3}, s[4] = {s0, s1, s2, s3};
    const i64 step = i64(gridDim.x) * blockDim.y;
    for (i64 row = i64(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += step) {
        i64 place = 0;
        bool in = true;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < depth) {
                i64 i = indices[row * depth + k];
                i += i < 0 ? n[k] : 0;
                in = in && i >= 0 && i < n[k];
                place += i * s[k];
            }
        if (!in) continue;
        for (i64 at = threadIdx.x; at < inner; at += blockDim.x)
            accumulate<A, KIND>(y + place + at, widen<A>(updates[row * inner + at]));
    }
}

// data: (outer, n, inner); indices, updates: (outer, m, inner). I: unsigned and wide enough for `count`.
template <class A, class T, int KIND, class I>
__global__ void scatter_elements(const i64* indices, const T* updates, A* y, i64 count, I m, i64 n, I inner) {
    for (i64 at = thread(); at < count; at += threads()) {
        const I row = I(at) / inner, column = I(at) - row * inner, outer = row / m;
        i64 i = indices[at];
        i += i < 0 ? n : 0;
        if (i >= 0 && i < n) accumulate<A, KIND>(y + (outer * n + i) * inner + column, widen<A>(updates[at]));
    }
}
"""
SPREAD = graphopt.Kernel(SCATTER, "spread")
NARROW = graphopt.Kernel(SCATTER, "narrow")
SCATTER_ND = graphopt.Kernel(SCATTER, "scatter_nd")
SCATTER_ELEMENTS = graphopt.Kernel(SCATTER, "scatter_elements")
KINDS = {"add": 0, "mul": 1, "max": 2, "min": 3}
THREADS = 256


def _grid(count: int) -> tuple[int]:
    return (min(blocks(count, THREADS), 1 << 20),)


def _sample(reduction: str, name: str, indices: Any, rng: np.random.Generator) -> Any:
    """Products stay near one, so that half types hold them."""
    if name == "indices":
        return indices
    return rng.integers(1, 3, indices.shape) if name == "updates" and reduction == "mul" else None


class _Scatter(graphopt.Layer):
    """Half types are accumulated in float32 in the workspace."""

    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    types = {"indices": "int64"}
    portable = False
    deterministic = False

    def workspace(self, data: Any, *others: Any) -> int:
        return int(data.size) * 4 if data.dtype.itemsize == 2 else 0

    def infer(self, data: Any, indices: Any, updates: Any) -> Any:
        return data

    def _run(self, data: Any, y: Any, scratch: Any, scatter: Callable[[Any, Any], None]) -> None:
        """y = data, then `scatter(dtype, target)`, in float32 where the dtype is half."""
        half = data.dtype.itemsize == 2
        kind, target = ("float32", scratch) if half else (data.dtype, y)
        width = vector(data, columns=data.size) if half else vector(data, y)
        while half and width > 4:
            width //= 2
        count = data.size // width
        SPREAD[kind, data.dtype, width](_grid(count), (THREADS,), (data, target, count))
        scatter(kind, target)
        if half:
            width = min(vector(y, columns=y.size), 4)
            NARROW[y.dtype, width](_grid(y.size // width), (THREADS,), (target, y, y.size // width))


class FusedScatterND(_Scatter):
    """y = data; y[indices[i]] = reduction(y[indices[i]], updates[i]) for every row i.

    data, y: (...), 1 to 8 axes; indices: (..., depth), depth 1 to 4, int64, negative ones from the end, those out of
    bounds are left out; updates: indices.shape[:-1] + data.shape[depth:]. reduction: "add", "mul", "max", "min".
    Half types are accumulated in float32. Atomic: sums of floats may differ in the last bits from run to run.
    Source: ONNX ScatterND (opset 16, 18).
    """

    reduction: str = "add"
    cases = (
        {"data": (7, 5), "indices": (9, 1), "updates": (9, 5)},
        {"data": (7, 5), "indices": (4, 3, 2), "updates": (4, 3), "reduction": "max"},
        {"data": (6, 4, 3), "indices": (8, 2), "updates": (8, 3), "reduction": "min"},
        {"data": (64,), "indices": (16, 1), "updates": (16,), "reduction": "mul"},
        {"data": (64, 33), "indices": (0, 1), "updates": (0, 33)},
    )

    def body(self, op: Any, data: Any, indices: Any, updates: Any) -> Any:
        return op.ScatterND(data, indices, updates, reduction=self.reduction)

    def check(self, data: Any, indices: Any, updates: Any) -> str | None:
        depth = indices.shape[-1] if indices.rank else None
        if self.reduction not in KINDS:
            return "without a reduction TensorRT has the operator"
        if not isinstance(depth, int) or not 1 <= depth <= min(4, data.rank):
            return "the last axis of indices is not proved to be 1 to 4"
        return None

    def enqueue(self, data: Any, indices: Any, updates: Any, y: Any, workspace: Any = None) -> None:
        depth = indices.shape[-1]
        strides = [int(np.prod(data.shape[axis + 1 :])) for axis in range(depth)]
        padded = [*data.shape[:depth], *[1] * (4 - depth), *strides, *[0] * (4 - depth)]
        inner = max(int(np.prod(data.shape[depth:])), 1)
        rows, along = updates.size // inner, 1
        while along < min(inner, THREADS):
            along *= 2

        def scatter(kind: Any, target: Any) -> None:
            grid = (min(blocks(rows, THREADS // along), 1 << 20),)
            arguments = (indices, updates, target, rows, inner, depth, *padded)
            SCATTER_ND[kind, data.dtype, KINDS[self.reduction]](grid, (along, THREADS // along), arguments)

        self._run(data, y, workspace, scatter)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return _sample(self.reduction, name, rng.integers(-3, 4, shape), rng)


class FusedScatterElements(_Scatter):
    """y = data; y[..., indices[i], ...] = reduction(y[..., indices[i], ...], updates[i]) along one axis.

    data, y: (outer, n, inner) about the axis; indices (int64, negative ones from the end, those out of bounds are left
    out), updates: (outer, m, inner), alike but for that axis. reduction: "add", "mul", "max", "min".
    Half types are accumulated in float32. Atomic: sums of floats may differ in the last bits from run to run.
    Source: ONNX ScatterElements (opset 16, 18).
    """

    axis: int = 0
    reduction: str = "add"
    cases = (
        {"data": (7, 5), "indices": (9, 5), "updates": (9, 5)},
        {"data": (3, 7, 5), "indices": (3, 4, 5), "updates": (3, 4, 5), "axis": 1, "reduction": "max"},
        {"data": (3, 7), "indices": (3, 20), "updates": (3, 20), "axis": -1, "reduction": "min"},
        {"data": (64, 3), "indices": (6, 3), "updates": (6, 3), "reduction": "mul"},
        {"data": (64, 33), "indices": (0, 33), "updates": (0, 33)},
    )

    def body(self, op: Any, data: Any, indices: Any, updates: Any) -> Any:
        return op.ScatterElements(data, indices, updates, axis=self.axis, reduction=self.reduction)

    def check(self, data: Any, indices: Any, updates: Any) -> str | None:
        if self.reduction not in KINDS:
            return "without a reduction TensorRT has the operator"
        axis = self.axis % data.rank
        for at, (a, b) in enumerate(zip(data.shape, indices.shape, strict=True)):
            if at != axis and a != b:
                return "data and indices are not proved to be alike but for the axis"
        return None

    def enqueue(self, data: Any, indices: Any, updates: Any, y: Any, workspace: Any = None) -> None:
        axis = self.axis % data.ndim
        inner = max(int(np.prod(data.shape[axis + 1 :])), 1)
        index = "unsigned" if updates.size < 1 << 31 else "unsigned long long"

        def scatter(kind: Any, target: Any) -> None:
            arguments = (indices, updates, target, updates.size, max(indices.shape[axis], 1), data.shape[axis], inner)
            instance = SCATTER_ELEMENTS[kind, data.dtype, KINDS[self.reduction], index]
            instance(_grid(updates.size), (THREADS,), arguments)

        self._run(data, y, workspace, scatter)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return _sample(self.reduction, name, rng.integers(-3, 3, shape), rng)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedScatterND, FusedScatterElements]
