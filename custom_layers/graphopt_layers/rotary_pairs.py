"""Rotary position embedding of neighbours, as models have it whose tables hold an entry for every element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, vector

from .targets import gives

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
// of the three axes, 0 where all share one. SHARED: both elements of a pair have one entry, and the second turns by the
// same sine.
template <class T, int WIDTH, bool ALIGNED, bool SHARED, class INDEX>
__global__ void pairs(const T* x, const T* cosine, const T* sine, T* y, i64 count, i64 size, i64 rows_b, i64 rows_c,
                      i64 ca, i64 cb, i64 cc, i64 sa, i64 sb, i64 sc) {
    constexpr int PER = SHARED ? 2 : 1;
    const INDEX per_row = INDEX(size / WIDTH);
    for (i64 at = thread(); at < count; at += threads()) {
        const INDEX row = INDEX(at) / per_row;
        const INDEX part = row / INDEX(rows_c), c = row - part * INDEX(rows_c);
        const INDEX a = part / INDEX(rows_b), b = part - a * INDEX(rows_b);
        const i64 column = i64(INDEX(at) - row * per_row) * (WIDTH / PER);
        const Vector<T, WIDTH> v = read<WIDTH, ALIGNED>(x + at * WIDTH);
        const auto cs = read<WIDTH / PER, ALIGNED>(cosine + i64(a) * ca + i64(b) * cb + i64(c) * cc + column);
        const auto sn = read<WIDTH / PER, ALIGNED>(sine + i64(a) * sa + i64(b) * sb + i64(c) * sc + column);
        Vector<T, WIDTH> out;
#pragma unroll
        for (int k = 0; k < WIDTH; k += 2) {
            const int first = k / PER, second = (k + 1) / PER;
            const float even = to_float(v[k]), odd = to_float(v[k + 1]);
            out[k] = from_float<T>(even * to_float(cs[first]) - odd * to_float(sn[first]));
            out[k + 1] = from_float<T>(odd * to_float(cs[second]) + even * to_float(sn[second]));
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


def _cases(per: int) -> tuple[dict[str, Any], ...]:
    """Sizes for the suite; per: elements of x that share an entry of a table."""
    return (
        {
            "x": (2, 3, 5, 16), "cos": (1, 1, 5, 16 // per), "sin": (1, 1, 5, 16 // per),
            "view": (2, 3, 5, 16), "split": (2, 3, 5, 8, 2),
        },
        {
            "x": (2, 7, 3, 6), "cos": (2, 7, 1, 6 // per), "sin": (7, 1, 6 // per),
            "view": (2, 7, 3, -1), "split": (0, 0, 0, -1, 2),
        },
        {
            "x": (0, 3, 5, 16), "cos": (1, 1, 5, 16 // per), "sin": (0, 1, 5, 16 // per),
            "view": (0, 3, 5, 16), "split": (0, 3, 5, 8, 2), "allowzero": 1,
        },
        {
            "x": (2, 8, 512, 128), "cos": (512, 128 // per), "sin": (512, 128 // per),
            "view": (2, 8, 512, 128), "split": (2, 8, 512, 64, 2),
        },
    )  # fmt: skip


class _Neighbours(graphopt.Layer):
    view: tuple[int, ...] = (1, 1, 1, 2)
    split: tuple[int, ...] = (1, 1, 1, 1, 2)
    allowzero: int = 0
    shapes = {"x": "a b c size"}

    def turn(self, op: Any, x: Any, even: Any, odd: Any, cos: Any, sin: Any, join: Callable[..., Any]) -> Any:
        """The equation; join(a, b) has the elements of a and b by turns."""
        raise NotImplementedError

    def per_entry(self) -> int:
        """Elements of x that share an entry of a table."""
        raise NotImplementedError

    def body(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        return op.like(self.narrow(op, op.float32(x), op.float32(cos), op.float32(sin)), x)

    def narrow(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """Every operator in the tensors' own dtype."""

        def join(a: Any, b: Any) -> Any:
            return op.Reshape(self._stack(op, a, b), op.Shape(x))

        return self.turn(op, x, *self._sliced(op, x), cos, sin, join)

    def viewed(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """x[..., ::2] and x[..., 1::2], torch.stack(..., -1).flatten(-2)."""
        return self._viewed(op, x, *self._sliced(op, x), cos, sin)

    def taken(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """x.reshape(..., -1, 2).unbind(-1), as dynamo writes it."""
        two = op.Reshape(x, self.split, allowzero=self.allowzero)
        return self._viewed(op, x, op.Gather(two, 0, axis=4), op.Gather(two, 1, axis=4), cos, sin)

    def parted(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """The same, as TorchScript writes it."""
        two = op.Reshape(x, self.split, allowzero=self.allowzero)
        even, odd = op.Split(two, [1, 1], axis=4, outputs=2)
        return self._viewed(op, x, op.Squeeze(even, [4]), op.Squeeze(odd, [4]), cos, sin)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.viewed, self.taken, self.parted]

    def _viewed(self, op: Any, x: Any, even: Any, odd: Any, cos: Any, sin: Any) -> Any:
        def join(a: Any, b: Any) -> Any:
            return op.Reshape(self._stack(op, a, b), self.view, allowzero=self.allowzero)

        return self.turn(op, x, even, odd, cos, sin, join)

    def _sliced(self, op: Any, x: Any) -> tuple[Any, Any]:
        return op.Slice(x, [0], [LAST], [3], [2]), op.Slice(x, [1], [LAST], [3], [2])

    def _stack(self, op: Any, a: Any, b: Any) -> Any:
        return op.Concat(op.Unsqueeze(a, [-1]), op.Unsqueeze(b, [-1]), axis=-1)

    def check(self, x: Any, cos: Any, sin: Any) -> str | None:
        size = x.shape[-1]
        if not isinstance(size, int) or size % 2:
            return "the last axis is not proved to be even"
        for table in (cos, sin):
            rows = zip(reversed(table.shape[:-1]), reversed(x.shape[:-1]), strict=False)
            if not 1 <= table.rank <= 4 or table.shape[-1] != size // self.per_entry():
                return "a table is not proved to be as wide as x"
            if any(one not in (1, of) for one, of in rows):
                return "a table is not proved to have a row for each of x, or one for all"
        cls, copied = type(self), 0 if self.allowzero else 3
        if self.view != cls.view and not gives(self.view, x.shape, copied):
            return "a Reshape is not proved to restore the shape of x"
        if self.split != cls.split and not gives(self.split, (*x.shape[:3], size // 2, 2), copied):
            return "a Reshape is not proved to make pairs of x"
        return None

    def infer(self, x: Any, cos: Any, sin: Any) -> Any:
        return x

    def enqueue(self, x: Any, cos: Any, sin: Any, y: Any) -> None:
        size, per = x.shape[3], self.per_entry()
        width = min(vector(x, y, columns=size), per * vector(cos, sin, columns=size // per))
        aligned, width = width > 1, max(width, 2)
        count = x.size // width
        index = "unsigned" if x.size < 1 << 31 else "unsigned long long"
        arguments = (x, cos, sin, y, count, size, x.shape[1], x.shape[2], *_strides(cos), *_strides(sin))
        grid = min(blocks(count, THREADS), 1 << 20)
        PAIRS[x.dtype, width, aligned, per == 2, index]((grid,), (THREADS,), arguments)


class FusedRotaryPairs(_Neighbours):
    """y = x * cos + turned * sin, where turned[2i] = -x[2i+1] and turned[2i+1] = x[2i].

    x, y: (a, b, c, size), size even and known; cos, sin: (a or 1, b or 1, c or 1, size), or fewer axes; one dtype;
    computed in float32. view, split, allowzero: operands of the Reshapes in the model, to the shape of x and to pairs
    (their defaults: it has none).
    Source: Su et al., "RoFormer", 2021, with the tables' entries repeated: EVA-02, GPT-J, Cohere, Flux.
    """

    cases = _cases(1)

    def turn(self, op: Any, x: Any, even: Any, odd: Any, cos: Any, sin: Any, join: Callable[..., Any]) -> Any:
        return x * cos + join(-odd, even) * sin

    def per_entry(self) -> int:
        return 1

    def halfway(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """Like `parted`, where Unsqueeze(Squeeze(even)) is gone."""
        two = op.Reshape(x, self.split, allowzero=self.allowzero)
        even, odd = op.Split(two, [1, 1], axis=4, outputs=2)
        stacked = op.Concat(op.Unsqueeze(-op.Squeeze(odd, [4]), [4]), even, axis=4)
        return x * cos + op.Reshape(stacked, self.view, allowzero=self.allowzero) * sin

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [*super().patterns(), self.halfway]


class FusedRotaryAngles(_Neighbours):
    """(y[2i], y[2i+1]) = (x[2i] cos[i] - x[2i+1] sin[i], x[2i] sin[i] + x[2i+1] cos[i]).

    x, y: (a, b, c, size), size even and known; cos, sin: (a or 1, b or 1, c or 1, size / 2), or fewer axes; one dtype;
    computed in float32. view, split, allowzero: as FusedRotaryPairs has them.
    Source: Su et al., "RoFormer", 2021, with a table entry for each pair: the turn of a complex number, spelled out.
    """

    cases = _cases(2)

    def turn(self, op: Any, x: Any, even: Any, odd: Any, cos: Any, sin: Any, join: Callable[..., Any]) -> Any:
        return join(even * cos - odd * sin, even * sin + odd * cos)

    def per_entry(self) -> int:
        return 2


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedRotaryPairs, FusedRotaryAngles]
