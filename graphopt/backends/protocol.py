"""The contract of a backend: what it is asked, what it answers, how it fails. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from graphopt.config import Dims, Shapes
from graphopt.errors import BackendError

from .build_options import BuildOptions as BuildOptions

StrPath = str | os.PathLike[str]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8e4m3fn",
    "FP4": "float4e2m1",
    "E8M0": "float8e8m0",
}


def onnx_dtype(name: str) -> str:
    """A dtype of TensorRT (FLOAT, HALF, INT64, ...) in ONNX's words."""
    return _DTYPES.get(name, name.lower())


Progress = Callable[[str, int, int], None]
"""Called with (phase, steps done, steps in total). What it raises ends the build and reaches the caller."""


@dataclass(frozen=True)
class ParserError:
    """One node that the parser refused, and why."""

    node: str
    """Its name; '#7' for the unnamed node 7 of the graph; '' where the model as a whole is refused."""
    op: str
    reason: str
    index: int = -1
    output: str = ""
    """Its first output, which leads to it where it has no name."""

    @property
    def where(self) -> str:
        """'node conv1 (Conv)', as a person would say it."""
        if not self.node:
            return ""
        output = f", output {self.output}" if self.node.startswith("#") and self.output else ""
        return f"node {self.node} ({self.op}{output})"


class ParseError(BackendError):
    """The backend refuses the model; `errors` says which nodes, in the model's order."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", errors: Sequence[ParserError] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"errors": self.errors})


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a network: -1 is a dimension known only at run time."""

    dtype: str
    """In ONNX's words: float32, float16, bfloat16, float8e4m3fn, int64, bool, ..."""
    dims: Dims
    names: tuple[str, ...] = ()
    """The symbolic name of each dimension, '' where it has none."""
    is_shape: bool = False
    """Its values decide shapes: a profile bounds its values, not its dimensions."""


@dataclass(frozen=True)
class NetworkInfo:
    """What the backend made of a model, before any build."""

    layers: int
    """Constant layers are not counted: they cost nothing at run time."""
    constants: int
    layer_types: Mapping[str, int]
    """How many of each type, Constant layers left out: {'CONVOLUTION': 53, ...}."""
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkInfo:
        def tensors(found: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorInfo]:
            return {
                name: TensorInfo(one["dtype"], tuple(one["dims"]), tuple(one["names"]), one["is_shape"])
                for name, one in found.items()
            }

        return cls(**{**data, "inputs": tensors(data["inputs"]), "outputs": tensors(data["outputs"])})


@dataclass(frozen=True)
class BuildResult:
    """An engine that is complete on disk, and what it took."""

    engine_path: Path
    bytes: int
    seconds: float
    layers: int
    backend: str
    version: str
    network: NetworkInfo
    log: tuple[str, ...] = field(default=(), repr=False)
    """The last lines that the backend logged: warnings and errors, and what its native code printed."""
    segments: tuple[Mapping[str, Any], ...] = ()
    """Of a container, each part in order: `kind` ('engine', 'kernel'), `name`, `inputs`, `outputs`, and of engines
    `bytes`, `seconds`, `layers`."""


class Backend(Protocol):
    """What can take an ONNX model to the hardware."""

    @property
    def name(self) -> str:
        """'tensorrt_rtx', 'tensorrt' or 'onnxruntime', as in config.BACKENDS."""

    def available(self) -> str | None:
        """None, or why this backend cannot be used here and how to install it."""

    def version(self) -> str:
        """The backend's own version, like '1.6.1.120'. Raises BackendError if it is not available."""

    def check(self, options: BuildOptions) -> None:
        """Say before any work what cannot be built like this here, whatever the model.

        Raises UsageError for an option that the backend lacks, BackendError if it is not available.
        """

    def parse(self, model_path: StrPath) -> NetworkInfo:
        """The network that the backend makes of a model.

        Raises ModelError if there is no such file, ParseError if the backend refuses the model, BackendError if it is
        not available, dies or takes longer than Limits.build_seconds.
        """

    def build(
        self,
        model_path: StrPath,
        engine_path: StrPath,
        shapes: Shapes | None = None,
        options: BuildOptions | None = None,
        progress: Progress | None = None,
    ) -> BuildResult:
        """An engine for the model at engine_path: complete, or as it was before.

        Raises what parse raises, UsageError if shapes are missing or do not fit the model's inputs or engine_path
        cannot be written, and BackendError if the build fails.
        """
