"""Load a model from wherever it is, or say plainly why not."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from graphopt.errors import ModelError

from .external import Files
from .graph import adopt, scopes
from .reader import Reader
from .weights import own

_MAGIC = (
    (b"PK\x03\x04", "a zip archive (PyTorch's .pt or .pt2, Keras's .keras, or .npz?)"),
    (b"ptrt", "a TensorRT engine"),
    (b"ftrt", "a TensorRT engine"),
    (b"\x89HDF", "an HDF5 file (Keras?)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself has not been fetched"),
)

_FOREIGN = "if it is another framework's, name that with --from; `graphopt importers` lists what is known"

_PROTOBUF_LIMIT = (1 << 31) - 1


def load(source: str | os.PathLike[str] | bytes | onnx.ModelProto | gs.Graph, *, notes: bool = True) -> gs.Graph:
    """The model as a graph that passes can edit. External data is looked up, not read.

    notes: with what exporters note about every node for their own use (`ir.notes`).

    Raises:
        ModelError: it cannot be read, or is no valid model; says what is wrong and where.
    """
    if isinstance(source, gs.Graph):
        for scope in scopes(source):
            for node in scope.nodes:
                adopt(node)
                for value in (*node.inputs, *node.attrs.values()):
                    if isinstance(value, gs.Constant):
                        own(value)
        return source
    if isinstance(source, onnx.ModelProto):
        return _read(source, None, "the model", notes)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(_parse(bytes(source), "the model"), None, "the model", notes)
    path = Path(source)
    return _read(_parse(_bytes(path), str(path)), path.parent, str(path), notes)


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError("it is a folder", where=str(path), hint="give the .onnx file inside it")
        if path.exists() and not path.is_file():
            raise ModelError("it is no regular file", where=str(path))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _PROTOBUF_LIMIT:
                what = f"it has {size / 1e9:.1f} GB; protobuf, and so an ONNX file, ends at 2 GB"
                raise ModelError(what, where=str(path), hint="have its exporter put the weights into external data")
            return file.read()
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"it cannot be read: {reason}", where=str(path)) from error


def _parse(raw: bytes, where: str) -> onnx.ModelProto:
    if not raw:
        raise ModelError("the file is empty", where=where)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(raw)
    except (DecodeError, RecursionError) as error:
        if "MaxDepth" in str(error):
            raise ModelError("it is nested deeper than protobuf can read (31 Ifs)", where=where) from error
        raise _no_model(raw, where) from error
    if not model.HasField("graph") or not (model.ir_version or model.opset_import):
        raise _no_model(raw, where)
    return model


def _no_model(raw: bytes, where: str) -> ModelError:
    guess = _guess(raw)
    ours = any(word in guess for word in ("TensorRT engine", "gzip", "Git LFS"))
    return ModelError(f"it is {guess}", where=where, hint="" if ours else _FOREIGN)


def _guess(raw: bytes) -> str:
    for magic, kind in _MAGIC:
        if raw.startswith(magic):
            return f"no ONNX model but {kind}"
    if raw[4:8] == b"TFL3":
        return "no ONNX model but a TensorFlow Lite model"
    head = raw[:512]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "no ONNX model but a text file"
    return "no ONNX model, or a truncated or damaged one"


def _read(model: onnx.ModelProto, folder: Path | None, where: str, notes: bool) -> gs.Graph:
    if model.ir_version > onnx.IR_VERSION:
        what = f"{where}: IR version {model.ir_version} is newer than {onnx.IR_VERSION}, the newest that onnx"
        warnings.warn(f"{what} {onnx.__version__} knows: what is new in it may be lost", stacklevel=3)
    with collector_off():
        try:
            return Reader(model, Files(folder), notes).read()
        except ModelError as error:
            place = f"{where}: {_short(error.where)}" if error.where else where
            raise ModelError(_short(error.what), where=place, hint=error.hint) from error
        except RecursionError:
            raise ModelError("its subgraphs are nested too deeply", where=where) from None
        except (ValueError, TypeError) as error:  # protobuf's answer to text that is no UTF-8
            raise ModelError(f"it is damaged: {_short(str(error))}", where=where) from error


def _short(text: str) -> str:
    """Names come from the file, and may be megabytes long."""
    return text if len(text) <= 600 else f"{text[:400]} ... {text[-100:]}"


@contextmanager
def collector_off() -> Iterator[None]:
    """The graph is one web of cycles; collecting while it grows costs a third of the time and frees nothing.

    What has been made is then handed to the oldest generation as it is, instead of being searched at once.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
