"""Values of constants: read when asked, hashed once, never copied for nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from graphopt.errors import ModelError
from . import dtypes

KEEP_BYTES = 1 << 20
"""Values read from a file up to this size stay in memory."""
CHUNK = 8 << 20

Array = np.ndarray[Any, Any]


def stored_bytes(dtype: Any, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor as ONNX stores it raw; 4-bit elements are packed."""
    return (math.prod(shape) * dtypes.bits(dtype) + 7) // 8


class ProtoValues(LazyValues):  # type: ignore[misc]
    """Values inside a TensorProto of the source message."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = dtypes.from_onnx(tensor.data_type)
        self.nbytes = stored_bytes(self.dtype, self.shape)
        self._array: Array | None = None

    def load(self) -> Array:
        if self._array is None:
            array = numpy_helper.to_array(self.tensor)
            if array.nbytes > KEEP_BYTES:
                return array
            self._array = array
        return self._array


class ExternalValues(LazyValues):  # type: ignore[misc]
    """Values in a file beside the model."""

    def __init__(self, path: Path, offset: int, dtype: Any, shape: tuple[int, ...]) -> None:
        self.path = path
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        self.nbytes = stored_bytes(dtype, shape)

    @property
    def tensor(self) -> onnx.TensorProto:
        """graphsurgeon's view of lazy values: the whole tensor, read now."""
        return numpy_helper.from_array(self.load())

    def chunks(self) -> Iterator[bytes]:
        """The stored bytes, a few megabytes at a time. Raises ModelError if the file ends early."""
        left = self.nbytes
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while left:
                    piece = file.read(min(left, CHUNK))
                    if not piece:
                        raise ModelError(f"external data ends {left} bytes early", where=str(self.path))
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise ModelError(f"external data cannot be read: {error.strerror}", where=str(self.path)) from error

    def load(self) -> Array:
        proto = onnx.TensorProto(data_type=dtypes.to_onnx(self.dtype), dims=self.shape)
        if dtypes.bits(self.dtype) < 8 or np.dtype(self.dtype).kind == "O":
            proto.raw_data = b"".join(self.chunks())
            return numpy_helper.to_array(proto)
        buffer = bytearray(self.nbytes)
        at = 0
        for piece in self.chunks():
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        array = np.frombuffer(buffer, self.dtype).reshape(self.shape)
        array.flags.writeable = False
        return array


class SparseTensor(SparseValues):  # type: ignore[misc]
    """A sparse initializer, kept as it is."""

    def __init__(self, tensor: onnx.SparseTensorProto) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = dtypes.from_onnx(tensor.values.data_type)
        self.nbytes = stored_bytes(self.dtype, self.shape)

    def load(self) -> Array:
        values = numpy_helper.to_array(self.tensor.values)
        indices = numpy_helper.to_array(self.tensor.indices)
        dense = np.zeros(self.shape, self.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


def read(constant: gs.Constant) -> Array:
    """The values; not to be written to. Large ones are not kept in memory by the constant."""
    values = constant._values
    return values if isinstance(values, np.ndarray) else values.load()


def size(constant: gs.Constant) -> int:
    """Number of elements."""
    return math.prod(constant._values.shape)


def nbytes(constant: gs.Constant) -> int:
    """Bytes as stored in the model."""
    values = constant._values
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "OSU":
            return sum(len(str(item)) for item in values.ravel())
        return stored_bytes(values.dtype, values.shape)
    return int(values.nbytes)


def digest(constant: gs.Constant) -> bytes:
    """A hash of dtype, shape and contents; each weight is read once."""
    values = constant._values
    known = constant.__dict__.get("_digest")
    if known is not None and known[0] is values:
        return known[1]  # type: ignore[no-any-return]
    state = hashlib.blake2b(f"{dtypes.name(values.dtype)}{tuple(values.shape)}".encode(), digest_size=16)
    if isinstance(values, ExternalValues):
        for piece in values.chunks():
            state.update(piece)
    elif isinstance(values, ProtoValues) and values.tensor.raw_data and dtypes.bits(values.dtype) >= 8:
        state.update(values.tensor.raw_data)
    else:
        array = read(constant)
        if array.dtype.kind in "OSU":
            state.update(repr(array.ravel().tolist()).encode())
        else:
            state.update(np.asarray(array, order="C").tobytes())
    constant.__dict__["_digest"] = (values, state.digest())
    return state.digest()


def proto(constant: gs.Constant, name: str | None = None) -> onnx.TensorProto:
    """The constant as a TensorProto with its values inside."""
    values = constant._values
    if isinstance(values, ProtoValues):
        if values.tensor.name == (constant.name if name is None else name):
            return values.tensor
        copy = onnx.TensorProto()
        copy.CopyFrom(values.tensor)
        copy.name = constant.name if name is None else name
        return copy
    return numpy_helper.from_array(np.asarray(read(constant), order="C"), constant.name if name is None else name)
