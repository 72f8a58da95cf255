"""One file that holds several engines, the kernels between them, and the order in which they run.

16 bytes   MAGIC
 8 bytes   length of the description, little endian
           the description, JSON (`Description`), padded with zeros to a multiple of ALIGNMENT
           blobs, each padded to a multiple of ALIGNMENT: engines, and constants that kernels read
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import BackendError, UsageError
from graphopt.ir import dtypes

MAGIC = b"GRAPHOPT-SEGMENT"
VERSION = 1
ALIGNMENT = 4096
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Blob:
    """Bytes of the file, counted from the end of the description."""

    offset: int
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Value:
    """A value on a border: an input, an output, or what passes from one part to another."""

    dtype: str
    dims: Dims
    """-1 where only the run tells."""
    low: Dims
    typical: Dims
    high: Dims


@dataclass(frozen=True)
class Constant:
    """An array that kernels read."""

    dtype: str
    shape: Dims
    blob: Blob


@dataclass(frozen=True)
class EngineEntry:
    """An engine, and the values that go in and come out."""

    blob: Blob
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: int = 0
    nodes: tuple[str, ...] = ()
    """The names of the model's nodes that it computes."""


@dataclass(frozen=True)
class KernelEntry:
    """A call of a custom layer."""

    layer: str
    node: str
    attributes: Mapping[str, Any]
    values: Mapping[str, str]
    """The layer's input -> the value it reads."""
    constants: Mapping[str, int]
    """The layer's input -> the number of the constant it reads."""
    outputs: tuple[str, ...]
    plugin: str = ""
    source: str = ""
    """Package and version, or file, that the layer came from."""
    digest: str = ""
    """Of the source text of the layer's module."""


@dataclass(frozen=True)
class Description:
    """All but the bytes."""

    backend: str
    version: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    parts: tuple[EngineEntry | KernelEntry, ...]
    constants: tuple[Constant, ...] = ()

    @property
    def engines(self) -> list[EngineEntry]:
        return [part for part in self.parts if isinstance(part, EngineEntry)]

    @property
    def kernels(self) -> list[KernelEntry]:
        return [part for part in self.parts if isinstance(part, KernelEntry)]

    def to_json(self) -> dict[str, Any]:
        parts = [
            {"kind": "engine" if isinstance(part, EngineEntry) else "kernel", **asdict(part)} for part in self.parts
        ]
        return {"schema_version": VERSION, **asdict(self), "parts": parts}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Description:
        def part(entry: dict[str, Any]) -> EngineEntry | KernelEntry:
            kind = entry.pop("kind")
            if kind == "engine":
                names = {name: tuple(entry[name]) for name in ("inputs", "outputs", "nodes")}
                return EngineEntry(**{**entry, **names, "blob": Blob(**entry["blob"])})
            attributes = {n: tuple(v) if isinstance(v, list) else v for n, v in entry["attributes"].items()}
            return KernelEntry(**{**entry, "attributes": attributes, "outputs": tuple(entry["outputs"])})

        return cls(
            backend=found["backend"],
            version=found["version"],
            inputs=tuple(found["inputs"]),
            outputs=tuple(found["outputs"]),
            values={
                name: Value(one["dtype"], *(tuple(one[key]) for key in ("dims", "low", "typical", "high")))
                for name, one in found["values"].items()
            },
            parts=tuple(part(dict(one)) for one in found["parts"]),
            constants=tuple(
                Constant(one["dtype"], tuple(one["shape"]), Blob(**one["blob"])) for one in found["constants"]
            ),
        )


@dataclass
class Blobs:
    """What is to be written after the description: files, and arrays."""

    sources: list[Path | np.ndarray[Any, Any]] = field(default_factory=list)
    _at: int = 0

    def add(self, source: Path | np.ndarray[Any, Any]) -> Blob:
        """Where it will lie."""
        digest = hashlib.sha256()
        nbytes = 0
        for piece in _pieces(source):
            digest.update(piece)
            nbytes += len(piece)
        self.sources.append(source)
        made = Blob(self._at, nbytes, digest.hexdigest())
        self._at += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return made


def _pieces(source: Path | np.ndarray[Any, Any]) -> Any:
    if isinstance(source, np.ndarray):
        yield np.ascontiguousarray(source).tobytes()
        return
    with source.open("rb") as file:
        while piece := file.read(1 << 22):
            yield piece


def write(path: str | os.PathLike[str], description: Description, blobs: Blobs) -> int:
    """Write the container, which must not exist yet or may be overwritten; its size in bytes."""
    text = json.dumps(description.to_json()).encode()
    with open(path, "wb") as file:
        file.write(MAGIC + _LENGTH.pack(len(text)) + text)
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        for source in blobs.sources:
            for piece in _pieces(source):
                file.write(piece)
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def is_container(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a container; False where it is a plain engine, or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Container:
    """A container that is open for reading; its bytes are mapped, not read.

    Raises:
        UsageError: there is no such file.
        BackendError: it is damaged, or of a newer graphopt.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise UsageError("there is no such engine", where=str(path)) from None
        except (OSError, ValueError) as error:
            raise BackendError(f"it cannot be read: {error}", where=str(path)) from error
        start = len(MAGIC) + _LENGTH.size
        if self._bytes[: len(MAGIC)] != MAGIC or len(self._bytes) < start:
            raise self._damaged("it is no container of segments")
        (length,) = _LENGTH.unpack(self._bytes[len(MAGIC) : start])
        try:
            found = json.loads(self._bytes[start : start + length])
            if found["schema_version"] > VERSION:
                raise BackendError(
                    f"it is a container of format {found['schema_version']}, this graphopt knows {VERSION}",
                    where=str(path),
                    hint="update graphopt, or build it anew",
                )
            self.description = Description.from_json(found)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"its description cannot be read ({error})") from error
        self._blobs = -(-(start + length) // ALIGNMENT) * ALIGNMENT

    def read(self, blob: Blob) -> memoryview:
        """The bytes of a blob. Raises BackendError where they are not those that were written."""
        start = self._blobs + blob.offset
        found = memoryview(self._bytes)[start : start + blob.nbytes]
        if len(found) != blob.nbytes or hashlib.sha256(found).hexdigest() != blob.sha256:
            raise self._damaged("bytes of it have changed or are missing")
        return found

    def constant(self, number: int) -> np.ndarray[Any, Any]:
        """The array of a constant."""
        one = self.description.constants[number]
        return np.frombuffer(self.read(one.blob), dtypes.from_name(one.dtype)).reshape(one.shape)

    def _damaged(self, what: str) -> BackendError:
        return BackendError(what, where=str(self.path), hint="build it anew")
