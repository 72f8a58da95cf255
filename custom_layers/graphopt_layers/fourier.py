"""Discrete Fourier transforms of rows, and of frames of a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt
from graphopt.layers.launch import blocks

TRANSFORM = graphopt.Kernel(
    r"""
#include <graphopt.cuh>
using namespace go;

__device__ __forceinline__ float2 times(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
__device__ __forceinline__ float2 root(float sign, int turn, int length) {  // exp(sign 2 pi i turn / length)
    float s, c;
    sincospif(sign * 2.0f * float(turn) / float(length), &s, &c);
    return make_float2(c, s);
}

// u becomes its transform of R points.
template <int R> __device__ __forceinline__ void short_transform(float2 (&u)[R], float sign) {
    if constexpr (R == 2) {
        const float2 a = u[0], b = u[1];
        u[0] = make_float2(a.x + b.x, a.y + b.y);
        u[1] = make_float2(a.x - b.x, a.y - b.y);
    } else if constexpr (R == 4) {
        const float2 a = make_float2(u[0].x + u[2].x, u[0].y + u[2].y);
        const float2 b = make_float2(u[0].x - u[2].x, u[0].y - u[2].y);
        const float2 c = make_float2(u[1].x + u[3].x, u[1].y + u[3].y);
        const float2 d = make_float2(u[1].x - u[3].x, u[1].y - u[3].y);
        const float2 turned = make_float2(-sign * d.y, sign * d.x);
        u[0] = make_float2(a.x + c.x, a.y + c.y);
        u[2] = make_float2(a.x - c.x, a.y - c.y);
        u[1] = make_float2(b.x + turned.x, b.y + turned.y);
        u[3] = make_float2(b.x - turned.x, b.y - turned.y);
    } else {
        constexpr float C3[3] = {1.0f, -0.5f, -0.5f}, S3[3] = {0.0f, 0.86602540378443865f, -0.86602540378443865f};
        constexpr float A = 0.30901699437494742f, B = -0.80901699437494742f;
        constexpr float C = 0.95105651629515357f, D = 0.58778525229247313f;
        constexpr float C5[5] = {1.0f, A, B, B, A}, S5[5] = {0.0f, C, D, -D, -C};
        float2 made[R];
#pragma unroll
        for (int m = 0; m < R; m++) {
            made[m] = u[0];
#pragma unroll
            for (int k = 1; k < R; k++) {
                const float c = R == 3 ? C3[k * m % R] : C5[k * m % R], s = R == 3 ? S3[k * m % R] : S5[k * m % R];
                made[m].x += u[k].x * c - u[k].y * sign * s;
                made[m].y += u[k].x * sign * s + u[k].y * c;
            }
        }
#pragma unroll
        for (int m = 0; m < R; m++) u[m] = made[m];
    }
}

// One step of Stockham's method: transforms of `done` points become those of `done` * R.
// to[(q R + m) done + r] = sum over k of from[q done + r + k n / R] w^(k (r + m done)),
// w = exp(sign 2 pi i / (done R)).
template <int R>
__device__ __forceinline__ void step(const float2* from, float2* to, int n, int done, float sign) {
    const int stride = n / R;
    for (int at = threadIdx.x; at < stride; at += blockDim.x) {
        const int q = at / done, r = at - q * done;
        float2 u[R];
#pragma unroll
        for (int k = 0; k < R; k++) u[k] = from[at + k * stride];
        if (r > 0) {
            const float2 w = root(sign, r, done * R);
            float2 power = w;
#pragma unroll
            for (int k = 1; k < R; k++) {
                u[k] = times(u[k], power);
                power = times(power, w);
            }
        }
        short_transform<R>(u, sign);
#pragma unroll
        for (int m = 0; m < R; m++) to[(q * R + m) * done + r] = u[m];
    }
}
__device__ __forceinline__ void long_step(const float2* from, float2* to, int n, int done, int radix, float sign) {
    const int stride = n / radix, length = done * radix;
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const int q = at / length, turn = at - q * length, r = turn % done;
        float2 total = make_float2(0.0f, 0.0f);
        int angle = 0;  // k * turn modulo length
        for (int k = 0; k < radix; k++) {
            const float2 v = times(from[q * done + r + k * stride], root(sign, angle, length));
            total.x += v.x;
            total.y += v.y;
            angle += turn;
            if (angle >= length) angle -= length;
        }
        to[at] = total;
    }
}

// Every row of threads transforms a frame in shared memory. sign: -1 forward, 1 inverse. x: frames that begin `apart`
// elements after each other in rows of `row` elements (of PARTS numbers); y: (frames, bins, 2).
template <class T, int PARTS, bool WINDOW>
__global__ void transform(const T* x, const T* window, T* y, i64 frames, i64 per_row, i64 row, i64 apart, int n,
                          int bins, float sign, float scale) {
    extern __shared__ float2 memory[];
    float2 *from = memory + 2 * n * threadIdx.y, *to = from + n;
    const i64 frame = i64(blockIdx.x) * blockDim.y + threadIdx.y, which = frame / per_row;
    const bool in = frame < frames;
    const i64 start = which * row + (frame - which * per_row) * apart;
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const float w = WINDOW ? to_float(window[at]) : 1.0f;
        const float real = in ? to_float(x[(start + at) * PARTS]) : 0.0f;
        const float imaginary = PARTS == 2 && in ? to_float(x[(start + at) * PARTS + PARTS - 1]) : 0.0f;
        from[at] = make_float2(real * w, imaginary * w);
    }
    for (int done = 1; done < n;) {
        const int rest = n / done;
        int radix = rest % 4 == 0 ? 4 : rest % 2 == 0 ? 2 : rest % 3 == 0 ? 3 : rest % 5 == 0 ? 5 : 7;
        while (rest % radix) radix = radix * radix > rest ? rest : radix + 2;
        __syncthreads();
        if (radix == 4) step<4>(from, to, n, done, sign);
        else if (radix == 2) step<2>(from, to, n, done, sign);
        else if (radix == 3) step<3>(from, to, n, done, sign);
        else if (radix == 5) step<5>(from, to, n, done, sign);
        else long_step(from, to, n, done, radix, sign);
        float2* other = from;
        from = to;
        to = other;
        done *= radix;
    }
    __syncthreads();
    if (!in) return;
    T* out = y + frame * bins * 2;
    for (int at = threadIdx.x; at < bins * 2; at += blockDim.x) {
        const float2 v = from[at / 2];
        out[at] = from_float<T>((at & 1 ? v.y : v.x) * scale);
    }
}
""",
    "transform",
)
LONGEST = 4096
"""Points of one transform: two copies, 8 bytes a point, are kept in shared memory."""
THREADS, SHARED_BYTES = 256, 32 << 10


def _launch(
    x: Any, window: Any, y: Any, frames: int, per_row: int, row: int, apart: int, n: int, parts: int, inverse: bool
) -> None:
    lanes = 4
    while lanes < min(blocks(n, 4), THREADS):
        lanes *= 2
    together = max(min(THREADS // lanes, SHARED_BYTES // (16 * n)), 1)
    lanes = max(lanes, 32 // together)
    sign, scale = (1.0, 1.0 / n) if inverse else (-1.0, 1.0)
    arguments = (x, window, y, frames, per_row, row, apart, n, y.shape[-2], sign, scale)
    grid = blocks(frames, together)
    TRANSFORM[x.dtype, parts, window is not None]((grid,), (lanes, together), arguments, shared_mem=16 * n * together)


class FusedDFT(graphopt.Layer):
    """y[k] = sum over j of x[j] exp(-2 pi i j k / n); inverse: with + for -, divided by n. Of every row of x.

    x: (..., n, 1), real, or (..., n, 2), complex; y: (..., n or, onesided, n // 2 + 1, 2); axis: the last but one.
    1 <= n <= 4096, of any factors (those above 5 cost their square); all of n, without dft_length; computed in float32.
    An inverse is not onesided. Source: Stockham, "High-speed convolution and correlation", 1966; ONNX DFT (opset 17,
    20). cuFFT's plans allocate, and take no half types at such sizes: the transform is done in shared memory here.
    """

    axis: int = -2
    inverse: int = 0
    onesided: int = 0
    shapes = {"x": "... n parts"}
    portable = False
    cases = (
        {"...": (3,), "n": 16, "parts": 1},
        {"...": (3,), "n": 16, "parts": 1, "onesided": 1},
        {"...": (2, 3), "n": 33, "parts": 2},
        {"...": (2,), "n": 60, "parts": 2, "inverse": 1},
        {"...": (2,), "n": 61, "parts": 1, "onesided": 1, "axis": 1},
        {"...": (2,), "n": 1, "parts": 1},
        {"...": (17,), "n": 256, "parts": 2, "inverse": 1},
        {"...": (2,), "n": 4096, "parts": 1, "onesided": 1},
        {"...": (0,), "n": 8, "parts": 1},
        {"...": (7001,), "n": 4, "parts": 2},
    )

    def body(self, op: Any, x: Any) -> Any:
        wide = op.float32(x)
        if op.opset >= 20:
            return op.like(op.DFT(wide, None, self.axis, inverse=self.inverse, onesided=self.onesided), x)
        return op.like(op.DFT(wide, axis=self.axis, inverse=self.inverse, onesided=self.onesided), x)

    def narrow(self, op: Any, x: Any) -> Any:
        """In the tensor's own dtype."""
        if op.opset >= 20:
            return op.DFT(x, None, self.axis, inverse=self.inverse, onesided=self.onesided)
        return op.DFT(x, axis=self.axis, inverse=self.inverse, onesided=self.onesided)

    def last(self, op: Any, x: Any) -> Any:
        """The axis is left out: the last but one, from opset 20 on."""
        if op.opset < 20:
            raise graphopt.Skip("the axis left out is 1")
        return op.DFT(x, inverse=self.inverse, onesided=self.onesided)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow, self.last]

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
    said: whether the frame's length is an operand of its own.
    Source: ONNX STFT (opset 17), to which torch.stft is exported.
    """

    step: int = 4
    length: int = 16
    onesided: int = 1
    said: bool = False
    variants = ({"said": False}, {"said": True})
    portable = False
    cases = (
        {"signal": (2, 64), "window": (16,)},
        {"signal": (1, 100, 1), "window": (25,), "step": 10},
        {"signal": (2, 64), "window": (16,), "onesided": 0},
        {"signal": (3, 33), "window": (33,), "step": 7},
        {"signal": (0, 64), "window": (16,)},
        {"signal": (2, 1600), "window": (512,), "step": 128},
        {"signal": (2, 16000), "window": (400,), "step": 160},  # onnxruntime's own is 1 % off here in float32
    )

    def body(self, op: Any, signal: Any, window: Any) -> Any:
        frame = [self.length] if self.said else []
        return op.like(
            op.STFT(op.float32(signal), self.step, op.float32(window), *frame, onesided=self.onesided), signal
        )

    def narrow(self, op: Any, signal: Any, window: Any) -> Any:
        """In the tensors' own dtype."""
        frame = [self.length] if self.said else []
        return op.STFT(signal, self.step, window, *frame, onesided=self.onesided)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        return [self.body, self.narrow]

    def check(self, signal: Any, window: Any) -> str | None:
        if signal.rank not in (2, 3) or (signal.rank == 3 and signal.shape[2] != 1) or window.rank != 1:
            return "the signal is not proved to be real"
        n, length = window.shape[0], signal.shape[1]
        if self.said and n != self.length:
            return "the frame is not proved to be as long as the window"
        if not isinstance(n, int) or not 1 <= n <= LONGEST or self.step < 1:
            return f"the window is not proved to be of 1 to {LONGEST} points"
        return None if isinstance(length, int) and length >= n else "the signal is not proved to hold a window"

    def infer(self, signal: Any, window: Any) -> Any:
        n, length = window.shape[0], signal.shape[1]
        frames = (length - n) // self.step + 1
        return graphopt.tensor(signal.dtype, (signal.shape[0], frames, n // 2 + 1 if self.onesided else n, 2))

    def enqueue(self, signal: Any, window: Any, y: Any) -> None:
        frames, n = y.shape[1], window.size
        _launch(signal, window, y, y.shape[0] * frames, frames, signal.shape[1], self.step, n, 1, False)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedDFT, FusedSTFT]
