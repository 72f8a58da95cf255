"""A container of engines and kernels, run as one: on one stream, over shared memory, as one CUDA graph."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import BackendError, GraphoptError
from graphopt.ir import dtypes
from graphopt.layers.layer import Layer
from graphopt.layers.tensor import Tensor
from graphopt.registry import Registry

from .bound import Arena, Context, Launches
from .container import Constant, Container, Description, EngineEntry, KernelEntry, Value
from .kernel_call import KernelCall
from .loaded import Loaded, library, read_manifest
from .places import places
from .ports import Port
from .segments import source_digest
from .timing import captured, on_device

TIMED_LAUNCHES = 10
"""Of a kernel in one CUDA graph, where it is timed."""


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
        found[name] = Port(name, dtype_of(value), value.dims, is_input, False, bounds)
    return found


def dtype_of(value: Value | Constant) -> np.dtype[Any]:
    """The dtype of a value or a constant. Raises BackendError where there is none of its name."""
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


@dataclass
class Step:
    """A part at work. Names of constants are '#number'."""

    work: Context | KernelCall
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loose: bool = False
    """Whether shapes of its inputs depend on data."""


class SegmentsBound(Launches):
    """The parts of a container at these shapes.

    Where a kernel finds out a size, buffers are as large as it may become, the launch waits for the size, and what
    comes after is given its real shapes; else the launch is one CUDA graph.
    """

    def __init__(
        self, loaded: Segments, arena: Arena, stream: Any, profile: int, shapes: Mapping[str, Dims], host: Any = None
    ) -> None:
        super().__init__(loaded.cupy, stream)
        self.profile = profile
        self._loaded = loaded
        self._most: dict[str, Dims] = dict(shapes)
        """The largest shape of every value."""
        self._open: set[str] = set()
        """The values whose shapes depend on data."""
        self.steps = [
            self._kernel_step(part) if engine is None else self._engine_step(part, engine)
            for part, engine in zip(loaded.description.parts, loaded.engines, strict=True)
        ]
        self._capturable = not self._open
        self._buffers(loaded.ports, {name: self._most[name] for name in loaded.ports if name not in self._open})
        self._constants = {f"#{number}": int(one.ptr) for number, one in enumerate(loaded.constants)}
        self._real: dict[str, Dims] = {}
        self._place(arena)
        self._tune()

    def _engine_step(self, part: EngineEntry | KernelEntry, engine: Loaded) -> Step:
        assert isinstance(part, EngineEntry)
        loose = any(name in self._open for name in part.inputs)
        shapes = {name: self._most[name] for name in part.inputs}
        context = Context(engine, self._stream, 0, shapes, {}, loose=loose)
        if context.dependent:
            raise BackendError(
                f"the size of {context.dependent[0]!r} depends on data inside of an engine",
                where=str(self._loaded.path),
                hint="build it with --segments never",
            )
        self._most.update(context.shapes)
        values = self._loaded.description.values
        self._open |= {name for name in part.outputs if loose and -1 in values[name].dims}
        names = tuple(context.shapes)
        return Step(context, tuple(name for name in names if name in shapes), part.outputs, loose)

    def _kernel_step(self, part: EngineEntry | KernelEntry) -> Step:
        assert isinstance(part, KernelEntry)
        call = KernelCall(part, self._loaded.layers[part.layer], self._tensors(part, self._most))
        loose = any(name in self._open for name in part.values.values())
        self._most.update(zip(part.outputs, call.most, strict=True))
        if call.sizes or loose:
            self._open |= set(part.outputs)
        names = tuple(part.values.get(name) or f"#{part.constants[name]}" for name in call.given)
        return Step(call, names, part.outputs, loose)

    def _tensors(self, part: KernelEntry, shapes: Mapping[str, Dims]) -> dict[str, Tensor]:
        """The inputs that are there, by the layer's names."""
        found, given = self._loaded.description, {}
        for name in self._loaded.layers[part.layer]().inputs:
            if name in part.values:
                given[name] = Tensor(dtype_of(found.values[part.values[name]]), shapes[part.values[name]])
            elif name in part.constants:
                one = found.constants[part.constants[name]]
                given[name] = Tensor(dtype_of(one), one.shape)
        return given

    def _place(self, arena: Arena) -> None:
        """One piece of memory for all: scratch, which only one part uses at a time, then the values between parts."""
        values, ports = self._loaded.description.values, self._loaded.ports
        sizes = {
            name: dtype_of(values[name]).itemsize * math.prod(self._most[name])
            for name in values
            if name not in ports or name in self._open
        }
        sizes.update({f"sizes of {at}": 4 * len(step.work.sizes) for at, step in enumerate(self.steps)
                      if isinstance(step.work, KernelCall) and step.work.sizes})  # fmt: skip
        lives = [[*step.inputs, *step.outputs, f"sizes of {at}"] for at, step in enumerate(self.steps)]
        lives.append([name for name in self._loaded.description.outputs if name in self._open])
        offsets, total = places(lives, sizes, start=max((step.work.scratch_bytes for step in self.steps), default=0))
        self._memory, self._memory_bytes = arena.reserve(total), max(total, 1)
        self._scratch = int(self._memory.ptr)
        self._inner = {name: self._scratch + offset for name, offset in offsets.items()}
        for step in self.steps:
            if isinstance(step.work, Context):
                step.work.attach(self._memory)

    def _addresses(self, outer: tuple[int, ...]) -> dict[str, int]:
        return {**dict(zip(self.order, outer, strict=True)), **self._inner, **self._constants}

    def _tune(self) -> None:
        """Choose each kernel's fastest tactic by the clock, on zeros: what else memory holds may be no index."""
        addresses = self._addresses(self.own)
        self._cupy.cuda.runtime.memsetAsync(self._memory.ptr, 0, self._memory_bytes, self._stream.ptr)
        for at, step in enumerate(self.steps):
            if not isinstance(step.work, KernelCall) or len(tactics := list(step.work.layer.tactics())) < 2:
                continue
            found: dict[int, float] = {}
            for tactic in tactics:
                step.work.tactic = int(tactic)
                found[step.work.tactic] = self._time(at, addresses)
            step.work.tactic = min(found, key=lambda tactic: found[tactic])

    def _time(self, at: int, addresses: Mapping[str, int]) -> float:
        many = captured(partial(self._run, at, addresses), self._stream, TIMED_LAUNCHES)
        return on_device(many, self._stream, seconds=0.0, warm_up=0.01).median / TIMED_LAUNCHES

    def kernel_ms(self) -> dict[int, float]:
        """Milliseconds of each kernel by itself, by the number of its step; on what the last launch left in memory."""
        addresses = self._addresses(self.own)
        return {at: self._time(at, addresses) for at, one in enumerate(self.steps) if isinstance(one.work, KernelCall)}

    def _run(self, at: int, addresses: Mapping[str, int]) -> None:
        step = self.steps[at]
        if isinstance(step.work, Context):
            step.work.enqueue(tuple(addresses[name] for name in step.work.shapes))
            return
        inputs, outputs = ([addresses[name] for name in names] for names in (step.inputs, step.outputs))
        first = addresses.get(f"sizes of {at}", 0)
        outputs += [first + 4 * number for number in range(len(step.work.sizes))]
        step.work.enqueue(inputs, outputs, self._scratch, self._stream)

    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Queue every part. Raises BackendError, and GraphoptError where a layer fails."""
        known = self._addresses(addresses)
        if not self._open:
            for at in range(len(self.steps)):
                self._run(at, known)
            return
        real = dict(self._most)
        for at, step in enumerate(self.steps):
            if step.loose and isinstance(step.work, Context):
                real.update(step.work.reshape({name: real[name] for name in step.inputs}))
            elif step.loose and isinstance(step.work, KernelCall):
                step.work.reshape(self._tensors(step.work.entry, real))
            self._run(at, known)
            if isinstance(step.work, KernelCall):
                counts = self._counts(at, known)
                real.update(zip(step.outputs, step.work.shapes(counts), strict=True))
        self._real = real

    def _counts(self, at: int, addresses: Mapping[str, int]) -> list[int]:
        """The sizes that a kernel found out, as soon as it has."""
        work = self.steps[at].work
        if not isinstance(work, KernelCall) or not work.sizes:
            return []
        found = np.zeros(len(work.sizes), np.int32)
        self._cupy.cuda.runtime.memcpyAsync(
            found.ctypes.data, addresses[f"sizes of {at}"], found.nbytes, 2, self._stream.ptr
        )
        self._stream.synchronize()
        return [int(size) for size in found]

    def _may_be_captured(self) -> bool:
        return all(step.work.capturable for step in self.steps if isinstance(step.work, Context))

    def results(self) -> dict[str, tuple[Dims, int]]:
        """(shape, address) of each output whose size depended on data, after a launch has ended."""
        return {name: (self._real[name], self._inner[name]) for name in self._loaded.ports if name in self._open}
