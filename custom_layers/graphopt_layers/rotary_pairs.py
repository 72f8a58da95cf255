"""Rotary position embedding of neighbours, with a table entry for every element: EVA-02, RoFormer, Cohere, GPT-J, Flux."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, vector

PAIRS = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

template <int N, bool ALIGNED, class T> __device__ __forceinline__ Vector<T, N> read(const T* p) {
    if constexpr (ALIGNED) return load<N>(p);
    Vector<T, N> v;
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = p[k];
    return v;
}

// One thread turns WIDTH elements of a row. Rows are numbered (a, b, c); those of a table begin `c..` apart along each
// of the three axes, 0 where all share one.
template <class T, int WIDTH, bool ALIGNED, class INDEX>
__global__ void pairs(const T* x, const T* cosine, const T* sine, T* y, i64 count, i64 size, i64 rows_b, i64 rows_c,
                      i64 ca, i64 cb, i64 cc, i64 sa, i64 sb, i64 sc) {
    const INDEX per_row = INDEX(size / WIDTH);
    for (i64 at = thread(); at < count; at += threads()) {
        const INDEX row = INDEX(at) / per_row;
        const INDEX part = row / INDEX(rows_c), c = row - part * INDEX(rows_c);
        const INDEX a = part / INDEX(rows_b), b = part - a * INDEX(rows_b);
        const i64 column = i64(INDEX(at) - row * per_row) * WIDTH;
        const Vector<T, WIDTH> v = read<WIDTH, ALIGNED>(x + at * WIDTH);
        const Vector<T, WIDTH> cs = read<WIDTH, ALIGNED>(cosine + i64(a) * ca + i64(b) * cb + i64(c) * cc + column);
        const Vector<T, WIDTH> sn = read<WIDTH, ALIGNED>(sine + i64(a) * sa + i64(b) * sb + i64(c) * sc + column);
        Vector<T, WIDTH> out;
#pragma unroll
        for (int k = 0; k < WIDTH; k += 2) {
            const float even = to_float(v[k]), odd = to_float(v[k + 1]);
            out[k] = from_float<T>(even * to_float(cs[k]) - odd * to_float(sn[k]));
            out[k + 1] = from_float<T>(odd * to_float(cs[k + 1]) + even * to_float(sn[k + 1]));
        }
        T* to = y + at * WIDTH;
        if constexpr (ALIGNED) store<WIDTH>(to, out);
        else
#pragma unroll
            for (int k = 0; k < WIDTH; k++) to[k] = out[k];
    }
}
""",
    "pairs",
)
THREADS = 256
LAST = (1 << 63) - 1


def _strides(table: Any) -> list[int]:
    """Elements from one row of the table to the next along each of its first three axes; 0: one for all."""
    a, b, c, size = (*[1] * (4 - table.ndim), *table.shape)
    return [0 if rows == 1 else step for rows, step in ((a, b * c * size), (b, c * size), (c, size))]


def _says(given: Sequence[int], shape: Sequence[Any], copied: bool) -> bool:
    """Whether the operand of a Reshape is proved to give this shape; copied: a 0 before the last axes copies one."""
    if len(given) != len(shape) or list(given).count(-1) > 1:
        return False
    fits = zip(given, shape, range(len(shape)), strict=True)
    return all(got in (-1, want) or (got == 0 and copied and axis < 3) for got, want, axis in fits)


class FusedRotaryPairs(graphopt.Layer):
    """y = x * cos + turned * sin, where turned[2i] = -x[2i+1] and turned[2i+1] = x[2i].

    x, y: (a, b, c, size), size even and known; cos, sin: (a or 1, b or 1, c or 1, size), or fewer axes; one dtype;
    computed in float32. view, split, allowzero: operands of the Reshapes in the model, to the shape of x and to pairs
    (their defaults: it has none).
    Source: Su et al., "RoFormer", 2021, with the tables' entries repeated, as timm, transformers and diffusers have it.
    """

    view: tuple[int, ...] = (1, 1, 1, 2)
    split: tuple[int, ...] = (1, 1, 1, 1, 2)
    allowzero: int = 0
    shapes = {"x": "a b c size"}
    cases = (
        {"x": (2, 3, 5, 16), "cos": (1, 1, 5, 16), "sin": (1, 1, 5, 16), "view": (2, 3, 5, 16), "split": (2, 3, 5, 8, 2)},
        {"x": (2, 7, 3, 6), "cos": (2, 7, 1, 6), "sin": (7, 1, 6), "view": (2, 7, 3, -1), "split": (0, 0, 0, -1, 2)},
        {"x": (0, 3, 5, 16), "cos": (1, 1, 5, 16), "sin": (0, 1, 5, 16), "view": (0, 3, 5, 16), "split": (0, 3, 5, 8, 2),
         "allowzero": 1},
        {"x": (2, 8, 512, 128), "cos": (512, 128), "sin": (512, 128), "view": (2, 8, 512, 128),
         "split": (2, 8, 512, 64, 2)},
    )  # fmt: skip

    def body(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        wide = op.float32(x)
        turned = op.Reshape(self._stacked(op, *self._sliced(op, wide)), op.Shape(x))
        return op.like(wide * op.float32(cos) + turned * op.float32(sin), x)

    def narrow(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """Every operator in the tensors' own dtype."""
        turned = op.Reshape(self._stacked(op, *self._sliced(op, x)), op.Shape(x))
        return x * cos + turned * sin

    def viewed(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)."""
        return x * cos + self._viewed(op, *self._sliced(op, x)) * sin

    def taken(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """x.reshape(..., -1, 2).unbind(-1), as dynamo writes it."""
        two = op.Reshape(x, self.split, allowzero=self.allowzero)
        return x * cos + self._viewed(op, op.Gather(two, 0, axis=4), op.Gather(two, 1, axis=4)) * sin

    def parted(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """x.reshape(..., -1, 2).unbind(-1), as TorchScript writes it, when Unsqueeze(Squeeze(even)) is gone."""
        two = op.Reshape(x, self.split, allowzero=self.allowzero)
        even, odd = op.Split(two, [1, 1], axis=4, outputs=2)
        stacked = op.Concat(op.Unsqueeze(-op.Squeeze(odd, [4]), [4]), even, axis=4)
        return x * cos + op.Reshape(stacked, self.view, allowzero=self.allowzero) * sin

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.viewed, self.taken, self.parted]

    def _sliced(self, op: Any, x: Any) -> tuple[Any, Any]:
        return op.Slice(x, [0], [LAST], [3], [2]), op.Slice(x, [1], [LAST], [3], [2])

    def _stacked(self, op: Any, even: Any, odd: Any) -> Any:
        return op.Concat(op.Unsqueeze(-odd, [4]), op.Unsqueeze(even, [4]), axis=4)

    def _viewed(self, op: Any, even: Any, odd: Any) -> Any:
        return op.Reshape(self._stacked(op, even, odd), self.view, allowzero=self.allowzero)

    def check(self, x: Any, cos: Any, sin: Any) -> str | None:
        size = x.shape[-1]
        if not isinstance(size, int) or size % 2:
            return "the last axis is not proved to be even"
        for table in (cos, sin):
            rows = zip(reversed(table.shape[:-1]), reversed(x.shape[:-1]), strict=False)
            if not 1 <= table.rank <= 4 or table.shape[-1] != size or any(one not in (1, of) for one, of in rows):
                return "a table is not proved to have a row for each of x, or one for all"
        cls = type(self)
        if self.view != cls.view and not _says(self.view, x.shape, not self.allowzero):
            return "a Reshape is not proved to restore the shape of x"
        if self.split != cls.split and not _says(self.split, (*x.shape[:3], size // 2, 2), not self.allowzero):
            return "a Reshape is not proved to make pairs of x"
        return None

    def infer(self, x: Any, cos: Any, sin: Any) -> Any:
        return x

    def enqueue(self, x: Any, cos: Any, sin: Any, y: Any) -> None:
        size = x.shape[3]
        width = vector(x, cos, sin, y, columns=size)
        aligned, width = width > 1, max(width, 2)
        count = x.size // width
        index = "unsigned" if x.size < 1 << 31 else "unsigned long long"
        arguments = (x, cos, sin, y, count, size, x.shape[1], x.shape[2], *_strides(cos), *_strides(sin))
        grid = min(blocks(count, THREADS), 1 << 20)
        PAIRS[x.dtype, width, aligned, index]((grid,), (THREADS,), arguments)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedRotaryPairs]
