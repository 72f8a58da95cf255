"""Gated activations: one pass over both operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import graphopt
from graphopt.layers.launch import blocks, vector

GATED = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

// KIND 0: x * sigmoid(x); 1: Gelu with erf; 2: Gelu with tanh; 3: twice Gelu with erf.
template <int KIND> __device__ __forceinline__ float activation(float x) {
    if constexpr (KIND == 0) return x / (1.0f + __expf(-x));
    if constexpr (KIND == 1) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    if constexpr (KIND == 3) return x * (1.0f + erff(x * 0.70710678118654752f));
    const float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return x / (1.0f + __expf(-2.0f * inner));
}

// y[r, c] = activation(gate[r, c]) * up[r, c]; rows of gate and up begin `pitch` apart, those of y `columns`.
template <class T, int WIDTH, int KIND, class INDEX>
__global__ void gated(const T* gate, const T* up, T* y, i64 count, i64 columns, i64 pitch) {
    constexpr int AHEAD = 2;
    const i64 step = threads();
    for (i64 first = thread(); first < count; first += step * AHEAD) {
        Vector<T, WIDTH> a[AHEAD], b[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const i64 at = first + i * step;
            if (at >= count) break;
            i64 place = at * WIDTH;
            if (pitch != columns) place += (INDEX(place) / INDEX(columns)) * (pitch - columns);
            a[i] = load<WIDTH>(gate + place);
            b[i] = load<WIDTH>(up + place);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const i64 at = first + i * step;
            if (at >= count) break;
            Vector<T, WIDTH> out;
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                out[k] = from_float<T>(activation<KIND>(to_float(a[i][k])) * to_float(b[i][k]));
            store<WIDTH>(y + at * WIDTH, out);
        }
    }
}
""",
    "gated",
)
KINDS = {"silu": 0, "none": 1, "tanh": 2, "doubled": 3}
THREADS = 256
ROOT, CUBE = 0.7978845834732056, 0.044714998453855515
"""sqrt(2 / pi) and the cubic coefficient of the tanh approximation, as float32 holds them."""


def launch_gated(kind: str, gate: Any, up: Any, y: Any, columns: int, pitch: int, width: int) -> None:
    """y = activation(gate) * up over rows of `columns` that begin `pitch` elements apart in gate and up."""
    count = y.size // width
    index = "unsigned" if y.size * 2 < 1 << 32 else "unsigned long long"
    grid = min(blocks(count, 2 * THREADS), 1 << 20)
    GATED[y.dtype, width, KINDS[kind], index]((grid,), (THREADS,), (gate, up, y, count, columns, pitch))


def _offset(array: Any, elements: int) -> Any:
    """The array from this element on."""
    return array.reshape(-1)[elements:]


def _halves(x: Any, y: Any) -> tuple[Any, Any, int, int, int]:
    """First and second half of every row, columns, pitch, vector width."""
    columns = y.shape[-1]
    width = vector(x, y, columns=columns)
    return x, _offset(x, columns), columns, 2 * columns, width


def _split(op: Any, x: Any) -> Any:
    """Two equal parts of the last axis."""
    return op.Split(x, axis=-1, outputs=2, num_outputs=2 if op.opset >= 18 else None)


def _sized(op: Any, x: Any, half: Any) -> Any:
    """Two parts of the size that the model says."""
    if isinstance(half, int):
        raise graphopt.Skip("no size is said")
    return op.Split(x, [half, half], axis=-1, outputs=2)


def _not_halved(x: Any, half: int) -> str | None:
    columns = x.shape[-1]
    if not isinstance(columns, int) or columns % 2 or half not in (0, columns // 2):
        return "the last axis is not proved to be split into two halves"
    return None


class _Pair(graphopt.Layer):
    shapes = {"gate": "... columns", "up": "... columns"}

    def infer(self, gate: Any, up: Any) -> Any:
        return gate


class FusedSwiGLU(_Pair):
    """y = gate * sigmoid(gate) * up.

    gate, up, y: (...), of one shape and dtype; the product is taken in float32 and rounded once.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020; Llama's MLP.
    """

    def body(self, op: Any, gate: Any, up: Any) -> Any:
        wide = op.float32(gate)
        return op.like(wide * op.Sigmoid(wide) * op.float32(up), gate)

    def narrow(self, op: Any, gate: Any, up: Any) -> Any:
        """Every operator in the tensors' own dtype."""
        return gate * op.Sigmoid(gate) * up

    def swish(self, op: Any, gate: Any, up: Any) -> Any:
        return op.Swish(gate) * up

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.swish]

    def enqueue(self, gate: Any, up: Any, y: Any) -> None:
        launch_gated("silu", gate, up, y, y.size, y.size, vector(gate, up, y))


class FusedGeGLU(_Pair):
    """y = gelu(gate) * up, gelu(x) = x * (1 + erf(x / sqrt(2))) / 2, or its tanh approximation.

    gate, up, y: (...), of one shape and dtype; the product is taken in float32 and rounded once.
    approximate: "none" or "tanh". Source: Shazeer, 2020; Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """

    approximate: str = "none"
    variants = ({"approximate": "none"}, {"approximate": "tanh"})

    def body(self, op: Any, gate: Any, up: Any) -> Any:
        wide = op.float32(gate)
        return op.like(self._gelu(op, wide) * op.float32(up), gate)

    def narrow(self, op: Any, gate: Any, up: Any) -> Any:
        """Every operator in the tensors' own dtype."""
        return self._gelu(op, gate) * up

    def halved_first(self, op: Any, gate: Any, up: Any) -> Any:
        """As dynamo writes torch's gelu: gate * (0.5 * (1 + erf))."""
        if self.approximate == "tanh":
            raise graphopt.Skip("this spelling is of the one with erf")
        return gate * (0.5 * (op.Erf(gate / 1.4142135623730951) + 1.0)) * up

    def standard(self, op: Any, gate: Any, up: Any) -> Any:
        if self.approximate == "tanh":
            raise graphopt.Skip("the function of ONNX has sqrt(2 / pi) with seven digits: it is not equal to the body")
        return op.Gelu(gate) * up

    def torch_tanh(self, op: Any, gate: Any, up: Any) -> Any:
        """What exporters make of torch's gelu(approximate="tanh")."""
        if self.approximate != "tanh":
            raise graphopt.Skip("this spelling is of the approximation")
        cubed = gate * (gate * gate)
        inner = ROOT * (gate + CUBE * cubed)
        return 0.5 * (gate * (1.0 + op.Tanh(inner))) * up

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.halved_first, self.torch_tanh, self.standard]

    def _gelu(self, op: Any, x: Any) -> Any:
        if self.approximate == "tanh":
            cubed = op.Pow(x, 3.0)
            return 0.5 * x * (1.0 + op.Tanh(ROOT * (x + CUBE * cubed)))
        return x * (op.Erf(x / 1.4142135623730951) + 1.0) * 0.5

    def enqueue(self, gate: Any, up: Any, y: Any) -> None:
        launch_gated(self.approximate, gate, up, y, y.size, y.size, vector(gate, up, y))


class FusedSwiGLUSplit(graphopt.Layer):
    """y = gate * sigmoid(gate) * up, where x = [gate, up] along its last axis.

    x: (..., 2 * half); y: (..., half); one dtype; the product is taken in float32 and rounded once.
    half: columns of y where the model says so (0: it does not). Source: as FusedSwiGLU; Phi-3's MLP (gate_up_proj).
    """

    half: int = 0
    variants = ({"half": 0}, {})
    shapes = {"x": "... columns"}
    cases = (
        {"x": (3, 14), "half": 7},
        {"x": (2, 5, 128), "half": 64},
        {"x": (0, 16), "half": 8},
        {"x": (33, 4096), "half": 2048},
    )

    def body(self, op: Any, x: Any) -> Any:
        gate, up = _split(op, op.float32(x))
        return op.like(gate * op.Sigmoid(gate) * up, x)

    def narrow(self, op: Any, x: Any) -> Any:
        """Every operator in the tensor's own dtype."""
        gate, up = _split(op, x)
        return gate * op.Sigmoid(gate) * up

    def sized(self, op: Any, x: Any) -> Any:
        gate, up = _sized(op, x, self.half)
        return gate * op.Sigmoid(gate) * up

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.sized]

    def check(self, x: Any) -> str | None:
        return _not_halved(x, self.half)

    def infer(self, x: Any) -> Any:
        return graphopt.tensor(x.dtype, (*x.shape[:-1], x.shape[-1] // 2))

    def enqueue(self, x: Any, y: Any) -> None:
        gate, up, columns, pitch, width = _halves(x, y)
        launch_gated("silu", gate, up, y, columns, pitch, width)


class FusedGeGLUSplit(graphopt.Layer):
    """y = gelu(gate) * up, where x = [gate, up] along its last axis (or [up, gate]: gate_last).

    x: (..., 2 * half); y: (..., half); one dtype; the product is taken in float32 and rounded once.
    half: columns of y where the model says so (0: it does not). gate_last: the second half
    goes through the Gelu (diffusers' GEGLU). Gelu with erf; not halved: twice that, where the weights of the product
    that follows took the half (ModernBERT).
    Source: Shazeer, 2020.
    """

    half: int = 0
    gate_last: bool = True
    halved: bool = True
    variants = tuple(
        {**size, "gate_last": last, "halved": halved}
        for size, last, halved in product(({"half": 0}, {}), (True, False), (True, False))
    )
    shapes = {"x": "... columns"}
    cases = (
        {"x": (3, 14), "half": 7},
        {"x": (2, 5, 128), "half": 64},
        {"x": (0, 16), "half": 8},
        {"x": (33, 4096), "half": 2048},
    )

    def body(self, op: Any, x: Any) -> Any:
        first, second = _split(op, op.float32(x))
        gate, up = (second, first) if self.gate_last else (first, second)
        doubled = gate * (op.Erf(gate / 1.4142135623730951) + 1.0)
        return op.like((doubled * 0.5 if self.halved else doubled) * up, x)

    def narrow(self, op: Any, x: Any) -> Any:
        """Every operator in the tensor's own dtype."""
        return self._erf(op, _split(op, x))

    def sized(self, op: Any, x: Any) -> Any:
        return self._erf(op, _sized(op, x, self.half))

    def halved_first(self, op: Any, x: Any) -> Any:
        """As dynamo writes torch's gelu: gate * (0.5 * (1 + erf))."""
        return self._halved_first(op, _split(op, x))

    def halved_first_sized(self, op: Any, x: Any) -> Any:
        return self._halved_first(op, _sized(op, x, self.half))

    def standard(self, op: Any, x: Any) -> Any:
        return self._gelu(op, _split(op, x))

    def standard_sized(self, op: Any, x: Any) -> Any:
        return self._gelu(op, _sized(op, x, self.half))

    def _erf(self, op: Any, parts: Any) -> Any:
        gate, up = parts[::-1] if self.gate_last else parts
        doubled = gate * (op.Erf(gate / 1.4142135623730951) + 1.0)
        return (doubled * 0.5 if self.halved else doubled) * up

    def _halved_first(self, op: Any, parts: Any) -> Any:
        if not self.halved:
            raise graphopt.Skip("this spelling is halved")
        gate, up = parts[::-1] if self.gate_last else parts
        return gate * (0.5 * (op.Erf(gate / 1.4142135623730951) + 1.0)) * up

    def _gelu(self, op: Any, parts: Any) -> Any:
        if not self.halved:
            raise graphopt.Skip("the operator is halved")
        gate, up = parts[::-1] if self.gate_last else parts
        return op.Gelu(gate) * up

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [
            self.body, self.narrow, self.sized, self.halved_first, self.halved_first_sized, self.standard,
            self.standard_sized,
        ]  # fmt: skip

    def check(self, x: Any) -> str | None:
        return _not_halved(x, self.half)

    def infer(self, x: Any) -> Any:
        return graphopt.tensor(x.dtype, (*x.shape[:-1], x.shape[-1] // 2))

    def enqueue(self, x: Any, y: Any) -> None:
        first, second, columns, pitch, width = _halves(x, y)
        gate, up = (second, first) if self.gate_last else (first, second)
        launch_gated("none" if self.halved else "doubled", gate, up, y, columns, pitch, width)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedSwiGLU, FusedGeGLU, FusedSwiGLUSplit, FusedGeGLUSplit]
