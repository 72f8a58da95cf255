"""TensorRT and TensorRT-RTX: one adapter. Native code runs in a child process; what differs is one table."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.config import Limits, Shapes
from graphopt.errors import BackendError, ModelError, UsageError

from . import process
from .protocol import BuildOptions, BuildResult, NetworkInfo, Progress, StrPath

_PROBE_SECONDS = 120.0


@dataclass(frozen=True)
class Flavor:
    """What sets one of the two libraries apart from the other."""

    module: str
    title: str
    install: str
    picks_compute_capability: bool
    """Engines are built for chosen GPU architectures, without a GPU, instead of for the GPU at hand."""
    has_plugins: bool
    """Custom layers run as plugins. TensorRT-RTX has none, and its parser ends the process on meeting a creator."""
    least_opset: int = 7
    """The parser refuses broadcasts of older models, whatever else is in them."""


FLAVORS = {
    flavor.module: flavor
    for flavor in (
        Flavor(
            "tensorrt_rtx",
            "TensorRT-RTX",
            "pip install 'graphopt[rtx]'",
            picks_compute_capability=True,
            has_plugins=False,
        ),
        Flavor(
            "tensorrt",
            "TensorRT",
            "pip install 'graphopt[tensorrt]', with TensorRT's libraries from NVIDIA's package index",
            picks_compute_capability=False,
            has_plugins=True,
        ),
    )
}


class TensorRTBackend:
    """Parses and builds with TensorRT-RTX or TensorRT, in a child process that may die without harm."""

    def __init__(self, name: str, limits: Limits | None = None) -> None:
        self.name = name
        self.flavor = FLAVORS[name]
        self.limits = limits or Limits()

    def available(self) -> str | None:
        """None, or why the library cannot be used here and how to install it."""
        if importlib.util.find_spec(self.flavor.module) is None:
            return f"{self.flavor.title} is not installed; to install it: {self.flavor.install}"
        return _probe(self.name)[1]

    def version(self) -> str:
        """The library's version, like '1.6.1.120'. Raises BackendError if it is not available."""
        self._require()
        return _probe(self.name)[0]

    def check(self, options: BuildOptions) -> None:
        """Set these options, and build a network of one layer where some GPU must be at hand for them.

        Raises UsageError and BackendError as Backend.check says.
        """
        self._require_for(options)
        plain = replace(options, profiles=(), segments="auto", plugins=(), no_plugins=(), hooks=False, verbose=False)
        if plain != BuildOptions():
            self._run({"action": "check", "options": asdict(plain)})

    def parse(self, model_path: StrPath) -> NetworkInfo:
        """The network that the library's ONNX parser makes of a model.

        Raises ModelError, ParseError and BackendError as Backend.parse says.
        """
        self._require()
        return NetworkInfo.from_json(self._run({"action": "parse", "model": _existing(model_path)})["network"])

    def build(
        self,
        model_path: StrPath,
        engine_path: StrPath,
        shapes: Shapes | None = None,
        options: BuildOptions | None = None,
        progress: Progress | None = None,
    ) -> BuildResult:
        """An engine at engine_path: complete, or as it was before.

        Raises UsageError, ModelError, ParseError and BackendError as Backend.build says.
        """
        options = options or BuildOptions()
        model, engine = _existing(model_path), Path(engine_path)
        self._require_for(options)
        with _temporary_beside(engine) as temporary:
            request = {
                "action": "build",
                "model": model,
                "engine": str(temporary),
                "shapes": asdict(shapes or Shapes()),
                "options": asdict(options),
            }
            answer = self._run(request, progress)
            size = temporary.stat().st_size
            _publish(temporary, engine)
        network = NetworkInfo.from_json(answer["network"])
        return BuildResult(
            engine_path=engine,
            bytes=size,
            seconds=answer["seconds"],
            layers=network.layers,
            backend=self.name,
            version=answer["version"],
            network=network,
            log=answer["log"],
        )

    def _require_for(self, options: BuildOptions) -> None:
        if options.compute_capabilities and not self.flavor.picks_compute_capability:
            raise UsageError(
                f"{self.flavor.title} builds for the GPU at hand: a compute capability cannot be chosen",
                hint="leave the compute capability out, or build with backend tensorrt_rtx",
            )
        self._require()

    def _require(self) -> None:
        reason = self.available()
        if reason is not None:
            raise BackendError(reason)

    def _run(self, request: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        return process.run(
            {"backend": self.name, **request},
            title=self.flavor.title,
            seconds=self.limits.build_seconds,
            progress=progress,
        )


@cache
def _probe(name: str) -> tuple[str, str | None]:
    flavor = FLAVORS[name]
    try:
        answer = process.run({"action": "probe", "backend": name}, title=flavor.title, seconds=_PROBE_SECONDS)
    except BackendError as error:
        return "", f"{error.what}; to install it anew: {flavor.install}"
    return answer["version"], None


def _existing(model_path: StrPath) -> str:
    if not os.path.isfile(model_path):
        raise ModelError("there is no such model file", where=os.fspath(model_path))
    return os.fspath(model_path)


@contextmanager
def _temporary_beside(engine: Path) -> Iterator[Path]:
    """A fresh file in the engine's own folder, so that it can be renamed; it is gone afterwards."""
    if engine.is_dir():
        raise UsageError("the engine's path is a folder", where=str(engine), hint="name a file in it")
    temporary = engine.with_name(f".{engine.name}.{secrets.token_hex(6)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileNotFoundError:
        raise UsageError(
            f"the engine's folder {str(engine.parent)!r} does not exist", where=str(engine), hint="create it first"
        ) from None
    except OSError as error:
        raise UsageError(f"the engine cannot be written: {error.strerror}", where=str(engine)) from error
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, engine: Path) -> None:
    try:
        os.replace(temporary, engine)
        folder = os.open(engine.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BackendError(f"the engine cannot be written: {error.strerror}", where=str(engine)) from error
