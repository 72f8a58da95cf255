"""What goes into an engine and what comes out of it, and which profile a set of shapes falls into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.protocol import onnx_dtype
from graphopt.config import Dims
from graphopt.errors import BackendError, UsageError
from graphopt.ir import dtypes


@dataclass(frozen=True)
class Port:
    """An input or output of an engine."""

    name: str
    dtype: np.dtype[Any]
    dims: Dims
    """-1: known only at run time."""
    is_input: bool
    is_host: bool = False
    """Its values decide shapes and stay in host memory."""
    profiles: tuple[tuple[Dims, Dims, Dims], ...] = ()
    """(min, typical, max) in each optimization profile; of a host input, its values."""

    def __str__(self) -> str:
        dims = ", ".join("?" if dim < 0 else str(dim) for dim in self.dims)
        return f"{self.name}: {dtypes.name(self.dtype)}[{dims}]"

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of this shape."""
        return math.prod(shape) * self.dtype.itemsize


def read_ports(trt: Any, engine: Any) -> dict[str, Port]:
    """The ports of a deserialized engine, in its own order. Raises BackendError for a dtype that NumPy cannot hold."""
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        is_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        bounds = engine.get_tensor_profile_values if is_host else engine.get_tensor_profile_shape
        profiles = (
            tuple(
                _bounds_of(bounds(*((p, name) if is_host else (name, p))))
                for p in range(engine.num_optimization_profiles)
            )
            if is_input
            else ()
        )
        kind = onnx_dtype(engine.get_tensor_dtype(name).name)
        dtype = dtypes.from_name(kind)
        if dtype is None or dtypes.bits(dtype) < 8:
            raise BackendError(f"tensor {name!r} is {kind}, which has no array")
        dims = tuple(int(dim) for dim in engine.get_tensor_shape(name))
        found[name] = Port(name, dtype, dims, is_input, is_host, profiles)
    return found


def _bounds_of(found: Sequence[Sequence[int]]) -> tuple[Dims, Dims, Dims]:
    low, typical, high = (tuple(int(number) for number in dims) for dims in found)
    return low, typical, high


def choose_profile(inputs: Sequence[Port], shapes: Mapping[str, Dims]) -> int:
    """The optimization profile that takes these shapes and was tuned closest to them.

    Raises:
        UsageError: no profile takes them; the message names the first input that does not fit, and its bounds.
    """
    for port in inputs:
        shape = shapes[port.name]
        fits = len(shape) == len(port.dims) and all(
            fixed in (-1, dim) for fixed, dim in zip(port.dims, shape, strict=True)
        )
        if not fits:
            raise UsageError(f"input {port.name!r} has the shape {list(shape)}, but the engine takes {port}")
    count = max((len(port.profiles) for port in inputs), default=1)
    best, least = -1, float("inf")
    for profile in range(count):
        distance = 0.0
        for port in inputs:
            if port.is_host or not port.profiles:
                continue
            low, typical, high = port.profiles[profile]
            shape = shapes[port.name]
            if not all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True)):
                break
            distance += sum(abs(dim - wanted) for dim, wanted in zip(shape, typical, strict=True))
        else:
            if distance < least:
                best, least = profile, distance
    if best >= 0:
        return best
    raise UsageError(
        "no optimization profile of the engine takes these shapes: "
        + ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items()),
        hint="\n".join(_bounds(port) for port in inputs if port.profiles and not port.is_host)
        + "\nbuild it with --min-shapes and --max-shapes that hold them",
    )


def _bounds(port: Port) -> str:
    spans = "; ".join(f"{'x'.join(map(str, low))} to {'x'.join(map(str, high))}" for low, _, high in port.profiles)
    return f"{port.name}: {spans}"
