"""Per-layer times of an engine, led back to the nodes that the user exported."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import BackendError

from .bound import Context
from .engine import Engine
from .segmented import Segments, SegmentsBound
from .timing import Timing, on_device

_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_SUFFIX = re.compile(r"(\.\d+)?_\d+_myl\d+$|_myl\d+$")


@dataclass
class LayerTime:
    """One kernel of the engine."""

    name: str
    kind: str
    """What the engine calls its type: kgen, correlation, gemm, ..."""
    ms: float
    """What it adds to a launch: `alone_ms` less what being timed costs, the same of every layer."""
    alone_ms: float = 0.0
    """Between events around it alone, median over the runs."""
    nodes: list[str] = field(default_factory=list)
    """The ONNX nodes that it computes, by name."""
    sources: list[str] = field(default_factory=list)
    """The nodes of the exported model that these stand for."""
    rules: list[str] = field(default_factory=list)
    """The rewrites that made them."""
    dtype: str = ""
    """What it computes: of its inputs and constants the narrowest; float32 is TF32 where the engine says so."""
    nbytes: int = 0
    """Of its inputs, constants and outputs."""
    by: str = ""
    """How the nodes were found: 'metadata', 'tensors', 'neighbours'; '' where they were not."""

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "ms": round(self.ms, 6), "alone_ms": round(self.alone_ms, 6)}


@dataclass
class Profile:
    """Where the time of an engine goes."""

    layers: list[LayerTime]
    launch: Timing
    """Of the whole engine, unprofiled, as it was measured in the same process."""
    gpu: str = ""

    @property
    def total_ms(self) -> float:
        """The sum of the layers."""
        return sum(layer.ms for layer in self.layers)

    @property
    def alone_ms(self) -> float:
        """The sum of the layers, each timed alone."""
        return sum(layer.alone_ms for layer in self.layers)

    @property
    def named(self) -> float:
        """The share of the time whose source nodes are known."""
        total = self.total_ms
        return sum(layer.ms for layer in self.layers if layer.sources) / total if total else 1.0

    def by_source(self) -> list[tuple[tuple[str, ...], float]]:
        """(source nodes, milliseconds), the costliest first: layers that stand for the same nodes are added up."""
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for layer in self.layers:
            found[tuple(layer.sources)] += layer.ms
        return sorted(found.items(), key=lambda item: -item[1])

    def to_json(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "launch_ms": self.launch.to_json(),
            "layers_ms": round(self.total_ms, 6),
            "alone_ms": round(self.alone_ms, 6),
            "named": round(self.named, 4),
            "layers": [layer.to_json() for layer in self.layers],
        }


def profile(
    engine: Engine,
    inputs: Mapping[str, Any],
    lineage: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    runs: int = 20,
    seconds: float = 1.0,
) -> Profile:
    """Time every layer over `runs` launches. lineage: as in the manifest, which is read if it is not given.

    Raises BackendError where the engine was built without names of layers.
    """
    import cupy

    call = engine.bind({name: _on_device(cupy, value) for name, value in inputs.items()})
    launch = on_device(call, engine.stream, seconds=seconds)
    nodes = lineage if lineage is not None else engine.loaded.manifest.get("nodes", {})
    layers = _layers(engine, call, runs, nodes)
    if not layers:
        raise BackendError("the engine reports no layers", hint="build it with --profiling-verbosity detailed")
    for layer, ms in zip(layers, shares([one.ms for one in layers], launch.median), strict=True):
        layer.alone_ms, layer.ms = layer.ms, ms
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return Profile(layers, launch, device)


def _on_device(cupy: Any, value: Any) -> Any:
    return cupy.asarray(value) if isinstance(value, np.ndarray) else value


def _layers(engine: Engine, call: Any, runs: int, nodes: Mapping[str, Mapping[str, Any]]) -> list[LayerTime]:
    """Every layer with its time alone; of a segmented engine, those of its engines and its kernels, in their order."""
    bound, loaded = call._bound, engine.loaded
    if not isinstance(bound, SegmentsBound) or not isinstance(loaded, Segments):
        (times,) = _layer_times(engine, call, [bound.context], runs)
        return attribute(list(times.items()), _details(loaded, bound.context), nodes)
    contexts = [step.work.context for step in bound.steps if isinstance(step.work, Context)]
    found = iter(_layer_times(engine, call, contexts, runs))
    kernels = bound.kernel_ms()
    layers = []
    for at, (one, part) in enumerate(zip(bound.steps, loaded.engines, strict=True)):
        step = one.work
        if isinstance(step, Context):
            layers += attribute(list(next(found).items()), _details(part, step.context), nodes)
            continue
        entry = nodes.get(step.entry.node, {})
        sources, rules = list(entry.get("from") or [step.entry.node]), list(entry.get("rules", ()))
        nbytes = sum(int(tensor.nbytes) for tensor in (*step.given.values(), *step.outputs))
        names = [step.entry.node], sources, rules
        layers.append(LayerTime(step.entry.layer, "kernel", kernels[at], 0.0, *names, nbytes=nbytes, by="metadata"))
    return layers


def _layer_times(engine: Engine, call: Any, contexts: Sequence[Any], runs: int) -> list[dict[str, float]]:
    """Median milliseconds of each layer of each context, in the engine's order."""
    trt = engine.loaded.trt

    class Recorder(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, name: str, ms: float) -> None:
            self.times.setdefault(name, []).append(ms)

    recorders = []
    for context in contexts:
        context.profiler = Recorder()
        context.enqueue_emits_profile = True
        recorders.append(context.profiler)
    for _ in range(runs + 3):
        call._bound.enqueue(call._addresses)
        engine.stream.synchronize()
    return [{name: float(np.median(found[3:] or found)) for name, found in one.times.items()} for one in recorders]


def _details(loaded: Any, context: Any) -> list[dict[str, Any]]:
    trt = loaded.trt
    inspector = loaded.engine.create_engine_inspector()
    inspector.execution_context = context
    try:
        found = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    except (ValueError, KeyError):
        return []
    return [layer for layer in found if isinstance(layer, dict)]


def shares(alone: Sequence[float], launch: float) -> list[float]:
    """max(t - c, 0) of each t, with the least c >= 0 for which they do not add up to more than `launch`.

    Kernels that are timed one by one neither overlap nor hide their start, so that their times add up to more than a
    launch of all: by 6 to 34 % on an H100.
    """
    ordered = sorted(alone, reverse=True)
    cost, total = 0.0, 0.0
    for count, ms in enumerate(ordered, 1):
        total += ms
        if count == len(ordered) or (total - launch) / count >= ordered[count]:
            cost = max((total - launch) / count, 0.0)
            break
    return [max(ms - cost, 0.0) for ms in alone]


def attribute(
    times: Sequence[tuple[str, float]],
    details: Iterable[Mapping[str, Any]],
    nodes: Mapping[str, Mapping[str, Any]],
) -> list[LayerTime]:
    """Layers with the nodes that they stand for.

    details: the engine inspector's layers. nodes: {name: {"outputs", "from", "rules"}} of the model that was built. A
    layer belongs to the ONNX layers that its metadata name; else to the makers of its outputs by their names; else, a
    reformat for instance, to its neighbours' nodes: those that read it, else those that it reads.
    """
    known = {str(layer["Name"]): layer for layer in details}
    makers = {output: name for name, node in nodes.items() for output in node.get("outputs", ())}
    layers = []
    for name, ms in times:
        detail = known.get(name, {})
        layer = LayerTime(name, str(detail.get("LayerType", "")), ms)
        layer.nbytes = sum(_nbytes(one) for kind in ("Inputs", "Constants", "Outputs") for one in detail.get(kind, ()))
        layer.dtype = _dtype(detail)
        layer.nodes = list(dict.fromkeys(_ONNX.findall(str(detail.get("Metadata", "")))))
        layer.by = "metadata" if layer.nodes else ""
        if not layer.nodes:
            outputs = [_SUFFIX.sub("", str(one["Name"])) for one in detail.get("Outputs", ())]
            layer.nodes = [makers[output] for output in outputs if output in makers]
            layer.by = "tensors" if layer.nodes else ""
        layers.append(layer)
    _from_neighbours(layers, known)
    for layer in layers:
        for node in layer.nodes:
            entry = nodes.get(node, {})
            layer.sources += [one for one in entry.get("from") or [node] if one not in layer.sources]
            layer.rules += [one for one in entry.get("rules", ()) if one not in layer.rules]
    return layers


def _from_neighbours(layers: list[LayerTime], known: Mapping[str, Mapping[str, Any]]) -> None:
    readers: dict[str, list[LayerTime]] = defaultdict(list)
    makers: dict[str, LayerTime] = {}
    for layer in layers:
        detail = known.get(layer.name, {})
        for one in detail.get("Inputs", ()):
            readers[str(one["Name"])].append(layer)
        for one in detail.get("Outputs", ()):
            makers[str(one["Name"])] = layer
    for ordered, behind in ((reversed(layers), True), (iter(layers), False)):
        for layer in ordered:
            if layer.nodes:
                continue
            detail = known.get(layer.name, {})
            if behind:
                near = [user for one in detail.get("Outputs", ()) for user in readers[str(one["Name"])]]
            else:
                near = [makers[str(one["Name"])] for one in detail.get("Inputs", ()) if str(one["Name"]) in makers]
            layer.nodes = list(dict.fromkeys(node for one in near for node in one.nodes))
            layer.by = "neighbours" if layer.nodes else ""


_SIZES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "FP8": 1, "Int32": 4, "Int64": 8, "Bool": 1, "UInt8": 1}


_DTYPES = {"FP8": "float8e4m3fn", "Int8": "int8", "Int4": "int4", "Half": "float16", "BFloat16": "bfloat16"}
"""The inspector's words, the narrowest first."""


def _dtype(detail: Mapping[str, Any]) -> str:
    held = {str(one.get("Datatype", "")) for kind in ("Inputs", "Constants") for one in detail.get(kind, ())}
    return next((dtype for word, dtype in _DTYPES.items() if word in held), "float32") if held else ""


def _nbytes(tensor: Mapping[str, Any]) -> int:
    dims = tensor.get("Dimensions", ())
    if any(not isinstance(dim, int) or dim < 0 for dim in dims):
        return 0
    return int(np.prod(dims, dtype=np.int64)) * _SIZES.get(str(tensor.get("Datatype", "")), 4)
