"""The two exporters of PyTorch, one after the other."""

from __future__ import annotations

import linecache
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.utils import _pytree as pytree

from graphopt.errors import GraphoptError, UsageError
from graphopt.importer import ImportRequest

from .calls import Calls
from .diagnosis import explain
from .examples import Examples
from .families import exportable
from .layers import LayerCalls
from .sources import Read

_SCRIPT_OPSET = 17
_SCRIPT_MOST = 20
EXPORTERS = ("auto", "dynamo", "torchscript")


def export(
    found: Read, ask: Examples, calls: Calls, request: ImportRequest, layers: LayerCalls
) -> tuple[Path, list[str]]:
    """The model file, and notes. Raises ModelError with a diagnosis where no exporter can."""
    path = request.folder / "model.onnx"
    wanted = request.options.get("exporter", "auto")
    if wanted not in EXPORTERS:
        raise UsageError(f"exporter {wanted}: choose one of {', '.join(EXPORTERS)}", where="--import-option exporter")
    ways: dict[str, Callable[[], None]] = {}
    if not found.is_script and wanted != "torchscript":
        ways["dynamo"] = lambda: doubts.extend(_dynamo(found, ask, calls, request, layers, path))
    if not found.is_program and wanted != "dynamo":
        ways["torchscript"] = lambda: doubts.extend(_torchscript(found, ask, calls, request, path))
    if not ways:
        kind = "TorchScript" if found.is_script else "an exported program"
        raise UsageError(f"the {wanted} exporter does not take {kind}", where="--import-option exporter")
    failures: dict[str, BaseException] = {}
    doubts: list[str] = []
    for name, way in ways.items():
        request.progress(f"exporting ({name})", 0, 0)
        try:
            way()
        except GraphoptError:
            raise
        except Exception as error:
            failures[name] = error
            _clear(request.folder)
            continue
        notes = [f"exported by {name}"]
        notes += [explain(failures, found, calls, request.source).what] if failures else []
        return path, [*notes, *doubts]
    raise explain(failures, found, calls, request.source)


def _dynamo(
    found: Read, ask: Examples, calls: Calls, request: ImportRequest, layers: LayerCalls, path: Path
) -> list[str]:  # fmt: skip
    notes: list[str] = []
    words: dict[str, Any] = {"opset_version": request.opset} if request.opset is not None else {}
    if layers.table:
        words["custom_translation_table"] = layers.table
    if found.is_program:
        made = torch.onnx.export(found.thing, dynamo=True, verbose=False, output_names=calls.outputs, **words)
    else:
        with exportable(notes):
            made = torch.onnx.export(
                found.thing, calls.args, kwargs=calls.kwargs, dynamo=True, verbose=False, output_names=calls.outputs,
                dynamic_shapes=_dynamic(ask, calls), **words,
            )  # fmt: skip
    assert made is not None
    made.save(path)
    _name_dims(path, ask)
    return notes


def _dynamic(ask: Examples, calls: Calls) -> dict[str, Any] | None:
    """Parameter -> {axis: name of its dimension}; None where all are fixed."""
    if not any(isinstance(dim, str) for dims in ask.names.values() for dim in dims):
        return None
    found = dict(zip(calls.parameters, calls.args, strict=False)) | calls.kwargs
    return {name: _axes(ask.names.get(name), value) for name, value in found.items()}


def _axes(dims: tuple[int | str, ...] | None, value: Any) -> Any:
    if dims is None:
        return pytree.tree_map(lambda one: {} if isinstance(one, torch.Tensor) else None, value)
    return {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)}


def check_program(found: Read, ask: Examples) -> None:
    """A program's shapes are those that it was exported with. Raises UsageError."""
    for node in found.thing.graph.nodes:
        dims = ask.names.get(node.name)
        if node.op != "placeholder" or dims is None:
            continue
        for axis, (dim, size) in enumerate(zip(dims, node.meta["val"].shape, strict=False)):
            fixed = isinstance(size, int)
            if fixed and dim != size:
                raise UsageError(
                    f"dimension {axis} of input {node.name!r} is {size} in this program, not {dim}",
                    where="--shapes",
                    hint="export it again with dynamic_shapes, or take it in from its source: net.py:make",
                )


def _name_dims(path: Path, ask: Examples) -> None:
    """Symbols that torch numbers (s31) get the names that were asked for, or that of an input and axis."""
    model = onnx.load(path, load_external_data=False)
    names: dict[str, str] = {}
    for port in model.graph.input:
        for axis, dim in enumerate(port.type.tensor_type.shape.dim):
            wanted = (ask.names.get(port.name) or ())[axis : axis + 1]
            if re.fullmatch(r"[su]\d+", dim.dim_param):
                known = wanted[0] if wanted and isinstance(wanted[0], str) else f"{port.name}_{axis}"
                names.setdefault(dim.dim_param, known)
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(names) + r")\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda one: names[one[0]], dim.dim_param)
    path.write_bytes(model.SerializeToString())


class _Flat(torch.nn.Module):  # type: ignore[misc]
    """The model as a function of its tensors alone: tracing knows no dictionaries and no keywords."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.model = calls.model
        self._calls = calls

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self._calls.arguments(leaves)
        from .calls import tensors

        return tuple(tensors(self.model(*args, **kwargs)))


class Untrue(Exception):
    """A trace that may hold for its example inputs alone."""


_BAKED = re.compile(
    r"Python (boolean|integer|float|index|list)|[Ii]terating over a tensor|numpy array|torch\.tensor results"
)


def _torchscript(found: Read, ask: Examples, calls: Calls, request: ImportRequest, path: Path) -> list[str]:
    """Traced; what a trace cannot follow is refused, unless this exporter was asked for: then it is returned."""
    axes: dict[str, Mapping[int, str]] = {}
    for name in calls.names:
        named = {axis: dim for axis, dim in enumerate(ask.names.get(name, ())) if isinstance(dim, str)}
        if named:
            axes[name] = named
    if found.is_script and (calls.kwargs or len(calls.leaves) != len(calls.args)):
        raise UsageError("TorchScript is exported with tensors as its only arguments", where=request.source)
    opset = request.opset or _SCRIPT_OPSET
    if opset > _SCRIPT_MOST:
        raise UsageError(f"the torchscript exporter ends at opset {_SCRIPT_MOST}", where="--opset")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        torch.onnx.export(
            calls.model if found.is_script else _Flat(calls).eval(), tuple(leaf.clone() for leaf in calls.leaves),
            str(path), dynamo=False, input_names=calls.names, output_names=calls.outputs, dynamic_axes=axes or None,
            opset_version=opset,
        )  # fmt: skip
    baked = {
        f"{one.filename}, line {one.lineno}: {linecache.getline(one.filename, one.lineno).strip()}": None
        for one in said
        if issubclass(one.category, torch.jit.TracerWarning) and _BAKED.search(str(one.message))
    }
    if baked and request.options.get("exporter") != "torchscript":
        raise Untrue(f"a trace keeps what the values of its example inputs led to at {next(iter(baked))}")
    return [f"true for the example inputs' values only: {place}" for place in list(baked)[:5]]


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
