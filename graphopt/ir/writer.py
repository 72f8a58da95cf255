"""From `gs.Graph` to ModelProto."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import EncodeError
from onnx import AttributeProto, TensorProto, helper

from graphopt.errors import ModelError

from . import dtypes, lineage, shapes
from .attributes import write_plain
from .declared import type_bytes, write_type
from .graph import peek, scopes
from .naming import Plan, plan
from .weights import SparseTensor, fill, nbytes

TensorWriter = Callable[[gs.Constant, TensorProto], None]

_LEAST_IR = {"float8": 9, "int4": 10, "float4": 11, "e8m0": 12, "int2": 13, "float6e": 14}


class Writer:
    """Writes one model.

    tensor: how a weight is written; late: which initializers of the main graph the caller writes itself afterwards.
    """

    def __init__(
        self,
        graph: gs.Graph,
        tensor: TensorWriter = fill,
        late: Callable[[gs.Constant], bool] = lambda constant: False,
    ) -> None:
        self.graph = graph
        self.tensor = tensor
        self.late = late
        self.later: list[gs.Constant] = []
        self.plan = Plan()
        self.needs = 0
        self._node_names: set[str] | None = None
        self._lines: list[tuple[onnx.NodeProto, lineage.Line]] | None = None
        """The lineage of what was written of the main graph; None: it goes to each node."""

    def model(self) -> onnx.ModelProto:
        """The message. Raises ModelError where the graph is no valid model, and beyond protobuf's 2 GB."""
        graph = self.graph
        self.plan = plan(graph)
        entry = peek(graph)
        model = onnx.ModelProto()
        try:
            if entry is not None and entry.proto is not None:
                model.CopyFrom(entry.proto)
            self._lines = []
            self._graph(graph, model.graph)
            lines, self._lines = self._lines, None
            weights = sum(nbytes(constant) for constant in self.plan.homes.get(id(graph), ()))
            if lineage.write(lines, model, weights):
                self.needs = max(self.needs, 10)
            model.producer_name, model.producer_version = graph.producer_name or "", graph.producer_version or ""
            del model.functions[:]
            for function in graph.functions:
                self._function(function, model.functions.add())
            _imports(graph, model.opset_import)
            model.ir_version = max(int(graph.ir_version or 8), self.needs)
            if model.ir_version < 4:
                for constant in self.plan.homes.get(id(graph), ()):
                    self._info(constant, model.graph.input.add())
        except (ValueError, TypeError, EncodeError) as error:
            raise ModelError(f"the model cannot be written: {error}") from error
        return model

    def header(self, constant: gs.Constant) -> TensorProto:
        """The constant without its values."""
        values = constant._values
        out = TensorProto(name=self._name(constant), data_type=dtypes.to_onnx(values.dtype), dims=values.shape)
        self._note(constant, out)
        return out

    def _metadata(self, entries: dict[str, str], out: Any) -> None:
        if entries:
            for key, value in entries.items():
                prop = out.metadata_props.add()
                prop.key, prop.value = key, value
            self.needs = max(self.needs, 10)

    def _free_node_name(self, stem: str) -> str:
        if self._node_names is None:
            self._node_names = {node.name for scope in scopes(self.graph) for node in scope.nodes}
        name, number = stem, 0
        while name in self._node_names:
            name, number = f"{stem}_{number}", number + 1
        self._node_names.add(name)
        return name

    def _name(self, tensor: gs.Tensor) -> str:
        return self.plan.renamed.get(id(tensor)) or tensor.name

    # -- graphs ------------------------------------------------------------------------------------------------

    def _graph(self, graph: gs.Graph, out: onnx.GraphProto) -> None:
        out.name = graph.name or "graph"
        if graph.doc_string:
            out.doc_string = graph.doc_string
        entry = peek(graph)
        if graph is not self.graph and entry is not None:
            self._metadata(entry.metadata, out)
            if entry.proto is not None:
                out.quantization_annotation.extend(entry.proto.graph.quantization_annotation)
                out.initializer.extend(entry.proto.graph.initializer)
        for tensor in graph.inputs:
            self._info(tensor, out.input.add())
        for tensor in graph.outputs:
            self._info(tensor, out.output.add())
        known = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for constant in self.plan.homes.get(id(graph), ()):
            if isinstance(constant._values, SparseTensor):
                sparse = out.sparse_initializer.add()
                sparse.CopyFrom(constant._values.tensor)
                sparse.values.name = self._name(constant)
            else:
                self._initializer(constant, out, graph)
            if graph is not self.graph:
                self.needs = max(self.needs, 4)  # before, an initializer had to be an input, which a body cannot have
        for tensor in graph.inputs:
            note = peek(tensor)
            if note is not None and note.default is not None:
                note.default.name = self._name(tensor)
                self._initializer(note.default, out, graph)
        add_node, add_info = out.node.add, out.value_info.add
        undeclared = entry is not None and entry.undeclared
        for node in graph.nodes:
            self._node(node, add_node())
            for tensor in node.outputs:
                if not tensor.name or id(tensor) in known or not _is_described(tensor):
                    continue
                if not undeclared or node.domain or _is_telling(tensor):
                    self._info(tensor, add_info())

    def _initializer(self, constant: gs.Constant, out: onnx.GraphProto, scope: gs.Graph) -> None:
        self._require(dtypes.to_onnx(constant._values.dtype))
        if scope is self.graph and self.late(constant):
            self.later.append(constant)
            return
        last = out.initializer.add()
        self.tensor(constant, last)
        if peek(constant) is not None or id(constant) in self.plan.renamed:
            last.name = self._name(constant)
            self._note(constant, last)

    def _note(self, constant: gs.Constant, out: TensorProto) -> None:
        note = peek(constant)
        if note is not None and (note.doc_string or note.metadata):
            out.doc_string = note.doc_string
            del out.metadata_props[:]
            self._metadata(note.metadata, out)

    def _require(self, number: int) -> None:
        version = _least_ir(number)
        if version > self.needs:
            self.needs = version

    def _info(self, tensor: gs.Tensor, out: onnx.ValueInfoProto) -> None:
        out.name = self._name(tensor)
        entry = peek(tensor)
        if entry is not None:
            if entry.doc_string:
                out.doc_string = entry.doc_string
            self._metadata(entry.metadata, out)
            if entry.type_proto is not None:
                out.type.CopyFrom(entry.type_proto)
                if entry.type_proto.WhichOneof("value") != "tensor_type":
                    return
        dtype, shape = dtypes.of(tensor), shapes.of(tensor)
        if dtype is None and shape is None:
            return
        number = 0 if dtype is None else dtypes.to_onnx(dtype)
        self._require(number)
        if entry is None or entry.type_proto is None:
            out.MergeFromString(type_bytes(number, shape))
        else:
            write_type(number, shape, out.type)

    def _node(self, node: gs.Node, out: onnx.NodeProto) -> None:
        out.op_type, out.name = node.op, node.name
        if node.domain:
            out.domain = node.domain
        renamed = self.plan.renamed
        add = out.input.append
        for tensor in node.inputs:
            add((renamed and renamed.get(id(tensor))) or tensor.name)
        add = out.output.append
        for tensor in node.outputs:
            add((renamed and renamed.get(id(tensor))) or tensor.name)
        for name, value in node.attrs.items():
            try:
                self._attribute(name, value, out.attribute.add())
            except (ValueError, TypeError) as error:
                raise ModelError(
                    f"attribute {name!r} cannot be written: {error}", where=f"node {node.name!r}"
                ) from error
        entry = peek(node)
        if entry is None:
            return
        if entry.proto is not None:
            out.device_configurations.extend(entry.proto.device_configurations)
            notes = {attribute.name: attribute.doc_string for attribute in entry.proto.attribute}
            for attribute in out.attribute:
                if attribute.name in notes:
                    attribute.doc_string = notes[attribute.name]
        if entry.doc_string:
            out.doc_string = entry.doc_string
        if entry.overload:
            out.overload = entry.overload
            self.needs = max(self.needs, 10)
        metadata, line = entry.metadata, lineage.of(node, entry)
        if line is not None and self._lines is not None:
            self._lines.append((out, line))
        elif line is not None:
            metadata = {**metadata, **lineage.notes(line)}
        self._metadata(metadata, out)

    def _attribute(self, name: str, value: Any, out: AttributeProto) -> None:
        if isinstance(value, gs.Constant):
            out.name, out.type = name, AttributeProto.TENSOR
            self.tensor(value, out.t)
            self._require(out.t.data_type)
        elif isinstance(value, gs.Graph):
            out.name, out.type = name, AttributeProto.GRAPH
            self._graph(value, out.g)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            out.name, out.type = name, AttributeProto.GRAPHS
            for body in value:
                self._graph(body, out.graphs.add())
        else:
            write_plain(name, value, out)

    def _function(self, function: gs.Function, out: onnx.FunctionProto) -> None:
        out.name, out.domain = function.name, function.domain or ""
        if function.doc_string:
            out.doc_string = function.doc_string
        entry = peek(function)
        if entry is not None:
            if entry.overload:
                out.overload = entry.overload
                self.needs = max(self.needs, 10)
            self._metadata(entry.metadata, out)
        out.input.extend([self._name(tensor) for tensor in function.inputs])
        out.output.extend([self._name(tensor) for tensor in function.outputs])
        for name, value in function.attrs.items():
            if value is None:
                out.attribute.append(name)
            else:
                self._attribute(name, value, out.attribute_proto.add())
        for constant in self.plan.homes.get(id(function), ()):
            node, name = out.node.add(), self._name(constant)
            node.op_type, node.name = "Constant", self._free_node_name(f"{name}_constant")
            node.output.append(name)
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


@cache
def _least_ir(number: int) -> int:
    label = dtypes.name(number)
    return max((version for mark, version in _LEAST_IR.items() if mark in label), default=0)


def _is_described(tensor: gs.Tensor) -> bool:
    entry = peek(tensor)
    return isinstance(tensor, gs.Variable) and (
        tensor.dtype is not None or (entry is not None and entry.type_proto is not None)
    )


_PLAIN = frozenset(map(np.dtype, ("float32", "float64", "int64", "int32", "bool")))


def _is_telling(tensor: gs.Tensor) -> bool:
    """Whether the type is one that readers of the file look for where the source declares none: low, or no tensor."""
    return peek(tensor) is not None or tensor.dtype not in _PLAIN


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
    out = onnx.NodeProto()
    Writer(gs.Graph())._node(node, out)
    return out
