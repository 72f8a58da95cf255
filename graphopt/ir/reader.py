"""From ModelProto to `gs.Graph`, with nothing lost but initializers that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, numpy_helper

from graphopt.errors import ModelError

from . import lineage
from .attributes import PLAIN, node_names, reference
from .chain import Chain
from .declared import prose, read_type
from .external import Files
from .graph import extras, new_constant, new_node, new_variable, scopes
from .notes import metadata
from .order import is_sorted, toposort
from .shapes import Shape
from .validity import Forms, check_arity, check_bodies, check_calls, check_imports, check_text, label, wrong_kind
from .weights import ProtoValues, SparseTensor, read, stored
from .weights import proto as as_message

Names = dict[str, gs.Tensor]
_EXTERNAL, _GRAPH, _GRAPHS = map(int, (onnx.TensorProto.EXTERNAL, AttributeProto.GRAPH, AttributeProto.GRAPHS))
_RARE = (AttributeProto.TENSORS, AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)


class Reader:
    """Builds graphs from one model message. notes: with what exporters note about every node for their own use."""

    def __init__(self, model: onnx.ModelProto, files: Files, notes: bool = True) -> None:
        self.model = model
        self.files = files
        self.notes = notes
        self.listed = model.ir_version < 4
        """Before IR version 4 an initializer had to be listed as an input as well."""
        self.taken: set[str] = set()
        self._given: set[str] | None = None
        self._in_function = False
        self._count: dict[str, int] = {}
        self._unread: dict[int, list[onnx.TensorProto]] = {}  # by id(graph): named by annotations or training only
        self._forms_of: dict[int, tuple[Any, Forms]] = {}
        self._types: dict[bytes, tuple[str, Any, Shape, bool]] = {}

    def read(self) -> gs.Graph:
        """The whole model. Raises ModelError."""
        model = self.model
        imports = list(model.opset_import)
        check_imports(imports, "opset_import")
        opset = _opset(imports)
        if model.ir_version < 0:
            raise ModelError(f"its IR version is {model.ir_version}")
        if opset is None and not model.functions and not any(entry.domain for entry in imports):
            raise ModelError("the model imports no opset", hint="its exporter left out opset_import")
        self._in_function = True
        functions = [self._function(function, imports) for function in model.functions]
        self._in_function = False
        if functions:
            check_calls(functions)
        graph = self._graph(model.graph, {}, opset or 1, imports, "graph")
        for tensor in graph.inputs:
            if isinstance(tensor, gs.Variable) and tensor.dtype is None and tensor.type == "tensor_type":
                raise ModelError(f"input {tensor.name!r} has no type", where="graph")
        graph._functions = functions
        for scope in scopes(graph):  # graphsurgeon: one list, shared by all
            scope._functions = functions
        if functions:
            check_arity(graph, functions)
        graph.producer_name, graph.producer_version = prose(model.producer_name), prose(model.producer_version)
        graph.ir_version = model.ir_version
        graph.doc_string = prose(model.graph.doc_string)
        entry = extras(graph)
        rest = onnx.ModelProto()
        for name in ("domain", "model_version", "doc_string"):
            if model.HasField(name):
                value = getattr(model, name)
                setattr(rest, name, value if isinstance(value, int) else prose(value))
        rest.metadata_props.extend(model.metadata_props)
        lineage.restore(graph, rest.metadata_props)
        rest.training_info.extend(model.training_info)
        rest.configuration.extend(model.configuration)
        rest.graph.quantization_annotation.extend(model.graph.quantization_annotation)
        rest.graph.initializer.extend(self._unread.get(id(graph), ()))
        rest.graph.metadata_props.extend(model.graph.metadata_props)
        entry.proto = rest
        return graph

    # -- values ------------------------------------------------------------------------------------------------

    def constant(self, tensor: onnx.TensorProto, kind: str = "initializer") -> gs.Constant:
        """A constant over the message's values, or over its external file."""
        name = tensor.name
        if tensor.data_location == _EXTERNAL:
            made = new_constant(name, self.files.values(tensor))
        else:
            made = new_constant(name, ProtoValues(tensor, *stored(tensor, f"{kind} {name!r}")))
        if tensor.doc_string or tensor.metadata_props:
            entry = extras(made)
            entry.doc_string = prose(tensor.doc_string)
            entry.metadata = metadata(tensor, self.notes)
        return made

    def _sparse(self, tensor: onnx.SparseTensorProto) -> gs.Constant:
        where = f"sparse initializer {tensor.values.name!r}"
        whole = onnx.SparseTensorProto()
        whole.CopyFrom(tensor)
        for part in (whole.values, whole.indices):
            if part.data_location == onnx.TensorProto.EXTERNAL:
                part.CopyFrom(numpy_helper.from_array(self.files.values(part).load(), part.name))
            stored(part, where)
        return new_constant(tensor.values.name, SparseTensor(whole, where))

    def _describe(self, tensor: gs.Tensor, info: onnx.ValueInfoProto) -> None:
        kind = info.type
        if isinstance(tensor, gs.Variable):
            key = kind.SerializeToString()
            found = self._types.get(key)
            if found is None:
                found = self._types[key] = read_type(kind, info.name)
            which, dtype, shape, plain = found
            if which:
                tensor.type = which
                if which == "tensor_type":
                    tensor.dtype = dtype
                    if shape is not None:
                        tensor.shape = shape
                if not plain:
                    extras(tensor).type_proto = kind
        if info.doc_string or info.metadata_props:
            entry = extras(tensor)
            entry.doc_string = prose(info.doc_string)
            entry.metadata = metadata(info, self.notes)

    # -- graphs ------------------------------------------------------------------------------------------------

    def _graph(
        self, proto: onnx.GraphProto, outer: Mapping[str, gs.Tensor], opset: int, imports: Any, where: str
    ) -> Any:
        names: Names = {}
        inputs = []
        for info in proto.input:
            if not info.name or info.name in names:
                raise ModelError(
                    f"input {info.name!r} is declared twice" if info.name else "an input has no name", where=where
                )
            names[info.name] = new_variable(info.name)
            self._describe(names[info.name], info)
            inputs.append(names[info.name])
        self._initializers(proto, names, inputs, where)
        nodes = self._nodes(proto.node, names, outer, opset, imports, where)
        for info in proto.value_info:
            tensor = names.get(info.name)
            if isinstance(tensor, gs.Variable) and tensor.dtype is None:
                self._describe(tensor, info)
        outputs = []
        for info in proto.output:
            own = names.get(info.name)
            tensor = own if own is not None else outer.get(info.name)
            if tensor is None or not info.name:
                raise ModelError(f"output {info.name!r} is made by no node", where=where)
            if own is not None and not (isinstance(own, gs.Variable) and own.dtype is not None and not own.inputs):
                self._describe(own, info)
            outputs.append(tensor)
        graph = gs.Graph([], inputs, outputs, prose(proto.name), prose(proto.doc_string), opset, imports)
        graph.nodes = nodes  # given to the constructor, they would be searched for functions
        extras(graph).undeclared = not proto.value_info
        if proto.quantization_annotation or self.model.training_info:
            results = {id(tensor) for tensor in outputs}
            unread = [
                t
                for t in names.values()
                if isinstance(t, gs.Constant) and not (t.outputs or isinstance(t._values, SparseTensor))
            ]
            self._unread[id(graph)] = [as_message(t) for t in unread if id(t) not in results]
        if outer or where != "graph":
            entry = extras(graph)
            entry.metadata = metadata(proto, self.notes)
            if proto.quantization_annotation:
                entry.proto = onnx.ModelProto()
                entry.proto.graph.quantization_annotation.extend(proto.quantization_annotation)
                entry.proto.graph.initializer.extend(self._unread.get(id(graph), ()))
        return graph

    def _initializers(self, proto: onnx.GraphProto, names: Names, inputs: list[gs.Tensor], where: str) -> None:
        made = [self.constant(tensor) for tensor in proto.initializer]
        made += [self._sparse(tensor) for tensor in proto.sparse_initializer]
        seen: set[str] = set()
        for constant in made:
            name = constant.name
            if name in seen:
                raise ModelError(f"initializer {name!r} is there twice", where=where)
            seen.add(name)
            given = names.get(name)
            if given is None:
                if name:
                    names[name] = constant
            elif self.listed:
                inputs[:] = [tensor for tensor in inputs if tensor is not given]
                names[name] = constant
            else:
                extras(given).default = constant

    def _nodes(
        self,
        protos: Iterable[onnx.NodeProto],
        names: Names,
        outer: Mapping[str, gs.Tensor],
        opset: int,
        imports: Any,
        where: str,
    ) -> list[gs.Node]:
        forms = self._forms(imports)
        produced: Names = {}
        made = []
        for proto in protos:
            outs = []
            for name in proto.output[:]:
                tensor = new_variable(name)
                if name and (name in names or produced.setdefault(name, tensor) is not tensor):
                    raise ModelError(f"value {name!r} is defined twice", where=f"{where}, node {label(proto)}")
                outs.append(tensor)
            made.append((proto, outs))
        check_text(names, where)
        check_text(produced, where)
        names.update(produced)
        nodes, in_order, nested = [], True, False
        for proto, outs in made:
            ins: list[gs.Tensor] = []
            whole = True
            for name in proto.input[:]:
                found: gs.Tensor | None = produced.get(name)
                if found is not None:
                    in_order = in_order and bool(found.inputs)
                elif name:
                    found = names.get(name)
                    found = outer.get(name) if found is None else found
                    if found is None:
                        what = f"input {name!r} is made by nothing"
                        raise ModelError(what, where=f"{where}, node {label(proto)}")
                else:
                    found, whole = new_variable(""), False
                ins.append(found)
            op, domain = proto.op_type, proto.domain
            form = forms.find(op, domain, proto, where)
            if form is not None:
                form.check(proto, ins, len(outs), whole, where)
            node = new_node(op, ins, outs, {}, domain=domain, name=self._node_name(proto.name, op))
            attributes = proto.attribute[:]
            if attributes:
                kinds = form.kinds if form is not None else {}
                if self._attributes(node, attributes, kinds, names, outer, opset, imports, where):
                    nested = True
                    check_bodies(node, f"{where}, node {label(proto)}")
            if form is not None and form.required:
                form.check_required(proto, node.attrs, where)
            if (told := metadata(proto, self.notes)) or proto.doc_string or proto.overload:
                _node_extras(node, proto, told)
            if proto.device_configurations:
                _kept(node).device_configurations.extend(proto.device_configurations)
            nodes.append(node)
        if not in_order or (nested and not is_sorted(nodes)):
            nodes = toposort(nodes, where)
        return nodes

    def _forms(self, imports: Any) -> Forms:
        known = self._forms_of.get(id(imports))
        if known is None or known[0] is not imports:
            known = self._forms_of[id(imports)] = (imports, Forms(imports))
        return known[1]

    def _node_name(self, name: str, op: str) -> str:
        if not isinstance(name, str):
            check_text((name,), "graph")
        if name and name not in self.taken:
            self.taken.add(name)
            return name
        if self._given is None:
            groups = (self.model.graph, *self.model.functions)
            self._given = {given for group in groups for given in node_names(group.node)}
        stem = name or op
        number = self._count.get(stem, 0)
        while not name or name in self.taken or name in self._given:
            name = f"{stem}_{number}"
            number += 1
        self._count[stem] = number
        self.taken.add(name)
        return name

    def _attributes(
        self, node: gs.Node, protos: Iterable[AttributeProto], kinds: Mapping[str, int], names: Names,
        outer: Mapping[str, gs.Tensor], opset: int, imports: Any, where: str,
    ) -> bool:  # fmt: skip
        """Read them into `node.attrs`; whether there are bodies among them."""
        attrs, nested = node.attrs, False
        for attribute in protos:
            name, kind, referred = attribute.name, attribute.type, attribute.ref_attr_name
            if type(name) is not str or type(referred) is not str:
                check_text((name, referred), f"{where}, {node.op} {node.name}")
            if not name or name in attrs:
                raise ModelError(
                    f"attribute {name!r} is there twice" if name else "an attribute has no name",
                    where=f"{where}, {node.op} {node.name}",
                )
            if kinds.get(name, kind) != kind:
                raise ModelError(wrong_kind(name, kind, kinds[name]), where=f"{where}, {node.op} {node.name}")
            if attribute.doc_string:
                _kept(node).attribute.add(name=name, doc_string=prose(attribute.doc_string))
            if referred:
                if not self._in_function:
                    what = f"attribute {name!r} refers to {referred!r} of a function, outside of one"
                    raise ModelError(what, where=f"{where}, {node.op} {node.name}")
                attrs[name] = reference(attribute)
            elif kind in PLAIN:
                attrs[name] = PLAIN[kind](attribute)
            elif kind == _GRAPH:
                attrs[name] = self._graph(
                    attribute.g, Chain(names, outer), opset, imports, f"{where}, {node.op} {node.name}"
                )
                nested = True
            elif kind == _GRAPHS:
                inner, place = Chain(names, outer), f"{where}, {node.op} {node.name}"
                attrs[name] = [self._graph(body, inner, opset, imports, place) for body in attribute.graphs]
                nested = True
            else:
                attrs[name] = self._tensors(attribute, f"{where}, {node.op} {node.name}")
        return nested

    def _tensors(self, proto: AttributeProto, where: str) -> Any:
        """A tensor attribute as a constant; the rarer kinds as a message, with external values brought in."""
        if proto.type == AttributeProto.TENSOR:
            return self.constant(proto.t, f"{where}: attribute {proto.name!r}, tensor")
        if proto.type not in _RARE:
            raise ModelError(f"attribute {proto.name!r} has the unknown type {proto.type}", where=where)
        whole = AttributeProto()
        whole.CopyFrom(proto)
        for i, tensor in enumerate(proto.tensors):
            whole.tensors[i].CopyFrom(numpy_helper.from_array(read(self.constant(tensor)), tensor.name))
        for sparse in (*([whole.sparse_tensor] if whole.HasField("sparse_tensor") else []), *whole.sparse_tensors):
            sparse.CopyFrom(self._sparse(sparse)._values.tensor)
        return whole

    def _function(self, proto: onnx.FunctionProto, model_imports: Any) -> gs.Function:
        imports = list(proto.opset_import) or model_imports
        names: Names = {name: new_variable(name) for name in proto.input}
        where = f"function {proto.name}"
        check_text((proto.name, proto.domain, proto.overload, *proto.input, *proto.attribute), where)
        check_imports(imports, where)
        if len(names) != len(proto.input):
            raise ModelError("two of its inputs have one name", where=where)
        inputs = list(names.values())
        opset = _opset(imports) or 1
        nodes = self._nodes(proto.node, names, {}, opset, imports, where)
        for info in proto.value_info:
            if info.name in names:
                self._describe(names[info.name], info)
                extras(names[info.name])
        for name in proto.output:
            if name not in names:
                raise ModelError(f"output {name!r} is made by no node", where=where)
        outputs = [names[name] for name in proto.output]
        attrs: dict[str, Any] = dict.fromkeys(proto.attribute)
        carrier = gs.Node("", "")
        self._attributes(carrier, proto.attribute_proto, {}, {}, {}, opset, imports, where)
        attrs.update(carrier.attrs)
        made = gs.Function(
            proto.name, proto.domain, nodes, inputs, outputs, prose(proto.doc_string), opset, imports, attrs=attrs
        )
        entry = extras(made)
        entry.overload = proto.overload
        entry.metadata = metadata(proto, self.notes)
        return made


def _opset(imports: Iterable[Any]) -> int | None:
    return next((int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx")), None)


def _kept(node: gs.Node) -> onnx.NodeProto:
    """Fields of a node to be written back as they are: device configurations, documentation of attributes."""
    entry = extras(node)
    if entry.proto is None:
        entry.proto = onnx.NodeProto()
    return entry.proto  # type: ignore[no-any-return]


def _node_extras(node: gs.Node, proto: onnx.NodeProto, found: dict[str, str]) -> None:
    entry = extras(node)
    entry.doc_string, entry.overload, entry.metadata = prose(proto.doc_string), proto.overload, found
    lineage.take(entry)
