"""Load then write is the identity, up to what is named in `canonical`."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import numpy_helper

from graphopt.ir.fingerprint import fingerprint, signature
from graphopt.ir.load import load
from graphopt.ir.save import to_proto

from .operator_models import cases, sample


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """What a round trip may change: names of unnamed nodes, order of initializers and value_info, raw or typed data,
    initializers that nothing reads, empty strings against absent ones."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in reversed(_graphs(copy)):
        read = {name for inner in _graphs_below(graph) for node in inner.node for name in node.input}
        read |= {out.name for inner in _graphs_below(graph) for out in inner.output}
        read |= {one.name for one in graph.input}
        keep = sorted((_raw(t) for t in graph.initializer if t.name in read), key=lambda t: t.name)
        sparse = sorted((t for t in graph.sparse_initializer if t.values.name in read), key=lambda t: t.values.name)
        made = {name for node in graph.node for name in node.output}
        infos = sorted((i for i in graph.value_info if i.name in made), key=lambda i: i.name)
        for field, values in (("initializer", keep), ("sparse_initializer", sparse), ("value_info", infos)):
            graph.ClearField(field)
            getattr(graph, field).extend(values)
    for nodes in reversed(_node_lists(copy)):  # bodies before the nodes that hold them
        for node in nodes:
            node.ClearField("name")
            attributes = sorted(node.attribute, key=lambda a: a.name)
            node.ClearField("attribute")
            for attribute in attributes:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    attribute.t.CopyFrom(_raw(attribute.t))
                attribute.ClearField("doc_string")
            node.attribute.extend(attributes)
    _clear_empty(copy)
    return copy


def _clear_empty(message: Any) -> None:
    """An empty string and an absent one mean the same."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if hasattr(value, "__len__") else [value]:
                _clear_empty(item)
        elif value in ("", b"") and not hasattr(value, "append"):
            message.ClearField(field.name)


def _raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type == onnx.TensorProto.STRING:
        return tensor
    made = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    made.doc_string = tensor.doc_string
    return made


def _graphs_below(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found += _graphs_below(body)
    return found


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    found = _graphs_below(model.graph)
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    found += _graphs_below(attribute.g)
    return found


def _node_lists(model: onnx.ModelProto) -> list[object]:
    return [f.node for f in model.functions] + [g.node for g in _graphs(model)]


def test_every_operator_model_survives_a_round_trip() -> None:
    lost = []
    for case in cases():
        model = case.model()
        before = canonical(model)
        after = to_proto(load(model))
        after.ir_version = max(after.ir_version, before.ir_version)
        raised = after.ir_version - before.ir_version
        before.ir_version = after.ir_version
        if canonical(after) != before or raised:
            lost.append(f"{case.kind} {case.name} {raised}")
    assert not lost, f"{len(lost)} of {len(cases())}: {lost[:20]}"


def test_a_second_load_has_the_same_fingerprint() -> None:
    for case in sample(17):
        graph = load(case.model())
        before = signature(graph)
        assert fingerprint(graph) == fingerprint(load(to_proto(graph))), case.name
        assert signature(graph) == before, case.name
