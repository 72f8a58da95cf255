"""graphopt: a plugin-based graph optimizer for ONNX models that run on TensorRT.

Importing this package is light: onnx, TensorRT, CuPy and onnxruntime are loaded where they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import Limits, Shapes, Target
from .errors import (
    BackendError,
    GraphoptError,
    ModelError,
    PassError,
    PluginError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from .hookspecs import API, hookimpl
    from .ir.edits import Editor
    from .ir.load import load
    from .ir.save import to_proto
    from .pipeline import Result, optimize
    from .rewrite.build import Skip
    from .rewrite.pattern import alternatives
    from .rewrite.rule import Rule, pass_

__version__ = "0.1.0"

_HOMES = {
    "API": ".hookspecs",
    "hookimpl": ".hookspecs",
    "Editor": ".ir.edits",
    "load": ".ir.load",
    "to_proto": ".ir.save",
    "Result": ".pipeline",
    "optimize": ".pipeline",
    "Skip": ".rewrite.build",
    "alternatives": ".rewrite.pattern",
    "Rule": ".rewrite.rule",
    "pass_": ".rewrite.rule",
}

__all__ = [
    "API",
    "BackendError",
    "Editor",
    "GraphoptError",
    "Limits",
    "ModelError",
    "PassError",
    "PluginError",
    "Result",
    "Rule",
    "Shapes",
    "Skip",
    "Target",
    "UsageError",
    "VerificationError",
    "alternatives",
    "hookimpl",
    "load",
    "optimize",
    "pass_",
    "to_proto",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
