"""A float64 copy of a float32 model: what the source would compute with rounding taken out of the question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError

from .ranges import subgraphs

DOUBLE_LIMIT_BYTES = 200 << 20
_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "softmax_precision"})
_DEFAULT_FLOAT = frozenset({"RandomNormal", "RandomUniform", "SequenceEmpty"})


class NoDouble(GraphoptError):
    """A float64 copy of this model cannot be made."""


def double_copy(path: str | Path) -> bytes:
    """The model with every float32 as float64: weights, constants, casts, inputs, outputs; functions are inlined.

    An operator that takes no float64 keeps its float32 between two casts. Raises NoDouble: too large, or unknown ops.
    """
    model = onnx.load(str(path), load_external_data=False)
    size = Path(path).stat().st_size + sum(
        np.prod(t.dims, dtype=float) * 4 for t in model.graph.initializer if t.external_data
    )
    if size > DOUBLE_LIMIT_BYTES:
        raise NoDouble(f"no float64 copy of a model over {DOUBLE_LIMIT_BYTES >> 20} MiB")
    try:
        model = onnx.load(str(path))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        kinds = element_types(onnx.shape_inference.infer_shapes(model).graph, {})
        versions = {entry.domain: entry.version for entry in model.opset_import}
        _Doubler(versions, kinds).graph(model.graph)
        return bytes(model.SerializeToString())
    except NoDouble:
        raise
    except Exception as error:
        raise NoDouble(f"no float64 copy: {error}") from error


def element_types(graph: GraphProto, outer: Mapping[str, int]) -> dict[str, int]:
    """The element type of every value that the graph and its bodies declare, and of those around it."""
    found = dict(outer)
    found.update({t.name: t.data_type for t in graph.initializer})
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        for inner in subgraphs(node):
            found.update(element_types(inner, found))
    return found


class _Doubler:
    def __init__(self, versions: Mapping[str, int], kinds: Mapping[str, int]) -> None:
        self._versions = versions
        self._kinds = kinds
        self._count = 0

    def graph(self, graph: GraphProto) -> None:
        if graph.sparse_initializer:
            raise NoDouble("no float64 copy of sparse weights")
        for tensor in graph.initializer:
            _widen(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type)
        nodes: list[NodeProto] = []
        for node in graph.node:
            for inner in subgraphs(node):
                self.graph(inner)
            nodes += self._node(node)
        del graph.node[:]
        graph.node.extend(nodes)

    def _node(self, node: NodeProto) -> list[NodeProto]:
        _widen_attributes(node)
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError as error:
            raise NoDouble(f"no float64 copy: {node.op_type} of domain {node.domain!r} is unknown") from error
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        before, after = [], []
        for index, name in enumerate(node.input):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            if name and self._kinds.get(name, _FLOAT) == _FLOAT and _single(formal.type_str, allowed):
                node.input[index] = self._name(name)
                before.append(helper.make_node("Cast", [name], [node.input[index]], to=_FLOAT))
        for index, name in enumerate(node.output):
            formal = schema.outputs[min(index, len(schema.outputs) - 1)]
            if name and self._kinds.get(name, _FLOAT) == _FLOAT and _single(formal.type_str, allowed):
                node.output[index] = self._name(name)
                after.append(helper.make_node("Cast", [node.output[index]], [name], to=_DOUBLE))
        return [*before, node, *after]

    def _name(self, name: str) -> str:
        self._count += 1
        return f"{name}__single_{self._count}"


def _single(type_str: str, allowed: Mapping[str, set[str]]) -> bool:
    """Whether a formal parameter takes float32 and no float64."""
    kinds = allowed.get(type_str, {type_str})
    return "tensor(float)" in kinds and "tensor(double)" not in kinds


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == _FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _widen_type(type_: onnx.TypeProto) -> None:
    if type_.HasField("optional_type"):
        _widen_type(type_.optional_type.elem_type)
    elif type_.HasField("sequence_type"):
        _widen_type(type_.sequence_type.elem_type)
    elif type_.tensor_type.elem_type == _FLOAT:
        type_.tensor_type.elem_type = _DOUBLE


def _widen_attributes(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and attribute.i == _FLOAT:
            attribute.i = _DOUBLE
        if attribute.HasField("t"):
            _widen(attribute.t)
        for tensor in attribute.tensors:
            _widen(tensor)
    names = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant" and (found := names.get("value_float") or names.get("value_floats")):
        value = np.array(found.floats if found.name == "value_floats" else found.f, dtype=np.float64)
        found.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    elif node.op_type == "ConstantOfShape" and "value" not in names:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    elif node.op_type in _DEFAULT_FLOAT and "dtype" not in names:
        node.attribute.append(helper.make_attribute("dtype", _DOUBLE))
