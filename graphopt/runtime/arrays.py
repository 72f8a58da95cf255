"""Arrays of NumPy, CuPy and PyTorch, and what speaks DLPack, as (address, shape); and results in the caller's kind."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import dtypes

from .ports import Port

_CUDA = 2  # DLPack's kDLCUDA


@dataclass(frozen=True)
class Given:
    """One input as it was given."""

    kind: str
    """'numpy', 'cupy' or 'torch': results come back in this kind."""
    shape: tuple[int, ...]
    address: int
    """On the device; 0 for host memory."""
    owner: Any
    """Keeps the memory alive; of host memory, a contiguous NumPy array."""


def given(port: Port, value: Any) -> Given:
    """An input as the runner needs it; copied only where it is not contiguous.

    Raises:
        UsageError: its dtype is not the port's (nothing is converted silently), or it lives on another device.
    """
    if type(value).__module__.partition(".")[0] == "torch":
        return _torch(port, value)
    if hasattr(value, "__cuda_array_interface__"):
        return _cupy(port, value)
    if hasattr(value, "__dlpack_device__") and not isinstance(value, np.ndarray):
        if int(value.__dlpack_device__()[0]) == _CUDA:
            import cupy

            return _cupy(port, cupy.from_dlpack(value))
        value = np.from_dlpack(value)
    array = np.asarray(value)
    if array.dtype != port.dtype and not isinstance(value, (np.ndarray, np.generic)):
        array = array.astype(port.dtype)  # Python's numbers and lists have no dtype of their own
    _same_dtype(port, dtypes.name(array.dtype))
    return Given("numpy", array.shape, 0, np.ascontiguousarray(array).reshape(array.shape))


def _cupy(port: Port, value: Any) -> Given:
    import cupy

    array = cupy.asarray(value)
    _same_dtype(port, dtypes.name(array.dtype))
    array = cupy.ascontiguousarray(array)
    return Given("cupy", tuple(array.shape), int(array.data.ptr), array)


def _torch(port: Port, value: Any) -> Given:
    tensor = value.detach().contiguous()
    _same_dtype(port, str(tensor.dtype).removeprefix("torch.").replace("float8_", "float8").replace("_", ""))
    shape = tuple(int(dim) for dim in tensor.shape)
    if tensor.device.type == "cuda":
        return Given("torch", shape, int(tensor.data_ptr()), tensor)
    if tensor.device.type != "cpu":
        raise UsageError(f"input {port.name!r} lives on {tensor.device}", hint="move it to a CUDA device or the CPU")
    host = tensor.reshape(-1).view(sys.modules["torch"].uint8).numpy().view(port.dtype)
    return Given("torch", shape, 0, host.reshape(shape))


def _same_dtype(port: Port, name: str) -> None:
    if name != dtypes.name(port.dtype):
        raise UsageError(f"input {port.name!r} is {name}, but the engine takes {port}", hint="convert it first")


def empty(kind: str, port: Port, shape: tuple[int, ...]) -> tuple[Any, int]:
    """(an array of the caller's kind in device memory, its address). Raises UsageError if the kind lacks the dtype."""
    if kind == "torch":
        import torch

        name = dtypes.name(port.dtype).replace("float8e", "float8_e")
        tensor = torch.empty(shape, dtype=getattr(torch, name), device="cuda")
        return tensor, int(tensor.data_ptr())
    import cupy

    try:
        array = cupy.empty(shape, port.dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"CuPy has no arrays of {dtypes.name(port.dtype)}", hint="give torch or NumPy arrays"
        ) from error
    return array, int(array.data.ptr)
