"""graphopt: a plugin-based graph optimizer for ONNX models that run on TensorRT.

Importing this package is light: onnx, TensorRT, CuPy and onnxruntime are loaded where they are used, and of the
standard library what takes long.
"""

from __future__ import annotations

from importlib import import_module

from .errors import (
    BackendError,
    GraphoptError,
    ImporterError,
    ModelError,
    PassError,
    PluginError,
    UsageError,
    VerificationError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .config import Limits, Shapes, Target
    from .hookspecs import API, hookimpl
    from .importing.ask import Import
    from .importing.door import import_model
    from .ir.edits import Editor
    from .ir.load import load
    from .ir.save import to_proto
    from .layers import launch
    from .layers.kernel import Kernel
    from .layers.layer import Layer
    from .layers.tensor import Size, Tensor, ceil_div, larger, smaller, tensor
    from .pipeline import Result, optimize
    from .rewrite.build import Skip
    from .rewrite.pattern import alternatives
    from .rewrite.rule import Rule, pass_
    from .runtime.batching import Batcher
    from .runtime.engine import Engine

__version__ = "0.1.0"

_HOMES = {
    "Limits": ".config",
    "Shapes": ".config",
    "Target": ".config",
    "API": ".hookspecs",
    "hookimpl": ".hookspecs",
    "Import": ".importing.ask",
    "import_model": ".importing.door",
    "Editor": ".ir.edits",
    "Batcher": ".runtime.batching",
    "Engine": ".runtime.engine",
    "load": ".ir.load",
    "to_proto": ".ir.save",
    "launch": ".layers",
    "Kernel": ".layers.kernel",
    "Layer": ".layers.layer",
    "Size": ".layers.tensor",
    "Tensor": ".layers.tensor",
    "ceil_div": ".layers.tensor",
    "larger": ".layers.tensor",
    "smaller": ".layers.tensor",
    "tensor": ".layers.tensor",
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
    "Batcher",
    "Editor",
    "Engine",
    "GraphoptError",
    "Import",
    "ImporterError",
    "Kernel",
    "Layer",
    "Limits",
    "ModelError",
    "PassError",
    "PluginError",
    "Result",
    "Rule",
    "Shapes",
    "Size",
    "Skip",
    "Target",
    "Tensor",
    "UsageError",
    "VerificationError",
    "alternatives",
    "ceil_div",
    "hookimpl",
    "import_model",
    "larger",
    "launch",
    "load",
    "optimize",
    "pass_",
    "smaller",
    "tensor",
    "to_proto",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    home = import_module(_HOMES[name], __name__)
    found = globals()[name] = import_module(f".layers.{name}", __name__) if name == "launch" else getattr(home, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
