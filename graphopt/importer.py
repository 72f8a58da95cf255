"""What an importer is: it writes a model of another framework down as an ONNX file, and can run the original.

A plugin returns its importers from `graphopt_importers`. Frameworks are imported inside `convert`, never at the top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, npt.NDArray[np.generic]]
Reference = Callable[[Arrays], Any]
"""What the framework itself computes: input name -> array in, in the order of the ONNX model's inputs; its outputs out,
in the order of the ONNX model's: arrays or the framework's tensors, in whatever lists, tuples and dictionaries."""


@dataclass(frozen=True)
class ImportRequest:
    """What a user asked for.

    source: a path, or what else the importer accepts, as it was typed. folder: exists, is empty, and is thrown away
    later; the model and its external data go there. shapes: input name -> dims, where a str names a dynamic dimension;
    the key '' stands for the only input. sizes: name of a dynamic dimension -> the size that example inputs have there,
    where the user said one. inputs: example inputs, whose shapes win. opset: of ONNX, None for the importer's best.
    options: --import-option NAME=VALUE. layers: the custom layers (classes) of all plugins, which may stand for
    operators of the framework.
    """

    source: str
    folder: Path
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)
    opset: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    sizes: Mapping[str, int] = field(default_factory=dict)
    layers: Sequence[type] = ()

    @property
    def path(self) -> Path:
        """Where the model may be written."""
        return self.folder / "model.onnx"

    def named(self) -> Any:
        """The object that a source like 'net.py:make' or 'package.nets:make' names; its module is imported.

        Raises ModelError for code that is not there or does not run, UsageError for a name that it does not have.
        """
        from .named import named

        return named(self.source)


@dataclass(frozen=True)
class Imported:
    """An ONNX model, and the framework's own to compare it with.

    model: the file, or, of at most 2 GB, the message. inputs: what `reference` may be asked with; where there are none,
    those of the user, or random ones that the ONNX model takes. notes: what the user should know.
    rounding: by output, how far elements may be off because the framework itself rounds inside, as quantized networks
    do; in the output's own units. Nothing if empty. files: all that decided what came out, so that the same build is
    answered at once the next time; None where nobody can say, for code of the user's own was run.
    """

    model: Path | onnx.ModelProto
    reference: Reference | None = None
    inputs: Arrays = field(default_factory=dict)
    notes: Sequence[str] = ()
    rounding: Sequence[float] = ()
    files: Sequence[str | Path] | None = None


class Importer(ABC):
    """A framework's way in. What is derived from it has to say name, extra and convert."""

    name: str
    """What --from takes: 'torch'."""
    extra: str
    """What installs the framework: 'graphopt[torch]'."""
    suffixes: Sequence[str] = ()
    """Endings of files that are surely this framework's, lower case: ('.pt2',)."""
    also: Sequence[str] = ()
    """What else it accepts, for the list of importers: ('net.py:make',)."""
    options: Mapping[str, str] = {}
    """What --import-option takes: name -> one sentence."""

    def accepts(self, source: str) -> bool:
        """Whether a source without a known suffix is this framework's; looks at files, imports no framework."""
        return False

    @abstractmethod
    def convert(self, request: ImportRequest) -> Imported:
        """The source as an ONNX model.

        Raises:
            ImportError: the framework is not installed.
            ModelError: the source cannot be read, or has a layer that has no counterpart; names file and layer.
            UsageError: shapes, inputs or options do not fit.
        """
