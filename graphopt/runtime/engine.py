"""graphopt.Engine: an engine that is called like a function."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import BackendError, UsageError

from .arrays import Given, empty, given
from .bound import Arena, Bound, Launches
from .container import is_container
from .loaded import Loaded
from .ports import Port, choose_profile
from .segmented import Segments, SegmentsBound

KEPT = 8
"""Sets of shapes whose contexts stay in memory."""


class Engine:
    """engine(x=array) = {"y": array}: a TensorRT engine as a function of arrays.

    Takes NumPy, CuPy and PyTorch arrays, and what speaks DLPack or the CUDA array interface; results are of the kind of
    the inputs (on the GPU if any input was there). Inputs on the GPU are read where they are. Each set of shapes gets
    an execution context and a CUDA graph, of which the last few are kept. One call at a time: `fork` gives a second
    runner that may run beside this one.

    plugins: where the custom layers of a segmented engine come from, if no installed package brings them.

    Raises:
        UsageError: no such file.
        BackendError: no GPU, no CuPy or TensorRT, or an engine of another version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        cuda_graphs: bool = True,
        plugins: Sequence[str | ModuleType] = (),
    ) -> None:
        self._open(Segments(path, plugins) if is_container(path) else Loaded(path), cuda_graphs)

    def _open(self, loaded: Loaded | Segments, cuda_graphs: bool) -> None:
        self.loaded = loaded
        self._graphs = cuda_graphs
        cupy = loaded.cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)
        """What this engine runs on."""
        self.arena = Arena(cupy)
        self._done = cupy.cuda.Event(disable_timing=True)
        self._staged = cupy.cuda.Event(disable_timing=True)
        """After the last copy from pinned memory: what it holds may then be overwritten."""
        self._bounds: OrderedDict[Any, Launches] = OrderedDict()
        self._pinned: dict[tuple[int, str], Any] = {}
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def inputs(self) -> dict[str, Port]:
        """What goes in, in the engine's order."""
        return {name: port for name, port in self.loaded.ports.items() if port.is_input}

    @property
    def outputs(self) -> dict[str, Port]:
        """What comes out."""
        return {name: port for name, port in self.loaded.ports.items() if not port.is_input}

    def fork(self) -> Engine:
        """Another runner of the same engine: the weights are shared, stream, memory and contexts are its own."""
        twin = Engine.__new__(Engine)
        twin._open(self.loaded, self._graphs)
        return twin

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """The outputs for these inputs, by name.

        NumPy arrays come back when the result is there; arrays on the GPU are ordered on the caller's current stream.
        Raises UsageError for inputs that are missing, unknown, or of a dtype or shape that no profile takes.
        """
        found = self._given({**(inputs or {}), **named})
        with self._lock:
            bound = self._bound(found)
            self._wait_for_callers(found)
            addresses = self._bring(bound, found)
            bound.launch(addresses, capture=self._graphs)
            return self._hand_out(bound, _kind(found))

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> Call:
        """A call over fixed arrays on the GPU: `call()` queues it, and neither allocates, copies nor waits.

        outputs: arrays to write to; made here where not given. Raises UsageError for arrays in host memory, and for
        engines whose output sizes depend on data.
        """
        found = self._given(inputs)
        with self._lock:
            bound = self._bound(found, fresh=True)
            if not bound.capturable:
                raise UsageError("sizes of its outputs depend on data: call the engine instead of binding arrays")
            made, addresses = {}, {}
            for name in bound.order:
                if name in found:
                    if not found[name].address:
                        raise UsageError(f"input {name!r} is in host memory", hint="bind arrays on the GPU")
                    addresses[name] = found[name].address
                elif outputs is not None and name in outputs:
                    one = given(self.loaded.ports[name], outputs[name])
                    if not one.address or one.shape != bound.shapes[name] or one.owner is not _array(outputs[name]):
                        raise UsageError(
                            f"output {name!r} must be a contiguous array of {list(bound.shapes[name])} on the GPU"
                        )
                    made[name], addresses[name] = outputs[name], one.address
                else:
                    made[name], addresses[name] = empty(_kind(found), self.loaded.ports[name], bound.shapes[name])
            ordered = tuple(addresses[name] for name in bound.order)
            graph = bound.graph(ordered) if self._graphs else None
            if graph is None:
                bound.enqueue(ordered)
            self.stream.synchronize()
            self.loaded.keep_kernels()
            return Call(self, bound, ordered, graph, made, (found, self.arena.memory))

    # -- steps of a call ----------------------------------------------------------------------------------------

    def _given(self, values: Mapping[str, Any]) -> dict[str, Given]:
        wanted = self.inputs
        if unknown := [name for name in values if name not in wanted]:
            raise UsageError(f"the engine has no input {unknown[0]!r}", hint=_named(wanted))
        if missing := [name for name in wanted if name not in values]:
            raise UsageError(f"input {missing[0]!r} is missing", hint=_named(wanted))
        return {name: given(port, values[name]) for name, port in wanted.items()}

    def _bound(self, found: Mapping[str, Given], *, fresh: bool = False) -> Launches:
        ports = self.inputs
        host = {name: _host(found[name]) for name, port in ports.items() if port.is_host}
        shapes: dict[str, Dims] = {name: one.shape for name, one in found.items()}
        key = (tuple(shapes.values()), tuple(array.tobytes() for array in host.values()))
        bound = None if fresh else self._bounds.get(key)
        if bound is None:
            profile = choose_profile(list(ports.values()), shapes)
            place = self.arena, self.stream, profile, shapes, host
            loaded = self.loaded
            bound = SegmentsBound(loaded, *place) if isinstance(loaded, Segments) else Bound(loaded, *place)
            if fresh:
                return bound
            if self._graphs:
                bound.graph(bound.own)
            self.loaded.keep_kernels()
            self._bounds[key] = bound
            while len(self._bounds) > KEPT:
                _, old = self._bounds.popitem(last=False)
                self.stream.synchronize()
                self._pinned = {key: value for key, value in self._pinned.items() if key[0] != id(old)}
        self._bounds.move_to_end(key)
        return bound

    def _wait_for_callers(self, found: Mapping[str, Given]) -> None:
        for stream in _streams(found):
            if stream != self.stream.ptr:
                self._done.record(_external(self.loaded.cupy, stream))
                self.stream.wait_event(self._done)

    def _bring(self, bound: Launches, found: Mapping[str, Given]) -> tuple[int, ...]:
        """Copy inputs to where the launch reads them; the addresses of that launch.

        Arrays on the GPU are read in place from the second time on that they come: then a graph for them pays.
        """
        places = dict(zip(bound.order, bound.own, strict=True))
        direct = {name: one.address for name, one in found.items() if one.address and name in places}
        in_place = tuple({**places, **direct}.values())
        if direct:
            key = (id(bound), in_place)
            known = key in self._seen or not bound.capturable or not self._graphs
            self._seen[key] = None
            self._seen.move_to_end(key)
            while len(self._seen) > 4 * KEPT:
                self._seen.popitem(last=False)
            if known:
                places.update(direct)
        runtime = self.loaded.cupy.cuda.runtime
        self._staged.synchronize()
        for name, one in found.items():
            if name not in places or places[name] == one.address:
                continue
            size = self.loaded.ports[name].nbytes(one.shape)
            if one.address:
                runtime.memcpyAsync(places[name], one.address, size, 3, self.stream.ptr)
            elif size:
                staged = self._staging(bound, name, size)
                staged[...] = one.owner.reshape(-1).view(np.uint8)
                runtime.memcpyAsync(places[name], staged.ctypes.data, size, 1, self.stream.ptr)
        if len(direct) < len(found):
            self._staged.record(self.stream)
        return tuple(places.values())

    def _staging(self, bound: Launches, name: str, size: int) -> np.ndarray[Any, Any]:
        """Pinned memory: only from there do copies run beside other work."""
        key = (id(bound), name)
        if key not in self._pinned:
            memory = self.loaded.cupy.cuda.alloc_pinned_memory(max(size, 1))
            self._pinned[key] = np.frombuffer(memory, np.uint8, size)
        return self._pinned[key]  # type: ignore[no-any-return]

    def _hand_out(self, bound: Launches, kind: str) -> dict[str, Any]:
        runtime, ports = self.loaded.cupy.cuda.runtime, self.outputs
        places = {name: (bound.shapes[name], int(bound.buffers[name].ptr)) for name in bound.order if name in ports}
        if not bound.capturable:
            self.stream.synchronize()
            places.update(bound.results())
        result: dict[str, Any] = {}
        staged = {}
        for name, port in ports.items():
            shape, address = places[name]
            size = port.nbytes(shape)
            if kind == "numpy":
                result[name] = np.empty(shape, port.dtype)
                if size:
                    staged[name] = self._staging(bound, name, size) if bound.capturable else np.empty(size, np.uint8)
                    runtime.memcpyAsync(staged[name].ctypes.data, address, size, 2, self.stream.ptr)
                continue
            result[name], target = empty(kind, port, shape)
            if size:
                runtime.memcpyAsync(target, address, size, 3, self.stream.ptr)
        if kind == "numpy":
            self._synchronize()
            for name, bytes_ in staged.items():
                result[name].reshape(-1).view(np.uint8)[...] = bytes_
        else:
            self._done.record(self.stream)
            for stream in _current(kind, self.loaded.cupy):
                _external(self.loaded.cupy, stream).wait_event(self._done)
        return result

    def _synchronize(self) -> None:
        try:
            self.stream.synchronize()
        except self.loaded.cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(
                f"the engine failed on the GPU: {error}; {self.loaded.said()}", where=str(self.loaded.path)
            ) from error

    @property
    def device_bytes(self) -> int:
        """Device memory of weights, scratch memory and the buffers of the shapes in use."""
        buffers = sum(
            self.loaded.ports[name].nbytes(shape)
            for bound in self._bounds.values()
            for name, shape in bound.shapes.items()
        )
        return self.loaded.nbytes + self.arena.nbytes + buffers


class Call:
    """A launch over fixed arrays; the fastest way to run an engine again and again."""

    def __init__(
        self,
        engine: Engine,
        bound: Launches,
        addresses: tuple[int, ...],
        graph: Any,
        outputs: dict[str, Any],
        held: Any,
    ) -> None:
        self.outputs = outputs
        """The arrays that the call writes to."""
        self.stream = engine.stream
        """What the call is queued on by default."""
        self._bound, self._addresses, self._graph, self._held = bound, addresses, graph, held

    def __call__(self, stream: Any = None) -> dict[str, Any]:
        """Queue it, on `stream` (CuPy's) or the engine's own; the outputs, which are there when the stream is."""
        if self._graph is not None:
            self._graph.launch(stream or self.stream)
        elif stream is None or stream is self.stream:
            self._bound.enqueue(self._addresses)
        else:
            raise UsageError("without CUDA graphs a call runs on the engine's own stream only")
        return self.outputs


def _array(value: Any) -> Any:
    with suppress(AttributeError):
        return value.detach().contiguous()
    return value


def _host(one: Given) -> np.ndarray[Any, Any]:
    if one.address:
        raise UsageError("inputs whose values decide shapes must be in host memory")
    return np.asarray(one.owner)


def _kind(found: Mapping[str, Given]) -> str:
    kinds = {one.kind for one in found.values() if one.address}
    return "torch" if "torch" in kinds else "cupy" if kinds else "numpy"


def _streams(found: Mapping[str, Given]) -> set[int]:
    return {stream for kind in {one.kind for one in found.values() if one.address} for stream in _current(kind, None)}


def _current(kind: str, cupy: Any) -> list[int]:
    """The caller's current stream in each library that it used."""
    if kind == "torch":
        import torch

        return [int(torch.cuda.current_stream().cuda_stream)]
    import cupy as library

    return [int(library.cuda.get_current_stream().ptr)]


class _Foreign:
    """A stream of another library, by CUDA's stream protocol."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _external(cupy: Any, pointer: int) -> Any:
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Foreign(pointer))
    return cupy.cuda.ExternalStream(pointer)


def _named(ports: Mapping[str, Port]) -> str:
    return "it takes " + ", ".join(str(port) for port in ports.values())
