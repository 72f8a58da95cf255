"""From a source of another framework to an ONNX file that was compared with it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from graphopt.backends import process
from graphopt.config import Limits, Shapes
from graphopt.errors import BackendError, ImporterError, UsageError, VerificationError
from graphopt.importer import Importer
from graphopt.ir.staging import staging
from graphopt.layers.function import NAMESPACE
from graphopt.layers.layer import DOMAIN
from graphopt.numerics.difference import Difference
from graphopt.numerics.exchange import read_values, write_values
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.npz import read_npz
from graphopt.registry import Registry

from .agree import Sample, differences
from .ask import Import, checked_options, choose, completed, may_be_foreign, stem_of
from .installed import needs
from .worker import FEEDS, OUTPUTS

Progress = Callable[[str, int, int], None]


class Source:
    """An ONNX file in a temporary folder, and `report`: how it came about, for --json and for manifests.

    The folder goes with the object, on close, or at the end of a with statement.
    """

    def __init__(self, source: str, path: Path, report: dict[str, Any], held: ExitStack) -> None:
        self.source = source
        self.path = path
        self.report = report
        self._held = weakref.finalize(self, held.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the folder."""
        self._held()


def open_source(
    source: object,
    ask: Import | str | None,
    registry: Registry,
    *,
    profile: Shapes | None = None,
    opset: int | None = None,
    inputs: Any = None,
    verify: bool = True,
    strict: bool = False,
    keep_calls: bool = True,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Source | None:
    """The source as an ONNX file, if it is another framework's; None for an ONNX model, an engine, or what is no path.

    profile, opset, inputs: what `ask` does not say. verify: compare outputs with the framework's own. strict: what
    could not be compared is an error. keep_calls: calls of custom layers, which stand for a framework's own operators,
    stay calls; else passes may take them apart.

    Raises:
        UsageError: no such importer or option, or shapes and inputs that do not fit.
        ModelError: the source cannot be read, or holds what has no counterpart in ONNX.
        ImporterError: the framework is missing, or died, or took too long.
        VerificationError: the ONNX model does not compute what the framework computes.
    """
    ask = Import(ask) if isinstance(ask, str) else ask
    if not may_be_foreign(source, ask):
        return None
    name = os.fspath(source)  # type: ignore[call-overload]
    importer = choose(name, ask or Import(), registry.importers())
    if importer is None:
        return None
    ask = completed(ask or Import(), profile, opset, inputs)
    checked_options(importer, ask.options)
    limits = limits or Limits()
    show = progress or (lambda what, done, total: None)
    with ExitStack() as stack:
        folder = stack.enter_context(staging(Path(tempfile.gettempdir())))
        began = time.perf_counter()
        bounds = {key: profile.of(key) for key in {*profile.min, *profile.opt, *profile.max}} if profile else {}
        found = _converted(name, importer, ask, registry, folder, bounds, verify, limits, show)
        path = _named(Path(found["path"]), stem_of(name))
        if not keep_calls:
            _spell_out(path)
        report = {
            "importer": importer.name,
            "source": name,
            "packages": needs(importer.extra),
            "seconds": round(time.perf_counter() - began, 3),
            "notes": found["notes"],
            "files": found["files"],
            **_compared(path, folder, found, importer, ask, verify, strict, limits, show),
        }
        for part in ("samples", "temporary"):
            shutil.rmtree(folder / part, ignore_errors=True)
        return Source(name, path, report, stack.pop_all())


def _converted(
    source: str, importer: Importer, ask: Import, registry: Registry, folder: Path, bounds: Mapping[str, Any],
    verify: bool, limits: Limits, show: Progress,
) -> dict[str, Any]:  # fmt: skip
    for name in ("model", "samples", "temporary"):
        (folder / name).mkdir()
    inputs = ""
    if ask.inputs is not None:
        arrays = read_npz(ask.inputs) if isinstance(ask.inputs, (str, os.PathLike)) else ask.inputs
        inputs = str(folder / "samples" / "inputs")
        write_values(Path(inputs), {key: np.asarray(value) for key, value in arrays.items()})
    request = {
        "importer": importer.name,
        "model": source,
        "source": source,
        "folder": str(folder / "model"),
        "samples": str(folder / "samples"),
        "temporary": str(folder / "temporary"),
        "shapes": {key: list(dims) for key, dims in ask.shapes.items()},
        "sizes": dict(ask.sizes),
        "bounds": {key: [list(dims) for dims in several] for key, several in bounds.items()},
        "inputs": inputs,
        "opset": ask.opset,
        "options": dict(ask.options),
        "plugins": registry.given,
        "no_plugins": registry.switched_off,
        "verify": verify,
    }
    try:
        return process.run(
            request, title=importer.name, seconds=limits.import_seconds,
            progress=lambda what, done, total: show(f"import: {what}", done, total),
            worker="graphopt.importing.worker", limit="--time-limit",
        )  # fmt: skip
    except BackendError as error:
        raise ImporterError(error.what, where=error.where, hint=error.hint) from error


def _named(path: Path, stem: str) -> Path:
    """The model under the source's name: tables and messages show it."""
    wanted = path.with_name(f"{stem}.onnx")
    if not wanted.exists():
        path.rename(wanted)
        return wanted
    return path


def _spell_out(path: Path) -> None:
    """Calls of custom layers become calls of functions like any other."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    if all(one.domain != DOMAIN for one in model.functions):
        return
    model.opset_import.append(onnx.helper.make_opsetid(_SPELLED_OUT, 1))
    for function in model.functions:
        if function.domain == DOMAIN:
            function.domain = _SPELLED_OUT
            function.attribute.remove(NAMESPACE)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        if node.domain == DOMAIN:
            node.domain = _SPELLED_OUT
        kept = [one for one in node.attribute if one.name != NAMESPACE]
        del node.attribute[:]
        node.attribute.extend(kept)
        nodes += [inner for one in node.attribute if one.HasField("g") for inner in one.g.node]
    path.write_bytes(model.SerializeToString())


_SPELLED_OUT = f"{DOMAIN}.body"


def _compared(
    path: Path, folder: Path, found: Mapping[str, Any], importer: Importer, ask: Import, verify: bool, strict: bool,
    limits: Limits, show: Progress,
) -> dict[str, Any]:  # fmt: skip
    if not verify:
        return {"status": "unchecked", "compared": [], "samples": 0}
    reason = ""
    if not found["has_reference"]:
        reason = f"importer {importer.name} has nothing to compare with"
    elif not found["samples"]:
        reason = found["notes"][-1]
    if not reason:
        show(f"import: comparing with {importer.name}", 0, 0)
        samples = [
            Sample(
                read_values(folder / "samples" / f"{number}.{FEEDS}"),
                list(read_values(folder / "samples" / f"{number}.{OUTPUTS}").values()),
            )
            for number in range(found["samples"])
        ]
        try:
            with Runner(seconds=limits.run_seconds, memory_bytes=limits.memory_bytes) as runner:
                worst = differences(path, samples, ask.tolerance, runner, found["rounding"])
        except ExecutionError as error:
            reason = f"onnxruntime does not run the converted model: {error.what}"
        else:
            _refuse(worst, samples, importer, found["notes"])
            listed = [one.to_json() for one in worst]
            return {"status": "ok", "compared": listed, "samples": len(samples)}
    if strict:
        raise VerificationError(f"the import could not be compared: {reason}", where=path.stem)
    return {"status": "unverified", "reason": reason, "compared": [], "samples": 0}


def _refuse(worst: list[Difference], samples: list[Sample], importer: Importer, notes: list[str]) -> None:
    wrong = [one for one in worst if not one.ok]
    if not wrong:
        return
    one = wrong[0]
    feeds = samples[one.sample].feeds
    at = ", ".join(f"{name} {'x'.join(map(str, np.shape(value)))}" for name, value in feeds.items())  # type: ignore[arg-type]
    hint = "--verify none takes it all the same; `graphopt convert` writes the ONNX model for a closer look"
    if one.sample:
        hint = (
            "it agrees at the sizes that it was exported with: a size was baked in; give fixed --shapes, or make the "
            f"model's code independent of it. {hint}"
        )
    raise VerificationError(
        f"the ONNX model does not compute what {importer.name} computes: {one.reason} (inputs {at})",
        where=f"output {one.name!r}",
        hint="\n".join([hint, *notes]),
    )


def import_model(
    source: str | os.PathLike[str],
    *,
    importer: Import | str = "",
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    opset: int | None = None,
    options: Mapping[str, str] | None = None,
    output: str | os.PathLike[str] | None = None,
    plugins: Any = (),
    no_plugins: Any = (),
    verify: bool = True,
    strict: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Source:
    """A model of another framework as an ONNX file, compared with what the framework itself computes.

    source: a file or a folder, or what else the importer takes ('net.py:make'). shapes: input name -> dims, where a str
    names a dynamic dimension. output: where to write the model; else it is in a temporary folder that goes with the
    returned object, at the end of a with statement, or on close. The rest is as of `Import` and `optimize`.

    Raises:
        GraphoptError: as `open_source`; UsageError also for what is an ONNX model already.
    """
    ask = Import(importer) if isinstance(importer, str) else importer
    ask = Import(
        ask.importer, shapes or ask.shapes, ask.inputs if inputs is None else inputs,
        ask.opset if opset is None else opset, options or ask.options, ask.tolerance, ask.sizes,
    )  # fmt: skip
    registry = Registry(plugins, no_plugins)
    found = open_source(
        source, ask, registry, verify=verify, strict=strict, limits=limits, progress=progress
    )  # fmt: skip
    if found is None:
        raise no_import(os.fspath(source), registry)
    if output is not None:
        from graphopt.ir.load import load
        from graphopt.ir.save import write

        with found:
            written = write(load(found.path), output)
        found.path = written[0]
    return found


def no_import(source: str, registry: Registry) -> UsageError:
    """Why there is nothing to convert."""
    names = ", ".join(registry.importers())
    if Path(source).suffix.lower() == ".onnx" and os.path.exists(source):
        return UsageError(
            "it is an ONNX model by its name", where=source, hint=f"or name its framework: --from {names}"
        )
    what = "no importer knows what it is" if os.path.exists(source) else "no such file, and no importer takes it"
    return UsageError(what, where=source, hint=f"name its framework with --from: {names}")
