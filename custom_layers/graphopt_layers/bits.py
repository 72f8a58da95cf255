"""Bitwise operators on whole numbers, which TensorRT does not have."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.layers.launch import blocks, vector

BITS = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// KIND 0: and, 1: or, 2: xor, 3: not, 4: shift left, 5: shift right (all bits out: 0). b is one number where SINGLE.
template <class T, int KIND> __device__ __forceinline__ T combine(T a, T b) {
    if constexpr (KIND == 0) return a & b;
    if constexpr (KIND == 1) return a | b;
    if constexpr (KIND == 2) return a ^ b;
    if constexpr (KIND == 3) return T(~a);
    const bool out = (unsigned long long)b >= sizeof(T) * 8;
    if constexpr (KIND == 4) return out ? T(0) : T(a << b);
    return out ? T(0) : T(a >> b);
}

// u becomes u KIND v: by words where that is the same.
template <int KIND, class T, int WIDTH>
__device__ __forceinline__ void combine_all(Vector<T, WIDTH>& u, const Vector<T, WIDTH>& v) {
    if constexpr (KIND < 4 && sizeof(T) < 4 && sizeof(u) % 4 == 0) {
        unsigned a[sizeof(u) / 4], b[sizeof(u) / 4];
        memcpy(a, &u, sizeof(u));
        memcpy(b, &v, sizeof(u));
#pragma unroll
        for (int k = 0; k < sizeof(u) / 4; k++) a[k] = combine<unsigned, KIND>(a[k], b[k]);
        memcpy(&u, a, sizeof(u));
    } else {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) u[k] = combine<T, KIND>(u[k], v[k]);
    }
}

template <class T, int WIDTH, int KIND, bool SINGLE> __global__ void bits(const T* a, const T* b, T* y, i64 count) {
    constexpr int AHEAD = 2;
    const i64 step = threads();
    Vector<T, WIDTH> same;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) same[k] = SINGLE ? b[0] : T(0);
    for (i64 first = thread(); first < count; first += step * AHEAD) {
        Vector<T, WIDTH> u[AHEAD], v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const i64 at = first + i * step;
            if (at >= count) break;
            u[i] = load<WIDTH>(a + at * WIDTH);
            if constexpr (!SINGLE && KIND != 3) v[i] = load<WIDTH>(b + at * WIDTH);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const i64 at = first + i * step;
            if (at >= count) break;
            combine_all<KIND>(u[i], SINGLE || KIND == 3 ? same : v[i]);
            store<WIDTH>(y + at * WIDTH, u[i]);
        }
    }
}
""",
    "bits",
)
THREADS = 256


def _launch(kind: int, a: Any, b: Any, y: Any) -> None:
    single = b is not None and b.size == 1 and a.size != 1
    width = vector(*[array for array in (a, None if single else b, y) if array is not None])
    count = y.size // width
    grid = min(blocks(count, 2 * THREADS), 1 << 20)
    BITS[a.dtype, width, kind, single]((grid,), (THREADS,), (a, b, y, count))


class _Binary(graphopt.Layer):
    dtypes = ("int32", "int64", "int8", "uint8")
    shapes = {"a": "... columns"}
    cases = ({"a": (3, 7), "b": (3, 7)}, {"a": (3, 64), "b": (1,)}, {"a": (0, 4), "b": (0, 4)}, {"a": (1,), "b": (1,)})

    def check(self, a: Any, b: Any) -> str | None:
        if b.shape == a.shape or (b.size == 1 and b.rank <= a.rank):
            return None
        return "b is neither one number nor proved to be of a's shape"

    def infer(self, a: Any, b: Any) -> Any:
        return a


class FusedBitwiseAnd(_Binary):
    """y = a & b.

    a, y: (...); b: as a, or one number; int8, uint8, int32, int64. Source: ONNX BitwiseAnd (opset 18).
    """

    portable = False

    def body(self, op: Any, a: Any, b: Any) -> Any:
        return op.BitwiseAnd(a, b)

    def enqueue(self, a: Any, b: Any, y: Any) -> None:
        _launch(0, a, b, y)


class FusedBitwiseOr(_Binary):
    """y = a | b.

    a, y: (...); b: as a, or one number; int8, uint8, int32, int64. Source: ONNX BitwiseOr (opset 18).
    """

    portable = False

    def body(self, op: Any, a: Any, b: Any) -> Any:
        return op.BitwiseOr(a, b)

    def enqueue(self, a: Any, b: Any, y: Any) -> None:
        _launch(1, a, b, y)


class FusedBitwiseXor(_Binary):
    """y = a ^ b.

    a, y: (...); b: as a, or one number; int8, uint8, int32, int64. Source: ONNX BitwiseXor (opset 18).
    """

    portable = False

    def body(self, op: Any, a: Any, b: Any) -> Any:
        return op.BitwiseXor(a, b)

    def enqueue(self, a: Any, b: Any, y: Any) -> None:
        _launch(2, a, b, y)


class FusedBitwiseNot(graphopt.Layer):
    """y = ~a.

    a, y: (...), of one shape; int8, uint8, int32, int64. Source: ONNX BitwiseNot (opset 18).
    """

    portable = False
    dtypes = ("int32", "int64", "int8", "uint8")
    shapes = {"a": "... columns"}

    def body(self, op: Any, a: Any) -> Any:
        return op.BitwiseNot(a)

    def infer(self, a: Any) -> Any:
        return a

    def enqueue(self, a: Any, y: Any) -> None:
        _launch(3, a, None, y)


class FusedBitShift(_Binary):
    """y = a << b, or a >> b.

    a, y: (...); b: as a, or one number, less than 8; uint8 (TensorRT has no wider unsigned tensors).
    direction: "LEFT" or "RIGHT". Source: ONNX BitShift (opset 11).
    """

    direction: str = "LEFT"
    variants = ({"direction": "LEFT"}, {"direction": "RIGHT"})
    portable = False
    dtypes = ("uint8",)
    cases = (
        {"a": (3, 7), "b": (3, 7)},
        {"a": (3, 64), "b": (1,)},
        {"a": (0, 4), "b": (0, 4)},
    )

    def body(self, op: Any, a: Any, b: Any) -> Any:
        return op.BitShift(a, b, direction=self.direction)

    def enqueue(self, a: Any, b: Any, y: Any) -> None:
        _launch(4 if self.direction == "LEFT" else 5, a, b, y)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        return rng.integers(0, 8 if name == "b" else 256, shape)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedBitwiseAnd, FusedBitwiseOr, FusedBitwiseXor, FusedBitwiseNot, FusedBitShift]
