"""What is asked of an import, and which importer takes a source."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.config import Shapes
from graphopt.errors import ModelError, UsageError, nearest

if TYPE_CHECKING:
    from graphopt.importer import Importer

OWN = (".onnx", ".engine", ".plan", ".trt")
"""Endings of what is taken as it is, without asking any importer."""
ONNX = "onnx"
"""--from onnx: an ONNX model, whatever its name."""
TOLERANCE = 1e-3

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Import:
    """How a model of another framework is taken in.

    importer: its name; '' goes by the source. shapes: input name -> dims, where a str names a dynamic dimension; the
    name '' stands for the only input. inputs: an .npz file or arrays by input name. opset: of ONNX; the importer's best
    if None. options: of the importer, see `graphopt importers`. tolerance: the largest relative L2 difference of an
    output, in onnxruntime, to what the framework itself computes.
    """

    importer: str = ""
    shapes: Mapping[str, Dims] = field(default_factory=dict)
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None
    opset: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    sizes: Mapping[str, int] = field(default_factory=dict)


def may_be_foreign(source: object, ask: Import | None) -> bool:
    """Whether importers are to be asked about a source at all; looks at its name only."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    if ask is not None and ask.importer:
        return ask.importer != ONNX
    return Path(source).suffix.lower() not in OWN


def choose(source: str, ask: Import, importers: Mapping[str, Importer]) -> Importer | None:
    """The importer that is named, or has the source's suffix, or accepts it; None for an ONNX model.

    Raises UsageError: no importer has that name, or two accept the source.
    """
    if ask.importer:
        if ask.importer not in importers:
            names = ", ".join(importers) or "none is installed"
            raise UsageError(
                f"--from {ask.importer}: no such importer",
                hint=f"{nearest(ask.importer, importers, 'choose one')}: {names}",
            )
        return importers[ask.importer]
    suffixes = {suffix: one for one in importers.values() for suffix in one.suffixes}
    fitting = [suffix for suffix in suffixes if source.rstrip("/").lower().endswith(suffix)]
    if fitting:
        if not os.path.exists(source):
            raise ModelError("no such file", where=source)
        return suffixes[max(fitting, key=len)]
    accepting = [one for one in importers.values() if one.accepts(source)]
    if len(accepting) > 1:
        names = " or ".join(one.name for one in accepting)
        raise UsageError(f"several importers take it: {names}", where=source, hint=f"say which: --from {names}")
    if accepting:
        return accepting[0]
    if ask.options or any(isinstance(dim, str) for dims in ask.shapes.values() for dim in dims):
        raise _unknown(source, importers)
    return None


def _unknown(source: str, importers: Mapping[str, Importer]) -> ModelError:
    hint = f"name its framework with --from: {', '.join(importers)}" if importers else ""
    if not os.path.exists(source):
        return ModelError("no such file, and no importer takes it", where=source, hint=hint)
    return ModelError("no importer knows what it is", where=source, hint=hint)


def checked_options(importer: Importer, options: Mapping[str, str]) -> None:
    """Raises UsageError for an option that the importer does not have."""
    for name in options:
        if name not in importer.options:
            known = "; ".join(f"{key}: {text}" for key, text in importer.options.items())
            raise UsageError(
                f"importer {importer.name} has no option {name!r}",
                where="--import-option",
                hint=nearest(name, importer.options, f"it takes {known}" if known else "it takes none"),
            )


def completed(ask: Import, profile: Shapes | None, opset: int | None, inputs: Any) -> Import:
    """The request with what the optimization profile, --opset and --inputs say about the import, too.

    A dimension whose bounds differ is dynamic; on one axis, inputs with the same bounds share it. Raises UsageError
    where the ranks of the two differ.
    """
    shapes, sizes = dict(ask.shapes), dict(ask.sizes)
    profile = profile or Shapes()
    names: dict[tuple[int, int, int, int], str] = {}
    for name in dict.fromkeys((*profile.opt, *profile.max, *profile.min)):
        bounds = list(zip(*profile.of(name), strict=True))
        if name not in shapes:
            word = re.sub(r"\W", "_", name)
            shapes[name] = tuple(
                low if low == high else names.setdefault((axis, low, typical, high), f"{word}_{axis}")
                for axis, (low, typical, high) in enumerate(bounds)
            )
        if len(shapes[name]) != len(bounds):
            raise UsageError(f"input {name!r} is given shapes of {len(shapes[name])} and of {len(bounds)} dimensions")
        for dim, (low, typical, high) in zip(shapes[name], bounds, strict=True):
            if isinstance(dim, str):
                sizes.setdefault(dim, typical)
            elif not low <= dim <= high:
                raise UsageError(f"input {name!r}: a fixed dimension of {dim} is outside {low} to {high}")
    return replace(
        ask,
        shapes=shapes,
        sizes=sizes,
        opset=ask.opset if ask.opset is not None else opset,
        inputs=ask.inputs if ask.inputs is not None else inputs,
    )


def stem_of(source: str) -> str:
    """What files made of a source are called: 'net' of 'a/net.pt2', 'make' of 'nets.py:make'."""
    before, mark, after = source.rpartition(":")
    if mark and before and after.replace(".", "_").isidentifier() and not os.path.exists(source):
        return after.rpartition(".")[2]
    return Path(source).stem
