"""QuantizeLinear and DequantizeLinear as TensorRT wants them: symmetric, no zero point, weights stored quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.errors import UsageError
from graphopt.ir import dtypes
from graphopt.ir.edits import Editor
from graphopt.ir.graph import extras, inherit, new_constant, new_variable
from graphopt.ir.weights import Array, read, stored_bytes

from .plan import LARGEST, Entry, Plan, named

_KINDS = {"int8": 3, "float8e4m3fn": 17, "int4": 22}
NEEDED_OPSET = {"int8": 19, "float8e4m3fn": 19, "int4": 21}
"""The least opset that can say QuantizeLinear of float16, and each quantized dtype."""
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_LEAST_SCALE = {"float32": 1e-30, "float16": 6.2e-5, "bfloat16": 1e-30}


def weight_scales(values: Array, entry: Entry, dtype: Any) -> Array:
    """scale = max|w| / largest, per index of entry.axis; per block along it, the best share of that. Never zero."""
    largest, kind = LARGEST[entry.quantized], dtypes.name(dtype)
    wide = np.abs(values.astype(np.float32))
    if entry.scale is not None:
        peak = np.full((), entry.scale * largest, np.float32)
    elif entry.axis is None:
        peak = np.asarray(wide.max(initial=0.0), np.float32)
    elif entry.block:
        peak = _blocks(wide, entry.axis % values.ndim, entry.block).max(axis=entry.axis % values.ndim + 1)
    else:
        others = tuple(i for i in range(values.ndim) if i != entry.axis % values.ndim)
        peak = wide.max(axis=others, initial=0.0)
    scale = np.maximum(peak / largest, _LEAST_SCALE[kind])
    if entry.block and entry.scale is None:
        scale = _narrowed(values, scale, entry)
    return np.asarray(scale.astype(dtype))


def _narrowed(values: Array, scale: Array, entry: Entry) -> Array:
    """Per block, the share of the range whose squared error is least: with few levels, less saturates than rounds."""
    axis = (entry.axis or 0) % values.ndim
    best, found = np.full(scale.shape, np.inf), scale
    for share in _SHARES:
        tried = (scale * share).astype(np.float32)
        back = quantize(values, tried, entry).astype(np.float32) * expanded(tried, values.shape, entry)
        error = _blocks((back - values) ** 2, axis, entry.block or 1).sum(axis=axis + 1)
        better = error < best
        best, found = np.where(better, error, best), np.where(better, tried, found)
    return np.asarray(found)


def quantize(values: Array, scale: Array, entry: Entry) -> Array:
    """q = round(w / scale), to nearest even, within +-largest of the quantized dtype; int4 down to -8."""
    wide = values.astype(np.float32) / expanded(scale.astype(np.float32), values.shape, entry)
    largest = LARGEST[entry.quantized]
    kind = dtypes.from_onnx(_KINDS[entry.quantized])
    if entry.quantized.startswith("float8"):
        return np.asarray(np.clip(wide, -largest, largest).astype(kind))
    least = -8 if entry.quantized == "int4" else -largest
    return np.asarray(np.clip(np.rint(wide), least, largest).astype(kind))


def expanded(scale: Array, shape: tuple[int, ...], entry: Entry) -> Array:
    """The scales, broadcastable to the weight."""
    if scale.ndim == 0:
        return scale
    axis = (entry.axis or 0) % len(shape)
    if entry.block:
        return np.repeat(scale, entry.block, axis=axis)[tuple(slice(0, dim) for dim in shape)]
    return scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _blocks(values: Array, axis: int, block: int) -> Array:
    """(..., n, ...) -> (..., blocks, block, ...); the last block is filled up with zeros."""
    short = -values.shape[axis] % block
    if short:
        widths = [(0, short if i == axis else 0) for i in range(values.ndim)]
        values = np.pad(values, widths)
    shape = (*values.shape[:axis], values.shape[axis] // block, block, *values.shape[axis + 1 :])
    return values.reshape(shape)


class QuantizedValues(LazyValues):  # type: ignore[misc]
    """Values of a weight, quantized when they are asked for."""

    def __init__(self, source: gs.Constant, scale: Array, entry: Entry) -> None:
        self.source = source
        self.scale = scale
        self.entry = entry
        self.dtype = np.dtype(dtypes.from_onnx(_KINDS[entry.quantized]))
        self.shape = tuple(source._values.shape)
        self.nbytes = stored_bytes(self.dtype, self.shape)

    @property
    def tensor(self) -> Any:
        """graphsurgeon's view of lazy values."""
        from onnx import numpy_helper

        return numpy_helper.from_array(self.load())

    def load(self) -> Array:
        return quantize(read(self.source), self.scale, self.entry)


class Quantizer:
    """Writes the quantized part of a plan into a graph, reader by reader."""

    def __init__(self, graph: gs.Graph, plan: Plan, edit: Editor) -> None:
        self.edit = edit
        self.count = 0
        self._made: dict[Any, gs.Tensor] = {}
        self._values: dict[int, tuple[str, Entry]] = {}
        self._weights = {name: entry for name, entry in plan.tensors.items() if entry.quantized}
        if not self._weights:
            return
        for name, _, _, tensor in named(graph):
            if name in self._weights:
                self._values[id(tensor)] = (name, self._weights[name])
        for entry in self._weights.values():
            if int(graph.opset) < NEEDED_OPSET[entry.quantized] and (
                entry.quantized != "int8" or int(graph.opset) < 13
            ):
                raise UsageError(
                    f"{entry.quantized} needs opset {NEEDED_OPSET[entry.quantized]}, the model has {graph.opset}",
                    hint=f"add --opset {NEEDED_OPSET[entry.quantized]}",
                )

    def alias(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """`new` holds what `old` held."""
        if id(old) in self._values:
            self._values[id(new)] = self._values[id(old)]

    def weight(self, node: gs.Node, slot: int, tensor: gs.Tensor, dtype: Any) -> gs.Tensor | None:
        """The dequantized weight for a reader that the plan gives it to, else None."""
        if not self._weights or not isinstance(tensor, gs.Constant):
            return None
        entry = self._weights.get(tensor.name)
        if entry is None or not _reads(entry, node):
            return None
        key = (id(tensor), dtypes.name(dtype), entry)
        if key not in self._made:
            scale = weight_scales(read(tensor), entry, dtype)
            held = new_constant(
                self.edit.fresh(f"{tensor.name}_{entry.quantized}"), QuantizedValues(tensor, scale, entry)
            )
            attrs: dict[str, Any] = {} if scale.ndim == 0 else {"axis": int(entry.axis or 0)}
            if entry.block:
                attrs["block_size"] = entry.block
            out = new_variable(self.edit.fresh(f"{tensor.name}_dequantized"), np.dtype(dtype), tensor._values.shape)
            made = self.edit.constant(scale, f"{tensor.name}_scale")
            self._insert("DequantizeLinear", [held, made], out, attrs, node)
            self._made[key] = out
        return self._made[key]

    def value(self, node: gs.Node, slot: int, tensor: gs.Tensor, source: gs.Tensor, dtype: Any) -> gs.Tensor | None:
        """The value through QuantizeLinear and DequantizeLinear, for a reader that the plan gives it to, else None."""
        known = self._values.get(id(tensor))
        if known is None or not _reads(known[1], node):
            return None
        name, entry = known
        if entry.scale is None:
            raise UsageError("it is quantized, but has no scale", where=f"precision plan: tensor {name!r}")
        key = (id(source), dtypes.name(dtype), entry)
        if key not in self._made:
            kind = dtypes.from_onnx(_KINDS[entry.quantized])
            stem = name.rpartition("/")[2]
            scale = self.edit.constant(np.maximum(entry.scale, _LEAST_SCALE[dtypes.name(dtype)]).astype(dtype),
                                       f"{stem}_scale")  # fmt: skip
            zero = self.edit.constant(np.zeros((), kind), f"{stem}_zero")
            small = new_variable(self.edit.fresh(f"{stem}_{entry.quantized}"), np.dtype(kind), source.shape)
            out = new_variable(self.edit.fresh(f"{stem}_dequantized"), np.dtype(dtype), source.shape)
            self._insert("QuantizeLinear", [source, scale, zero], small, {}, node)
            self._insert("DequantizeLinear", [small, scale, zero], out, {}, node)
            self._made[key] = out
        return self._made[key]

    def _insert(self, op: str, ins: list[gs.Tensor], out: gs.Tensor, attrs: dict[str, Any], at: gs.Node) -> None:
        node = self.edit.insert(op, ins, attrs, at=at, outputs=[out], name=f"{op}_{out.name}")
        mark(node, ins[0].inputs[0] if ins[0].inputs else at)
        self.count += 1


def mark(node: gs.Node, beside: gs.Node) -> None:
    """Lineage: a cast stands for nothing of the source, but it is known next to what it was put, and by whom."""
    inherit(node, [beside])
    extras(node).rules = ("precision",)


def _reads(entry: Entry, node: gs.Node) -> bool:
    return not entry.readers or (node.name or node.outputs[0].name) in entry.readers
