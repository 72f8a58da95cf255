"""What the commands run, bench and profile do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import backends
from graphopt.backends.protocol import BuildOptions
from graphopt.config import Dims, Limits, Shapes
from graphopt.errors import GraphoptError, UsageError
from graphopt.numerics.coarse import computed_in
from graphopt.numerics.difference import Difference, compare
from graphopt.numerics.execute import Runner
from graphopt.numerics.ports import read_outline
from graphopt.numerics.tolerance import engine_tolerance, tolerance_for

from .runtime.checks import Check, checks
from .runtime.engine import Engine
from .runtime.profile import Profile, profile
from .runtime.rows import Axes, padded_sizes
from .runtime.subject import batch_of, inputs_of, is_model
from .runtime.timing import Timing, on_device, on_host

Arrays = dict[str, Any]
Progress = Callable[[str, int, int], None]


@dataclass
class Done:
    """One run."""

    ran: str
    inputs: Arrays
    outputs: Arrays
    model: Path | None = None
    on_gpu: bool = False
    checks: list[Check] = field(default_factory=list)


def source_of(engine: Engine, given: str | None) -> Path | None:
    """The model that an engine was built from: as given, else as its manifest says, if the file is there."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise UsageError("there is no such model", where=given)
        return path
    noted = engine.loaded.manifest.get("source")
    foreign = (engine.loaded.manifest.get("made_by") or {}).get("imported")
    if foreign or not isinstance(noted, str) or not noted or not Path(noted).is_file():
        return None
    return Path(noted)


def run_once(
    what: str,
    *,
    model: str | None = None,
    given: str | None = None,
    shapes: Mapping[str, Dims] | None = None,
    seed: int = 0,
    check: bool = False,
    plugins: Sequence[str] = (),
) -> Done:
    """A model in onnxruntime, or an engine on the GPU. Raises GraphoptError."""
    path = Path(what)
    if is_model(path):
        if not path.is_file():
            raise UsageError("there is no such model", where=what)
        feeds = inputs_of(None, path, given=given, shapes=shapes, seed=seed)
        with Runner() as runner:
            runner.open(path)
            found = runner.run(feeds)
        done = Done("onnxruntime", feeds, dict(found), path)
        call: Callable[[Arrays], Arrays] = lambda inputs: _in_onnxruntime(path, inputs)  # noqa: E731
    else:
        engine = Engine(path, plugins=plugins)
        source = source_of(engine, model)
        feeds = inputs_of(engine.inputs, source, given=given, shapes=shapes, seed=seed)
        done = Done(f"{engine.loaded.trt.__name__} {engine.loaded.trt.__version__}", feeds, engine(feeds), source, True)
        call = engine
    if check:
        done.checks = checks(call, feeds, exact=not done.on_gpu)
    return done


def _in_onnxruntime(path: Path, feeds: Arrays) -> Arrays:
    with Runner() as runner:
        runner.open(path)
        return dict(runner.run(feeds))


def compare_with(other: str, done: Done, plugins: Sequence[str] = ()) -> list[Difference]:
    """The outputs of a run against those of `other`: 'onnxruntime', a model or an engine. Raises GraphoptError."""
    if other == "onnxruntime":
        if done.model is None:
            raise UsageError("the model that the engine was built from is not known", hint="name it with --model")
        wanted = _in_onnxruntime(done.model, done.inputs)
    elif is_model(Path(other)):
        wanted = _in_onnxruntime(Path(other), done.inputs)
    else:
        wanted = Engine(other, plugins=plugins)(done.inputs)
        done.on_gpu = True
    if missing := [name for name in wanted if name not in done.outputs]:
        raise GraphoptError(f"output {missing[0]!r} is in {other} only")
    bound = engine_tolerance if done.on_gpu else tolerance_for
    behind = computed_in(read_outline(done.model)) if done.model is not None else {}
    return [
        compare(
            wanted[name],
            done.outputs[name],
            bound(str(np.asarray(wanted[name]).dtype), behind=behind.get(name, "")),
            name=name,
        )
        for name in wanted
    ]


def write_outputs(path: Path, outputs: Arrays) -> None:
    """All outputs in one .npz, bfloat16 and float8 as their bits. Raises OSError."""
    plain = {
        name: array if array.dtype.kind in "biufc" else array.view(f"uint{8 * array.dtype.itemsize}")
        for name, array in outputs.items()
    }
    with path.open("wb") as file:
        np.savez(file, **plain)


@dataclass
class Row:
    """One line of a comparison."""

    name: str
    device: Timing | None = None
    host: Timing | None = None
    batch: int = 1
    nbytes: int | None = None
    difference: float | None = None
    """Largest relative L2 difference of an output to the first row's reference."""
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        best = self.device or self.host
        return {
            "name": self.name,
            "batch": self.batch,
            "device_ms": self.device.to_json() if self.device else None,
            "call_ms": self.host.to_json() if self.host else None,
            "per_second": round(1e3 * self.batch / best.median, 2) if best else None,
            "device_bytes": self.nbytes,
            "relative_l2": self.difference,
            "failed": self.failed or None,
        }

    def cells(self) -> tuple[str, ...]:
        if self.failed:
            return self.name, self.failed, "", "", "", ""
        best = self.device or self.host
        return (
            self.name,
            str(self.device) if self.device else "-",
            f"{1e3 * self.batch / best.median:,.0f}" if best else "-",
            f"{self.host.median:.3f}" if self.host else "-",
            f"{self.nbytes / 1e6:,.0f}" if self.nbytes is not None else "-",
            f"{self.difference:.1e}" if self.difference is not None else "-",
        )


def bench_all(
    what: Sequence[str],
    folder: Path,
    *,
    given: str | None = None,
    profile: Shapes | None = None,
    seconds: float = 1.0,
    raw: bool = True,
    onnxruntime: bool = False,
    plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (),
    seed: int = 0,
    batches: Sequence[int] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[Row]:
    """Time every engine, and of every model the engine of it as it is (if raw) and of the optimized one.

    batches: also at these numbers of rows; () for the profile's least, powers of two, and largest.

    Differences are to onnxruntime where a model is known. Raises GraphoptError; what fails alone is a row that says so.
    """
    rows: list[Row] = []
    for number, one in enumerate(what):
        path = Path(one)
        model = path if is_model(path) else None
        named: list[tuple[str, Path | str]] = [(one, path)]
        if model is not None:
            named = _built(model, folder, number, profile, raw, plugins, no_plugins, progress)
        feeds: Arrays | None = None
        want: Arrays | None = None
        for name, engine_path in named:
            if isinstance(engine_path, str):
                rows.append(Row(name, failed=engine_path))
                continue
            engine = Engine(engine_path, plugins=plugins)
            model = model or source_of(engine, None)
            if feeds is None:
                typical = (
                    {key: profile.of(key)[1] for key in {*profile.min, *profile.opt, *profile.max}} if profile else {}
                )
                feeds = inputs_of(engine.inputs, model, given=given, shapes=typical, seed=seed)
                want = _in_onnxruntime(model, feeds) if model is not None else None
            rows.append(_timed(name, engine, feeds, want, seconds))
            if batches is not None:
                rows += _by_batch(name, engine, feeds, batches, seconds)
            del engine
        if onnxruntime and model is not None and feeds is not None:
            rows.append(_onnxruntime_row(model, feeds, seconds))
    return rows


def _built(
    model: Path,
    folder: Path,
    number: int,
    profile: Shapes | None,
    raw: bool,
    plugins: Sequence[str],
    no_plugins: Sequence[str],
    progress: Progress,
) -> list[tuple[str, Path | str]]:
    from graphopt.pipeline import optimize

    found: list[tuple[str, Path | str]] = []
    if raw:
        plain = folder / f"{number}-raw.engine"
        try:
            backends.get("tensorrt_rtx", Limits()).build(model, plain, profile, BuildOptions(), progress)
            found.append((f"{model.name}, as it is", plain))
        except GraphoptError as error:
            found.append((f"{model.name}, as it is", f"no engine: {error.what}"[:80]))
    better = folder / f"{number}.engine"
    optimize(
        model, engine=better, shapes=profile, verify="none", plugins=plugins, no_plugins=no_plugins, progress=progress
    )
    return [*found, (f"{model.name}, optimized", better)]


def _timed(name: str, engine: Engine, feeds: Arrays, want: Arrays | None, seconds: float) -> Row:
    import cupy

    got = engine(feeds)
    row = Row(name, batch=batch_of(feeds), host=on_host(lambda: engine(feeds), seconds=seconds / 2))
    if want is not None:
        row.difference = max(
            (compare(want[key], got[key]).relative_l2 or 0.0 for key in want if key in got), default=0.0
        )
    try:
        call = engine.bind({key: cupy.asarray(value) for key, value in feeds.items()})
    except UsageError:  # sizes that depend on data: only whole calls can be timed
        return row
    row.device = on_device(call, engine.stream, seconds=seconds)
    row.nbytes = engine.device_bytes
    return row


def _by_batch(of: str, engine: Engine, feeds: Arrays, sizes: Sequence[int], seconds: float) -> list[Row]:
    """A line for each number of rows; of none is said, the profile's least, powers of two and largest."""
    try:
        axes = Axes(engine, 0, {}, None)
    except UsageError as error:
        return [Row(f"{of}, by batch", failed=error.what)]
    rows = []
    for size in sizes or padded_sizes(axes.least, axes.most or 2 * axes.batch):
        name = f"{of}, {size} rows"
        try:
            rows.append(_timed(name, engine, axes.of_size(feeds, size), None, seconds))
        except UsageError as error:
            rows.append(Row(name, failed=error.what))
    return rows


def _onnxruntime_row(model: Path, feeds: Arrays, seconds: float) -> Row:
    import onnxruntime as ort

    usable = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in ort.get_available_providers()]
    session = ort.InferenceSession(str(model), providers=usable)
    name = f"{model.name}, onnxruntime ({session.get_providers()[0].removesuffix('ExecutionProvider')})"
    return Row(name, host=on_host(lambda: session.run(None, feeds), seconds=seconds, least=3), batch=batch_of(feeds))


def profile_one(
    what: str,
    folder: Path,
    *,
    given: str | None = None,
    profile_shapes: Shapes | None = None,
    seconds: float = 1.0,
    plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Profile:
    """The profile of an engine, or of the engine of an optimized model. Raises GraphoptError."""
    path = Path(what)
    model = path if is_model(path) else None
    if model is not None:
        path = Path(_built(model, folder, 0, profile_shapes, False, plugins, no_plugins, progress)[0][1])
    engine = Engine(path, plugins=plugins)
    model = model or source_of(engine, None)
    typical = (
        {name: profile_shapes.of(name)[1] for name in {*profile_shapes.min, *profile_shapes.opt, *profile_shapes.max}}
        if profile_shapes
        else {}
    )
    feeds = inputs_of(engine.inputs, model, given=given, shapes=typical, seed=seed)
    return profile(engine, feeds, seconds=seconds)
