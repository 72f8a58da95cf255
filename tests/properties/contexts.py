"""The same computation inside an If, or inside a model-local function."""

from __future__ import annotations

import onnx
import onnx.compose
from onnx import helper


def in_branch(source: onnx.ModelProto) -> onnx.ModelProto:
    """If(flag) runs the graph, else a copy of it; the weights stay outside, where both capture them."""
    graph = source.graph
    weights = {tensor.name for tensor in graph.initializer}
    branches = []
    for prefix in ("then_", "else_"):
        keep = weights | {port.name for port in graph.input}
        names = {name: prefix + name for node in graph.node for name in node.output if name and name not in keep}
        nodes = []
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = ""
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
            nodes.append(copy)
        outputs = []
        for port in graph.output:
            info = onnx.ValueInfoProto()
            info.CopyFrom(port)
            info.name = names[port.name]
            outputs.append(info)
        branches.append(helper.make_graph(nodes, prefix, [], outputs))
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    choice = helper.make_node(
        "If", ["flag"], [port.name for port in graph.output], then_branch=branches[0], else_branch=branches[1]
    )
    outer = helper.make_graph([choice], "g", [*graph.input, flag], graph.output, graph.initializer)
    return helper.make_model(outer, opset_imports=source.opset_import, ir_version=10)


def in_function(source: onnx.ModelProto) -> onnx.ModelProto:
    """One call of a function whose body is the graph, its weights Constant nodes."""
    graph = source.graph
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    inputs, outputs = [port.name for port in graph.input], [port.name for port in graph.output]
    body = helper.make_function("local", "Body", inputs, outputs, [*constants, *graph.node], source.opset_import)
    call = helper.make_node("Body", inputs, outputs, domain="local")
    outer = helper.make_graph([call], "g", graph.input, graph.output)
    imports = [*source.opset_import, helper.make_opsetid("local", 1)]
    return helper.make_model(outer, opset_imports=imports, functions=[body], ir_version=10)


def suits(source: onnx.ModelProto) -> bool:
    """Whether the graph is plain: no functions or graphs inside, every output made by a node."""
    made = {name for node in source.graph.node for name in node.output}
    inner = any(attribute.HasField("g") for node in source.graph.node for attribute in node.attribute)
    return not source.functions and not inner and all(port.name in made for port in source.graph.output)
