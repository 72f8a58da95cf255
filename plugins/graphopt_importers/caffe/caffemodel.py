"""Reads the weights of a .caffemodel off protobuf's wire format: without a copy, without a limit on size.

https://protobuf.dev/programming-guides/encoding; the numbers of the fields are those of Caffe's caffe.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.errors import ModelError

Array = npt.NDArray[Any]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NET_V1_LAYERS, _NET_LAYER = 2, 100
_LARGEST_RANK = 32
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2", 3: "<i4", 4: "<u4"}


class _Numbers(NamedTuple):
    """Numbers of the fields of a layer in one generation of the format."""

    name: int
    blobs: int
    inner: int | None = None


_V2 = _Numbers(name=1, blobs=7)
_V1 = _Numbers(name=4, blobs=6, inner=1)
_V0 = _Numbers(name=1, blobs=50)


def weights(path: Path) -> list[tuple[str, list[Array]]]:
    """(layer, its blobs) in the order of the file, float32; layers without blobs are left out.

    Raises:
        ModelError: it is no .caffemodel, or is cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if bytes(data[:8]) == b"\x89HDF\r\n\x1a\n":
        raise ModelError(
            "it is an HDF5 file; only the binary form of weights is read",
            where=str(path),
            hint="load it in Caffe and net.save() it as .caffemodel",
        )
    if not size:
        raise ModelError("it is empty", where=str(path))
    found = []
    try:
        for number, wire, value in _fields(memoryview(data)):
            if wire == _BYTES and number in (_NET_V1_LAYERS, _NET_LAYER):
                name, blobs = _layer(value, _V2 if number == _NET_LAYER else _V1)
                if blobs:
                    found.append((name, blobs))
    except _Malformed as error:
        hint = "is it complete, and a .caffemodel? A file of Git LFS is only a pointer to it"
        raise ModelError(f"it is no .caffemodel, or is cut short: {error}", where=str(path), hint=hint) from error
    return found


class _Malformed(Exception):
    """The bytes are not what protobuf writes."""


def _fields(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field of a message."""
    place, end = 0, len(view)
    while place < end:
        key, place = _varint(view, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(view, place)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, place = _varint(view, place)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire}")
        if number == 0 or length > end - place:
            raise _Malformed(f"field {number} of {length} bytes, where {end - place} are left")
        yield number, wire, view[place : place + length]
        place += length


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(view):
            raise _Malformed("a number without an end")
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise _Malformed("a number of more than ten bytes")


def _layer(view: memoryview, numbers: _Numbers) -> tuple[str, list[Array]]:
    name, blobs = "", []
    for number, wire, value in _fields(view):
        if wire != _BYTES:
            continue
        if number == numbers.name:
            name = bytes(value).decode("utf-8", "replace")
        elif number == numbers.blobs:
            blobs.append(_blob(value, name))
        elif number == numbers.inner:
            inner, more = _layer(value, _V0)
            name, blobs = inner or name, blobs + more
    return name, blobs


def _blob(view: memoryview, layer: str) -> Array:
    """A blob as float32; of the forms float, double, and the raw one of NVIDIA's Caffe (float16 among others)."""
    legacy, shape = [0, 0, 0, 0], None
    parts: dict[str, list[memoryview]] = {}
    raw_type, raw = 1, None
    for number, wire, value in _fields(view):
        if number in (1, 2, 3, 4) and wire == _VARINT:
            legacy[number - 1] = value
        elif number == 7 and wire == _BYTES:
            shape = _dims(value)
        elif number in (5, 8):
            parts.setdefault("<f4" if number == 5 else "<f8", []).append(value)
        elif number == 10 and wire == _VARINT:
            raw_type = value
        elif number == 12 and wire == _BYTES:
            raw = value
    if raw is not None and len(raw):
        if raw_type not in _RAW_TYPES:
            raise _Malformed(f"a blob of layer {layer} is of raw type {raw_type}")
        parts = {_RAW_TYPES[raw_type]: [raw]}
    flat = _flat(parts)
    shape = tuple(legacy) if shape is None and any(legacy) else shape if shape is not None else (flat.size,)
    if len(shape) > _LARGEST_RANK or prod(shape) != flat.size:
        shown = "x".join(map(str, shape[:_LARGEST_RANK]))
        raise _Malformed(f"a blob of layer {layer} is {shown}, with {flat.size} values")
    return flat.reshape(shape)


def _flat(parts: dict[str, list[memoryview]]) -> Array:
    for dtype, views in parts.items():
        width = np.dtype(dtype).itemsize
        if any(len(view) % width for view in views):
            raise _Malformed("a blob that ends within a number")
        arrays = [np.frombuffer(view, dtype) for view in views] if len(views) < 64 else [_joined(views, dtype)]
        return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).astype(np.float32, copy=False)
    return np.zeros(0, np.float32)


def _joined(views: list[memoryview], dtype: str) -> Array:
    """Unpacked fields: a number each."""
    return np.frombuffer(b"".join(views), dtype)


def _dims(view: memoryview) -> tuple[int, ...]:
    dims: list[int] = []
    for number, wire, value in _fields(view):
        if number != 1:
            continue
        if wire == _VARINT:
            dims.append(value)
        elif wire == _BYTES:
            place = 0
            while place < len(value):
                dim, place = _varint(value, place)
                dims.append(dim)
    return tuple(dims)
