"""External data: where a tensor's bytes lie, checked before anything is read."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import onnx

from graphopt.errors import ModelError

from . import dtypes
from .weights import ExternalValues, check_shape


class Files:
    """The data files beside one model; each is looked up once."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._sizes: dict[str, tuple[Path, int]] = {}

    def values(self, tensor: onnx.TensorProto) -> ExternalValues:
        """The values that an external TensorProto refers to, unread.

        Raises:
            ModelError: no such file, a path that leaves the model's folder, or a range outside the file.
        """
        where = f"external data of {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location:
            raise ModelError("it names no file", where=where)
        path, size = self._find(location, where)
        dtype, shape = dtypes.from_onnx(tensor.data_type), tuple(tensor.dims)
        if dtype is None or dtype.kind == "O":
            raise ModelError(f"it has dtype {tensor.data_type}, which cannot be kept in a file", where=where)
        needed = check_shape(dtype, shape, where)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries["length"]) if entries.get("length") else needed
        except ValueError as error:
            raise ModelError(f"offset or length is no number: {error}", where=where) from error
        if length != needed:
            raise ModelError(f"it has {length} bytes, its shape needs {needed}", where=where)
        if offset < 0 or offset + length > size:
            raise ModelError(f"bytes {offset} to {offset + length} lie outside {location} ({size} bytes)", where=where)
        return ExternalValues(path, offset, dtype, shape)

    def _find(self, location: str, where: str) -> tuple[Path, int]:
        known = self._sizes.get(location)
        if known is not None:
            return known
        if self.folder is None:
            raise ModelError(
                f"it lies in {location!r}, which cannot be found from bytes alone",
                where=where,
                hint="give the file's path",
            )
        shown = location if len(location) < 200 else f"{location[:200]}..."
        pure = PurePosixPath(location)
        if pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location or os.path.isabs(location):
            raise ModelError(f"{shown!r} leaves the model's folder", where=where)
        try:
            folder = self.folder.resolve()
            real = (folder / location).resolve()
            inside, there = folder in real.parents, real.is_file()
        except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
            raise ModelError(f"{shown!r} cannot be looked up: {error}", where=where) from error
        if not inside:
            raise ModelError(
                f"{shown!r} leads out of the model's folder", where=where, hint="copy the data beside the model"
            )
        if not there:
            raise ModelError(
                f"{shown!r} does not exist", where=where, hint=f"put it beside the model, in {self.folder}"
            )
        self._sizes[location] = (real, real.stat().st_size)
        return self._sizes[location]
