"""Kernels with one fault each, of the kinds that the conformance suite must find; and their right twin."""

from __future__ import annotations

import graphopt

SOURCE = r"""
#include <graphopt.cuh>
using go::i64;

// y = sum of squares of each row of x
template <class T> __global__ void right(const T* x, T* y, i64 n) {
    float sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) { float v = go::to_float(x[blockIdx.x * n + i]); sum += v * v; }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
// writes one element more than there is
template <class T> __global__ void beyond(const T* x, T* y, i64 n) {
    float sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) { float v = go::to_float(x[blockIdx.x * n + i]); sum += v * v; }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0) { y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
                            if (blockIdx.x + 1 == gridDim.x) y[gridDim.x] = T(0.f); }
}
// reads one element more than there is
template <class T> __global__ void reads(const T* x, T* y, i64 n) {
    float sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) { float v = go::to_float(x[blockIdx.x * n + i]); sum += v * v; }
    sum = go::block_sum(sum) + 0.f * go::to_float(x[blockIdx.x * n + n]);
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
// adds into shared memory without atomics or barriers
template <class T> __global__ void races(const T* x, T* y, i64 n) {
    __shared__ float total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) {
        float v = go::to_float(x[blockIdx.x * n + i]);
        total = total + v * v;
    }
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(total / n));
}
// leaves out the last row
template <class T> __global__ void tail(const T* x, T* y, i64 n) {
    float sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) { float v = go::to_float(x[blockIdx.x * n + i]); sum += v * v; }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0 && blockIdx.x + 1 < gridDim.x) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
// takes rows to be a multiple of 32 long
template <class T> __global__ void stride(const T* x, T* y, i64 n) {
    float sum = 0;
    const i64 row = n > 32 ? n / 32 * 32 : n;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) { float v = go::to_float(x[blockIdx.x * row + i]); sum += v * v; }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
// accumulates in the type of the values
template <class T> __global__ void narrow(const T* x, T* y, i64 n) {
    T sum = T(0.f);
    for (i64 i = 0; i < n; i++) {
        const float v = go::to_float(x[blockIdx.x * n + i]);
        sum = go::from_float<T>(go::to_float(sum) + v * v);
    }
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(go::to_float(sum) / n));
}
// loads vectors from addresses that are not multiples of them
template <class T> __global__ void aligned(const T* x, T* y, i64 n) {
    float sum = 0;
    if (n % 4 == 0) {
        for (i64 i = threadIdx.x; i < n / 4; i += blockDim.x) {
            auto v = go::load<4>(x + blockIdx.x * n + 4 * i);
            for (int k = 0; k < 4; k++) sum += go::to_float(v[k]) * go::to_float(v[k]);
        }
    } else {
        for (i64 i = threadIdx.x; i < n; i += blockDim.x) {
            const float v = go::to_float(x[blockIdx.x * n + i]);
            sum += v * v;
        }
    }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
// changes its input
template <class T> __global__ void input(T* x, T* y, i64 n) {
    float sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) {
        const float v = go::to_float(x[blockIdx.x * n + i]);
        sum += v * v;
        x[blockIdx.x * n + i] = go::from_float<T>(v + 1);
    }
    sum = go::block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = go::from_float<T>(sqrtf(sum / n));
}
"""


class FusedRootMean(graphopt.Layer):
    """y = sqrt(mean(x * x, axis=-1))."""

    dtypes = ("float32", "float16")
    shapes = {"x": "... n"}
    kernel = graphopt.Kernel(SOURCE, "right", types=("T",))

    def body(self, op, x):
        wide = op.float32(x)
        return op.like(op.Sqrt(op.ReduceMean(wide * wide, [-1], keepdims=0)), x)

    def check(self, x):
        return None if x.shape[-1] != 0 else "the mean of nothing"

    def infer(self, x):
        return graphopt.tensor(x.dtype, x.shape[:-1])

    def enqueue(self, x, y):
        self.kernel((y.size,), (128,), (x, y, x.shape[-1]))


def faulty(name: str, **members: object) -> type[FusedRootMean]:
    """The layer with another kernel, or another method."""
    kernel = graphopt.Kernel(SOURCE, name, types=("T",))
    return type(f"Fused{name.capitalize()}", (FusedRootMean,), {"kernel": kernel, **members})


def synchronizes(self, x, y):
    """Waits for the device."""
    import cupy

    FusedRootMean.enqueue(self, x, y)
    cupy.cuda.get_current_stream().synchronize()


def allocates(self, x, y):
    """Lets CuPy make arrays."""
    import cupy

    wide = x.astype(cupy.float32)
    y[...] = cupy.sqrt((wide * wide).mean(axis=-1)).astype(y.dtype)


def reads_back(self, x, y):
    """Looks at a result on the host."""
    FusedRootMean.enqueue(self, x, y)
    if float(y.ravel()[0].get()) < -1:
        raise ValueError


def other_stream(self, x, y):
    """Launches on a stream that is not the caller's."""
    import cupy

    with cupy.cuda.Stream.null:
        FusedRootMean.enqueue(self, x, y)


FAULTS = {
    "beyond": (faulty("beyond"), {"bounds"}),
    "reads": (faulty("reads"), {"values", "written"}),
    "races": (faulty("races"), {"values", "determinism", "written"}),
    "tail": (faulty("tail"), {"values", "written"}),
    "stride": (faulty("stride"), {"values"}),
    "narrow": (faulty("narrow"), {"values"}),
    "input": (faulty("input"), {"bounds"}),
    "synchronizes": (type("FusedSynchronizes", (FusedRootMean,), {"enqueue": synchronizes}), {"graph"}),
    "allocates": (type("FusedAllocates", (FusedRootMean,), {"enqueue": allocates}), {"no allocation"}),
    "reads back": (type("FusedReadsBack", (FusedRootMean,), {"enqueue": reads_back}), {"no allocation", "graph"}),
    "other stream": (type("FusedOtherStream", (FusedRootMean,), {"enqueue": other_stream}), {"graph", "launch"}),
}
"""Name -> (layer, checks of which at least one must fail)."""
MISALIGNED = faulty("aligned")
"""Ends the CUDA context: checked in a process of its own."""
