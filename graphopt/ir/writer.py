"""From `gs.Graph` to ModelProto."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper

from graphopt.errors import ModelError
from . import dtypes, shapes
from .graph import flatten, peek, scopes
from .weights import SparseTensor, proto

TensorWriter = Callable[[gs.Constant], TensorProto]

_LEAST_IR = {"float8": 9, "int4": 10, "float4": 11, "e8m0": 12, "int2": 13}


class Writer:
    """Writes one model; `tensor` says how a weight is written."""

    def __init__(self, graph: gs.Graph, tensor: TensorWriter = proto) -> None:
        self.graph = graph
        self.tensor = tensor
        self.homes = _homes(graph)
        self.needs = 4

    def model(self) -> onnx.ModelProto:
        """The message. Raises ModelError beyond protobuf's 2 GB."""
        graph = self.graph
        entry = peek(graph)
        model = onnx.ModelProto()
        try:
            if entry is not None and entry.proto is not None:
                model.CopyFrom(entry.proto)
            self._graph(graph, model.graph)
            model.producer_name, model.producer_version = graph.producer_name, graph.producer_version
            del model.functions[:]
            for function in graph.functions:
                self._function(function, model.functions.add())
        except ValueError as error:
            raise ModelError(f"the model cannot be written: {error}") from error
        _imports(graph, model.opset_import)
        model.ir_version = max(
            int(graph.ir_version or 0), self.needs if graph.ir_version is None or self.needs > 4 else 0
        )
        if not graph.ir_version:
            model.ir_version = max(model.ir_version, 8)
        return model

    # -- graphs ------------------------------------------------------------------------------------------------

    def _graph(self, graph: gs.Graph, out: onnx.GraphProto) -> None:
        out.name = graph.name or "graph"
        out.doc_string = graph.doc_string or ""
        entry = peek(graph)
        if graph is not self.graph and entry is not None:
            out.metadata_props.extend(_props(entry.metadata))
            if entry.proto is not None:
                out.quantization_annotation.extend(entry.proto.graph.quantization_annotation)
        for tensor in graph.inputs:
            self._info(tensor, out.input.add())
        for tensor in graph.outputs:
            self._info(tensor, out.output.add())
        known = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for constant in self.homes.get(id(graph), ()):
            if isinstance(constant._values, SparseTensor):
                sparse = out.sparse_initializer.add()
                sparse.CopyFrom(constant._values.tensor)
                sparse.values.name = constant.name
            else:
                self._initializer(constant, out)
            note = peek(constant)
            if note is not None and note.denotation == "listed" and (self.graph.ir_version or 8) < 4:
                self._info(constant, out.input.add())
        for tensor in graph.inputs:
            note = peek(tensor)
            if note is not None and note.default is not None:
                self._initializer(note.default, out)
        for node in graph.nodes:
            self._node(node, out.node.add())
            for tensor in node.outputs:
                if tensor.name and id(tensor) not in known and _is_described(tensor):
                    self._info(tensor, out.value_info.add())

    def _initializer(self, constant: gs.Constant, out: onnx.GraphProto) -> None:
        written = self.tensor(constant)
        self._require(written.data_type)
        out.initializer.append(written)
        note = peek(constant)
        if note is not None and (note.doc_string or note.metadata):
            last = out.initializer[-1]
            last.doc_string = note.doc_string
            del last.metadata_props[:]
            last.metadata_props.extend(_props(note.metadata))

    def _require(self, number: int) -> None:
        label = dtypes.name(number)
        for mark, version in _LEAST_IR.items():
            if mark in label:
                self.needs = max(self.needs, version)

    def _info(self, tensor: gs.Tensor, out: onnx.ValueInfoProto) -> None:
        out.name = tensor.name
        entry = peek(tensor)
        if entry is not None:
            out.doc_string = entry.doc_string
            out.metadata_props.extend(_props(entry.metadata))
            if entry.type_proto is not None:
                out.type.CopyFrom(entry.type_proto)
                if entry.type_proto.WhichOneof("value") != "tensor_type":
                    return
        dtype = dtypes.of(tensor)
        if dtype is None:
            return
        number = dtypes.to_onnx(dtype)
        self._require(number)
        kind = out.type.tensor_type
        kind.elem_type = number
        shape = shapes.of(tensor)
        if shape is None:
            return
        notes = [dim.denotation for dim in kind.shape.dim]
        kind.shape.SetInParent()
        del kind.shape.dim[:]
        for axis, dim in enumerate(shape):
            made = kind.shape.dim.add()
            if isinstance(dim, int):
                made.dim_value = dim
            elif dim is not None:
                made.dim_param = dim
            if axis < len(notes) and notes[axis]:
                made.denotation = notes[axis]

    def _node(self, node: gs.Node, out: onnx.NodeProto) -> None:
        out.op_type, out.name = node.op, node.name
        if node.domain:
            out.domain = node.domain
        out.input.extend([tensor.name for tensor in node.inputs])
        out.output.extend([tensor.name for tensor in node.outputs])
        for name, value in node.attrs.items():
            self._attribute(name, value, out.attribute.add())
        entry = peek(node)
        if entry is None:
            return
        out.doc_string = entry.doc_string
        if entry.overload:
            out.overload = entry.overload
            self.needs = max(self.needs, 10)
        metadata = dict(entry.metadata)
        if entry.origin:
            names = flatten(entry.origin)
            if names != [node.name] or entry.rules:
                metadata["graphopt.origin"] = json.dumps(names)
        if entry.rules:
            metadata["graphopt.rule"] = json.dumps(flatten(entry.rules))
        if metadata:
            out.metadata_props.extend(_props(metadata))
            self.needs = max(self.needs, 10)

    def _attribute(self, name: str, value: Any, out: AttributeProto) -> None:
        if isinstance(value, AttributeProto):
            out.CopyFrom(value)
        elif isinstance(value, gs.Node.AttributeRef):
            out.name, out.ref_attr_name = name, value.name
            out.type = getattr(value, "onnx_type", None) or _referred(value.type)
        elif type(value) is int:
            out.name, out.type, out.i = name, AttributeProto.INT, value
        elif type(value) is float:
            out.name, out.type, out.f = name, AttributeProto.FLOAT, value
        elif isinstance(value, gs.Constant):
            out.name, out.type = name, AttributeProto.TENSOR
            out.t.CopyFrom(self.tensor(value))
        elif isinstance(value, gs.Graph):
            out.name, out.type = name, AttributeProto.GRAPH
            self._graph(value, out.g)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            out.name, out.type = name, AttributeProto.GRAPHS
            for body in value:
                self._graph(body, out.graphs.add())
        elif isinstance(value, (list, tuple)) and not value:
            out.name, out.type = name, AttributeProto.INTS
        else:
            out.CopyFrom(helper.make_attribute(name, dtypes.to_onnx(value) if isinstance(value, type) else value))

    def _function(self, function: gs.Function, out: onnx.FunctionProto) -> None:
        out.name, out.domain, out.doc_string = function.name, function.domain or "", function.doc_string or ""
        entry = peek(function)
        if entry is not None:
            if entry.overload:
                out.overload = entry.overload
                self.needs = max(self.needs, 10)
            out.metadata_props.extend(_props(entry.metadata))
        out.input.extend([tensor.name for tensor in function.inputs])
        out.output.extend([tensor.name for tensor in function.outputs])
        for name, value in function.attrs.items():
            if value is None:
                out.attribute.append(name)
            else:
                self._attribute(name, value, out.attribute_proto.add())
        for constant in self.homes.get(id(function), ()):
            node = out.node.add()
            node.op_type, node.name = "Constant", f"{constant.name}_constant"
            node.output.append(constant.name)
            self._attribute("value", constant, node.attribute.add())
        known = {id(tensor) for tensor in (*function.inputs, *function.outputs)}
        described = False
        for node in function.nodes:
            self._node(node, out.node.add())
            for tensor in node.outputs:
                if tensor.name and id(tensor) not in known and peek(tensor) is not None and _is_described(tensor):
                    self._info(tensor, out.value_info.add())
                    described = True
        self.needs = max(self.needs, 10 if described else 8)
        _imports(function, out.opset_import)


def _homes(graph: gs.Graph) -> dict[int, list[gs.Constant]]:
    """id(scope) -> the constants written there: in the scope that uses them, or where all their users can see them.

    Gives a fresh name to a constant whose name would meet another value's.
    """
    result: dict[int, list[gs.Constant]] = {}
    for root in (graph, *graph.functions):
        taken: dict[str, int] = {}
        homes: dict[int, tuple[gs.Constant, gs.Graph]] = {}

        def claim(tensor: gs.Tensor, scope: gs.Graph, homes: Any = homes, root: gs.Graph = root) -> None:
            if isinstance(tensor, gs.Constant):
                known = homes.get(id(tensor))
                if known is None:
                    homes[id(tensor)] = (tensor, scope)
                elif known[1] is not scope:
                    homes[id(tensor)] = (tensor, root)

        for scope in scopes(root, functions=False):
            for tensor in scope.inputs:
                taken.setdefault(tensor.name, id(tensor))
            for node in scope.nodes:
                for tensor in node.outputs:
                    taken.setdefault(tensor.name, id(tensor))
                for tensor in node.inputs:
                    claim(tensor, scope)
            for tensor in scope.outputs:
                claim(tensor, scope)
        results = {id(tensor) for tensor in root.outputs}
        for constant, scope in homes.values():
            owner = taken.setdefault(constant.name, id(constant))
            if owner != id(constant) and id(constant) not in results:
                constant.name = _free(constant.name, taken)
                taken[constant.name] = id(constant)
            result.setdefault(id(scope), []).append(constant)
    return result


def _free(stem: str, taken: dict[str, int]) -> str:
    number = 1
    while f"{stem}_{number}" in taken:
        number += 1
    return f"{stem}_{number}"


def _is_described(tensor: gs.Tensor) -> bool:
    entry = peek(tensor)
    return isinstance(tensor, gs.Variable) and (
        tensor.dtype is not None or (entry is not None and entry.type_proto is not None)
    )


def _props(entries: dict[str, str]) -> Iterable[onnx.StringStringEntryProto]:
    return [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]


def _referred(kind: Any) -> int:
    return {float: AttributeProto.FLOAT, int: AttributeProto.INT, str: AttributeProto.STRING}.get(
        kind, kind if isinstance(kind, int) else AttributeProto.INTS
    )


def _imports(graph: gs.Graph, out: Any) -> None:
    entries = list(graph.import_domains or [helper.make_opsetid("", graph.opset)])
    known = {entry.domain for entry in entries} | ({""} if any(e.domain == "ai.onnx" for e in entries) else set())
    for scope in scopes(graph, functions=False):
        for node in scope.nodes:
            domain = node.domain or ""
            if domain not in known and domain != "ai.onnx":
                known.add(domain)
                entries.append(helper.make_opsetid(domain, graph.opset if not domain else 1))
    del out[:]
    out.extend(entries)


def node_to_proto(node: gs.Node) -> onnx.NodeProto:
    """One node as a message, without its lineage."""
    writer = Writer.__new__(Writer)
    writer.tensor, writer.homes, writer.needs = proto, {}, 4
    out = onnx.NodeProto()
    writer._node(node, out)
    return out
