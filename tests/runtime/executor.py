"""onnxruntime, called as an Engine is: what can be tested of the runtime without a GPU is tested with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from graphopt.ir import dtypes


@dataclass
class Port:
    name: str
    dtype: Any
    dims: tuple[int, ...]
    profiles: Sequence[Any] = ()


@dataclass
class OnnxRuntime:
    """engine(feeds) = outputs; `profile`: input -> (least, typical, largest) shape. It notes its calls."""

    model: onnx.ModelProto
    profile: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = ort.InferenceSession(self.model.SerializeToString())
        self.inputs = {v.name: self._port(v, self.profile.get(v.name)) for v in self.model.graph.input}
        self.outputs = {v.name: self._port(v) for v in self.model.graph.output}
        self.calls: list[dict[str, tuple[int, ...]]] = []
        self.lock = threading.Lock()

    def _port(self, value: onnx.ValueInfoProto, bounds: Any = None) -> Port:
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
        return Port(value.name, dtypes.from_onnx(kind.elem_type), dims, (bounds,) if bounds else ())

    def __call__(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        with self.lock:
            self.calls.append({name: tuple(value.shape) for name, value in feeds.items()})
        for name, bounds in self.profile.items():
            low, _, high = bounds
            assert all(a <= n <= b for a, n, b in zip(low, feeds[name].shape, high, strict=True)), feeds[name].shape
        return dict(zip(self.outputs, self.session.run(None, dict(feeds)), strict=True))
