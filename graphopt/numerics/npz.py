"""Inputs that the user brings in an .npz file, held against the model."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from graphopt.errors import UsageError

from .difference import Array, dtype_name
from .ports import Port, input_ports
from .shapes import misfit


def load_npz(path: str | Path, model: onnx.ModelProto | Sequence[Port]) -> dict[str, Array]:
    """The arrays of an .npz file as feeds of the model.

    model: its proto or its input ports. NaN and infinity are fine; bfloat16 and float8 come as uint16 and uint8 bits.
    Raises UsageError: what read_npz or check_feeds refuses.
    """
    ports = input_ports(model) if isinstance(model, onnx.ModelProto) else list(model)
    return check_feeds(read_npz(path), ports, where=str(path))


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an .npz file. Raises UsageError: not an .npz file, damaged, or pickled objects."""
    where = os.fspath(path)
    try:
        loaded: object = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise UsageError("is a single array, not an .npz archive", where=where, hint=_HOW)
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=where, hint=_HOW) from error
    except ValueError as error:
        if "pickle" in str(error).lower() and zipfile.is_zipfile(path):
            raise UsageError("holds Python objects, which are not loaded", where=where, hint=_HOW) from error
        raise UsageError("is no .npz file, or damaged", where=where, hint=_HOW) from error
    except Exception as error:  # zipfile, zlib and numpy's header parser each raise their own on damaged files
        raise UsageError(f"is no .npz file, or damaged: {error}", where=where, hint=_HOW) from error


_HOW = "write it with numpy.savez(file, **{input name: array})"


def check_feeds(arrays: Mapping[str, Array], ports: Sequence[Port], *, where: str = "inputs") -> dict[str, Array]:
    """The arrays in the order and dtype of the ports.

    Raises UsageError: an unknown or missing name, a wrong dtype, rank or fixed dimension, one symbol with two sizes.
    """
    known = {port.name: port for port in ports}
    names = ", ".join(port.name for port in ports if port.required)
    for name in arrays:
        if name not in known:
            raise UsageError(f"the model has no input {name!r}", where=where, hint=f"its inputs are: {names}")
    feeds: dict[str, Array] = {}
    symbols: dict[str, tuple[int, str]] = {}
    for port in ports:
        if port.name not in arrays:
            if port.required:
                raise UsageError(f"input {port.name!r} is missing", where=where, hint=f"the model needs: {names}")
            continue
        if port.kind not in ("tensor", "optional"):
            raise UsageError(f"input {port.name!r} is no tensor and cannot come from arrays", where=where)
        array = _in_dtype(np.asarray(arrays[port.name]), port, where)
        if problem := misfit(port, array.shape):
            raise UsageError(f"input {port.name!r}: {problem}", where=where)
        for dim, size in zip(port.dims or (), array.shape, strict=False):
            if isinstance(dim, str) and symbols.setdefault(dim, (size, port.name))[0] != size:
                other, name = symbols[dim]
                raise UsageError(f"dimension {dim!r} is {other} in {name!r} and {size} in {port.name!r}", where=where)
        feeds[port.name] = array
    return feeds


def _in_dtype(array: Array, port: Port, where: str) -> Array:
    found, wanted = dtype_name(array), port.dtype_name
    if found == wanted:
        return array.astype(port.dtype)  # also from the other byte order
    bits = array.dtype.kind in "uV" and array.dtype.itemsize == port.dtype.itemsize
    if bits and port.dtype.isbuiltin == 2:
        return np.asarray(np.asarray(array, order="C").view(port.dtype))
    raise UsageError(
        f"input {port.name!r} is {wanted}, not {found}", where=where, hint=f"convert it with .astype({wanted!r})"
    )
