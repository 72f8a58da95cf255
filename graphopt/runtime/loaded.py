"""An engine file in memory: TensorRT's runtime, the engine, its ports, and the kernels that RTX compiled for it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from graphopt.errors import BackendError, GraphoptError, UsageError
from graphopt.folders import cache_folder

from .ports import Port, read_ports

_MODULES = ("tensorrt_rtx", "tensorrt")


class Loaded:
    """A deserialized engine. What it needs of CUDA is loaded here.

    plan: the engine's bytes, where they are not those of the file; manifest: what is known of it.

    Raises:
        UsageError: there is no such file.
        BackendError: no GPU, no CuPy, no TensorRT, or an engine that this TensorRT does not take.
    """

    def __init__(
        self, path: str | os.PathLike[str], plan: memoryview | None = None, manifest: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path) if manifest is None else manifest
        try:
            plan = memoryview(self.path.read_bytes()) if plan is None else plan
        except FileNotFoundError:
            raise UsageError("there is no such engine", where=str(path)) from None
        except OSError as error:
            raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
        self.cupy = library()
        self.trt = self._module()
        self._said: list[str] = []
        self._logger = _logger(self.trt, self._said)
        self._runtime = self.trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise BackendError(
                f"{self.trt.__name__} {self.trt.__version__} does not take this engine: {self.said()}",
                where=str(path),
                hint="build it with the TensorRT that runs it; an .onnx file is no engine",
            )
        self.ports: dict[str, Port] = read_ports(self.trt, self.engine)
        self.nbytes = len(plan)
        self._kernels = _Kernels(self, hashlib.blake2b(plan, digest_size=16).hexdigest())

    def _module(self) -> Any:
        wanted = self.manifest.get("backend")
        missing = []
        for name in (wanted,) if wanted in _MODULES else _MODULES:
            try:
                return importlib.import_module(str(name))
            except ImportError as error:
                missing.append(str(error))
        raise BackendError(
            f"TensorRT is not installed: {'; '.join(missing)}", where=str(self.path), hint="pip install 'graphopt[rtx]'"
        )

    def said(self) -> str:
        """The last complaint of TensorRT."""
        return self._said[-1] if self._said else "no reason given"

    def context(self, *, loose: bool = False) -> Any:
        """An execution context whose scratch memory the caller provides. Raises BackendError.

        loose: for many shapes; else kernels are compiled for its one set of shapes before it runs.
        """
        trt, strategy = self.trt, self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self.engine, "create_runtime_config"):
            config = self.engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if hasattr(trt, "DynamicShapesKernelSpecializationStrategy") and not loose:
                config.dynamic_shapes_kernel_specialization_strategy = (
                    trt.DynamicShapesKernelSpecializationStrategy.EAGER
                )
            self._kernels.attach(config)
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context(strategy)
        if context is None:
            raise BackendError(f"no execution context: {self.said()}", where=str(self.path))
        return context

    def keep_kernels(self) -> None:
        """Write what RTX compiled for this GPU to the cache folder, if there is more than before."""
        self._kernels.keep()


class _Kernels:
    """TensorRT-RTX's runtime cache, one file per engine and GPU; nothing where TensorRT compiles none."""

    def __init__(self, loaded: Loaded, digest: str) -> None:
        self._loaded = loaded
        self._cache: Any = None
        self._size = 0
        number = loaded.cupy.cuda.Device().id
        gpu = loaded.cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
        key = hashlib.blake2b(f"{digest} {gpu} {loaded.trt.__version__}".encode(), digest_size=16).hexdigest()
        self._path = cache_folder() / "kernels" / f"{key}.rtx"

    def attach(self, config: Any) -> None:
        if not hasattr(config, "create_runtime_cache"):
            return
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with suppress(OSError):
                stored = self._path.read_bytes()
                if self._cache.deserialize(stored):
                    self._size = len(stored)
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        if self._cache is None:
            return
        data = bytes(self._cache.serialize())
        if len(data) <= self._size:
            return
        with suppress(OSError):  # the next start is slower, nothing else
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, self._path)
            self._size = len(data)


def read_manifest(engine: Path) -> dict[str, Any]:
    """What stands in ENGINE.json beside an engine; {} where there is none. Raises GraphoptError where it is damaged."""
    path = engine.with_name(engine.name + ".json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise GraphoptError(f"the engine's manifest cannot be read: {error}", where=str(path)) from error
    return found if isinstance(found, dict) else {}


def library(need: str = "engines run through CuPy") -> Any:
    """CuPy, with a GPU at hand. Raises BackendError."""
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() < 1:
            raise BackendError("no GPU was found")
        return cupy
    except ImportError as error:
        raise BackendError(f"{need}, which is not installed: {error}", hint="pip install 'graphopt[cuda]'") from error
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"no GPU was found: {error}",
            hint="engines are built anywhere, and run where an NVIDIA GPU and its driver are",
        ) from error


def _logger(trt: Any, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(text)

    return Logger()
