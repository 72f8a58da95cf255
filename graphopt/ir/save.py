"""Write a model: atomically, weights streamed from where they are."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphopt.errors import GraphoptError, ModelError
from . import dtypes
from .graph import scopes
from .weights import ExternalValues, nbytes, proto, read
from .writer import Writer, node_to_proto

__all__ = ["Staged", "node_to_proto", "stage", "to_proto", "write"]

INLINE_LIMIT = 1_800_000_000
"""Above this many bytes of weights the model gets a data file: protobuf ends at 2 GiB."""
EXTERNAL_LEAST = 1024
ALIGNMENT = 4096
STREAM_LEAST = 64 << 10
PREFIX = ".graphopt-"


def to_proto(graph: gs.Graph, *, weights: str = "inline") -> onnx.ModelProto:
    """The model as a message; weights='omit' leaves out the values of those above 1 KiB.

    Raises:
        ModelError: it is beyond protobuf's 2 GB.
    """
    if weights == "inline":
        total = sum(nbytes(constant) for constant in constants(graph))
        if total > INLINE_LIMIT:
            raise ModelError(f"{total / 1e9:.1f} GB of weights do not fit into one message", hint="write it to a file")
        return Writer(graph).model()
    return Writer(graph, _hollow).model()


def constants(graph: gs.Graph) -> list[gs.Constant]:
    """Every distinct constant of the model."""
    found: dict[int, gs.Constant] = {}
    for scope in scopes(graph):
        for tensor in scope.outputs:
            if isinstance(tensor, gs.Constant):
                found[id(tensor)] = tensor
        for node in scope.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    found[id(tensor)] = tensor
    return list(found.values())


def _header(constant: gs.Constant) -> TensorProto:
    return TensorProto(
        name=constant.name, data_type=dtypes.to_onnx(constant._values.dtype), dims=constant._values.shape
    )


def _hollow(constant: gs.Constant) -> TensorProto:
    return proto(constant) if nbytes(constant) <= EXTERNAL_LEAST else _header(constant)


class Staged:
    """A complete model in a temporary folder beside its target, under its final names."""

    def __init__(self, model_path: Path, files: list[Path], target: Path) -> None:
        self.model_path = model_path
        self.files = files
        self.target = target

    def commit(self) -> list[Path]:
        """Move everything into place; the model file last, so that the target is always whole. Returns the files."""
        old = _data_files(self.target)
        done = []
        for path in [*self.files[1:], self.files[0]]:
            final = self.target.parent / path.name
            os.replace(path, final)
            done.append(final)
        for stale in old - set(done):
            stale.unlink(missing_ok=True)
        return done[::-1]


def _data_files(model: Path) -> set[Path]:
    """Data files that an earlier result at this path has left."""
    mark = f"{model.name}."
    return {
        path
        for path in model.parent.glob("*.data")
        if path.name.startswith(mark) and len(path.name) == len(mark) + len("12345678.data")
    }


@contextmanager
def stage(graph: gs.Graph, path: str | os.PathLike[str], *, external: bool | None = None) -> Iterator[Staged]:
    """Write the model beside `path` without touching what is there; `commit()` puts it in place.

    external: weights in a data file of their own; by default if the source's were, or beyond 1.8 GB.

    Raises:
        GraphoptError: the folder does not exist or cannot be written to, the disk is full.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise GraphoptError(
            f"folder {target.parent} does not exist", where=str(target), hint=f"mkdir -p {target.parent}"
        )
    if target.is_dir():
        raise GraphoptError("it is a folder", where=str(target), hint="name a file")
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
        files = _write(graph, folder / target.name, external)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise _explained(error, target) from error
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield Staged(folder / target.name, files, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        try:
            return staged.commit()
        except OSError as error:
            raise _explained(error, Path(path)) from error


def _write(graph: gs.Graph, path: Path, external: bool | None) -> list[Path]:
    weights = constants(graph)
    if external is None:
        external = any(isinstance(c._values, ExternalValues) for c in weights) or (
            sum(nbytes(c) for c in weights) > INLINE_LIMIT
        )
    if external:
        return _write_external(graph, path, weights)
    _write_inline(graph, path)
    return [path]


def _write_external(graph: gs.Graph, path: Path, weights: list[gs.Constant]) -> list[Path]:
    large = [c for c in weights if nbytes(c) >= EXTERNAL_LEAST and c._values.dtype.kind not in "OSU"]
    places: dict[int, int] = {}
    state = hashlib.blake2b(digest_size=4)
    data = path.parent / "weights"
    with data.open("wb") as file:
        at = 0
        for constant in large:
            gap = -at % ALIGNMENT
            file.seek(gap, os.SEEK_CUR)
            at += gap
            places[id(constant)] = at
            at += _stream(constant, file, state)
        file.truncate(at)
        file.flush()
        os.fsync(file.fileno())
    name = f"{path.name}.{state.hexdigest()}.data"
    os.replace(data, path.parent / name)

    def tensor(constant: gs.Constant) -> TensorProto:
        if id(constant) not in places:
            return proto(constant)
        made = _header(constant)
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", places[id(constant)]), ("length", nbytes(constant))):
            made.external_data.add(key=key, value=str(value))
        return made

    _dump(Writer(graph, tensor).model().SerializeToString(deterministic=True), path)
    return [path, path.parent / name]


def _stream(constant: gs.Constant, file: IO[bytes], state: "hashlib.blake2b") -> int:
    """Copy a weight's stored bytes; how many."""
    values = constant._values
    if isinstance(values, ExternalValues):
        for piece in values.chunks():
            state.update(piece)
            file.write(piece)
        return values.nbytes
    raw = _raw(constant)
    state.update(raw)
    file.write(raw)
    return len(raw)


def _raw(constant: gs.Constant) -> bytes | memoryview:
    """The stored bytes of a weight in memory, without a copy where that is possible."""
    values = constant._values
    held = getattr(values, "tensor", None) if not isinstance(values, ExternalValues) else None
    if held is not None and held.raw_data:
        return held.raw_data  # type: ignore[no-any-return]
    array = read(constant)
    if dtypes.bits(array.dtype) < 8:
        return bytes(onnx.numpy_helper.from_array(array).raw_data)
    return memoryview(array if array.flags.c_contiguous else array.copy()).cast("B") if array.size else b""


def _write_inline(graph: gs.Graph, path: Path) -> None:
    """One protobuf: the small parts serialized as usual, then each large initializer as one more field of `graph`."""
    late: list[gs.Constant] = []
    main = {id(constant) for constant in Writer(graph).homes.get(id(graph), ())}

    def tensor(constant: gs.Constant) -> TensorProto:
        if id(constant) in main and nbytes(constant) >= STREAM_LEAST and constant._values.dtype.kind not in "OSU":
            late.append(constant)
            return TensorProto(name=_LATE)
        return proto(constant)

    model = Writer(graph, tensor).model()
    keep = [one for one in model.graph.initializer if one.name != _LATE]
    if late:
        del model.graph.initializer[:]
        model.graph.initializer.extend(keep)
    body = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    heads = []
    total = len(body)
    for constant in late:
        header = _header(constant).SerializeToString(deterministic=True)
        raw = nbytes(constant)
        inner = len(header) + len(_field(9, raw)) + raw
        head = _field(5, inner) + header + _field(9, raw)
        heads.append(head)
        total += len(head) + raw
    with path.open("wb") as file:
        file.write(model.SerializeToString(deterministic=True))
        file.write(_field(7, total))
        file.write(body)
        for head, constant in zip(heads, late, strict=True):
            file.write(head)
            file.write(_raw(constant))
        file.flush()
        os.fsync(file.fileno())


_LATE = "\x00graphopt: written after the rest"


def _field(number: int, length: int) -> bytes:
    """The head of a length-delimited protobuf field."""
    result = bytearray()
    for value in (number << 3 | 2, length):
        while value >= 0x80:
            result.append(value & 0x7F | 0x80)
            value >>= 7
        result.append(value)
    return bytes(result)


def _dump(raw: bytes, path: Path) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
