"""Values of constants: read when asked, hashed once, never copied for nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from graphopt.errors import ModelError

from . import dtypes
from .attributes import text
from .graph import put

KEEP_BYTES = 1 << 20
"""Values read from a file up to this size stay in memory."""
CHUNK = 1 << 20
_NOT_HERE = {errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
"""Streamed in pieces that the allocator keeps: larger ones are mapped afresh each time, at twice the CPU time."""
SAMPLE = 1 << 12
"""Bytes of a weight that are compared as a whole."""
_LARGEST = 1 << 56
_DENSE = 4 << 30
"""A sparse tensor beyond this many bytes is not made dense."""

Array = np.ndarray[Any, Any]


def stored_bytes(dtype: Any, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor as ONNX stores it raw; 4-bit elements are packed."""
    return (math.prod(shape) * dtypes.bits(dtype) + 7) // 8


def stored(tensor: onnx.TensorProto, where: str) -> tuple[Any, tuple[int, ...], int]:
    """(dtype, shape, bytes) of a tensor with its values inside. Raises ModelError unless they are all there."""
    number, shape = tensor.data_type, tuple(tensor.dims[:])
    dtype, needed = _form(number, shape)
    found = len(tensor.raw_data)
    if found == needed and found and dtype.kind != "O":
        return dtype, shape, needed
    if dtype is None:
        raise ModelError(f"it has the unknown dtype {number}", where=where)
    check_shape(dtype, shape, where)
    if tensor.HasField("raw_data"):
        if found != needed or dtype.kind == "O":
            raise ModelError(f"it holds {found} bytes, its shape needs {needed}", where=where)
        return dtype, shape, needed
    field = helper.tensor_dtype_to_field(tensor.data_type)
    count, items = math.prod(shape), len(getattr(tensor, field))
    packed = dtypes.bits(dtype) in (2, 4)  # but not float6
    expected = count * 2 if dtype.kind == "c" else needed if packed else count
    if items != expected:
        raise ModelError(f"it holds {items} numbers in {field}, its shape needs {expected}", where=where)
    return dtype, shape, tensor.ByteSize() if dtype.kind == "O" else needed


@lru_cache(4096)
def _form(number: int, shape: tuple[int, ...]) -> tuple[Any, int]:
    """(dtype, bytes); -1 bytes where the shape or the dtype is none."""
    dtype = dtypes.from_onnx(number)
    try:
        return dtype, -1 if dtype is None else check_shape(dtype, shape, "")
    except ModelError:
        return dtype, -1


def check_shape(dtype: Any, shape: tuple[int, ...], where: str) -> int:
    """Bytes of a tensor. Raises ModelError for negative dims, and for those beyond what an array can have."""
    size = 1
    for dim in shape:
        if dim < 0:
            raise ModelError(f"it has negative dims {list(shape)}", where=where)
        size *= dim or 1
    if size > _LARGEST:
        raise ModelError(f"its dims {list(shape)} are too large", where=where)
    return stored_bytes(dtype, shape)


class ProtoValues(LazyValues):  # type: ignore[misc]
    """Values inside a TensorProto of the source message."""

    def __init__(self, tensor: onnx.TensorProto, dtype: Any, shape: tuple[int, ...], nbytes: int) -> None:
        self.tensor = tensor
        self.shape = shape
        self.dtype = dtype
        self.nbytes = nbytes
        self._array: Array | None = None

    def load(self) -> Array:
        """graphsurgeon's `.values`: a copy, which plain graphsurgeon code writes to in place."""
        return self.view().copy()

    def view(self) -> Array:
        """The values, not to be written to; small ones are kept."""
        if self._array is None:
            if self.dtype.kind == "O":  # numpy_helper refuses bytes that are no UTF-8
                items = [text(item) for item in self.tensor.string_data]
                array = np.fromiter(items, object, len(items)).reshape(self.shape)
            elif self.dtype in _PLAIN and len(data := self.tensor.raw_data):
                array = np.frombuffer(data, self.dtype).reshape(self.shape)  # what to_array does, ten times as slowly
            else:
                array = numpy_helper.to_array(self.tensor)
            if array.flags.writeable:
                array.flags.writeable = False
            if array.nbytes > KEEP_BYTES:
                return array
            self._array = array
        return self._array

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The stored bytes, in one piece."""
        yield self.tensor.raw_data or raw(self.view())


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

    def chunks(self, step: int = CHUNK) -> Iterator[bytes | memoryview]:
        """The stored bytes, a few megabytes at a time. Raises ModelError if the file ends early."""
        left = self.nbytes
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while left:
                    piece = file.read(min(left, step))
                    if not piece:
                        raise ModelError(f"external data ends {left} bytes early", where=str(self.path))
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise ModelError(f"external data cannot be read: {error.strerror}", where=str(self.path)) from error

    def copy_to(self, file: io.FileIO) -> None:
        """Append the stored bytes to a file inside the kernel, or by hand where the file systems cannot.

        Raises ModelError if the source ends early.
        """
        left = self.nbytes
        with self.path.open("rb") as source:
            source.seek(self.offset)
            try:
                while left and (done := os.copy_file_range(source.fileno(), file.fileno(), left)):
                    left -= done
            except (OSError, AttributeError) as error:
                if getattr(error, "errno", errno.EINVAL) not in _NOT_HERE:
                    raise
            source.seek(self.offset + self.nbytes - left)
            while left:
                piece = source.read(min(left, CHUNK))
                if not piece:
                    raise ModelError(f"external data ends {left} bytes early", where=str(self.path))
                left -= file.write(piece)

    def view(self) -> Array:
        """The values, not to be written to."""
        array = self.load()
        array.flags.writeable = False
        return array

    def load(self) -> Array:
        proto = onnx.TensorProto(data_type=dtypes.to_onnx(self.dtype), dims=self.shape)
        if dtypes.bits(self.dtype) < 8 or np.dtype(self.dtype).kind == "O":
            proto.raw_data = b"".join(self.chunks())
            return numpy_helper.to_array(proto).copy()
        buffer = bytearray(self.nbytes)
        at = 0
        for piece in self.chunks():
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        return np.frombuffer(buffer, self.dtype).reshape(self.shape)


class SparseTensor(SparseValues):  # type: ignore[misc]
    """A sparse initializer, kept as it is. Raises ModelError if it is none."""

    def __init__(self, tensor: onnx.SparseTensorProto, where: str) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = dtypes.from_onnx(tensor.values.data_type)
        self._dense = check_shape(self.dtype, self.shape, where)
        self.nbytes = stored_bytes(self.dtype, tuple(tensor.values.dims)) + 8 * math.prod(tensor.indices.dims)
        self._where = where
        indices = numpy_helper.to_array(tensor.indices)
        count, rank = math.prod(tensor.values.dims), len(self.shape)
        if indices.dtype != np.int64 or indices.shape not in ((count,), (count, rank)):
            raise ModelError(f"its indices are {indices.dtype} {indices.shape} for {count} values", where=where)
        ends = np.array(self.shape if indices.ndim == 2 else math.prod(self.shape), np.int64)
        if ((indices < 0) | (indices >= ends)).any():
            raise ModelError(f"its indices lie outside {list(self.shape)}", where=where)

    def load(self) -> Array:
        if self._dense > _DENSE:
            raise ModelError(f"it would be {self._dense / 1e9:.0f} GB when dense", where=self._where)
        values = numpy_helper.to_array(self.tensor.values).reshape(-1)
        indices = numpy_helper.to_array(self.tensor.indices)
        dense = np.zeros(self.shape, self.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


def raw(array: Array) -> bytes | memoryview:
    """An array's bytes as ONNX stores them, without a copy where that is possible."""
    if dtypes.bits(array.dtype) < 8:
        return bytes(numpy_helper.from_array(array).raw_data)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def chunks(constant: gs.Constant) -> Iterator[bytes | memoryview]:
    """The stored bytes of a constant that holds no strings, piece by piece."""
    values = constant._values
    if isinstance(values, (ExternalValues, ProtoValues)):
        yield from values.chunks()
    else:
        yield raw(read(constant))


def read(constant: gs.Constant) -> Array:
    """The values; not to be written to. Large ones are not kept in memory by the constant."""
    values = constant._values
    if isinstance(values, np.ndarray):
        return values
    return values.view() if isinstance(values, (ProtoValues, ExternalValues)) else values.load()


def own(constant: gs.Constant) -> None:
    """Replace values that graphsurgeon's importer left by ours. Raises ModelError where they are incomplete."""
    values = constant._values
    where = f"initializer {constant.name!r}"
    if type(values) is SparseValues:
        constant._values = SparseTensor(values.tensor, where)
    elif type(values) is LazyValues and values.tensor.data_location != onnx.TensorProto.EXTERNAL:
        constant._values = ProtoValues(values.tensor, *stored(values.tensor, where))


def size(constant: gs.Constant) -> int:
    """Number of elements."""
    return math.prod(constant._values.shape)


def nbytes(constant: gs.Constant) -> int:
    """Bytes as stored in the model."""
    values = constant._values
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "OSU":
            return sum(len(_bytes(item)) for item in values.ravel().tolist())
        return stored_bytes(values.dtype, values.shape)
    return int(values.nbytes)


def digest(constant: gs.Constant) -> bytes:
    """A hash of dtype, shape and contents; each weight is read once, unless it is an array that can be written to."""
    values = constant._values
    known = getattr(constant, "_digest", None)
    if known is not None and known[0] is values:
        return known[1]  # type: ignore[no-any-return]
    state = hashlib.blake2b(f"{dtypes.name(values.dtype)}{tuple(values.shape)}".encode(), digest_size=16)
    if values.dtype.kind in "OSU":
        state.update(repr([_bytes(item) for item in read(constant).ravel().tolist()]).encode())
    else:
        for piece in chunks(constant):
            state.update(piece)
    if not isinstance(values, np.ndarray) or not values.flags.writeable:
        put(constant, "_digest", (values, state.digest()))
    return state.digest()


def sample(constant: gs.Constant) -> bytes:
    """A few of the stored values, up to `SAMPLE` bytes all: of constants of one type and shape, equal ones have equal
    samples, and most unequal ones have not.
    """
    values = constant._values
    if values.dtype.kind in "OSU" or isinstance(values, SparseTensor):
        return digest(constant)
    if nbytes(constant) <= SAMPLE:
        return b"".join(chunks(constant))
    known = getattr(constant, "_sample", None)
    if known is not None and known[0] is values:
        return known[1]  # type: ignore[no-any-return]
    if isinstance(values, ExternalValues):
        found = next(values.chunks(SAMPLE))
    else:
        flat = read(constant).reshape(-1)
        step = max(1, flat.size // 64)
        found = flat[::step][:64].tobytes() + flat[-16:].tobytes()
    if not isinstance(values, np.ndarray) or not values.flags.writeable:
        put(constant, "_sample", (values, bytes(found)))
    return bytes(found)


def first(constant: gs.Constant) -> Any:
    """The first element as a Python number; None of an empty or external one, or one of strings."""
    values = constant._values
    known = getattr(constant, "_first", None)
    if known is not None and known[0] is values:
        return known[1]
    plain = not isinstance(values, (ExternalValues, SparseTensor)) and values.dtype.kind not in "OSU"
    array = read(constant) if plain and size(constant) else None
    found = None if array is None else array.reshape(-1)[:1].tolist()[0]
    if not isinstance(values, np.ndarray) or not values.flags.writeable:
        put(constant, "_first", (values, found))
    return found


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def proto(constant: gs.Constant, name: str | None = None) -> onnx.TensorProto:
    """The constant as a TensorProto with its values inside; the source's own where it has that name."""
    values, name = constant._values, constant.name if name is None else name
    if isinstance(values, ProtoValues) and values.tensor.name == name:
        return values.tensor
    made = onnx.TensorProto()
    fill(constant, made)
    made.name = name
    return made


def fill(constant: gs.Constant, out: onnx.TensorProto) -> None:
    """Write the constant with its values into an empty message, without one in between."""
    values = constant._values
    array = None if isinstance(values, ProtoValues) else np.asarray(read(constant), order="C")
    if array is None:
        out.CopyFrom(values.tensor)
    elif array.dtype in _PLAIN:
        out.data_type = _PLAIN[array.dtype]
        out.dims.extend(array.shape)
        out.raw_data = array.tobytes()
    else:
        out.CopyFrom(numpy_helper.from_array(array))
    if out.name != constant.name:
        out.name = constant.name


_PLAIN = {np.dtype(code).newbyteorder("<"): dtypes.to_onnx(np.dtype(code)) for code in "?bBhHiIlLefd"}
"""Dtypes whose stored bytes are NumPy's own."""
