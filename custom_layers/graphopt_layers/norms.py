"""Normalization of rows, with and without the addition of a residual before it; one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, row_threads, vector

NORM = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

template <int GROUP> __device__ __forceinline__ float row_sum(float v) {
    if constexpr (GROUP == 0) return block_sum(v);
#pragma unroll
    for (int step = GROUP / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

template <class T> __device__ __forceinline__ float value(const T* x, const T* residual, i64 at) {
    return to_float(x[at]) + (residual ? to_float(residual[at]) : 0.0f);
}

// A row belongs to GROUP threads of a warp (several rows in a block), or to the block (GROUP 0). It is kept in
// registers as LOADS vectors of WIDTH for each thread; LOADS 0: a longer row, which is read again.
// ADD: a residual is added first, and the sum written; BIAS: there is a bias.
template <class T, int WIDTH, int LOADS, int GROUP, bool CENTER, bool ADD, bool BIAS>
__global__ void __launch_bounds__(GROUP ? 256 : 512)
norm(const T* x, const T* residual, const T* weight, const T* bias, T* sum, T* y, i64 rows, int columns,
     float epsilon) {
    const float share = 1.0f / columns;
    const int lane = threadIdx.x, lanes = GROUP ? GROUP : blockDim.x;
    const i64 row = i64(blockIdx.x) * blockDim.y + threadIdx.y;
    const i64 start = row * columns;
    const bool mine = row < rows;  // every thread takes part in the sums
    x += start, y += start;
    if constexpr (ADD) residual += start, sum += start;
    if constexpr (LOADS > 0) {
        Vector<float, WIDTH> v[LOADS];
        {
            Vector<T, WIDTH> first[LOADS], second[ADD ? LOADS : 1];
#pragma unroll
            for (int i = 0; i < LOADS; i++) {
                const int at = (i * lanes + lane) * WIDTH;
                if (mine && at < columns) {
                    first[i] = load<WIDTH>(x + at);
                    if constexpr (ADD) second[i] = load<WIDTH>(residual + at);
                }
            }
#pragma unroll
            for (int i = 0; i < LOADS; i++) {
                const int at = (i * lanes + lane) * WIDTH;
                const bool in = mine && at < columns;
                v[i] = floats(first[i]);
                if constexpr (ADD) {
                    const Vector<float, WIDTH> more = floats(second[i]);
#pragma unroll
                    for (int k = 0; k < WIDTH; k++) v[i][k] += more[k];
                    if (in) store<WIDTH>(sum + at, rounded<T>(v[i]));
                }
                if (!in)
#pragma unroll
                    for (int k = 0; k < WIDTH; k++) v[i][k] = 0.0f;
            }
        }
        // a short row's weights are asked for before the sums are waited for
        constexpr bool EARLY = LOADS * WIDTH * sizeof(T) <= 64;
        Vector<T, WIDTH> scales[EARLY ? LOADS : 1];
        if constexpr (EARLY)
#pragma unroll
            for (int i = 0; i < LOADS; i++)
                if ((i * lanes + lane) * WIDTH < columns) scales[i] = load<WIDTH>(weight + (i * lanes + lane) * WIDTH);
        float total = 0.0f, mean = 0.0f;
#pragma unroll
        for (int i = 0; i < LOADS; i++)
#pragma unroll
            for (int k = 0; k < WIDTH; k++) total += CENTER ? v[i][k] : v[i][k] * v[i][k];
        total = row_sum<GROUP>(total);
        if constexpr (CENTER) {
            mean = total * share;
            total = 0.0f;
#pragma unroll
            for (int i = 0; i < LOADS; i++)
                if ((i * lanes + lane) * WIDTH < columns)
#pragma unroll
                    for (int k = 0; k < WIDTH; k++) {
                        v[i][k] -= mean;
                        total += v[i][k] * v[i][k];
                    }
            total = row_sum<GROUP>(total);
        }
        const float scale = 1.0f / sqrtf(total * share + epsilon);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const int at = (i * lanes + lane) * WIDTH;
            if (!mine || at >= columns) continue;
            const Vector<float, WIDTH> w = floats(EARLY ? scales[i] : load<WIDTH>(weight + at));
#pragma unroll
            for (int k = 0; k < WIDTH; k++) v[i][k] = v[i][k] * scale * w[k];
            if constexpr (BIAS) {
                const Vector<float, WIDTH> b = floats(load<WIDTH>(bias + at));
#pragma unroll
                for (int k = 0; k < WIDTH; k++) v[i][k] += b[k];
            }
            store<WIDTH>(y + at, rounded<T>(v[i]));
        }
    } else {
        float total = 0.0f, mean = 0.0f;
        for (int at = lane; at < columns; at += lanes) {
            const float v = value(x, ADD ? residual : nullptr, at);
            total += CENTER ? v : v * v;
        }
        total = row_sum<GROUP>(total);
        if constexpr (CENTER) {
            mean = total * share;
            total = 0.0f;
            for (int at = lane; at < columns; at += lanes) {
                const float v = value(x, ADD ? residual : nullptr, at) - mean;
                total += v * v;
            }
            total = row_sum<GROUP>(total);
        }
        const float scale = 1.0f / sqrtf(total * share + epsilon);
        for (int at = lane; at < columns; at += lanes) {
            const float v = value(x, ADD ? residual : nullptr, at);
            if constexpr (ADD) sum[at] = from_float<T>(v);
            y[at] = from_float<T>((v - mean) * scale * to_float(weight[at]) + (BIAS ? to_float(bias[at]) : 0.0f));
        }
    }
}
""",
    "norm",
)
MOST_THREADS, IN_REGISTERS, FEW = 512, 32, 16
"""Of a block; values of a row that one thread may keep, and that it keeps where there are threads enough."""


def launch_norm(
    x: Any, residual: Any, weight: Any, bias: Any, total: Any, y: Any, epsilon: float, center: bool
) -> None:
    """Normalize every row of x (+ residual) into y; with a residual the sum goes to `total`."""
    columns = x.shape[-1]
    rows = x.size // columns
    present = [array for array in (x, residual, weight, bias, total, y) if array is not None]
    width = vector(*present, columns=columns)
    vectors = blocks(columns, width)
    if vectors <= 128:
        group = 4
        while group < min(vectors, 32):
            group *= 2
        threads, per_block = group, 256 // group
    else:
        group, threads, per_block = 0, row_threads(columns, width, MOST_THREADS), 1
        while threads < MOST_THREADS and blocks(vectors, threads) * width > FEW:
            threads *= 2
    loads = 1
    while loads < blocks(vectors, threads):
        loads *= 2
    if loads > FEW or loads * width > IN_REGISTERS:
        loads = 0
    arguments = (x, residual, weight, bias, total, y, rows, columns, epsilon)
    kernel = NORM[x.dtype, width, loads, group, center, residual is not None, bias is not None]
    kernel((blocks(rows, per_block),), (threads, per_block), arguments)


class FusedRMSNorm(graphopt.Layer):
    """y = x / sqrt(mean(x * x, axis=-1) + epsilon) * weight.

    x, y: (..., columns); weight: (columns,); all of one dtype. Squares are summed in float32.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; ONNX RMSNormalization (opset 23).
    """

    epsilon: float = 1e-6
    shapes = {"x": "... columns", "weight": "columns"}

    def body(self, op: Any, x: Any, weight: Any) -> Any:
        wide = op.float32(x)
        mean = op.ReduceMean(wide * wide, [-1], keepdims=1)
        return op.like(wide / op.Sqrt(mean + self.epsilon), x) * weight

    def inverse(self, op: Any, x: Any, weight: Any) -> Any:
        """x * (1 / sqrt(...)): torch.rsqrt as exporters write it."""
        wide = op.float32(x)
        mean = op.ReduceMean(wide * wide, [-1], keepdims=1)
        return op.like(wide * (1.0 / op.Sqrt(mean + self.epsilon)), x) * weight

    def wide_weight(self, op: Any, x: Any, weight: Any) -> Any:
        """The weight is multiplied in float32, before the result is rounded (Gemma)."""
        wide = op.float32(x)
        mean = op.ReduceMean(wide * wide, [-1], keepdims=1)
        return op.like(wide * (1.0 / op.Sqrt(mean + self.epsilon)) * op.float32(weight), x)

    def standard(self, op: Any, x: Any, weight: Any) -> Any:
        return op.RMSNormalization(x, weight, axis=-1, epsilon=self.epsilon)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.inverse, self.wide_weight, self.standard]

    def infer(self, x: Any, weight: Any) -> Any:
        return x

    def enqueue(self, x: Any, weight: Any, y: Any) -> None:
        launch_norm(x, None, weight, None, None, y, self.epsilon, False)


class FusedAddRMSNorm(graphopt.Layer):
    """s = x + residual; y = s / sqrt(mean(s * s, axis=-1) + epsilon) * weight; outputs s, y.

    x, residual, s, y: (..., columns); weight: (columns,); all of one dtype. The sum is normalized in float32, before
    it is rounded for the output s. Source: as FusedRMSNorm.
    """

    epsilon: float = 1e-6
    shapes = {"x": "... columns", "residual": "... columns", "weight": "columns"}

    def body(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        wide = op.float32(x) + op.float32(residual)
        mean = op.ReduceMean(wide * wide, [-1], keepdims=1)
        return op.like(wide, x), op.like(wide / op.Sqrt(mean + self.epsilon), x) * weight

    def rounded(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        """The sum is rounded before it is normalized."""
        total = x + residual
        return total, FusedRMSNorm.body(self, op, total, weight)  # type: ignore[arg-type]

    def inverse(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        total = x + residual
        return total, FusedRMSNorm.inverse(self, op, total, weight)  # type: ignore[arg-type]

    def wide_weight(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        total = x + residual
        return total, FusedRMSNorm.wide_weight(self, op, total, weight)  # type: ignore[arg-type]

    def standard(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        total = x + residual
        return total, op.RMSNormalization(total, weight, axis=-1, epsilon=self.epsilon)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.rounded, self.inverse, self.wide_weight, self.standard]

    def infer(self, x: Any, residual: Any, weight: Any) -> Any:
        return x, x

    def enqueue(self, x: Any, residual: Any, weight: Any, total: Any, y: Any) -> None:
        launch_norm(x, residual, weight, None, total, y, self.epsilon, False)


class FusedAddLayerNorm(graphopt.Layer):
    """s = x + residual; y = (s - mean(s)) / sqrt(var(s) + epsilon) * weight + bias over the last axis; outputs s, y.

    x, residual, s, y: (..., columns); weight, bias (may be absent): (columns,); all of one dtype. Mean and variance are
    taken in float32, the variance about the mean (two sums over registers), before s is rounded for the output.
    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016; ONNX LayerNormalization (opset 17).
    """

    epsilon: float = 1e-5
    shapes = {"x": "... columns", "residual": "... columns", "weight": "columns", "bias": "columns"}

    def body(self, op: Any, x: Any, residual: Any, weight: Any, bias: Any = None) -> Any:
        if op.opset < 17:
            return self.spelled(op, x, residual, weight, bias)
        wide = op.float32(x) + op.float32(residual)
        shift = None if bias is None else op.float32(bias)
        y = op.LayerNormalization(wide, op.float32(weight), shift, axis=-1, epsilon=self.epsilon)
        return op.like(wide, x), op.like(y, x)

    def spelled(self, op: Any, x: Any, residual: Any, weight: Any, bias: Any = None) -> Any:
        wide = op.float32(x) + op.float32(residual)
        centered = wide - op.ReduceMean(wide, [-1], keepdims=1)
        variance = op.ReduceMean(centered * centered, [-1], keepdims=1)
        y = op.like(centered / op.Sqrt(variance + self.epsilon), x) * weight
        return op.like(wide, x), y if bias is None else y + bias

    def rounded(self, op: Any, x: Any, residual: Any, weight: Any, bias: Any = None) -> Any:
        """The sum is rounded before it is normalized."""
        total = x + residual
        wide = op.float32(total)
        centered = wide - op.ReduceMean(wide, [-1], keepdims=1)
        variance = op.ReduceMean(centered * centered, [-1], keepdims=1)
        y = op.like(centered / op.Sqrt(variance + self.epsilon), x) * weight
        return total, y if bias is None else y + bias

    def standard(self, op: Any, x: Any, residual: Any, weight: Any, bias: Any = None) -> Any:
        total = x + residual
        return total, op.LayerNormalization(total, weight, bias, axis=-1, epsilon=self.epsilon)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.spelled, self.rounded, self.standard]

    def infer(self, x: Any, residual: Any, weight: Any, bias: Any = None) -> Any:
        return x, x

    def enqueue(self, x: Any, residual: Any, weight: Any, bias: Any, total: Any, y: Any) -> None:
        launch_norm(x, residual, weight, bias, total, y, self.epsilon, True)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedRMSNorm, FusedAddRMSNorm, FusedAddLayerNorm]
