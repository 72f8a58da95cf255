"""What was measured of layers: per GPU, layer, dtype and size, the time of the kernel and of the engine's own body."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError
from graphopt.folders import cache_folder

if TYPE_CHECKING:
    from .tensor import Tensor

NEAR = 4.0
"""A measurement speaks for sizes within this factor of its own."""


@dataclass(frozen=True)
class Measurement:
    """One comparison at one size."""

    layer: str
    dtype: str
    nbytes: int
    """Bytes of all inputs and outputs: the size."""
    shapes: tuple[tuple[int, ...], ...]
    kernel_ms: float
    """Median time of the kernel."""
    engine_ms: float
    """Median time of the engine that TensorRT-RTX makes of the body."""
    version: str = ""
    """Of the engine's builder."""

    @property
    def wins(self) -> bool:
        return self.kernel_ms < self.engine_ms


class Store:
    """One JSON file per GPU: $GRAPHOPT_CACHE/measured/NAME.json."""

    def __init__(self, gpu: str, folder: Path | None = None) -> None:
        self.gpu = gpu
        name = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-")
        self.path = (folder or cache_folder() / "measured") / f"{name}.json"

    def read(self) -> list[Measurement]:
        """Every measurement; none where there is no file. Raises GraphoptError where it is damaged."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return [_measurement(entry) for entry in found["measurements"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise GraphoptError(
                f"it is no store of measurements: {error}", where=str(self.path), hint="remove it and measure again"
            ) from error

    def add(self, new: Sequence[Measurement]) -> None:
        """Add measurements; one of the same layer, dtype and shapes is replaced."""
        with _locked(self.path):
            keys = {(one.layer, one.dtype, one.shapes) for one in new}
            kept = [one for one in self.read() if (one.layer, one.dtype, one.shapes) not in keys]
            body = {"schema_version": 1, "gpu": self.gpu, "measurements": [asdict(one) for one in (*kept, *new)]}
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".measured-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(body, file, indent=1)
            os.replace(temporary, self.path)

    def nearest(self, layer: str, dtype: str, nbytes: int) -> Measurement | None:
        """The measurement that speaks for this size, if there is one."""
        near = [
            one
            for one in self.read()
            if one.layer == layer and one.dtype == dtype and nbytes / NEAR <= one.nbytes <= nbytes * NEAR
        ]
        return min(
            near,
            key=lambda one: max(one.nbytes, 1) / max(nbytes, 1) + max(nbytes, 1) / max(one.nbytes, 1),
            default=None,
        )

    def judge(self, layer: str, dtype: str, nbytes: int) -> str | None:
        """None if the nearest measurement says that the kernel wins, else why the layer is not placed."""
        best = self.nearest(layer, dtype, nbytes)
        if best is None:
            return f"not measured on {self.gpu} in {dtype} near {nbytes} bytes: graphopt bench-layer measures it"
        if best.wins:
            return None
        return f"the engine's own is faster: {best.engine_ms:.4f} ms against {best.kernel_ms:.4f} ms on {self.gpu}"


def _measurement(entry: dict[str, Any]) -> Measurement:
    shapes = tuple(tuple(int(dim) for dim in shape) for shape in entry["shapes"])
    return Measurement(**{**entry, "shapes": shapes})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stores(folder: Path | None = None) -> list[Store]:
    """The stores of all GPUs that were measured."""
    folder = folder or cache_folder() / "measured"
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Store(str(json.loads(path.read_text(encoding="utf-8"))["gpu"]), folder))
        except (ValueError, KeyError, TypeError):
            raise GraphoptError("it is no store of measurements", where=str(path), hint="remove it") from None
    return found


def digest() -> str:
    """A digest of all that `auto` chooses by: the measurements, and the GPU at hand; '' where nothing was measured."""
    if not (some := stores()):
        return ""
    return hashlib.sha256(b"".join([current_gpu().encode(), *(one.path.read_bytes() for one in some)])).hexdigest()


def current_gpu() -> str:
    """The name of the GPU at hand; '' where there is none, or no CuPy."""
    try:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        return str(properties["name"].decode())
    except Exception:  # any trouble with CuPy or the driver means that there is no GPU to ask
        return ""


def bytes_of(tensors: Sequence[Tensor]) -> int | None:
    """Bytes of tensors of known shape; None where one is not known."""
    total = 0
    for tensor in tensors:
        if not isinstance(tensor.nbytes, int):
            return None
        total += tensor.nbytes
    return total
