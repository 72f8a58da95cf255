"""Device buffers between guard zones: nothing may be written there, and what is read there shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from graphopt.layers import buffers

GUARD_BYTES = 4096
"""On both sides of every buffer."""
POISON = (0xFF, 0x3B)
"""Bytes that outputs, guards and workspace are filled with: NaN in every float; small finite numbers."""


class Guarded:
    """One buffer: guard, values, guard. `shift`: elements by which its address is off 256 bytes."""

    def __init__(self, dtype: Any, shape: Sequence[int], poison: int, shift: int = 0) -> None:
        import cupy

        self.dtype, self.shape, self.poison = np.dtype(dtype), tuple(shape), poison
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        offset = shift * self.dtype.itemsize
        self._all = cupy.full(2 * GUARD_BYTES + self.nbytes + offset, poison, cupy.uint8)
        self._start = GUARD_BYTES + offset

    @property
    def pointer(self) -> int:
        return int(self._all.data.ptr) + int(self._start)

    @property
    def array(self) -> Any:
        """The values as a CuPy array."""
        return buffers.array(self.pointer, self.dtype, self.shape)

    def write(self, values: np.ndarray[Any, Any]) -> None:
        if not self.nbytes:
            return
        flat = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._all[self._start : self._start + self.nbytes].set(flat)

    def spoil(self) -> None:
        """Fill the values with poison again."""
        if self.nbytes:
            self._all[self._start : self._start + self.nbytes] = self.poison

    def read(self) -> np.ndarray[Any, Any]:
        raw = self._all[self._start : self._start + self.nbytes].get()
        return np.frombuffer(raw.tobytes(), self.dtype).reshape(self.shape)

    def breach(self) -> str:
        """'' if both guards are as they were, else where they are not."""
        whole = self._all.get()
        before, after = whole[: self._start], whole[self._start + self.nbytes :]
        if (hits := np.flatnonzero(before != self.poison)).size:
            return f"{len(before) - int(hits[-1])} bytes before its start"
        if (hits := np.flatnonzero(after != self.poison)).size:
            return f"{int(hits[0])} bytes after its end"
        return ""


class Allocated(Exception):
    """Memory was asked for where none may be."""


@contextmanager
def no_allocation() -> Iterator[None]:
    """Any allocation through CuPy, on the device or pinned on the host, raises Allocated."""
    import cupy

    def refuse(nbytes: int) -> Any:
        raise Allocated(f"it allocates {nbytes} bytes on the device")

    def refuse_pinned(nbytes: int) -> Any:
        raise Allocated(f"it allocates {nbytes} bytes of pinned memory: it copies between host and device")

    old, pinned = cupy.cuda.get_allocator(), cupy.get_default_pinned_memory_pool().malloc
    cupy.cuda.set_allocator(refuse)
    cupy.cuda.set_pinned_memory_allocator(refuse_pinned)
    try:
        yield
    finally:
        cupy.cuda.set_allocator(old)
        cupy.cuda.set_pinned_memory_allocator(pinned)


def captured(launch: Callable[[Any], None]) -> Any:
    """The CUDA graph of what `launch(stream)` does. Raises what it raises, or the driver's complaint."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    try:
        launch(stream)
    except BaseException:
        with suppress(Exception):  # the capture is broken, and that is being reported already
            stream.end_capture()
        raise
    return stream.end_capture()
