"""Write a model: atomically, weights streamed from where they are."""

from __future__ import annotations

import errno
import io
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import EncodeError
from onnx import TensorProto

from graphopt.errors import GraphoptError, ModelError

from . import dtypes
from .graph import peek, scopes
from .load import collector_off
from .staging import staging, turn
from .weights import CHUNK, ExternalValues, SparseTensor, chunks, fill, nbytes
from .writer import Writer, node_to_proto

__all__ = ["Staged", "node_to_proto", "stage", "to_proto", "write"]

INLINE_LIMIT = 1_800_000_000
"""Above this many bytes of weights the model gets a data file: protobuf ends at 2 GiB."""
LARGEST = (1 << 31) - (1 << 20)
EXTERNAL_LEAST = 1024
ALIGNMENT = 4096
STREAM_LEAST = 64 << 10
COPY_LEAST = 4 << 20
"""From here on the kernel copies what another thread reads for the digest."""


def to_proto(graph: gs.Graph, *, weights: str = "inline") -> onnx.ModelProto:
    """The model as a message; weights='omit' leaves out the values of those above 1 KiB.

    Raises:
        ModelError: it is beyond protobuf's 2 GB, or no valid model.
    """
    written = 0

    def counted(constant: gs.Constant, out: TensorProto) -> None:
        nonlocal written
        written += nbytes(constant)
        if written > INLINE_LIMIT:
            total = sum(map(nbytes, constants(graph)))
            raise ModelError(f"{total / 1e9:.1f} GB of weights do not fit into one message", hint="write it to a file")
        fill(constant, out)

    with collector_off():
        return Writer(graph, counted if weights == "inline" else _hollow).model()


def constants(graph: gs.Graph) -> list[gs.Constant]:
    """Every distinct constant of the model: read by nodes, held by attributes, outputs, defaults of inputs."""
    found: dict[int, gs.Constant] = {}
    for scope in scopes(graph):
        for tensor in scope.outputs:
            if isinstance(tensor, gs.Constant):
                found[id(tensor)] = tensor
        for tensor in scope.inputs:
            note = peek(tensor)
            if note is not None and note.default is not None:
                found[id(note.default)] = note.default
        for node in scope.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    found[id(tensor)] = tensor
            if node.attrs:
                for value in node.attrs.values():
                    if isinstance(value, gs.Constant):
                        found[id(value)] = value
    return list(found.values())


def _head(constant: gs.Constant, out: TensorProto) -> None:
    values = constant._values
    out.name, out.data_type = constant.name, dtypes.to_onnx(values.dtype)
    out.dims.extend(values.shape)


def _hollow(constant: gs.Constant, out: TensorProto) -> None:
    if nbytes(constant) <= EXTERNAL_LEAST:
        fill(constant, out)
    else:
        _head(constant, out)


class Staged:
    """A complete model in a temporary folder beside its target, under its final names."""

    def __init__(self, model_path: Path, files: list[Path], target: Path, sources: set[Path]) -> None:
        self.model_path = model_path
        self.files = files
        self.target = target
        self._sources = sources

    def commit(self) -> list[Path]:
        """Move everything into place; the model file last, so that the target is always whole. Returns the files."""
        try:
            with turn(self.target.parent):
                return self._commit()
        except OSError as error:
            raise _explained(error, self.target) from error

    def _commit(self) -> list[Path]:
        old = _data_files(self.target)
        done: list[Path] = []
        fresh: list[Path] = []
        try:
            for path in self.files:
                _sync(path)
            for path in [*self.files[1:], self.files[0]]:
                final = self.target.parent / path.name
                if not final.exists():
                    fresh.append(final)
                os.replace(path, final)
                done.append(final)
        except OSError:
            for path in fresh:
                path.unlink(missing_ok=True)
            raise
        _sync(self.target.parent)
        for stale in old - set(done):
            if stale.resolve() not in self._sources and not _is_named(stale, self.target):
                stale.unlink(missing_ok=True)
        return done[::-1]


def _data_files(model: Path) -> set[Path]:
    """Data files that earlier results at this path have left."""
    name = re.compile(re.escape(model.name) + r"\.[0-9a-f]{8}\.data")
    return {path for path in model.parent.iterdir() if name.fullmatch(path.name) and path.is_file()}


def _is_named(data: Path, target: Path) -> bool:
    """Whether another model of the folder, say a renamed earlier result, names the data file."""
    mark = data.name.encode()
    others = [p for p in data.parent.iterdir() if p.suffix in (".onnx", target.suffix) and p.name != target.name]
    try:
        return any(p.is_file() and _holds(p, mark) for p in others)
    except OSError:
        return True


def _holds(path: Path, mark: bytes) -> bool:
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            if mark in tail + piece:
                return True
            tail = piece[-len(mark) :]
    return False


def _check_target(target: Path, sources: set[Path]) -> None:
    if "\0" in str(target):
        raise GraphoptError("the path has a NUL in it", where=repr(str(target)))
    if not target.parent.is_dir():
        raise GraphoptError(
            f"folder {target.parent} does not exist", where=str(target), hint=f"mkdir -p {target.parent}"
        )
    if target.is_dir():
        raise GraphoptError("it is a folder", where=str(target), hint="name a file")
    if target.exists() and not target.is_file():
        raise GraphoptError("it is no regular file", where=str(target), hint="name a file")
    if target.resolve() in sources:
        raise GraphoptError("the source's weights are in this file", where=str(target), hint="write somewhere else")


@contextmanager
def stage(graph: gs.Graph, path: str | os.PathLike[str], *, external: bool | None = None) -> Iterator[Staged]:
    """Write the model beside `path` without touching what is there; `commit()` puts it in place.

    external: weights in a data file of their own; by default if the source's were, or beyond 1.8 GB.

    Raises:
        GraphoptError: the folder does not exist or cannot be written to, the disk is full.
    """
    target, weights = Path(path), constants(graph)
    sources = {c._values.path for c in weights if isinstance(c._values, ExternalValues)}
    try:
        _check_target(target, sources)
    except OSError as error:
        raise _explained(error, target) from error
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(staging(target.parent))
            with collector_off():
                files = _write(graph, folder / target.name, external, weights)
        except OSError as error:
            raise _explained(error, target) from error
        yield Staged(folder / target.name, files, target, sources)


def _explained(error: OSError, target: Path) -> GraphoptError:
    hints = {
        errno.ENOSPC: "free some space, or write to another disk with -o",
        errno.EACCES: "write somewhere else with -o",
        errno.EROFS: "write somewhere else with -o",
    }
    return GraphoptError(
        f"it cannot be written: {error.strerror}", where=str(target), hint=hints.get(error.errno or 0, "")
    )


def write(graph: gs.Graph, path: str | os.PathLike[str], *, external: bool | None = None) -> list[Path]:
    """Write the model atomically; the files written, the model first. Raises GraphoptError."""
    with stage(graph, path, external=external) as staged:
        return staged.commit()


def _write(graph: gs.Graph, path: Path, external: bool | None, weights: list[gs.Constant]) -> list[Path]:
    total = sum(map(nbytes, weights))
    if external is None:
        external = total > INLINE_LIMIT or any(isinstance(c._values, ExternalValues) for c in weights)
    if external:
        return _write_external(graph, path, weights)
    _write_inline(graph, path)
    return [path]


def _write_external(graph: gs.Graph, path: Path, weights: list[gs.Constant]) -> list[Path]:
    inner = {id(value) for scope in scopes(graph) for node in scope.nodes for value in node.attrs.values()}
    places: dict[Any, int] = {}
    state = 0
    data = path.parent / "weights"
    with data.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as copying:
        for constant in weights:
            values, size = constant._values, nbytes(constant)
            outside = isinstance(values, ExternalValues)
            if size < EXTERNAL_LEAST or values.dtype.kind in "OSU" or isinstance(values, SparseTensor):
                continue
            if _content(constant) in places or (id(constant) in inner and not outside and size < STREAM_LEAST):
                continue
            at = file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
            places[_content(constant)] = at
            state = zlib.crc32(f"{at}:{size};".encode(), state)
            copied = copying.submit(values.copy_to, file) if outside and size >= COPY_LEAST else None
            for piece in chunks(constant):
                state = zlib.crc32(piece, state)
                if copied is None:
                    _write_all(file, piece)
            if copied is not None:
                copied.result()
    name = f"{path.name}.{state:08x}.data"
    os.replace(data, path.parent / name)

    def tensor(constant: gs.Constant, out: TensorProto) -> None:
        at = places.get(_content(constant))
        if at is None:
            return fill(constant, out)
        _head(constant, out)
        out.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", at), ("length", nbytes(constant))):
            out.external_data.add(key=key, value=str(value))
        return None

    path.write_bytes(_serialized(Writer(graph, tensor).model()))
    return [path, path.parent / name]


def _write_all(file: io.FileIO, piece: bytes | memoryview) -> None:
    rest = memoryview(piece).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _content(constant: gs.Constant) -> Any:
    """Equal for constants over the same stored bytes."""
    values = constant._values
    return (values.path, values.offset, values.nbytes) if isinstance(values, ExternalValues) else id(values)


def _write_inline(graph: gs.Graph, path: Path) -> None:
    """One protobuf: the small parts serialized as usual, then each large initializer as one more field of `graph`."""

    def late(constant: gs.Constant) -> bool:
        return nbytes(constant) >= STREAM_LEAST and constant._values.dtype.kind not in "OSU"

    writer = Writer(graph, late=late)
    model = writer.model()
    body = _serialized(model.graph)
    model.ClearField("graph")
    heads = []
    total = len(body)
    for constant in writer.later:
        header, size = _serialized(writer.header(constant)), nbytes(constant)
        values = _field(_RAW_DATA, size)
        heads.append(_field(_INITIALIZER, len(header) + len(values) + size) + header + values)
        total += len(heads[-1]) + size
    if total > LARGEST:
        raise ModelError(f"{total / 1e9:.1f} GB do not fit into one file", hint="write it with external data")
    with path.open("wb") as file:
        file.write(_serialized(model))
        file.write(_field(_GRAPH, total))
        file.write(body)
        for head, constant in zip(heads, writer.later, strict=True):
            file.write(head)
            for piece in chunks(constant):
                file.write(piece)


_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER


def _serialized(message: Any) -> bytes:
    try:
        return message.SerializeToString(deterministic=True)  # type: ignore[no-any-return]
    except EncodeError as error:
        raise ModelError(f"the model cannot be written: {error}", hint="is it nested deeper than 31 Ifs?") from error


def _field(number: int, length: int) -> bytes:
    """The head of a length-delimited protobuf field."""
    result = bytearray()
    for value in (number << 3 | 2, length):
        while value >= 0x80:
            result.append(value & 0x7F | 0x80)
            value >>= 7
        result.append(value)
    return bytes(result)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power cut; some file systems cannot."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
