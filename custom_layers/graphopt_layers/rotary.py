"""Rotary position embedding of the heads of attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, vector

ROTARY = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// HEADS: how many one thread turns by the same angles (a tactic).

// at -> (batch, group of heads, position, column)
template <int HEADS, class INDEX> struct Place {
    i64 x, cosine, sine, step;
    int heads;
    __device__ __forceinline__ Place(INDEX at, INDEX per_row, int width, int size, int table, i64 length, i64 all_heads,
                                     i64 cos_stride, i64 sin_stride) {
        const INDEX groups = INDEX((all_heads + HEADS - 1) / HEADS);
        const INDEX row = at / per_row, vector = at - row * per_row;
        const INDEX group = row / INDEX(length), position = row - group * INDEX(length);
        const INDEX batch = group / groups, head = (group - batch * groups) * HEADS;
        x = ((i64(batch) * all_heads + head) * length + position) * size + i64(vector) * width;
        step = length * size;
        const int column = table == size ? int(vector) * width : int(vector) * (width / 2);
        cosine = i64(batch) * cos_stride + i64(position) * table + column;
        sine = i64(batch) * sin_stride + i64(position) * table + column;
        heads = int(min(i64(HEADS), all_heads - i64(head)));
    }
};

// The two elements of a pair are `half` apart. A thread takes WIDTH pairs of several heads.
// cosine, sine: (batch or 1, length, 2 * half), batches `stride` apart (0: one for all).
template <class T, int WIDTH, bool SIGNED, int HEADS, class INDEX>
__global__ void halves(const T* x, const T* cosine, const T* sine, T* y, i64 count, int half, i64 length, i64 heads,
                       i64 cos_stride, i64 sin_stride) {
    for (i64 at = thread(); at < count; at += threads()) {
        const Place<HEADS, INDEX> p(INDEX(at), half / WIDTH, WIDTH, 2 * half, 2 * half, length, heads, cos_stride,
                                    sin_stride);
        Vector<T, WIDTH> a[HEADS], b[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= p.heads) break;
            a[h] = load<WIDTH>(x + p.x + h * p.step);
            b[h] = load<WIDTH>(x + p.x + h * p.step + half);
        }
        const Vector<T, WIDTH> ca = load<WIDTH>(cosine + p.cosine), cb = load<WIDTH>(cosine + p.cosine + half);
        const Vector<T, WIDTH> sa = load<WIDTH>(sine + p.sine), sb = load<WIDTH>(sine + p.sine + half);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= p.heads) break;
            Vector<T, WIDTH> first, second;
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                const float u = to_float(a[h][k]), v = to_float(b[h][k]);
                first[k] = from_float<T>(u * to_float(ca[k]) + (SIGNED ? v : -v) * to_float(sa[k]));
                second[k] = from_float<T>(v * to_float(cb[k]) + u * to_float(sb[k]));
            }
            store<WIDTH>(y + p.x + h * p.step, first);
            store<WIDTH>(y + p.x + h * p.step + half, second);
        }
    }
}

template <int N, bool ALIGNED, class T> __device__ __forceinline__ Vector<T, N> read(const T* p) {
    if constexpr (ALIGNED) return load<N>(p);
    Vector<T, N> v;
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = p[k];
    return v;
}

// The two elements of a pair are neighbours. A thread takes WIDTH / 2 pairs. cosine, sine: (batch, length, half).
template <class T, int WIDTH, bool ALIGNED, int HEADS, class INDEX>
__global__ void neighbours(const T* x, const T* cosine, const T* sine, T* y, i64 count, int half, i64 length, i64 heads,
                           i64 cos_stride, i64 sin_stride) {
    for (i64 at = thread(); at < count; at += threads()) {
        const Place<HEADS, INDEX> p(INDEX(at), 2 * half / WIDTH, WIDTH, 2 * half, half, length, heads, cos_stride,
                                    sin_stride);
        Vector<T, WIDTH> a[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= p.heads) break;
            a[h] = read<WIDTH, ALIGNED>(x + p.x + h * p.step);
        }
        const Vector<T, WIDTH / 2> c = read<WIDTH / 2, ALIGNED>(cosine + p.cosine);
        const Vector<T, WIDTH / 2> s = read<WIDTH / 2, ALIGNED>(sine + p.sine);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= p.heads) break;
            Vector<T, WIDTH> out;
#pragma unroll
            for (int k = 0; k < WIDTH / 2; k++) {
                const float u = to_float(a[h][2 * k]), v = to_float(a[h][2 * k + 1]);
                const float cs = to_float(c[k]), sn = to_float(s[k]);
                out[2 * k] = from_float<T>(u * cs - v * sn);
                out[2 * k + 1] = from_float<T>(u * sn + v * cs);
            }
            T* to = y + p.x + h * p.step;
            if constexpr (ALIGNED) store<WIDTH>(to, out);
            else
#pragma unroll
                for (int k = 0; k < WIDTH; k++) to[k] = out[k];
        }
    }
}
""",
    "halves",
)
NEIGHBOURS = graphopt.Kernel(ROTARY.source, "neighbours")
THREADS = 256
LAST = (1 << 63) - 1


TACTICS = (1, 2, 4)
"""Heads that one thread turns by the same angles."""


def _launch(
    kernel: graphopt.Kernel, x: Any, cos: Any, sin: Any, y: Any, half: int, template: Any, per_row: int, at_once: int,
    length: int,
) -> None:  # fmt: skip
    batch, heads = x.shape[:2]
    count = batch * blocks(heads, at_once) * length * per_row
    index = "unsigned" if x.size < 1 << 31 else "unsigned long long"
    strides = [0 if table.shape[0] == 1 else table.size // table.shape[0] for table in (cos, sin)]
    arguments = (x, cos, sin, y, count, half, length, heads, *strides)
    kernel[(x.dtype, *template, at_once, index)]((min(blocks(count, THREADS), 1 << 20),), (THREADS,), arguments)


def _tables(x: Any, *tables: Any) -> str | None:
    for table in tables:
        if table.shape[0] != 1 and table.shape[0] != x.shape[0]:
            return "the batches of x and of the tables are not proved to be the same, or one table"
    return None


class FusedRotaryHalf(graphopt.Layer):
    """y = x * cos + [-x2, x1] * sin, where x = [x1, x2] along its last axis; signed: [x2, x1] * sin.

    x, y: (batch, heads, length, 2 * half); cos, sin: (batch or 1, 1, length, 2 * half); one dtype; computed in float32.
    half: half the size of a head where the model says so (0: it does not). signed: the sign stands in the table, where
    negate-in-constant puts it. transposed: length and size have changed places in all of them (fewer than 2^30 elements
    a head), as where the transposition of the keys has moved up.
    Source: Su et al., "RoFormer", 2021, in the pairing of GPT-NeoX and Llama.
    """

    half: int = 0
    signed: bool = False
    transposed: bool = False
    variants = tuple(
        {**size, "signed": signed, "transposed": transposed}
        for transposed, size, signed in product((False, True), ({"half": 0}, {}), (False, True))
    )
    shapes = {"x": "batch heads length size", "cos": "c 1 length size", "sin": "s 1 length size"}
    cases = (
        {"batch": 2, "heads": 3, "length": 5, "size": 16, "c": 1, "s": 1},
        {"batch": 2, "heads": 3, "length": 7, "size": 16, "c": 2, "s": 2, "half": 8},
        {"batch": 2, "heads": 1, "length": 33, "size": 6, "c": 1, "s": 2, "half": 3},
        {"batch": 0, "heads": 3, "length": 5, "size": 16, "c": 1, "s": 1},
        {"batch": 2, "heads": 8, "length": 512, "size": 128, "c": 1, "s": 1, "half": 64},
        {"batch": 2, "heads": 3, "length": 32, "size": 9, "c": 1, "s": 2, "half": 16, "transposed": True},
        {"batch": 1, "heads": 2, "length": 6, "size": 5, "c": 1, "s": 1, "transposed": True, "signed": True},
    )

    def body(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        turned = self._turned(op, op.float32(x))
        return op.like(op.float32(x) * op.float32(cos) + turned * op.float32(sin), x)

    def narrow(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        """Every operator in the tensors' own dtype."""
        return x * cos + self._turned(op, x) * sin

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow]

    def _turned(self, op: Any, x: Any) -> Any:
        axis = -2 if self.transposed else -1
        if isinstance(self.half, int) and self.half == 0:
            first, second = op.Split(x, axis=axis, outputs=2, num_outputs=2 if op.opset >= 18 else None)
        else:
            first, second = op.Split(x, [self.half, self.half], axis=axis, outputs=2)
        return op.Concat(second if self.signed else -second, first, axis=axis)

    def check(self, x: Any, cos: Any, sin: Any) -> str | None:
        size = x.shape[-2 if self.transposed else -1]
        if not isinstance(size, int) or size % 2 or self.half not in (0, size // 2):
            return "the axis is not proved to be two halves"
        return _tables(x, cos, sin)

    def infer(self, x: Any, cos: Any, sin: Any) -> Any:
        return x

    def tactics(self) -> Sequence[int]:
        return TACTICS

    def enqueue(self, x: Any, cos: Any, sin: Any, y: Any, tactic: int = 1) -> None:
        rows, columns = x.shape[2:]
        length, half = (1, rows // 2 * columns) if self.transposed else (rows, columns // 2)
        width = vector(x, cos, sin, y, columns=half)
        _launch(ROTARY, x, cos, sin, y, half, (width, bool(self.signed)), half // width, tactic, length)


class FusedRotaryInterleaved(graphopt.Layer):
    """(y[2i], y[2i+1]) = (x[2i] cos[i] - x[2i+1] sin[i], x[2i] sin[i] + x[2i+1] cos[i]).

    x, y: (batch, heads, length, 2 * half); cos, sin: (batch, length, half); one dtype; computed in float32.
    Source: Su et al., "RoFormer", 2021; ONNX RotaryEmbedding (opset 23) with interleaved = 1 and no position_ids.
    """

    shapes = {"x": "batch heads length size", "cos": "batch length half", "sin": "batch length half"}
    cases = (
        {"batch": 2, "heads": 3, "length": 5, "size": 16, "half": 8},
        {"batch": 1, "heads": 1, "length": 33, "size": 6, "half": 3},
        {"batch": 0, "heads": 3, "length": 5, "size": 16, "half": 8},
        {"batch": 2, "heads": 8, "length": 512, "size": 128, "half": 64},
    )

    def body(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        wide = op.float32(x)
        even, odd = op.Slice(wide, [0], [LAST], [3], [2]), op.Slice(wide, [1], [LAST], [3], [2])
        c, s = op.Unsqueeze(op.float32(cos), [1]), op.Unsqueeze(op.float32(sin), [1])
        first, second = op.Unsqueeze(even * c - odd * s, [4]), op.Unsqueeze(even * s + odd * c, [4])
        return op.like(op.Reshape(op.Concat(first, second, axis=4), op.Shape(x)), x)

    def standard(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        return op.RotaryEmbedding(x, cos, sin, interleaved=1)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.standard]

    def check(self, x: Any, cos: Any, sin: Any) -> str | None:
        size, half = x.shape[-1], cos.shape[-1]
        if not isinstance(size, int) or not isinstance(half, int) or size != 2 * half:
            return "the last axis of x is not proved to be twice that of the tables"
        return None

    def infer(self, x: Any, cos: Any, sin: Any) -> Any:
        return x

    def tactics(self) -> Sequence[int]:
        return TACTICS

    def enqueue(self, x: Any, cos: Any, sin: Any, y: Any, tactic: int = 1) -> None:
        half = cos.shape[-1]
        width = min(vector(x, y, columns=2 * half), 2 * vector(cos, sin, columns=half))
        aligned, width = width > 1, max(width, 2)
        _launch(NEIGHBOURS, x, cos, sin, y, half, (width, aligned), 2 * half // width, tactic, x.shape[2])


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedRotaryHalf, FusedRotaryInterleaved]
