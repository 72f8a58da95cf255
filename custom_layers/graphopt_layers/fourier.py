"""Discrete Fourier transforms of rows and of frames of a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphopt

FOURIER = r"""
#include <graphopt.cuh>
using namespace go;

// A block transforms one frame in shared memory: Stockham's method, radix by radix (the factors of n, four bits or
// more each in `radices`, least first). sign: -1 forward, 1 inverse. x: frames that begin `apart` elements after each
// other in rows of `row` elements (of PARTS numbers); y: (frames, bins, 2).
template <class T, int PARTS, bool WINDOW>
__global__ void transform(const T* x, const T* window, T* y, int per_row, i64 row, i64 apart, int n, int bins,
                          float sign, float scale) {
    extern __shared__ char memory[];
    float2 *from = reinterpret_cast<float2*>(memory), *to = from + n;
    const i64 frame = blockIdx.x, which = frame / per_row;
    const i64 start = which * row + (frame - which * per_row) * apart;
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const float w = WINDOW ? to_float(window[at]) : 1.0f;
        const float real = to_float(x[(start + at) * PARTS]);
        const float imaginary = PARTS == 2 ? to_float(x[(start + at) * PARTS + PARTS - 1]) : 0.0f;
        from[at] = make_float2(real * w, imaginary * w);
    }
    int done = 1, rest = n, radix = 2;
    while (rest > 1) {
        while (rest % radix) radix = radix * radix > rest ? rest : radix + 1;
        if (radix == 2 && rest % 4 == 0) radix = 4;
        __syncthreads();
        const int stride = n / radix, length = done * radix;
        // to[(q * radix + m) * done + r] = sum over k of from[q * done + r + k * stride] * w^(k * (r + m * done)),
        // w = exp(sign 2 pi i / length).
        for (int at = threadIdx.x; at < n; at += blockDim.x) {
            const int r = at % done, m = at / done % radix, q = at / length;
            float2 total = make_float2(0.0f, 0.0f);
            const i64 turn = r + i64(m) * done;
            for (int k = 0; k < radix; k++) {
                float s, c;
                sincospif(sign * 2.0f * float(int(turn * k % length)) / float(length), &s, &c);
                const float2 v = from[q * done + r + k * stride];
                total.x += v.x * c - v.y * s;
                total.y += v.x * s + v.y * c;
            }
            to[at] = total;
        }
        float2* other = from;
        from = to;
        to = other;
        done = length;
        rest /= radix;
        if (radix == 4) radix = 2;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < bins; at += blockDim.x) {
        y[(frame * bins + at) * 2] = from_float<T>(from[at].x * scale);
        y[(frame * bins + at) * 2 + 1] = from_float<T>(from[at].y * scale);
    }
}
"""
TRANSFORM = graphopt.Kernel(FOURIER, "transform")
LONGEST = 4096
"""Points of one transform: two copies, 8 bytes a point, are kept in shared memory."""


def _launch(
    x: Any, window: Any, y: Any, frames: int, per_row: int, row: int, apart: int, n: int, parts: int, inverse: bool
) -> None:
    threads = min(max(32, 1 << (n - 1).bit_length()), 256)
    sign, scale = (1.0, 1.0 / n) if inverse else (-1.0, 1.0)
    arguments = (x, window, y, per_row, row, apart, n, y.shape[-2], sign, scale)
    TRANSFORM[x.dtype, parts, window is not None]((frames,), (threads,), arguments, shared_mem=16 * n)


class FusedDFT(graphopt.Layer):
    """y[k] = sum over j of x[j] exp(-2 pi i j k / n); inverse: with + for -, divided by n. Of every row of x.

    x: (..., n, 1), real, or (..., n, 2), complex; y: (..., n or, onesided, n // 2 + 1, 2); axis: the last but one.
    1 <= n <= 4096, any factors: n times their sum steps. Computed in float32; the whole signal (no dft_length).
    inverse is not onesided. Source: Stockham, "High-speed convolution and correlation", 1966; ONNX DFT (opset 17, 20).
    """

    axis: int = -2
    inverse: int = 0
    onesided: int = 0
    dtypes = ("float32",)
    shapes = {"x": "... n parts"}
    portable = False
    cases = (
        {"...": (3,), "n": 16, "parts": 1},
        {"...": (3,), "n": 16, "parts": 1, "onesided": 1},
        {"...": (2, 3), "n": 33, "parts": 2},
        {"...": (2,), "n": 60, "parts": 2, "inverse": 1},
        {"...": (2,), "n": 61, "parts": 1, "onesided": 1, "axis": 1},
        {"...": (2,), "n": 1, "parts": 1},
        {"...": (2,), "n": 1000, "parts": 2, "inverse": 1},
        {"...": (2,), "n": 4096, "parts": 1, "onesided": 1},
        {"...": (0,), "n": 8, "parts": 1},
        {"...": (70001,), "n": 4, "parts": 2},
    )

    def body(self, op: Any, x: Any) -> Any:
        if op.opset >= 20:
            return op.DFT(x, None, self.axis, inverse=self.inverse, onesided=self.onesided)
        return op.DFT(x, axis=self.axis, inverse=self.inverse, onesided=self.onesided)

    def last(self, op: Any, x: Any) -> Any:
        """The axis is left out: the last but one, from opset 20 on."""
        if op.opset < 20:
            raise graphopt.Skip("the axis left out is 1")
        return op.DFT(x, inverse=self.inverse, onesided=self.onesided)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.last]

    def check(self, x: Any) -> str | None:
        if x.rank < 2 or self.axis not in (-2, x.rank - 2):
            return "the axis is not the last but one"
        if x.shape[-1] not in (1, 2) or not isinstance(x.shape[-2], int) or not 1 <= x.shape[-2] <= LONGEST:
            return f"the row is not proved to be 1 to {LONGEST} real or complex numbers"
        if self.onesided and (self.inverse or x.shape[-1] != 1):
            return "one side of what is no transform of real numbers"
        return None

    def infer(self, x: Any) -> Any:
        bins = x.shape[-2] // 2 + 1 if self.onesided else x.shape[-2]
        return graphopt.tensor(x.dtype, (*x.shape[:-2], bins, 2))

    def enqueue(self, x: Any, y: Any) -> None:
        n, parts = x.shape[-2:]
        frames = x.size // (n * parts)
        _launch(x, None, y, frames, max(frames, 1), 0, n, n, parts, bool(self.inverse))


class FusedSTFT(graphopt.Layer):
    """y[b, f, k] = sum over j of signal[b, f * step + j] window[j] exp(-2 pi i j k / n).

    signal: (batch, length) or (batch, length, 1), real; window: (n,), 1 <= n <= 4096; y: (batch, frames, n or,
    onesided, n // 2 + 1, 2) with frames = (length - n) // step + 1, length >= n proved. Computed in float32.
    Source: ONNX STFT (opset 17), to which torch.stft is exported.
    """

    step: int = 4
    onesided: int = 1
    dtypes = ("float32",)
    portable = False
    cases = (
        {"signal": (2, 64), "window": (16,)},
        {"signal": (1, 100, 1), "window": (25,), "step": 10},
        {"signal": (2, 64), "window": (16,), "onesided": 0},
        {"signal": (3, 33), "window": (33,), "step": 7},
        {"signal": (0, 64), "window": (16,)},
        {"signal": (1, 16000), "window": (400,), "step": 160},
        {"signal": (2, 16000), "window": (512,), "step": 128},
    )

    def body(self, op: Any, signal: Any, window: Any) -> Any:
        return op.STFT(signal, self.step, window, onesided=self.onesided)

    def lengthy(self, op: Any, signal: Any, window: Any) -> Any:
        """The frame length is said as well: that of the window."""
        return op.STFT(signal, self.step, window, op.Squeeze(op.Shape(window), [0]), onesided=self.onesided)

    def check(self, signal: Any, window: Any) -> str | None:
        if signal.rank not in (2, 3) or (signal.rank == 3 and signal.shape[2] != 1) or window.rank != 1:
            return "the signal is not proved to be real"
        n, length = window.shape[0], signal.shape[1]
        if not isinstance(n, int) or not 1 <= n <= LONGEST or self.step < 1:
            return f"the window is not proved to be of 1 to {LONGEST} points"
        return None if isinstance(length, int) and length >= n else "the signal is not proved to hold a window"

    def infer(self, signal: Any, window: Any) -> Any:
        n, length = window.shape[0], signal.shape[1]
        frames = (length - n) // self.step + 1
        return graphopt.tensor(signal.dtype, (signal.shape[0], frames, n // 2 + 1 if self.onesided else n, 2))

    def enqueue(self, signal: Any, window: Any, y: Any) -> None:
        _launch(
            signal, window, y, y.shape[0] * y.shape[1], y.shape[1], signal.shape[1], self.step, window.size, 1, False
        )


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedDFT, FusedSTFT]
