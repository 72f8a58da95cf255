"""Discrete Fourier transforms of rows, and of frames of a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt

from .stockham import LONGEST, transform


class FusedDFT(graphopt.Layer):
    """y[k] = sum over j of x[j] exp(-2 pi i j k / n); inverse: with + for -, divided by n. Of every row of x.

    x: (..., n, 1), real, or (..., n, 2), complex; y: (..., n or, onesided, n // 2 + 1, 2); axis: the last but one.
    1 <= n <= 4096, of any factors (primes above 16 cost their square); all of n, without dft_length; in float32.
    An inverse is not onesided. Source: Stockham, "High-speed convolution and correlation", 1966; ONNX DFT (opset 17,
    20). cuFFT's plans allocate, and take no half types at such sizes: the transform is done in shared memory here.
    tactic 1: up to 16 points a thread at once, 2: up to 8.
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

    def tactics(self) -> Sequence[int]:
        return (1, 2)

    def enqueue(self, x: Any, y: Any, tactic: int = 1) -> None:
        n, parts = x.shape[-2:]
        frames = x.size // (n * parts)
        transform(x, None, y, frames, max(frames, 1), 0, n, n, parts, bool(self.inverse), tactic)


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

    def tactics(self) -> Sequence[int]:
        return (1, 2)

    def enqueue(self, signal: Any, window: Any, y: Any, tactic: int = 1) -> None:
        frames, n = y.shape[1], window.size
        transform(signal, window, y, y.shape[0] * frames, frames, signal.shape[1], self.step, n, 1, False, tactic)


@graphopt.hookimpl
def graphopt_layers() -> list[type[graphopt.Layer]]:
    return [FusedDFT, FusedSTFT]
