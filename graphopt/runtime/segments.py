"""Builds the parts of a model that is cut at custom layers, and puts them into one container."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.backends.protocol import Backend, BuildOptions, BuildResult, NetworkInfo, ParseError, Progress, TensorInfo
from graphopt.config import Dims, Shapes
from graphopt.errors import BackendError
from graphopt.ir import dtypes, weights
from graphopt.ir import shapes as dims_of
from graphopt.ir.infer import Inference
from graphopt.ir.load import load
from graphopt.ir.save import write as write_model
from graphopt.layers.facts import inference, known
from graphopt.layers.layer import DOMAIN, Layer
from graphopt.layers.measured import Measurement, Store, bytes_of, current_gpu, stores
from graphopt.layers.tensor import Tensor
from graphopt.registry import Registry

from . import container
from .container import Blobs, Constant, Description, EngineEntry, KernelEntry, Value
from .intervals import Interval, decides_shapes, intervals
from .partition import EnginePart, KernelPart, Partition, partition

BORDER_MS = 0.0025
"""What a kernel between engines costs by itself: 1.6 to 2.5 us on an H100 (tests/bench/segments_gpu.py)."""


def pays(best: Measurement) -> bool:
    """Whether a kernel wins even where TensorRT would have fused the body with what comes before and after it.

    Then the body's own reads and writes cost nothing in the engine, while a border demands one more pass over the same
    data: about the time of the kernel once more.
    """
    return best.engine_ms > 2 * best.kernel_ms + BORDER_MS


def build_segments(
    model_path: Path,
    engine_path: Path,
    backend: Backend,
    registry: Registry,
    mode: str = "auto",
    shapes: Shapes | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildResult | None:
    """A container at engine_path in which calls of custom layers run as their kernels; None if no call is to.

    mode: 'always' cuts at every call; 'auto' where the layer's body cannot be built, or where a measurement on the GPU
    at hand says that the kernel pays for the border; 'never' nowhere.

    Raises:
        GraphoptError: the model cannot be cut there, or a part cannot be built.
    """
    if mode == "never" or not _calls(model_path):
        return None
    shapes = shapes or Shapes()
    layers = {layer.__name__: (plugin, layer) for plugin, layer in registry.layers()}
    classes = {name: layer for name, (_, layer) in layers.items()}
    graph = load(model_path)
    Inference(graph, inference(classes)).run()
    found = partition(graph, classes, _Judge(mode, graph, shapes).refuses)
    if not found.kernels:
        return None
    with tempfile.TemporaryDirectory(prefix="graphopt-", dir=engine_path.parent) as folder:
        maker = _Maker(found, backend, Path(folder), options, progress)
        bounds = [intervals(found, one, maker.output_shapes) for one in _profiles(shapes, options)]
        return maker.build(engine_path, bounds, layers, {one.name: one.source for one in registry.plugins})


def _calls(model_path: Path) -> bool:
    nodes = onnx.load(str(model_path), load_external_data=False).graph.node
    return any(node.domain == DOMAIN for node in nodes)


def _profiles(shapes: Shapes, options: BuildOptions | None) -> tuple[Shapes, ...]:
    """The shapes of every optimization profile."""
    return (shapes, *(options.profiles if options is not None else ()))


class _Judge:
    """Which calls run as kernels."""

    def __init__(self, mode: str, graph: gs.Graph, shapes: Shapes) -> None:
        self.mode = mode
        self.typical: dict[str, int] = {}
        for tensor in graph.inputs:
            if tensor.name in shapes:
                pairs = zip(dims_of.of(tensor) or (), shapes.of(tensor.name)[1], strict=False)
                self.typical.update({dim: size for dim, size in pairs if isinstance(dim, str)})
        self.store: Store | None = None
        if mode == "auto":
            some = stores()
            gpu = current_gpu() if some else ""
            self.store = next((one for one in some if one.gpu == gpu), some[0] if len(some) == 1 else None)

    def refuses(self, node: gs.Node, layer: Layer) -> str | None:
        if self.mode == "always" or not layer.portable:
            return None
        if self.store is None:
            return "nothing was measured on this GPU: graphopt bench-layer does it"
        tensors = [self._sized(tensor) for tensor in (*node.inputs, *node.outputs)]
        total = bytes_of([tensor for tensor in tensors if tensor is not None])
        if total is None or None in tensors:
            return "its size is not known: give --shapes, or build with --segments always"
        kinds = (t.dtype.name for t, name in zip(tensors, layer.inputs, strict=False) if t and name not in layer.types)
        kind = next(kinds, layer.dtypes[0])
        best = self.store.nearest(layer.name, kind, total)
        if best is None or not best.wins:
            return self.store.judge(layer.name, kind, total)
        if pays(best):
            return None
        return (
            f"its kernel takes {best.kernel_ms:.4f} ms, the body {best.engine_ms:.4f} ms: "
            "too little for what TensorRT may no longer fuse"
        )

    def _sized(self, tensor: gs.Tensor) -> Tensor | None:
        told = known(tensor)
        if told is None or isinstance(tensor, gs.Constant):
            return told
        dims = dims_of.of(tensor) or ()
        return Tensor(
            told.dtype,
            tuple(
                self.typical.get(dim, size) if isinstance(dim, str) else size
                for dim, size in zip(dims, told.shape, strict=True)
            ),
        )


class _Maker:
    """Writes the parts' models, has them built, and writes the container."""

    def __init__(
        self, found: Partition, backend: Backend, folder: Path, options: BuildOptions | None, progress: Progress | None
    ) -> None:
        self.found, self.backend, self.folder = found, backend, folder
        self.options, self.progress = options, progress
        self.number = {id(part): at for at, part in enumerate(found.parts)}
        self._models: dict[int, Path] = {}

    def model(self, part: EnginePart) -> Path:
        """The part as a model file."""
        at = self.number[id(part)]
        if at not in self._models:
            self._models[at] = self.folder / f"part{at}.onnx"
            write_model(part.graph, self._models[at])
        return self._models[at]

    def output_shapes(self, part: EnginePart, shapes: Mapping[str, Dims]) -> dict[str, Dims]:
        """What the backend's parser makes of the part with inputs of these shapes."""
        model = onnx.load(str(self.model(part)), load_external_data=False)
        for value in (*model.graph.input, *model.graph.output):
            kind = value.type.tensor_type
            if value.name in shapes:
                del kind.shape.dim[:]
                for size in shapes[value.name]:
                    kind.shape.dim.add().dim_value = size
            elif value.name in part.outputs:
                kind.ClearField("shape")
        del model.graph.value_info[:]
        frozen = self.folder / f"part{self.number[id(part)]}.frozen.onnx"
        frozen.write_bytes(model.SerializeToString())
        network = self.backend.parse(frozen)
        return {name: tuple(network.outputs[name].dims) for name in part.outputs}

    def build(
        self,
        engine_path: Path,
        bounds: Sequence[Mapping[str, Interval]],
        layers: Mapping[str, tuple[str, type[Layer]]],
        sources: Mapping[str, str],
    ) -> BuildResult:
        blobs = Blobs()
        entries: list[EngineEntry | KernelEntry] = []
        constants: list[Constant] = []
        results: list[BuildResult] = []
        told: list[dict[str, Any]] = []
        total = len(self.found.engines)
        for part in self.found.parts:
            if isinstance(part, KernelPart):
                entries.append(_kernel_entry(part, layers, sources, blobs, constants))
                told.append({"kind": "kernel", "name": part.node.op, "inputs": part.inputs, "outputs": part.outputs})
                continue
            built = self._engine(part, bounds, len(results) + 1, total)
            results.append(built)
            names = tuple(node.name for node in part.graph.nodes)
            blob = blobs.add(Path(built.engine_path))
            entries.append(EngineEntry(blob, part.inputs, part.outputs, built.layers, names))
            told.append({
                "kind": "engine", "name": f"{len(names)} nodes", "inputs": part.inputs, "outputs": part.outputs,
                "bytes": built.bytes, "seconds": round(built.seconds, 3), "layers": built.layers,
            })  # fmt: skip
        description = Description(
            backend=self.backend.name,
            version=self.backend.version(),
            inputs=self.found.inputs,
            outputs=self.found.outputs,
            values={name: _value(tensor, [one[name] for one in bounds]) for name, tensor in self.found.tensors.items()},
            parts=tuple(entries),
            constants=tuple(constants),
        )
        size = container.write(engine_path, description, blobs)
        stays = [f"{node} stays in its engine: {why}" for node, why in self.found.reasons.items()]
        return BuildResult(
            engine_path=engine_path,
            bytes=size,
            seconds=sum(one.seconds for one in results),
            layers=sum(one.layers for one in results),
            backend=self.backend.name,
            version=description.version,
            network=_whole(self.found, [one.network for one in results]),
            log=(*(line for one in results for line in one.log), *stays),
            segments=tuple(told),
        )

    def _engine(
        self, part: EnginePart, bounds: Sequence[Mapping[str, Interval]], number: int, total: int
    ) -> BuildResult:
        model = self.model(part)
        self._refuse_host_values(part)
        open_ = [name for name in part.inputs if not dims_of.is_static(dims_of.of(self.found.tensors[name]))]
        first, *others = (Shapes(*({name: one[name][at] for name in open_} for at in range(3))) for one in bounds)
        options = replace(self.options or BuildOptions(), profiles=tuple(others))
        progress: Progress | None = None
        if self.progress is not None:
            report: Callable[[str, int, int], None] = self.progress

            def progress(phase: str, done: int, of: int) -> None:
                report(f"engine {number} of {total}: {phase}", done, of)

        try:
            return self.backend.build(model, model.with_suffix(".engine"), first, options, progress)
        except ParseError:
            raise  # it names the node
        except BackendError as error:
            where = f"engine {number} of {total}, from {', '.join(part.inputs)} to {', '.join(part.outputs)}"
            raise BackendError(error.what, where=where, hint=error.hint) from error

    def _refuse_host_values(self, part: EnginePart) -> None:
        for name in part.inputs:
            tensor = self.found.tensors[name]
            kind, rank = dtypes.of(tensor), len(dims_of.of(tensor) or ())
            if kind is None or kind.kind not in "iub" or rank > 1:
                continue
            if self.backend.parse(self.model(part)).inputs[name].is_shape:
                raise decides_shapes(name)


def _kernel_entry(
    part: KernelPart,
    layers: Mapping[str, tuple[str, type[Layer]]],
    sources: Mapping[str, str],
    blobs: Blobs,
    constants: list[Constant],
) -> KernelEntry:
    numbers = {}
    for name, tensor in part.given.items():
        if isinstance(tensor, gs.Constant):
            array = np.ascontiguousarray(weights.read(tensor))
            constants.append(Constant(dtypes.name(array.dtype), tuple(array.shape), blobs.add(array)))
            numbers[name] = len(constants) - 1
    plugin, cls = layers[part.layer.name]
    return KernelEntry(
        layer=part.layer.name,
        node=part.node.name,
        attributes=part.layer.values,
        values={name: one.name for name, one in part.given.items() if not isinstance(one, gs.Constant)},
        constants=numbers,
        outputs=part.outputs,
        plugin=plugin,
        source=sources.get(plugin, ""),
        digest=source_digest(cls),
    )


def source_digest(layer: type[Layer]) -> str:
    """A digest of the source text of the layer's module; '' where it cannot be read."""
    try:
        return hashlib.sha256(Path(inspect.getfile(layer)).read_bytes()).hexdigest()[:32]
    except (OSError, TypeError):
        return ""


def _value(tensor: gs.Variable, profiles: Sequence[Interval]) -> Value:
    spans = zip(*(dims for low, _, high in profiles for dims in (low, high)), strict=True)
    dims = tuple(
        dim if isinstance(dim, int) else span[0] if len(set(span)) == 1 else -1
        for dim, span in zip(dims_of.of(tensor) or (), spans, strict=True)
    )
    return Value(dtypes.name(dtypes.of(tensor)), dims, tuple(profiles))


def _whole(found: Partition, networks: list[NetworkInfo]) -> NetworkInfo:
    """What the engines' networks are together; kernels count as no layer."""
    types = Counter[str]()
    for one in networks:
        types.update(one.layer_types)

    def info(name: str) -> TensorInfo:
        dims = dims_of.of(found.tensors[name]) or ()
        sizes = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
        names = tuple(dim if isinstance(dim, str) else "" for dim in dims)
        return TensorInfo(dtypes.name(dtypes.of(found.tensors[name])), sizes, names)

    inputs, outputs = ({name: info(name) for name in names} for names in (found.inputs, found.outputs))
    constants = sum(one.constants for one in networks)
    return NetworkInfo(sum(one.layers for one in networks), constants, dict(types), inputs, outputs)
