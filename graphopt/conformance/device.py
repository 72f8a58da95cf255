"""The part of the conformance suite that runs on a GPU: through the plugin, in guarded buffers, on streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.layers.host import Prepared, prepare
from graphopt.layers.layer import Layer
from graphopt.layers.measured import current_gpu
from graphopt.runtime.loaded import library

from . import truth as meaning
from .cases import Case
from .check import Finding
from .guard import POISON, Allocated, Guarded, captured, no_allocation
from .timing import bandwidth, time_case

Arrays = Sequence[np.ndarray[Any, Any]]
REPEATS = 8
"""Launches whose bits must be equal."""


def interfaces() -> Any:
    """A module with TensorRT's plugin interfaces: tensorrt, else tensorrt_rtx. Raises GraphoptError."""
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return __import__(name)
        except ImportError:
            continue
    raise GraphoptError(
        "neither tensorrt nor tensorrt_rtx is installed: plugins have no interfaces",
        hint="pip install 'graphopt[rtx]'",
    )


class Device:
    """The current GPU. Raises BackendError where there is none, or no CuPy."""

    def __init__(self) -> None:
        library("kernels run through CuPy")
        self.name = current_gpu()
        self.trt = interfaces()
        self.copy_bandwidth: float | None = None

    def check(self, case: Case, want: Arrays) -> Iterator[Finding]:
        """All that a kernel must hold for one call."""
        text = str(case)
        try:
            run = Run(self.trt, case)
        except GraphoptError as error:
            yield Finding("life cycle", text, False, error.what)
            return
        yield Finding("life cycle", text, True)
        try:
            yield from run.findings(want)
        except GraphoptError as error:
            yield Finding("launch", text, False, error.what)
            _alive(text)
        except Exception as error:
            if not type(error).__name__.startswith("CUDA"):
                raise
            raise GraphoptError(f"the kernel ended the GPU's context: {error}", where=text) from None
        finally:
            run.prepared.destroy()

    def timings(self, every: Sequence[Case]) -> list[dict[str, Any]]:
        """Time of the largest call of each dtype against what memory or arithmetic allow."""
        largest: dict[str, Case] = {}
        for case in every:
            size = sum(int(np.prod(shape)) for shape in case.shapes.values())
            other = largest.get(case.dtype)
            if case.family == "normal" and (
                other is None or size > sum(int(np.prod(shape)) for shape in other.shapes.values())
            ):
                largest[case.dtype] = case
        if self.copy_bandwidth is None:
            self.copy_bandwidth = bandwidth()
        found = []
        for case in largest.values():
            run = Run(self.trt, case)
            found.append(time_case(case, run.prepared, run.launcher(0), self.copy_bandwidth))
        return found


def _alive(case: str) -> None:
    """Raise GraphoptError where the context is lost: nothing can be tested in this process any more."""
    import cupy

    try:
        cupy.cuda.runtime.deviceSynchronize()
        cupy.zeros(1).sum()
    except Exception as error:
        raise GraphoptError(f"the kernel ended the GPU's context: {error}", where=case) from None


class Run:
    """One call, prepared for the device."""

    def __init__(self, trt: Any, case: Case) -> None:
        self.case = case
        self.arrays = case.arrays()
        layer: Layer = case.layer
        self.prepared: Prepared = prepare(
            trt, layer, case.present, [(case.kinds[name], case.shapes[name]) for name in case.present]
        )
        self._held: list[Any] = []

    def _buffers(self, poison: int, shift: int) -> tuple[list[Guarded], list[Guarded], Guarded]:
        ins = []
        for name in self.case.present:
            made = Guarded(self.case.kinds[name], self.case.shapes[name], poison, shift)
            made.write(self.arrays[name])
            ins.append(made)
        outs = [Guarded(kind, shape, poison, shift) for kind, shape in self.prepared.outputs]
        return ins, outs, Guarded(np.uint8, (max(self.prepared.workspace_bytes, 1),), poison)

    def launcher(self, tactic: int, poison: int = POISON[0]) -> Callable[[Any], None]:
        """launch(stream), over buffers of its own."""
        ins, outs, workspace = self._buffers(poison, 0)
        self._held += [ins, outs, workspace]
        pointers = [one.pointer for one in ins], [one.pointer for one in outs]

        def launch(stream: Any) -> None:
            self.prepared.enqueue(*pointers, workspace.pointer, stream.ptr, tactic)

        return launch

    def findings(self, want: Arrays) -> Iterator[Finding]:
        """Every check of this call, for each tactic."""
        for tactic in self.prepared.tactics or [0]:
            text = str(self.case) + (f" tactic {tactic}" if tactic else "")
            first: list[bytes] = []
            for poison in POISON:
                for shift in (0, 1):
                    yield from self._once(text, want, poison, shift, tactic, first)
            if not first:
                continue  # it wrote where it must not: nothing more can be told
            if self.case.layer.in_place:
                yield self._in_place(text, want, tactic)
            yield self._quiet(text, tactic, first)
            yield self._repeated(text, tactic, first)

    def _once(
        self, text: str, want: Arrays, poison: int, shift: int, tactic: int, first: list[bytes]
    ) -> Iterator[Finding]:
        """One launch: right values, no byte outside, the same whatever memory held before."""
        import cupy

        ins, outs, workspace = self._buffers(poison, shift)
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.runtime.deviceSynchronize()
        twin = self.prepared.twin()
        twin.enqueue([i.pointer for i in ins], [o.pointer for o in outs], workspace.pointer, stream.ptr, tactic)
        cupy.cuda.runtime.deviceSynchronize()
        place = f"{text}, {'aligned' if not shift else 'aligned to one element'}"
        named = [*zip(self.case.present, ins, strict=True), *zip(self.case.layer.outputs, outs, strict=True)]
        for name, buffer in (*named, ("workspace", workspace)):
            if breach := buffer.breach():
                yield Finding("bounds", place, False, f"it writes outside of {name}: {breach}")
                return
        for name, buffer in zip(self.case.present, ins, strict=True):
            if buffer.read().tobytes() != self.arrays[name].tobytes():
                yield Finding("bounds", place, False, f"it changes its input {name}")
                return
        yield Finding("bounds", place, True)
        got = self._packed([out.read() for out in outs])
        yield self._value(place, got, want)
        bits = b"".join(array.tobytes() for array in got)
        if not first:
            first.append(bits)
        elif self.case.layer.deterministic and bits != first[0]:
            detail = "results depend on the alignment of the buffers, or on what memory held before: not all is written"
            close = all(
                meaning.difference(a, b, a.dtype)[0] <= meaning.limit(a.dtype)
                for a, b in zip(got, self._split(first[0], got), strict=True)
            )
            if not close:
                yield Finding("written", place, False, detail)
                return
        yield Finding("written", place, True)

    def _split(self, bits: bytes, like: Arrays) -> list[np.ndarray[Any, Any]]:
        found, at = [], 0
        for array in like:
            found.append(np.frombuffer(bits[at : at + array.nbytes], array.dtype).reshape(array.shape))
            at += array.nbytes
        return found if at == len(bits) else [np.full(array.shape, np.nan) for array in like]

    def _packed(self, outs: Arrays) -> list[np.ndarray[Any, Any]]:
        """The outputs of `body`, data-dependent axes at their real size."""
        count = len(outs) - len({size for _, _, size in self.prepared.sizes})
        found = []
        for at in range(count):
            shape = list(outs[at].shape)
            for output, axis, size in self.prepared.sizes:
                if output == at:
                    real = int(outs[size])
                    if not 0 <= real <= shape[axis]:
                        raise GraphoptError(f"output {at}: size {real} on axis {axis}, bound {shape[axis]}")
                    shape[axis] = real
            found.append(outs[at].ravel()[: int(np.prod(shape))].reshape(shape))
        return found

    def _value(self, place: str, got: Arrays, want: Arrays) -> Finding:
        worst = 0.0
        for at, (a, b) in enumerate(zip(got, want, strict=True)):
            error, detail = meaning.difference(a, b, a.dtype)
            worst = max(worst, error)
            if error > meaning.limit(a.dtype):
                name = self.case.layer.outputs[at]
                return Finding("values", place, False, f"{name}: error {error:.3g}, {detail}", error)
        return Finding("values", place, True, error=worst)

    def _in_place(self, text: str, want: Arrays, tactic: int) -> Finding:
        """The right values where outputs share the buffers of inputs, as under TensorRT."""
        import cupy

        ins, outs, workspace = self._buffers(POISON[0], 0)
        names = list(self.case.layer.outputs)
        for at, name in enumerate(names):
            source = self.case.layer.in_place.get(name)
            if source in self.case.present:
                outs[at] = ins[self.case.present.index(source)]
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.runtime.deviceSynchronize()
        pointers = [i.pointer for i in ins], [o.pointer for o in outs]
        self.prepared.enqueue(*pointers, workspace.pointer, stream.ptr, tactic)
        cupy.cuda.runtime.deviceSynchronize()
        return self._value(f"{text}, in place", self._packed([out.read() for out in outs]), want)

    def _quiet(self, text: str, tactic: int, first: Sequence[bytes]) -> Finding:
        """No allocation, no synchronization; and the CUDA graph of it computes the same."""
        import cupy

        ins, outs, workspace = self._buffers(POISON[0], 0)
        pointers = [one.pointer for one in ins], [one.pointer for one in outs]

        def launch(stream: Any) -> None:
            self.prepared.enqueue(*pointers, workspace.pointer, stream.ptr, tactic)

        warm = cupy.cuda.Stream(non_blocking=True)
        launch(warm)
        cupy.cuda.runtime.deviceSynchronize()
        try:
            with no_allocation():
                launch(warm)
            warm.synchronize()
        except (GraphoptError, Allocated) as error:
            warm.synchronize()
            return Finding("no allocation", text, False, str(error))
        try:
            graph = captured(launch)
        except Exception as error:  # the driver's complaint has many classes
            return Finding("graph", text, False, f"it cannot be captured, so it synchronizes or copies: {error}")
        cupy.cuda.runtime.deviceSynchronize()
        for out in outs:  # what was launched elsewhere during the capture does not count
            out.spoil()
        cupy.cuda.runtime.deviceSynchronize()
        stream = cupy.cuda.Stream(non_blocking=True)
        if not all(out.nbytes == 0 for out in outs):
            graph.launch(stream)
        stream.synchronize()
        got = self._packed([out.read() for out in outs])
        same = b"".join(array.tobytes() for array in got) == first[0]
        if not same and self.case.layer.deterministic:
            return Finding("graph", text, False, "the captured CUDA graph computes something else")
        return Finding("graph", text, True)

    def _repeated(self, text: str, tactic: int, first: Sequence[bytes]) -> Finding:
        """The same bits from launches that overlap on several streams."""
        import cupy

        if not self.case.layer.deterministic:
            return Finding("determinism", text, True, "the layer does not promise it")
        sets = [self._buffers(POISON[turn % 2], 0) for turn in range(REPEATS)]
        streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
        cupy.cuda.runtime.deviceSynchronize()
        for turn, (ins, outs, workspace) in enumerate(sets):
            self.prepared.enqueue(
                [i.pointer for i in ins], [o.pointer for o in outs], workspace.pointer, streams[turn % 3].ptr, tactic
            )
        cupy.cuda.runtime.deviceSynchronize()
        for turn, (_, outs, _) in enumerate(sets):
            got = self._packed([out.read() for out in outs])
            if b"".join(array.tobytes() for array in got) != first[0]:
                return Finding("determinism", text, False, f"launch {turn + 1} of {REPEATS} gave other bits: a race")
        return Finding("determinism", text, True)
