"""The precision stage of a job: measured, planned, written, and rewritten once more in its final dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from . import backends
from .backends.protocol import BuildOptions
from .config import Shapes, Target
from .errors import PassError, UsageError, VerificationError
from .ir.save import to_proto
from .job import Job
from .precision.opsets import least_opset
from .precision.plan import LOW, Plan
from .precision.quantization import needs_samples
from .precision.samples import Samples
from .precision.stage import Precision, Request, lower
from .precision.times import layers_of
from .precision.unquantize import is_quantized
from .report.result import describe
from .rewrite.manager import Manager

_AGAIN = ("canonicalize", "legalize")
"""Stages that see the graph once more: nothing goes to the builder that legalize has not seen in its final dtypes."""


def checked(job: Job, request: Request, verify: str) -> Request:
    """The request, with its samples and its plan held against the model before any work. Raises UsageError."""
    if not request.is_low:
        if request.calib is not None:
            raise UsageError("there is nothing to calibrate", where=f"--precision {request.precision}",
                             hint="choose fp16, bf16, fp8, int8, int4 or auto")  # fmt: skip
        return request
    if not is_quantized(job.peek()):
        needs_samples(request.precision, request.calib, request.weights_only or request.plan is not None)
    held = request.calib
    if held is not None and held != "random" and not isinstance(held, Samples):
        held = Samples(held, to_proto(job.peek(), weights="omit"))
    plan = request.plan if request.plan is None or isinstance(request.plan, Plan) else Plan.load(request.plan)
    name = plan.precision if plan is not None else request.precision
    needed = least_opset(job.peek(), name)
    if name in LOW and is_quantized(job.peek()):
        job.postponed = frozenset({"legalize"})
        needed = 0  # converted once it is float again: types of other tools' operators are not known
    if job.opset is None and int(job.peek().opset) < needed:
        job.opset = needed
    if not isinstance(request.layer_times, Mapping):
        for path in request.layer_times:
            layers_of(path)
    return replace(request, calib=held, plan=plan, judge=request.judge and verify != "none")


def narrow(job: Job, graph: gs.Graph, request: Request, shapes: Shapes | None, inputs: Any) -> Precision:
    """Bring the graph to the precision that was asked for, in place, and finish it for the builder.

    Raises UsageError, VerificationError and PassError.
    """
    from .clock import clock_for  # it brings all that runs engines

    layers = {layer.__name__: layer for _, layer in job.registry.layers()}
    custom = job.custom
    again = [one for one in job.entries if one.stage in _AGAIN]

    def finish(graph: gs.Graph) -> None:
        Manager(graph, again, job.target, job.limits, custom=custom).run()

    found = lower(
        graph,
        request,
        _versioned(job, request),
        layers=layers,
        custom=custom,
        shapes=shapes,
        inputs=inputs,
        progress=job.progress,
        runner_options={"seconds": job.limits.run_seconds, "memory_bytes": job.limits.memory_bytes},
        clock=clock_for(job.target, job.limits, shapes, finish) if request.precision == "auto" else None,
    )
    try:
        finish(graph)
    except PassError as error:
        job.report.warnings.append(f"after the precision stage: {error}")
    job.report.result = describe(graph)
    job.report.precision = found.to_json()
    if request.judge and not found.judged:
        why = "; ".join(found.notes) or "no sample ran"
        if job.strict:
            raise VerificationError(f"its error was not evaluated: {why}", where=f"--precision {request.precision}",
                                    hint="leave out --strict, or bring samples with --calib")  # fmt: skip
        job.report.warnings.append(f"the error of low precision was not evaluated: {why}")
    return found


def _versioned(job: Job, request: Request) -> Target:
    """The target with the version and the GPU that are planned for, as far as they matter and are known."""
    from .clock import capability

    version = request.version or job.target.version
    if not version and (request.precision in ("int8", "fp8", "int4", "auto") or job.postponed):
        backend = backends.get(job.target.backend, job.limits)
        version = backend.version() if backend.available() is None else ""
    at_hand = capability() if request.precision == "auto" else None
    return replace(job.target, version=version, compute_capability=job.target.compute_capability or at_hand)


def build_options(
    options: BuildOptions | None, precision: str, backend: str, warnings: list[str]
) -> BuildOptions | None:
    """fp32 means fp32 where the builder can be told so: without the TF32 flag."""
    if precision != "fp32" or backend == "onnxruntime":
        return options
    if backend == "tensorrt_rtx":
        warnings.append("TensorRT-RTX computes fp32 in TF32 whatever it is told: verify the engine with that tolerance")
    return replace(options or BuildOptions(), tf32=False)
