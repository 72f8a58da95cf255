"""import -> load -> rewrite passes -> verify -> build engine: the main job, as one function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from . import backends
from .backends.protocol import BuildOptions
from .config import Dims, Limits, Shapes, Target
from .engines.store import Store
from .errors import UsageError
from .importing.ask import Import
from .importing.door import open_source
from .ir.load import collector_off
from .job import Job, Progress
from .narrow import build_options as build_options_of
from .narrow import checked as job_request
from .narrow import narrow
from .precision.stage import Request
from .proof import Check
from .registry import Registry, load_own
from .report.result import Result

__all__ = ["Progress", "Result", "optimize"]

VERIFY = ("end", "each", "none")

load_own()


def optimize(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | gs.Graph,
    *,
    importer: Import | str | None = None,
    output: str | os.PathLike[str] | None = None,
    target: Target | None = None,
    pipeline: str = "default",
    skip: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    no_plugins: Sequence[str] = (),
    shapes: Shapes | None = None,
    freeze: Mapping[str, Dims] | None = None,
    bind: Mapping[str, Any] | None = None,
    opset: int | None = None,
    promote_io: bool = False,
    keep_metadata: bool = False,
    lower: str = "auto",
    precision: Request | str | None = None,
    verify: str = "end",
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    samples: int = 3,
    seed: int = 0,
    engine: str | os.PathLike[str] | None = None,
    build_options: BuildOptions | None = None,
    store: Store | None = None,
    made_by: Mapping[str, Any] | None = None,
    count_layers: bool = False,
    strict: bool = False,
    repro: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Result:
    """The model, rewritten to a fixpoint, proved against its source, and built into an engine if asked.

    model: also what an importer takes: a file of another framework, or 'net.py:make'. importer: its name, or an Import.
    output: where to write the optimized model; None writes nothing. engine: where to write an engine; None builds none.
    shapes: the optimization profile, and the shapes to verify at. freeze: dims made static; bind: inputs made
    constants. opset: convert the model to this opset of ONNX first; a model older than the target's parser takes is
    raised anyway. promote_io: inputs and outputs of dtypes that no engine has become ones of the dtype that carries
    their values. keep_metadata: keep what exporters
    note about every node (stack traces, traced expressions), which often outweighs it.
    lower: where custom layers are placed: 'auto' (where a measurement says that it pays), 'always', 'never'.
    verify: 'end' compares the result with the source; 'each' takes back the changes that broke the numbers and goes
    on; 'none' compares nothing. inputs: arrays or an .npz to verify with. count_layers: ask the backend's parser
    how many layers it makes of source and result. precision: a name ('fp16'), or a Request with samples and a budget;
    store: the engine cache, where it is used. made_by: what the engine's manifest says about how it is made anew.
    repro: where 'each' writes a folder for what it took back;
    beside the output (OUTPUT.refused) if not given. strict: what was refused, could not be verified, or failed and
    was left out is an error.

    Raises:
        GraphoptError: the model cannot be read, a pass or plugin failed, the numbers differ, the build failed.
            Nothing has been written then.
    """
    if verify not in VERIFY:
        raise UsageError(f"--verify {verify}: choose one of {', '.join(VERIFY)}")
    began = perf_counter()
    request = Request(precision) if isinstance(precision, str) else precision or Request("tf32")
    target = target or Target()
    if request.precision != "tf32":
        target = replace(target, precision=request.precision)
    with collector_off():
        registry = Registry(plugins, no_plugins)
    if output is not None:
        _keep_input(model, output)
    source = open_source(
        model, importer, registry, profile=shapes, opset=opset, inputs=inputs, verify=verify != "none", strict=strict,
        keep_calls=lower != "never",        limits=limits, progress=progress,
    )  # fmt: skip
    model = model if source is None else source.path
    with collector_off():
        entries = registry.select(pipeline, skip)
        job = Job(model, target, registry, entries, limits or Limits(), progress or _silent, lower, skip)
        job.strict, job.keep_metadata, job.promote_io = strict, keep_metadata, promote_io
        if source is not None:
            job.source, job.report.imported = source.source, source.report
            made_by = {**(made_by or {}), "imported": source.report}
        job.open(freeze or {}, bind or {}, opset)
    if engine is not None:
        backends.get(target.backend, job.limits).check(build_options or BuildOptions())
        for profile in (shapes or Shapes(), *(build_options.profiles if build_options else ())):
            job.check_profile(profile)
    request = job_request(job, request, verify)
    with ExitStack() as stack:
        check = Check(job, verify, shapes, inputs, samples, seed, _repro(repro, output))
        graph, report = check.rewrite(stack), job.report
        if check.wanted or output is not None or engine is not None or count_layers:
            staged = stack.enter_context(job.staged(graph, None if request.is_low else output))
            graph, staged = check.settle(stack, graph, staged, None if request.is_low else output, strict)
            if request.is_low:
                found = narrow(job, graph, request, shapes, check.inputs)
                staged = stack.enter_context(job.staged(graph, output))
            if count_layers:
                report.layers_before, report.layers_after = (
                    job.layers(check.source(stack), report.source),
                    job.layers(staged.model_path, report.result),
                )
            options = build_options_of(build_options, target.precision, target.backend, report.warnings)
            built = job.build(graph, staged, engine, shapes, options, stack, store, made_by)
            if output is not None:
                report.outputs["model"] = [str(path) for path in staged.commit()]
            if built is not None:
                report.build = built.finish()
                report.outputs["engine"] = [report.build["engine"]]
        elif request.is_low:
            found = narrow(job, graph, request, shapes, check.inputs)
        if request.plan_output is not None and request.is_low:
            found.plan.save(request.plan_output)
            report.outputs["plan"] = [os.fspath(request.plan_output)]
    report.seconds = perf_counter() - began
    return Result(graph, report, source)


def _repro(given: str | os.PathLike[str] | None, output: str | os.PathLike[str] | None) -> Path | None:
    if given is not None:
        return Path(given)
    return Path(f"{os.fspath(output)}.refused") if output is not None else None


def _keep_input(model: Any, output: str | os.PathLike[str]) -> None:
    named = isinstance(model, (str, os.PathLike)) and os.path.exists(model) and os.path.exists(output)
    if named and os.path.samefile(model, output):
        raise UsageError("the output is the input file", where=str(output), hint="choose another name with -o")


def _silent(what: str, done: int, total: int) -> None:
    return None
