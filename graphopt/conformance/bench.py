"""`graphopt bench-layer`: the kernel against the fastest engine of any of its spellings, on the GPU at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt import backends
from graphopt.config import Limits
from graphopt.errors import BackendError, GraphoptError, PluginError
from graphopt.layers.emit import body_model
from graphopt.layers.facts import fit, wrong_dtype
from graphopt.layers.find import assignments
from graphopt.layers.layer import Layer
from graphopt.layers.measured import Measurement, Store
from graphopt.layers.tensor import Tensor
from graphopt.layers.trace import spellings, trace
from graphopt.rewrite.build import Skip

from . import truth as meaning
from .cases import Case
from .device import Device, Run
from .timing import median_ms


def calls(layer: Layer, shapes: Sequence[dict[str, tuple[int, ...]]], only: Sequence[str] = ()) -> list[Case]:
    """The calls to measure: of each dtype, at each set of shapes by input name. Raises PluginError."""
    found = []
    for given in shapes:
        if unknown := set(given) - set(layer.inputs):
            raise PluginError(f"{layer.name} has no input {sorted(unknown)[0]!r}", hint=", ".join(layer.inputs))
        present = tuple(name for name in layer.inputs if name in given)
        if missing := [name for name in layer.inputs if name not in given and name not in layer.optional]:
            raise PluginError(f"no shape is given for {missing[0]}", where=f"layer {layer.name}")
        for kinds in assignments(layer, present):
            case = Case(layer, present, kinds, {name: given[name] for name in present})
            if only and case.dtype not in only:
                continue
            tensors: dict[str, Tensor | None] = dict(zip(present, case.tensors(), strict=True))
            reason = fit(layer, tensors) or wrong_dtype(layer, tensors)
            if reason is not None:
                raise PluginError(reason, where=f"layer {layer.name}")
            found.append(case)
    return found


def bench_layer(
    cases: Sequence[Case], *, store: bool = True, progress: Callable[[str, int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Measure each call, and keep what was found for --lower auto. Raises GraphoptError where there is no GPU."""
    device = Device()
    found: list[dict[str, Any]] = []
    kept: list[Measurement] = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(str(case), number, len(cases))
        run = Run(device.trt, case)
        kernel = min(median_ms(run.launcher(tactic)) for tactic in run.prepared.tactics or [0])
        tensors = [*case.tensors(), *(Tensor(kind, shape) for kind, shape in run.prepared.outputs)]
        nbytes = int(sum(tensor.nbytes for tensor in tensors))
        entry: dict[str, Any] = {
            "layer": case.layer.name, "dtype": case.dtype, "shapes": {n: list(s) for n, s in case.shapes.items()},
            "bytes": nbytes, "kernel_ms": round(kernel[0], 5), "gpu": device.name,
        }  # fmt: skip
        try:
            engine, version, entry["spelling"] = _fastest(case)
        except GraphoptError as error:
            entry["engine_ms"], entry["why"] = None, error.what
        else:
            entry["engine_ms"] = round(engine, 5)
            entry["times_faster"] = round(engine / kernel[0], 3)
            shapes = tuple(case.shapes[name] for name in case.present)
            kept.append(Measurement(case.layer.name, case.dtype, nbytes, shapes, kernel[0], engine, version))
        found.append(entry)
    if store and kept:
        Store(device.name).add(kept)
    return found


NEWEST = 23
"""The opset in which other spellings are tried that the body's own does not have, such as RMSNormalization."""


def spelled(case: Case) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(name, model) of the body and of every other spelling that can be said: what the kernel must be faster than."""
    opset = meaning.opset_of(case)
    for name in spellings(case.layer):
        for at in (opset, NEWEST):
            try:
                yield name, standalone(case, name, at)
                break
            except Skip:
                continue


def standalone(case: Case, spelling: str = "", opset: int | None = None) -> onnx.ModelProto:
    """One spelling (default: the body) as a model of static shapes, in the call's dtypes. Raises Skip."""
    opset = opset or meaning.opset_of(case)
    body = trace(case.layer, opset, case.present, meaning.fixed(case), spelling)
    shapes = {name: list(shape) for name, shape in case.shapes.items()}
    model, _ = body_model(body, opset, case.kinds, case.layer.values, shapes)
    return model


def _fastest(case: Case) -> tuple[float, str, str]:
    """(median milliseconds, version, spelling) of the fastest engine. Raises GraphoptError if no spelling runs."""
    found: list[tuple[float, str, str]] = []
    failure: GraphoptError | None = None
    for name, model in spelled(case):
        try:
            found.append((*_engine_ms(case, model), name))
        except GraphoptError as error:
            failure = failure or error
    if not found:
        raise failure or BackendError("no spelling of it can be said")
    return min(found)


def _engine_ms(case: Case, model: onnx.ModelProto) -> tuple[float, str]:
    """(median milliseconds, version) of the engine that TensorRT-RTX builds of a spelling for these shapes."""
    import cupy
    import tensorrt_rtx as trt

    backend = backends.get("tensorrt_rtx", Limits())
    if reason := backend.available():
        raise BackendError(reason)
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
        path = Path(folder) / "body.onnx"
        onnx.save(model, path)
        built = backend.build(path, Path(folder) / "body.engine")
        plan = built.engine_path.read_bytes()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError("the engine of the body cannot be loaded on this GPU")
    context = engine.create_execution_context()
    arrays = case.arrays()
    held = []
    for at in range(engine.num_io_tensors):
        name = engine.get_tensor_name(at)
        if name in arrays:
            values = np.frombuffer(arrays[name].tobytes(), np.uint8)
            held.append(cupy.asarray(values) if values.size else cupy.empty(1, cupy.uint8))
        else:
            dims = tuple(context.get_tensor_shape(name))
            if any(dim < 0 for dim in dims):
                raise BackendError(f"the size of output {name} depends on the values: it is not timed")
            held.append(cupy.empty(max(int(np.prod(dims)) * 8, 1), cupy.uint8))
        context.set_tensor_address(name, held[-1].data.ptr)

    def launch(stream: Any) -> None:
        if not context.execute_async_v3(stream.ptr):
            raise BackendError("the engine of the body does not run")

    warm = cupy.cuda.Stream(non_blocking=True)
    for _ in range(3):  # the first runs compile
        launch(warm)
    warm.synchronize()
    return median_ms(launch)[0], str(trt.__version__)
