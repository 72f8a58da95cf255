"""Nodes of an ONNX graph as they are made, with types and values that the handlers of operators ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .reader import Array


class Constants:
    """The initializers of a model; equal small ones are one."""

    def __init__(self) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self.values: dict[str, Array] = {}
        self.notes: list[str] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = set()

    def free_name(self, wish: str) -> str:
        """A name that nothing else has."""
        name, number = wish or "value", 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name

    def add(self, array: Any, wish: str = "constant") -> str:
        """The name of an initializer with this value."""
        value = np.asarray(array)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= 64 else None
        if key in self._known:
            return self._known[key]
        name = self.free_name(wish)
        self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        self.values[name] = value
        if key is not None:
            self._known[key] = name
        return name


def needed(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the results are made from, in their order."""
    read, kept = set(results), []
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read.update(_read(node))
    return kept[::-1]


def _read(node: onnx.NodeProto) -> set[str]:
    """What a node reads; of its graphs, also their own values."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.update(*map(_read, attribute.g.node), [value.name for value in attribute.g.output])
    return found


class Builder:
    """The nodes of one graph."""

    def __init__(self, constants: Constants, opset: int) -> None:
        self.constants = constants
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.where = ""
        """What new nodes are named after: the operator that they stand for."""

    def const(self, array: Any, wish: str = "constant") -> str:
        return self.constants.add(array, wish)

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def float(self, value: float) -> str:
        return self.const(np.float32(value))

    def value(self, name: str) -> Array | None:
        """The value of a constant."""
        return self.constants.values.get(name)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.several(op, inputs, 1, **attributes)[0]

    def several(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """A node's outputs. Trailing absent inputs are left out."""
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        base = self.constants.free_name(f"{self.where}/{op}")
        names = [self.constants.free_name(f"{base}:{index}") for index in range(count)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, given, names, base, **kept))
        return names

    def reshape(self, x: str, *dims: int) -> str:
        """x with these dims; a constant at once."""
        found = self.value(x)
        if found is not None and -1 not in dims and 0 not in dims:
            return self.const(found.reshape(dims), x)
        return self("Reshape", x, self.ints(*dims))

    def transpose(self, x: str, *perm: int) -> str:
        """x with its dims in this order; a constant at once."""
        found = self.value(x)
        if found is not None:
            return self.const(found.transpose(perm), x)
        return x if list(perm) == sorted(perm) else self("Transpose", x, perm=list(perm))

    def cast(self, x: str, dtype: Any) -> str:
        found = self.value(x)
        if found is not None:
            return self.const(found.astype(dtype), x)
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
