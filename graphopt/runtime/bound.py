"""An execution context at fixed shapes, with buffers of its own and the CUDA graphs of its launches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import BackendError, UsageError

from .loaded import Loaded
from .ports import Port

GRAPHS = 4
"""CUDA graphs that a bound context keeps, one per set of addresses."""


def is_open(shape: Dims) -> bool:
    """Whether only a run tells the size."""
    return any(dim < 0 for dim in shape)


class Arena:
    """Scratch memory that the contexts of one stream share: only one of them runs at a time."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.nbytes = 0
        self.memory: Any = None

    def reserve(self, nbytes: int) -> Any:
        """Memory of at least this size; a larger one takes the place of a smaller, which graphs keep alive."""
        if self.memory is None or nbytes > self.nbytes:
            self.nbytes = max(nbytes, 1)
            self.memory = self._cupy.cuda.alloc(self.nbytes)
        return self.memory


class Context:
    """An execution context at fixed shapes; its scratch memory comes from the caller.

    loose: at the largest of many shapes; `reshape` tells the others.
    """

    def __init__(
        self,
        loaded: Loaded,
        stream: Any,
        profile: int,
        shapes: Mapping[str, Dims],
        host: Mapping[str, np.ndarray[Any, Any]],
        *,
        loose: bool = False,
    ) -> None:
        self._loaded, self._stream = loaded, stream
        self.context = loaded.context(loose=loose)
        self._host = {name: np.array(array) for name, array in host.items()}
        if profile and not self.context.set_optimization_profile_async(profile, stream.ptr):
            raise BackendError(f"profile {profile} cannot be used: {loaded.said()}")
        for name, shape in shapes.items():
            if name in self._host:
                self.context.set_tensor_address(name, self._host[name].ctypes.data)
            elif not self.context.set_input_shape(name, shape):
                raise UsageError(f"input {name!r} cannot be {list(shape)}: {loaded.said()}")
        if missing := self.context.infer_shapes():
            raise BackendError(f"the shapes of {', '.join(missing)} are not known: {loaded.said()}")
        self.scratch_bytes = 0 if loose else int(self.context.update_device_memory_size_for_shapes())
        if not self.scratch_bytes:  # which is also said where shapes come from values on the host (RTX 1.6.1)
            self.scratch_bytes = int(loaded.engine.get_device_memory_size_for_profile_v2(profile))
        self.shapes: dict[str, Dims] = {}
        """Of each input and output that does not depend on data."""
        self.dependent: list[str] = []
        for name, port in loaded.ports.items():
            if name not in self._host:
                shape = tuple(int(dim) for dim in self.context.get_tensor_shape(name))
                if not port.is_input and is_open(shape):
                    self.dependent.append(name)
                else:
                    self.shapes[name] = shape
        self._addresses: tuple[int, ...] = ()
        self._scratch: Any = None

    def reshape(self, shapes: Mapping[str, Dims]) -> dict[str, Dims]:
        """Run at these shapes of the inputs from now on (a loose context); the shapes of all. Raises BackendError."""
        for name, shape in shapes.items():
            if not self.context.set_input_shape(name, shape):
                raise BackendError(f"{name!r} cannot be {list(shape)}: {self._loaded.said()}")
        if missing := self.context.infer_shapes():
            raise BackendError(f"the shapes of {', '.join(missing)} are not known: {self._loaded.said()}")
        return {name: tuple(int(dim) for dim in self.context.get_tensor_shape(name)) for name in self.shapes}

    def attach(self, memory: Any) -> None:
        """Use this memory, of at least scratch_bytes, while it runs."""
        self._scratch = memory
        if hasattr(self.context, "set_device_memory"):
            self.context.set_device_memory(int(memory.ptr), self.scratch_bytes)
        else:
            self.context.device_memory = int(memory.ptr)

    @property
    def capturable(self) -> bool:
        """Whether TensorRT lets it be captured."""
        ready = getattr(self.context, "is_stream_capturable", None)
        return ready is None or bool(ready(self._stream.ptr))

    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Queue a launch; addresses in the order of `shapes`. Raises BackendError."""
        if addresses != self._addresses:
            for name, address in zip(self.shapes, addresses, strict=True):
                self.context.set_tensor_address(name, address)
            self._addresses = addresses
        if not self.context.execute_async_v3(self._stream.ptr):
            raise BackendError(f"the engine could not be run: {self._loaded.said()}", where=str(self._loaded.path))


class Launches(ABC):
    """Work at fixed shapes on one stream, with buffers of its own for inputs and outputs, and a CUDA graph for each of
    the last few sets of addresses."""

    context: Any
    """TensorRT's, where there is just one."""

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cupy, self._stream = cupy, stream
        self.shapes: dict[str, Dims] = {}
        self.buffers: dict[str, Any] = {}
        """Device memory of each input and output that does not depend on data."""
        self.order: tuple[str, ...] = ()
        self.own: tuple[int, ...] = ()
        self._graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._capturable = True

    def _buffers(self, ports: Mapping[str, Port], shapes: Mapping[str, Dims]) -> None:
        self.shapes = dict(shapes)
        for name, shape in shapes.items():
            size = max(ports[name].nbytes(shape), 1)
            self.buffers[name] = self._cupy.cuda.alloc(size)
            # the first launch comes before the first data: what memory holds may be no index, no size
            self._cupy.cuda.runtime.memsetAsync(self.buffers[name].ptr, 0, size, self._stream.ptr)
        self.order = tuple(self.buffers)
        self.own = tuple(int(self.buffers[name].ptr) for name in self.order)

    @abstractmethod
    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Queue a launch, node by node; addresses in the order of `order`. Raises BackendError."""

    @abstractmethod
    def _may_be_captured(self) -> bool:
        """Whether a launch can be captured, asked after one."""

    @property
    def capturable(self) -> bool:
        """Whether a launch can be a CUDA graph: no size depends on data."""
        return self._capturable

    def is_captured(self, addresses: tuple[int, ...]) -> bool:
        """Whether a launch at these addresses is one call into the driver."""
        return addresses in self._graphs

    def launch(self, addresses: tuple[int, ...], *, capture: bool = True) -> None:
        """Queue a launch, as a CUDA graph where it can be one."""
        graph = self._graphs.get(addresses)
        if graph is None and capture and self._capturable:
            graph = self._capture(addresses)
        if graph is None:
            self.enqueue(addresses)
        else:
            self._graphs.move_to_end(addresses)
            graph.launch(self._stream)

    def graph(self, addresses: tuple[int, ...]) -> Any:
        """The CUDA graph of a launch, or None where it cannot be one."""
        if addresses not in self._graphs and self._capturable:
            self._capture(addresses)
        return self._graphs.get(addresses)

    def _capture(self, addresses: tuple[int, ...]) -> Any:
        self.enqueue(addresses)  # the first launch may allocate and compile, which no graph can hold
        self._stream.synchronize()
        if not self._may_be_captured():
            self._capturable = False
            return None
        self._stream.begin_capture()
        try:
            self.enqueue(addresses)
        finally:
            try:
                graph = self._stream.end_capture()
            except self._cupy.cuda.runtime.CUDARuntimeError:
                graph = None
        if graph is None:
            self._capturable = False
            return None
        self._graphs[addresses] = graph
        while len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def results(self) -> dict[str, tuple[Dims, int]]:
        """(shape, address) of each output whose size depended on data, after a launch has ended."""
        return {}


class Bound(Launches):
    """The engine at these shapes."""

    def __init__(
        self,
        loaded: Loaded,
        arena: Arena,
        stream: Any,
        profile: int,
        shapes: Mapping[str, Dims],
        host: Mapping[str, np.ndarray[Any, Any]],
    ) -> None:
        super().__init__(loaded.cupy, stream)
        self._run = Context(loaded, stream, profile, shapes, host)
        self._run.attach(arena.reserve(self._run.scratch_bytes))
        self.context = self._run.context
        self._allocators = {name: _allocator(loaded, stream) for name in self._run.dependent}
        for name, allocator in self._allocators.items():
            self.context.set_output_allocator(name, allocator)
        self._buffers(loaded.ports, self._run.shapes)
        self._capturable = not self._allocators

    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Queue a launch, node by node. Raises BackendError."""
        self._run.enqueue(addresses)

    def _may_be_captured(self) -> bool:
        return self._run.capturable

    def results(self) -> dict[str, tuple[Dims, int]]:
        """(shape, address) of each output whose size depended on data, after a launch has ended."""
        return {name: (one.shape, one.address) for name, one in self._allocators.items()}


def _allocator(loaded: Loaded, stream: Any) -> Any:
    cupy = loaded.cupy

    class Allocator(loaded.trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        """Grows with what the engine asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.shape: Dims = ()
            self.memory: Any = None

        @property
        def address(self) -> int:
            return int(self.memory.ptr) if self.memory is not None else 0

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            if self.memory is None or self.memory.mem.size < size:
                self.memory = cupy.cuda.alloc(max(int(size), 1))
            return self.address

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self.reallocate_output_async(name, memory, size, alignment, 0)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(int(dim) for dim in shape)

    return Allocator()


def host_inputs(ports: Mapping[str, Port]) -> list[str]:
    """The inputs whose values decide shapes."""
    return [name for name, port in ports.items() if port.is_input and port.is_host]
