"""A custom layer whose kernel finds out the size of its result."""

from __future__ import annotations

from typing import Any

import graphopt

KEEP = graphopt.Kernel(
    r"""
    template <class T> __global__ void keep(const T* x, const bool* mask, T* y, int* count, long long rows,
                                            long long columns) {
        long long at = 0;  // the same in every thread of the only block
        for (long long row = 0; row < rows; row++) {
            if (!mask[row]) continue;
            for (long long i = threadIdx.x; i < columns; i += blockDim.x) y[at * columns + i] = x[row * columns + i];
            at++;
        }
        if (threadIdx.x == 0) *count = at;
    }""",
    types=("T",),
)


class FusedKeep(graphopt.Layer):
    """y = the rows of x where mask is true."""

    dtypes = ("float32", "float16")
    types = {"mask": "bool"}
    shapes = {"x": "rows columns", "mask": "rows"}
    portable = False

    def body(self, op: Any, x: Any, mask: Any) -> Any:
        return op.Compress(x, mask, axis=0)

    def infer(self, x: Any, mask: Any) -> Any:
        return graphopt.tensor(x.dtype, (graphopt.Size(upper=x.shape[0]), x.shape[1]))

    def enqueue(self, x: Any, mask: Any, y: Any, count: Any) -> None:
        KEEP((1,), (128,), (x, mask, y, count, x.shape[0], x.shape[1]))


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedKeep]
