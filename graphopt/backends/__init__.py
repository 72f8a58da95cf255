"""Where an optimized model goes: TensorRT-RTX, TensorRT, onnxruntime. Nothing heavy is loaded before it is used."""

from __future__ import annotations

from graphopt.config import BACKENDS, Limits
from graphopt.errors import UsageError

from .protocol import Backend, BuildOptions, BuildResult, NetworkInfo, ParseError, ParserError, Progress, TensorInfo

__all__ = [
    "Backend",
    "BuildOptions",
    "BuildResult",
    "NetworkInfo",
    "ParseError",
    "ParserError",
    "Progress",
    "TensorInfo",
    "get",
    "installed",
]


def get(name: str, limits: Limits | None = None) -> Backend:
    """The backend of this name, whether or not it is installed. Raises UsageError if there is none."""
    if name == "onnxruntime":
        from .onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(limits)
    if name in BACKENDS:
        from .tensorrt import TensorRTBackend

        return TensorRTBackend(name, limits)
    raise UsageError(f"unknown backend {name!r}", hint=f"choose one of: {', '.join(BACKENDS)}")


def installed() -> dict[str, str]:
    """Each backend's version, or why it cannot be used here."""
    found = {}
    for name in BACKENDS:
        backend = get(name)
        found[name] = backend.available() or backend.version()
    return found
