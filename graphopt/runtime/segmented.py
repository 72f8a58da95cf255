"""A container of engines and kernels, run as one: on one stream, over shared memory, as one CUDA graph."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import BackendError, GraphoptError
from graphopt.ir import dtypes
from graphopt.layers import buffers
from graphopt.layers.facts import outputs_of
from graphopt.layers.layer import Layer
from graphopt.layers.tensor import Tensor
from graphopt.registry import Registry

from .bound import Arena, Context, Launches
from .container import Container, Description, EngineEntry, KernelEntry, Value
from .loaded import Loaded, library, read_manifest
from .places import places
from .ports import Port
from .segments import source_digest
from .timing import captured, on_device

TUNED_LAUNCHES = 10
"""Of a kernel, in one CUDA graph, where its tactics are timed."""


class Segments:
    """A container in memory; used by an Engine as `Loaded` is.

    plugins: where layers come from that no installed package brings, as with --plugin.

    Raises:
        UsageError: there is no such file.
        BackendError: no GPU, a damaged file, or an engine that this TensorRT does not take.
        GraphoptError: a layer is not installed, or is not the one that the container was built with.
    """

    def __init__(self, path: str | os.PathLike[str], plugins: Sequence[str | ModuleType] = ()) -> None:
        container = Container(path)
        self.path, self.description = container.path, container.description
        self.manifest = read_manifest(self.path)
        self.layers = layers_of(self.description, plugins, str(path))
        self.cupy = library()
        self.ports = ports_of(self.description)
        known = {**self.manifest, "backend": self.description.backend}
        self.engines = [
            Loaded(path, container.read(one.blob), known) if isinstance(one, EngineEntry) else None
            for one in self.description.parts
        ]
        self.trt: Any = importlib.import_module(self.description.backend)
        self.constants = [
            _upload(self.cupy, container.constant(number)) for number in range(len(self.description.constants))
        ]
        self.nbytes = sum(one.nbytes for one in self.engines if one is not None)

    @property
    def engine(self) -> Any:
        """A container has no engine of its own."""
        raise BackendError(
            "it holds several engines", where=str(self.path), hint="build it with --segments never to see one engine"
        )

    def said(self) -> str:
        """The last complaint of TensorRT."""
        return next((one.said() for one in self.engines if one is not None and one._said), "no reason given")

    def keep_kernels(self) -> None:
        """Write what RTX compiled for this GPU to the cache folder, if there is more than before."""
        for one in self.engines:
            if one is not None:
                one.keep_kernels()


def layers_of(description: Description, plugins: Sequence[str | ModuleType], where: str = "") -> dict[str, type[Layer]]:
    """The layers that a container calls, by name. Raises GraphoptError for what is missing or has changed."""
    wanted = {one.layer: one for one in description.kernels}
    if not wanted:
        return {}
    known = {layer.__name__: layer for _, layer in Registry(plugins).layers()}
    for name, entry in wanted.items():
        if name not in known:
            raise GraphoptError(
                f"layer {name} is not installed; it came from {entry.source} (plugin {entry.plugin})",
                where=where,
                hint="install it, or name its file: graphopt.Engine(path, plugins=['FILE.py']), --plugin FILE.py",
            )
        if entry.digest and source_digest(known[name]) != entry.digest:
            raise GraphoptError(
                f"layer {name} is not the one that this was built with: the source of its module has changed",
                where=where,
                hint="build it anew",
            )
    return {name: known[name] for name in wanted}


def ports_of(description: Description) -> dict[str, Port]:
    """Inputs and outputs of a container as those of an engine."""
    found = {}
    for name in (*description.inputs, *description.outputs):
        value, is_input = description.values[name], name in description.inputs
        bounds = ((value.low, value.typical, value.high),) if is_input else ()
        found[name] = Port(name, _dtype(value), value.dims, is_input, False, bounds)
    return found


def _dtype(value: Value) -> np.dtype[Any]:
    dtype = dtypes.from_name(value.dtype)
    if dtype is None:
        raise BackendError(f"{value.dtype} is no dtype")
    return dtype


def _upload(cupy: Any, array: np.ndarray[Any, Any]) -> Any:
    memory = cupy.cuda.alloc(max(array.nbytes, 1))
    if array.nbytes:
        host = np.ascontiguousarray(array)
        cupy.cuda.runtime.memcpy(memory.ptr, host.ctypes.data, host.nbytes, 1)
    return memory


class KernelCall:
    """A layer's kernel at fixed shapes."""

    def __init__(self, entry: KernelEntry, cls: type[Layer], given: Mapping[str, Tensor], where: str) -> None:
        self.entry, self.layer = entry, cls(**entry.attributes)
        self.given = dict(given)
        """The inputs that are there, by the layer's names."""
        self.outputs = outputs_of(self.layer, {name: given.get(name) for name in self.layer.inputs})
        if any(not isinstance(dim, (int, np.integer)) for one in self.outputs for dim in one.shape):
            raise BackendError(f"a size of layer {entry.layer} depends on data", where=where)
        self.workspace_bytes = int(self.layer.workspace(*given.values(), *self.outputs))
        self.tactic = next(iter(self.layer.tactics()), 0)
        self._views: tuple[Any, list[Any], dict[str, Any]] | None = None

    def enqueue(self, inputs: Sequence[int], outputs: Sequence[int], workspace: int, stream: Any) -> None:
        """Launch on device addresses: present inputs in order, then outputs. Raises GraphoptError in its name."""
        key = (*inputs, *outputs, workspace, self.tactic)
        try:
            if self._views is None or self._views[0] != key:
                self._views = key, *self._arguments(inputs, outputs, workspace)
            if all(one.size == 0 for one in self.outputs):
                return
            with buffers.stream(stream.ptr):
                self.layer.enqueue(*self._views[1], **self._views[2])
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(
                f"layer {self.entry.layer}, enqueue(): {type(error).__name__}: {error}", where=self.entry.node
            ) from error

    def _arguments(
        self, inputs: Sequence[int], outputs: Sequence[int], workspace: int
    ) -> tuple[list[Any], dict[str, Any]]:
        views: dict[str, Any] = dict.fromkeys(self.layer.inputs)
        for (name, tensor), pointer in zip(self.given.items(), inputs, strict=True):
            views[name] = buffers.array(pointer, tensor.dtype, tensor.shape)
        made = [buffers.array(at, one.dtype, one.shape) for at, one in zip(outputs, self.outputs, strict=True)]
        extra: dict[str, Any] = {}
        if "workspace" in self.layer.named:
            extra["workspace"] = buffers.array(workspace, np.uint8, (self.workspace_bytes,))
        if "tactic" in self.layer.named:
            extra["tactic"] = self.tactic
        return [*views.values(), *made], extra


class SegmentsBound(Launches):
    """The parts of a container at these shapes."""

    def __init__(
        self, loaded: Segments, arena: Arena, stream: Any, profile: int, shapes: Mapping[str, Dims], host: Any = None
    ) -> None:
        super().__init__(loaded.cupy, stream)
        self.profile = profile
        found = loaded.description
        known: dict[str, Dims] = dict(shapes)
        self.steps: list[tuple[Context | KernelCall, tuple[str, ...]]] = []
        """Each part, and the values whose addresses it takes, in its order; constants are '#number'."""
        for part, engine in zip(found.parts, loaded.engines, strict=True):
            if engine is not None:
                assert isinstance(part, EngineEntry)
                context = Context(engine, stream, 0, {name: known[name] for name in part.inputs}, {})
                if context.dependent:
                    raise BackendError(
                        f"the size of {context.dependent[0]!r} depends on data, which segments do not support",
                        where=str(loaded.path),
                        hint="build it with --segments never",
                    )
                known.update(context.shapes)
                self.steps.append((context, tuple(context.shapes)))
                continue
            assert isinstance(part, KernelEntry)
            call = _kernel_call(loaded, part, known)
            known.update(zip(part.outputs, (tuple(int(d) for d in one.shape) for one in call.outputs), strict=True))
            names = [part.values.get(name) or f"#{part.constants[name]}" for name in call.given]
            self.steps.append((call, (*names, *part.outputs)))
        self._buffers(loaded.ports, {name: known[name] for name in loaded.ports})
        self._constants = {f"#{number}": int(one.ptr) for number, one in enumerate(loaded.constants)}
        self._place(loaded, arena, known)
        self._tune()

    def _place(self, loaded: Segments, arena: Arena, known: Mapping[str, Dims]) -> None:
        """One piece of memory for all: scratch, which only one part uses at a time, then the values between parts."""
        scratch = max(
            (one.scratch_bytes if isinstance(one, Context) else one.workspace_bytes for one, _ in self.steps), default=0
        )
        values = loaded.description.values
        inner = {
            name: _dtype(values[name]).itemsize * int(np.prod(known[name], dtype=np.int64))
            for name in values
            if name not in loaded.ports
        }
        offsets, total = places([names for _, names in self.steps], inner, start=scratch)
        self._memory, self._memory_bytes = arena.reserve(total), max(total, 1)
        base = int(self._memory.ptr)
        self._workspace = base
        self._inner = {name: base + offset for name, offset in offsets.items()}
        for one, _ in self.steps:
            if isinstance(one, Context):
                one.attach(self._memory)

    def _tune(self) -> None:
        """Choose each kernel's fastest tactic by the clock, on zeros: what else memory holds may be no index."""
        addresses = {**dict(zip(self.order, self.own, strict=True)), **self._inner, **self._constants}
        self._cupy.cuda.runtime.memsetAsync(self._memory.ptr, 0, self._memory_bytes, self._stream.ptr)
        for one, names in self.steps:
            if not isinstance(one, KernelCall) or len(tactics := list(one.layer.tactics())) < 2:
                continue
            found: dict[int, float] = {}
            for tactic in tactics:
                one.tactic = int(tactic)
                launch = partial(self._kernel, one, names, addresses)
                many = captured(launch, self._stream, TUNED_LAUNCHES)
                found[one.tactic] = on_device(many, self._stream, seconds=0.0, warm_up=0.01).median
            one.tactic = min(found, key=lambda tactic: found[tactic])

    def kernel_ms(self) -> dict[int, float]:
        """Milliseconds of each kernel by itself, by the number of its step; on what the last launch left in memory."""
        addresses = {**dict(zip(self.order, self.own, strict=True)), **self._inner, **self._constants}
        found = {}
        for at, (one, names) in enumerate(self.steps):
            if isinstance(one, KernelCall):
                many = captured(partial(self._kernel, one, names, addresses), self._stream, TUNED_LAUNCHES)
                found[at] = on_device(many, self._stream, seconds=0.0, warm_up=0.01).median / TUNED_LAUNCHES
        return found

    def _kernel(self, call: KernelCall, names: Sequence[str], addresses: Mapping[str, int]) -> None:
        given = [addresses[name] for name in names]
        count = len(call.given)
        call.enqueue(given[:count], given[count:], self._workspace, self._stream)

    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Queue every part. Raises BackendError, and GraphoptError where a layer fails."""
        known = {**dict(zip(self.order, addresses, strict=True)), **self._inner, **self._constants}
        for one, names in self.steps:
            if isinstance(one, Context):
                one.enqueue(tuple(known[name] for name in names))
            else:
                self._kernel(one, names, known)

    def _may_be_captured(self) -> bool:
        return all(one.capturable for one, _ in self.steps if isinstance(one, Context))


def _kernel_call(loaded: Segments, part: KernelEntry, known: Mapping[str, Dims]) -> KernelCall:
    found = loaded.description
    given = {}
    for name in loaded.layers[part.layer]().inputs:
        if name in part.values:
            given[name] = Tensor(_dtype(found.values[part.values[name]]), known[part.values[name]])
        elif name in part.constants:
            one = found.constants[part.constants[name]]
            given[name] = Tensor(_dtype(Value(one.dtype, (), (), (), ())), one.shape)
    return KernelCall(part, loaded.layers[part.layer], given, str(loaded.path))
