"""CuPy arrays over memory that somebody else owns, on a stream that somebody else made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class Buffer:
    """An array of a dtype that CuPy has no name for (float8): shape, dtype, pointer, and the bytes as `raw`."""

    def __init__(self, raw: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.raw, self.dtype, self.shape = raw, dtype, shape
        self.size = math.prod(shape)
        self.nbytes = self.size * dtype.itemsize
        self.ndim = len(shape)
        self.data = raw.data


def array(pointer: int, dtype: Any, shape: Sequence[int]) -> Any:
    """A C-contiguous CuPy array (or Buffer) of this dtype and shape at a device address."""
    import cupy

    kind, dims = np.dtype(dtype), tuple(int(dim) for dim in shape)
    nbytes = max(math.prod(dims) * kind.itemsize, 1)
    device = cupy.cuda.runtime.getDevice()  # said, it need not be looked up by the address
    memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(int(pointer), nbytes, None, device), 0)
    try:
        return cupy.ndarray(dims, kind, memptr=memory)
    except (TypeError, ValueError):
        raw = cupy.ndarray((math.prod(dims) * kind.itemsize,), np.uint8, memptr=memory)
        return Buffer(raw, kind, dims)


def stream(handle: int) -> Any:
    """CuPy's view of a CUDA stream; a context manager that makes it current."""
    import cupy

    make = getattr(cupy.cuda.Stream, "from_external", None)
    if make is not None and handle:
        return make(_External(handle))
    return cupy.cuda.ExternalStream(handle) if handle else cupy.cuda.Stream.null


class _External:
    """A CUDA stream by the protocol that libraries share."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle
