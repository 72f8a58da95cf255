"""The child that runs an importer: `python -m graphopt.importing.worker` with a request on stdin.

Frameworks are heavy, print, take signals, and crash; here they may.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.backends.child import Pipe, end_with
from graphopt.errors import GraphoptError, ModelError, PluginError
from graphopt.importer import Imported, Importer, ImportRequest
from graphopt.numerics.difference import Value
from graphopt.numerics.exchange import read_values, write_values
from graphopt.numerics.ports import output_ports, read_outline
from graphopt.registry import Registry

from .samples import example_inputs, more_feeds

FEEDS, OUTPUTS = "feeds", "outputs"


def answer(request: dict[str, Any], pipe: Pipe) -> dict[str, Any]:
    """The model file, the importer's notes, and how many samples lie in `samples`. Raises GraphoptError."""
    name, source = request["importer"], request["source"]
    os.environ["TMPDIR"] = tempfile.tempdir = request["temporary"]

    def progress(what: str, done: int = 0, total: int = 0) -> None:
        pipe.send(type="progress", phase=what, done=done, total=total)
        pipe.send(type="stage", who=name, role="importer", doing=what)

    progress(f"loading {name}")
    registry = Registry(request["plugins"], request["no_plugins"])
    importers = registry.importers()
    if name not in importers:
        hint = "give it as a file or a module's name, not as a module"
        raise PluginError(f"the plugin with importer {name} cannot be loaded in another process", hint=hint)
    given = read_values(Path(request["inputs"])) if request["inputs"] else {}
    ask = ImportRequest(
        source,
        Path(request["folder"]),
        {key: tuple(dims) for key, dims in request["shapes"].items()},
        {key: np.asarray(value) for key, value in given.items()},
        request["opset"],
        request["options"],
        progress,
        request["sizes"],
        [layer for _, layer in registry.layers()],
    )
    found = _convert(importers[name], ask)
    path = _written(found, ask.path)
    if not path.is_file():
        raise PluginError(f"importer {name} wrote no file {path}", where=source)
    notes = [str(note) for note in found.notes]
    count = 0
    if request["verify"] and found.reference is not None:
        progress(f"running {name}")
        found = replace(found, inputs=found.inputs or example_inputs(ask, path))
        count = _samples(found, path, Path(request["samples"]), request["bounds"], notes)
    return {
        "path": str(path), "notes": notes, "samples": count, "has_reference": found.reference is not None,
        "rounding": [float(each) for each in found.rounding],
        "files": None if found.files is None else [os.fspath(each) for each in found.files],
    }  # fmt: skip


def _written(found: Imported, path: Path) -> Path:
    if isinstance(found.model, str | os.PathLike):
        return Path(found.model)
    import onnx

    onnx.save(found.model, path)
    return path


def _convert(importer: Importer, ask: ImportRequest) -> Imported:
    try:
        return importer.convert(ask)
    except GraphoptError:
        raise
    except ImportError as error:
        missing = getattr(error, "name", None) or error
        raise PluginError(
            f"importer {importer.name} needs {missing}, which is not installed: {error}",
            where=ask.source,
            hint=f"pip install '{importer.extra}'",
        ) from error
    except MemoryError as error:
        raise ModelError("there is not enough memory to convert it", where=ask.source) from error
    except SystemExit as error:
        raise ModelError(f"its code ended the process: SystemExit({error.code})", where=ask.source) from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        traceback.print_exc()
        raise PluginError(
            f"importer {importer.name} failed: {type(error).__name__}: {_short(error)}",
            where=ask.source,
            hint=f"raised in {frame.filename}, line {frame.lineno}, {frame.name}",
        ) from error


def _samples(found: Imported, model: Path, folder: Path, bounds: Mapping[str, Any], notes: list[str]) -> int:
    """Writes what the framework computes for its example inputs and, of dynamic dimensions, at other sizes."""
    reference = _as_arrays(found.reference, model)
    feeds: dict[str, Value] = dict(found.inputs)
    try:
        outputs = reference(found.inputs)
    except GraphoptError:
        raise
    except Exception as error:
        notes.append(f"the framework could not run the example inputs: {type(error).__name__}: {_short(error)}")
        return 0
    _write(folder, 0, feeds, outputs)
    count, seen = 1, [_elements(outputs)]
    for other in more_feeds(model, found.inputs, bounds):
        sizes = ", ".join(f"{name} {'x'.join(map(str, np.shape(value)))}" for name, value in other.items())
        try:
            outputs = reference(other)
        except Exception as error:
            notes.append(f"the framework itself does not run {sizes}: {type(error).__name__}: {_short(error)}")
            continue
        _write(folder, count, other, outputs)
        count += 1
        seen.append(_elements(outputs))
    for port, filled in zip(output_ports(read_outline(model)), zip(*seen, strict=False), strict=False):
        if not any(filled):
            notes.append(f"output {port.name} is empty: nothing of it is compared; --inputs may give better examples")
    return count


def _elements(outputs: Any) -> list[int]:
    return [np.size(one) for one in outputs]


def _as_arrays(reference: Any, model: Path) -> Callable[[Any], list[Any]]:
    """The reference with its outputs as arrays in one list; where the model has sequences, an importer makes them."""
    if any(port.kind != "tensor" for port in output_ports(read_outline(model))):
        return lambda feeds: list(reference(feeds))
    return lambda feeds: list(_leaves(reference(feeds)))


def _leaves(found: Any) -> Iterator[Any]:
    """Tensors of any framework as arrays."""
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, list | tuple):
        for one in found:
            yield from _leaves(one)
    elif found is not None:
        found = found.detach().cpu() if hasattr(found, "detach") else found
        yield np.asarray(found.numpy() if hasattr(found, "numpy") else found)


def _write(folder: Path, number: int, feeds: Mapping[str, Value], outputs: Any) -> None:
    write_values(folder / f"{number}.{FEEDS}", feeds)
    write_values(folder / f"{number}.{OUTPUTS}", {str(index): value for index, value in enumerate(outputs)})


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else f"{text[:500]} ..."


def main() -> None:
    """Answer one request and end at once: frameworks leave threads and handlers behind."""
    messages, trace, parent = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with(parent)
    pipe = Pipe(messages, trace)
    try:
        pipe.send(type="result", value=answer(json.load(sys.stdin), pipe))
    except GraphoptError as error:
        pipe.send(type="error", kind=type(error).__name__, what=error.what, where=error.where, hint=error.hint)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
