"""Writes ONNX: each operator's shapes are inferred as it is added, for Caffe's layers need to know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError

Dim = int | str
OPSETS = range(13, 25)
BEST_OPSET = 17
_LARGEST_PROTO = 2**26
_LARGEST_FILLED = 2**26


@dataclass(frozen=True)
class Value:
    """A tensor: its name, its dims, its element type of ONNX, and its array if it is a constant."""

    name: str
    shape: tuple[Dim, ...]
    dtype: int = TensorProto.FLOAT
    array: Any = None

    @property
    def rank(self) -> int:
        return len(self.shape)


class Graph:
    """An ONNX graph that grows. `scope` is the layer that is written, and prefixes names."""

    def __init__(self, name: str, opset: int, options: Mapping[str, str] | None = None) -> None:
        self.name, self.opset, self.options = name, opset, options or {}
        self.scope, self._start = "", 0
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._taken: set[str] = set()
        self._names: dict[str, int] = {}
        self._constants: dict[Any, Value] = {}

    def reserve(self, names: Sequence[str]) -> None:
        """Names that values of the network will have: nothing else gets them."""
        self._taken.update(names)

    def fresh(self, name: str) -> str:
        stem = f"{self.scope}/{name}"
        number = self._names.get(stem, 0)
        while (found := f"{stem}_{number}" if number else stem) in self._taken:
            number += 1
        self._names[stem] = number
        self._taken.add(found)
        return found

    def input(self, name: str, shape: Sequence[Dim]) -> Value:
        value = Value(name, tuple(shape))
        self.inputs.append(value)
        return value

    def const(self, array: Any, dtype: Any = np.float32) -> Value:
        """A constant; equal small ones, and those of one memory, are one."""
        made = np.ascontiguousarray(np.asarray(array, dtype)).reshape(np.shape(array))
        key = (made.dtype.str, made.shape, made.tobytes() if made.nbytes <= 4096 else made.ctypes.data)
        if key in self._constants:
            return self._constants[key]
        scope, self.scope = self.scope, self.scope if made.nbytes > 64 else "const"
        name = self.fresh("weight" if made.nbytes > 64 else "c")
        self.scope = scope
        value = Value(name, made.shape, helper.np_dtype_to_tensor_dtype(made.dtype), made)
        self._constants[key] = value
        return value

    def filled(self, shape: Sequence[int], number: float) -> Value:
        """A constant of one number. Raises ModelError where that would be too large."""
        if prod(shape) > _LARGEST_FILLED:
            raise ModelError(f"a constant of {'x'.join(map(str, shape))} numbers is too large")
        return self.const(np.full(shape, number, np.float32))

    def ints(self, values: Sequence[int]) -> Value:
        return self.const(np.array(values, np.int64).reshape(len(values)), np.int64)

    def op(self, kind: str, *inputs: Value | None, **attributes: Any) -> Value:
        """The only output of a new node."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: Value | None, **attributes: Any) -> list[Value]:
        names = [self.fresh(kind) for _ in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        given = [one.name if one is not None else "" for one in inputs]
        while given and not given[-1]:
            given.pop()
        node = helper.make_node(kind, given, names, names[0], **attributes)
        values = self._inferred(node, [one for one in inputs if one is not None])
        self.nodes.append(node)
        return values

    def known(
        self, kind: str, shapes: Sequence[tuple[Dim, ...]], inputs: Sequence[Value], **attributes: Any
    ) -> list[Value]:
        """The outputs, of float32, of a node whose shapes the caller knows."""
        names = [self.fresh(kind) for _ in shapes]
        self.nodes.append(helper.make_node(kind, [one.name for one in inputs], names, names[0], **attributes))
        return [Value(name, shape) for name, shape in zip(names, shapes, strict=True)]

    def begin(self, scope: str) -> None:
        """The nodes that follow are those of one layer."""
        self.scope, self._start = scope, len(self.nodes)

    def rename(self, value: Value, name: str) -> Value:
        """A value that this layer computed, under its name in the network; any other value as it is."""
        for node in self.nodes[self._start :]:
            for i, one in enumerate(node.output):
                if one == value.name:
                    node.output[i] = name
                    for other in self.nodes[self._start :]:
                        for j, taken in enumerate(other.input):
                            if taken == value.name:
                                other.input[j] = name
                    return replace(value, name=name)
        return value

    def save(self, path: Path) -> None:
        """Write the model; the weights beside it where they are large."""
        opsets = [helper.make_opsetid("", self.opset)]
        model = onnx.ModelProto(ir_version=helper.find_min_ir_version_for(opsets), producer_name="graphopt")
        model.opset_import.extend(opsets)
        graph = model.graph
        graph.name = self.name
        for values, infos in ((self.inputs, graph.input), (self.outputs, graph.output)):
            infos.extend(helper.make_tensor_value_info(one.name, one.dtype, one.shape) for one in values)
        graph.node.extend(self.nodes)
        read = _read(graph)
        constants = [one for one in self._constants.values() if one.name in read]
        if sum(one.array.nbytes for one in constants) > _LARGEST_PROTO:
            with path.with_name(f"{path.name}.data").open("wb") as file:
                graph.initializer.extend(_outside(one, file) for one in constants)
        else:
            graph.initializer.extend(numpy_helper.from_array(one.array, one.name) for one in constants)
        path.write_bytes(model.SerializeToString())

    def _inferred(self, node: onnx.NodeProto, inputs: Sequence[Value]) -> list[Value]:
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        types = {one.name: helper.make_tensor_type_proto(one.dtype, one.shape) for one in inputs}
        small = {
            one.name: numpy_helper.from_array(one.array, one.name)
            for one in inputs
            if one.array is not None and one.array.nbytes <= 4096
        }
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, small, opset_imports=[helper.make_opsetid("", self.opset)]
            )
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            shown = ", ".join("x".join(map(str, one.shape)) for one in inputs)
            raise ModelError(f"{node.op_type} does not take {shown}: {str(error).splitlines()[0]}") from error
        values = []
        for name in node.output:
            tensor = found[name].tensor_type
            dims = tuple(
                one.dim_value if one.HasField("dim_value") else one.dim_param or f"{name}_{i}"
                for i, one in enumerate(tensor.shape.dim)
            )
            values.append(Value(name, dims, tensor.elem_type))
        return values

    # What several layers need, in the form of the opset.

    def reshape(self, x: Value, dims: Sequence[Dim]) -> Value:
        """x in another shape; at most one dimension of it may be unknown, or be where it was."""
        if tuple(dims) == x.shape:
            return x
        known = [dim if isinstance(dim, int) else -1 for dim in dims]
        if known.count(-1) > 1:
            known = [
                0 if i < x.rank and dim == x.shape[i] else k for i, (dim, k) in enumerate(zip(dims, known, strict=True))
            ]
        if known.count(-1) > 1:
            raise ModelError(f"a reshape to {'x'.join(map(str, dims))} needs fixed dimensions: give --shapes")
        return replace(self.op("Reshape", x, self.ints(known)), shape=tuple(dims))

    def reduce(self, kind: str, x: Value, axes: Sequence[int], keepdims: int = 1) -> Value:
        if kind == "ReduceSum" or self.opset >= 18:
            return self.op(kind, x, self.ints(axes), keepdims=keepdims)
        return self.op(kind, x, axes=list(axes), keepdims=keepdims)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        return self.op("Slice", x, self.ints([start]), self.ints([stop]), self.ints([axis]), self.ints([step]))

    def cast(self, x: Value, dtype: int = TensorProto.FLOAT) -> Value:
        return self.op("Cast", x, to=dtype)

    def scaled(self, x: Value, scale: float = 1.0, shift: float = 0.0) -> Value:
        """scale * x + shift, without what is neutral."""
        if scale != 1:
            x = self.op("Mul", x, self.const(scale))
        return self.op("Add", x, self.const(shift)) if shift else x


def _outside(value: Value, file: BinaryIO) -> onnx.TensorProto:
    """A constant whose numbers are appended to a file: straight from where they are, without a copy."""
    offset = file.seek(-file.tell() % 4096, 1)
    value.array.tofile(file)
    made = onnx.TensorProto(name=value.name, data_type=value.dtype, dims=[int(dim) for dim in value.shape])
    made.data_location = onnx.TensorProto.EXTERNAL
    where = {"location": Path(file.name).name, "offset": offset, "length": value.array.nbytes}
    for key, text in where.items():
        made.external_data.add(key=key, value=str(text))
    return made


def _read(graph: onnx.GraphProto) -> set[str]:
    """Every name that a node of the graph, or of a body in it, reads."""
    found: set[str] = set()
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _read(attribute.g)
    return found


def fixed(x: Value, axis: int) -> int:
    """A dimension that must be known. Raises ModelError."""
    dim = x.shape[axis]
    if isinstance(dim, int):
        return dim
    raise ModelError(f"dimension {axis} of {x.name} must be fixed, and is {dim}", hint="give its number with --shapes")


def count(dims: Sequence[Dim]) -> Dim:
    """The product; a name where one dim has one."""
    numbers = [dim for dim in dims if isinstance(dim, int)]
    if len(numbers) == len(dims):
        return prod(numbers)
    return str(dims[0]) if len(dims) == 1 else "*".join(map(str, dims))
