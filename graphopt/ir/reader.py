"""From ModelProto to `gs.Graph`, with nothing lost but initializers that nothing reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from graphopt.errors import ModelError
from . import dtypes
from .external import Files
from .graph import extras, new_constant, new_node, new_variable
from .order import is_sorted, toposort
from .shapes import Dim
from .weights import ProtoValues, SparseTensor, stored_bytes

Names = dict[str, gs.Tensor]

_SIMPLE = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.INTS: lambda a: list(a.ints),
}
_REFERRED = {
    AttributeProto.FLOAT: float,
    AttributeProto.INT: int,
    AttributeProto.STRING: str,
}


class Reader:
    """Builds graphs from one model message."""

    def __init__(self, model: onnx.ModelProto, files: Files) -> None:
        self.model = model
        self.files = files
        self.listed = model.ir_version < 4
        """Before IR version 4 an initializer had to be listed as an input as well."""
        self.taken: set[str] = set()
        self._count: dict[str, int] = {}
        self._functions: list[gs.Function] = []

    def read(self) -> gs.Graph:
        """The whole model. Raises ModelError."""
        model = self.model
        imports = list(model.opset_import)
        opset = _opset(imports)
        if opset is None and not model.functions and not any(entry.domain for entry in imports):
            raise ModelError("the model imports no opset", hint="its exporter left out opset_import")
        for group in [model.graph.node, *(function.node for function in model.functions)]:
            for node in group:
                self._count[node.name] = self._count.get(node.name, 0) + 1
        for function in model.functions:
            self._functions.append(self._function(function, imports))
        _refuse_recursion(self._functions)
        graph = self._graph(model.graph, {}, opset or 1, imports, "graph")
        graph._functions = self._functions
        for function in self._functions:
            function._functions = self._functions
        graph.producer_name, graph.producer_version = model.producer_name, model.producer_version
        graph.ir_version = model.ir_version
        graph.doc_string = model.graph.doc_string
        entry = extras(graph)
        rest = onnx.ModelProto()
        for name in ("domain", "model_version", "doc_string"):
            if model.HasField(name):
                setattr(rest, name, getattr(model, name))
        rest.metadata_props.extend(model.metadata_props)
        rest.training_info.extend(model.training_info)
        rest.configuration.extend(model.configuration)
        rest.graph.quantization_annotation.extend(model.graph.quantization_annotation)
        rest.graph.metadata_props.extend(model.graph.metadata_props)
        entry.proto = rest
        return graph

    # -- values ------------------------------------------------------------------------------------------------

    def constant(self, tensor: onnx.TensorProto) -> gs.Constant:
        """A constant over the message's values, or over its external file."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            values: Any = self.files.values(tensor)
        else:
            _check_tensor(tensor)
            values = ProtoValues(tensor)
        made = new_constant(tensor.name, values)
        if tensor.doc_string or tensor.metadata_props:
            entry = extras(made)
            entry.doc_string = tensor.doc_string
            entry.metadata = {prop.key: prop.value for prop in tensor.metadata_props}
        return made

    def _describe(self, tensor: gs.Tensor, info: onnx.ValueInfoProto) -> None:
        kind = info.type
        which = kind.WhichOneof("value")
        if isinstance(tensor, gs.Variable) and which is not None:
            tensor.type = which
            if which == "tensor_type":
                tensor.dtype = dtypes.from_onnx(kind.tensor_type.elem_type)
                if kind.tensor_type.HasField("shape"):
                    tensor.shape = tuple(_dim(dim) for dim in kind.tensor_type.shape.dim)
            plain = which == "tensor_type" and not kind.denotation
            if plain and kind.tensor_type.HasField("shape"):
                plain = not any(dim.denotation for dim in kind.tensor_type.shape.dim)
            if not plain:
                extras(tensor).type_proto = kind
        if info.doc_string or info.metadata_props:
            entry = extras(tensor)
            entry.doc_string = info.doc_string
            entry.metadata = {prop.key: prop.value for prop in info.metadata_props}

    # -- graphs ------------------------------------------------------------------------------------------------

    def _graph(
        self, proto: onnx.GraphProto, outer: Mapping[str, gs.Tensor], opset: int, imports: Any, where: str
    ) -> Any:
        names: Names = {}
        inputs = []
        for info in proto.input:
            if info.name in names:
                raise ModelError(f"input {info.name!r} is declared twice", where=where)
            names[info.name] = new_variable(info.name)
            self._describe(names[info.name], info)
            inputs.append(names[info.name])
        self._initializers(proto, names, inputs, where)
        infos = {info.name: info for info in proto.value_info}
        results = {info.name: info for info in proto.output}
        nodes = self._nodes(proto.node, names, outer, opset, imports, where)
        for name, tensor in names.items():
            info = infos.get(name)
            if info is not None and isinstance(tensor, gs.Variable) and tensor.dtype is None:
                self._describe(tensor, info)
        outputs = []
        for name, info in results.items():
            tensor = names.get(name)
            if tensor is None:
                tensor = outer.get(name)
            if tensor is None:
                raise ModelError(f"output {name!r} is made by no node", where=where)
            if name in names:
                self._describe(tensor, info)
            outputs.append(tensor)
        if len(results) != len(proto.output):
            outputs = [names.get(info.name) or outer[info.name] for info in proto.output]
        graph = gs.Graph(nodes, inputs, outputs, proto.name, proto.doc_string, opset, imports)
        if outer or where != "graph":
            entry = extras(graph)
            entry.metadata = {prop.key: prop.value for prop in proto.metadata_props}
            if proto.quantization_annotation:
                entry.proto = onnx.ModelProto()
                entry.proto.graph.quantization_annotation.extend(proto.quantization_annotation)
        return graph

    def _initializers(self, proto: onnx.GraphProto, names: Names, inputs: list[gs.Tensor], where: str) -> None:
        seen: set[str] = set()
        pairs = [(t.name, self.constant(t)) for t in proto.initializer]
        for sparse in proto.sparse_initializer:
            made = new_constant(sparse.values.name, SparseTensor(sparse))
            pairs.append((sparse.values.name, made))
        for name, made in pairs:
            if name in seen:
                raise ModelError(f"initializer {name!r} is there twice", where=where)
            seen.add(name)
            given = names.get(name)
            if given is None:
                names[name] = made
            elif self.listed:
                inputs[:] = [tensor for tensor in inputs if tensor is not given]
                extras(made).denotation = "listed"
                names[name] = made
            else:
                extras(given).default = made

    def _nodes(
        self,
        protos: Iterable[onnx.NodeProto],
        names: Names,
        outer: Mapping[str, gs.Tensor],
        opset: int,
        imports: Any,
        where: str,
    ) -> list[gs.Node]:
        protos = list(protos)
        for proto in protos:
            for name in proto.output:
                if not name:
                    continue
                if name in names:
                    raise ModelError(f"value {name!r} is defined twice", where=f"{where}, node {_label(proto)}")
                names[name] = new_variable(name)
        nodes = []
        missing = object()
        for proto in protos:
            ins = []
            for name in proto.input:
                if not name:
                    ins.append(new_variable(""))
                    continue
                tensor = names.get(name, missing)
                if tensor is missing:
                    tensor = outer.get(name, missing)
                if tensor is missing:
                    raise ModelError(f"input {name!r} is made by nothing", where=f"{where}, node {_label(proto)}")
                ins.append(tensor)
            outs = [names[name] if name else new_variable("") for name in proto.output]
            node = new_node(proto.op_type, ins, outs, {}, domain=proto.domain)
            node.name = self._node_name(proto)
            for attribute in proto.attribute:
                node.attrs[attribute.name] = self._attribute(attribute, names, outer, opset, imports, where, node)
            if proto.doc_string or proto.metadata_props or proto.overload:
                _node_extras(node, proto)
            nodes.append(node)
        if not is_sorted(nodes):
            nodes = toposort(nodes, where)
        return nodes

    def _node_name(self, proto: onnx.NodeProto) -> str:
        name = proto.name
        if name and name not in self.taken:
            self.taken.add(name)
            return name
        stem = name or proto.op_type
        number = self._count.get(f"\0{stem}", 0)
        while not name or name in self.taken or name in self._count:
            name = f"{stem}_{number}"
            number += 1
        self._count[f"\0{stem}"] = number
        self.taken.add(name)
        return name

    def _attribute(
        self, proto: AttributeProto, names: Names, outer: Mapping[str, gs.Tensor], opset: int, imports: Any, where: str,
        node: gs.Node,
    ) -> Any:  # fmt: skip
        if proto.ref_attr_name:
            kind = _REFERRED.get(proto.type)
            made = gs.Node.AttributeRef(proto.ref_attr_name, kind or proto.type)
            made.onnx_type = proto.type
            return made
        simple = _SIMPLE.get(proto.type)
        if simple is not None:
            return simple(proto)
        if proto.type == AttributeProto.STRING:
            return _text(proto.s)
        if proto.type == AttributeProto.STRINGS:
            return [_text(item) for item in proto.strings]
        if proto.type == AttributeProto.TENSOR:
            return self.constant(proto.t)
        if proto.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            inner = _Chain(names, outer)
            label = f"{where}, {node.op} {node.name}"
            bodies = [proto.g] if proto.type == AttributeProto.GRAPH else list(proto.graphs)
            made = [self._graph(body, inner, opset, imports, label) for body in bodies]
            return made[0] if proto.type == AttributeProto.GRAPH else made
        return proto

    def _function(self, proto: onnx.FunctionProto, model_imports: Any) -> gs.Function:
        imports = list(proto.opset_import) or model_imports
        names: Names = {name: new_variable(name) for name in proto.input}
        inputs = list(names.values())
        opset = _opset(imports) or 1
        where = f"function {proto.name}"
        nodes = self._nodes(proto.node, names, {}, opset, imports, where)
        for info in proto.value_info:
            if info.name in names:
                self._describe(names[info.name], info)
        try:
            outputs = [names[name] for name in proto.output]
        except KeyError as error:
            raise ModelError(f"output {error} is made by no node", where=where) from error
        attrs: dict[str, Any] = dict.fromkeys(proto.attribute)
        carrier = gs.Node("", "")
        for attribute in proto.attribute_proto:
            attrs[attribute.name] = self._attribute(attribute, {}, {}, opset, imports, where, carrier)
        made = gs.Function(
            proto.name, proto.domain, nodes, inputs, outputs, proto.doc_string, opset, imports, attrs=attrs
        )
        entry = extras(made)
        entry.overload = proto.overload
        entry.metadata = {prop.key: prop.value for prop in proto.metadata_props}
        return made


class _Chain(Mapping[str, gs.Tensor]):
    """Names of enclosing scopes, looked up from the inside out, without copying them."""

    def __init__(self, names: Names, outer: Mapping[str, gs.Tensor]) -> None:
        self.names, self.outer = names, outer

    def __getitem__(self, name: str) -> gs.Tensor:
        scope: Mapping[str, gs.Tensor] = self
        while isinstance(scope, _Chain):
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return scope[name]

    def __iter__(self) -> Any:
        yield from self.names
        yield from self.outer

    def __len__(self) -> int:
        return len(self.names) + len(self.outer)


def _opset(imports: Iterable[Any]) -> int | None:
    return next((int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx")), None)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None if kind else None


def _text(raw: bytes) -> Any:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _label(proto: onnx.NodeProto) -> str:
    return f"{proto.name!r} ({proto.op_type})" if proto.name else f"({proto.op_type})"


def _node_extras(node: gs.Node, proto: onnx.NodeProto) -> None:
    entry = extras(node)
    entry.doc_string, entry.overload = proto.doc_string, proto.overload
    entry.metadata = {prop.key: prop.value for prop in proto.metadata_props}
    for key, slot in (("graphopt.origin", "origin"), ("graphopt.rule", "rules")):
        if key in entry.metadata:
            try:
                names = json.loads(entry.metadata[key])
            except ValueError:
                continue
            if isinstance(names, list):
                setattr(entry, slot, tuple(str(name) for name in names))
                del entry.metadata[key]


def _check_tensor(tensor: onnx.TensorProto) -> None:
    where = f"initializer {tensor.name!r}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"it has negative dims {list(tensor.dims)}", where=where)
    dtype = dtypes.from_onnx(tensor.data_type)
    if dtype is None:
        raise ModelError(f"it has the unknown dtype {tensor.data_type}", where=where)
    if tensor.HasField("raw_data"):
        needed = stored_bytes(dtype, tuple(tensor.dims))
        if len(tensor.raw_data) != needed:
            raise ModelError(f"it holds {len(tensor.raw_data)} bytes, its shape needs {needed}", where=where)


def _refuse_recursion(functions: list[gs.Function]) -> None:
    import networkx as nx

    from .graph import scopes

    known = {(function.domain or "", function.name) for function in functions}
    calls = nx.DiGraph()
    for function in functions:
        for scope in scopes(function, functions=False):
            for node in scope.nodes:
                if (node.domain or "", node.op) in known:
                    calls.add_edge((function.domain or "", function.name), (node.domain or "", node.op))
    try:
        cycle = nx.find_cycle(calls)
    except (nx.NetworkXNoCycle, nx.NetworkXError):
        return
    raise ModelError(f"functions call each other in a circle: {' -> '.join(edge[0][1] for edge in cycle)}")
