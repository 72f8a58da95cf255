"""The conversion, from a source to an ONNX file and the model to compare it with."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.errors import UsageError
from graphopt.importer import Imported, ImportRequest
from graphopt.named import are_installed

from .calls import Calls, calls, feeds_of
from .examples import examples
from .export import check_program, export
from .families import without_cache
from .layers import LayerCalls
from .sources import read


def convert(request: ImportRequest, path: Path) -> Imported:
    """The source as an ONNX file. Raises ModelError, UsageError."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    request.progress("reading the model", 0, 0)
    found = read(request.source, request.options)
    found.notes += without_cache(found)
    ask = examples(found, request, _dtypes(request.options))
    if found.is_program:
        check_program(found, ask)
    request.progress("running the model", 0, 0)
    model = calls(found, ask)
    layers = LayerCalls(request.layers)
    sys.setrecursionlimit(10_000)
    file, notes = export(found, ask, model, request, layers)
    notes += layers.finish(file)
    places = _places(file, model)
    return Imported(
        file,
        lambda feeds: model.run(_in_order(feeds, places, model)),
        feeds_of(model, places),
        [*found.notes, *ask.notes, *notes],
        files=[path] if path.is_file() and are_installed(request.options.get("modules", "")) else None,
    )


def _dtypes(options: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for word in filter(None, options.get("dtypes", "").split(",")):
        name, mark, dtype = word.partition("=")
        if not mark:
            raise UsageError(f"{word!r} is no NAME=DTYPE", where="--import-option dtypes")
        found[name] = dtype
    return found


def _places(path: Path, model: Calls) -> dict[str, int]:
    """Input of the ONNX model -> number of the tensor among the arguments; one may have been dropped as of no use."""
    names = [port.name for port in onnx.load(path, load_external_data=False).graph.input]
    if len(names) == len(model.names):
        return {name: index for index, name in enumerate(names)}
    return {name: model.names.index(name) for name in names}


def _in_order(
    feeds: Mapping[str, np.ndarray[Any, Any]], places: Mapping[str, int], model: Calls
) -> list[np.ndarray[Any, Any]]:
    from .calls import to_numpy

    arrays = [to_numpy(leaf) for leaf in model.leaves]
    for name, index in places.items():
        if name in feeds:
            arrays[index] = np.asarray(feeds[name])
    return arrays
