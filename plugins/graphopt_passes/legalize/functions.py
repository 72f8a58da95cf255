"""Operators that ONNX itself defines by others: the definition in the place of the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.attributes import PLAIN
from graphopt.ir.convert import same_spelling
from graphopt.ir.graph import new_constant, new_variable, scopes, subgraphs
from graphopt.ir.load import load
from graphopt.ir.writer import node_to_proto
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model
from graphopt_passes.copies import Copier

from .native import is_taken
from .site import Site, rewrite

FUNCTIONS = (
    "AffineGrid Attention Bernoulli BlackmanWindow CausalConvWithState Celu CenterCropPad "
    "Elu FlexAttention Gelu GroupNormalization HammingWindow HannWindow LayerNormalization LinearAttention LogSoftmax "
    "MeanVarianceNormalization Mish NegativeLogLikelihoodLoss RMSNormalization ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare RotaryEmbedding Shrink Softmax SoftmaxCrossEntropyLoss Softsign SwiGLU Swish "
    "ThresholdedRelu"
).split()


@graphopt.pass_("legalize", ops=FUNCTIONS)
def expand_functions(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x) = what ONNX's schema of f says that it is, where the target's table says that its parser does not take f.

    At the model's opset, and not where an operator of the definition is spelled otherwise there. Random operators stay
    random: Bernoulli's definition draws anew.

    Accuracy: as the definition rounds, step by step in the dtype of the model.
    """
    return rewrite(model, target, dict.fromkeys(FUNCTIONS, _expand), "expand-functions")


def _expand(site: Site) -> Any:
    if reason := is_taken(site):
        raise Skip(reason)
    return expand(site)


def expand(site: Site) -> Any:
    """The values of the node's outputs by the schema's own function body."""
    body = _body(site)
    site.by_definition = True
    if any(attribute.HasField("g") for node in body.node for attribute in node.attribute):
        return _with_bodies(site, body)
    imports = {entry.domain: entry.version for entry in body.opset_import}
    if any(node.domain not in ("", "ai.onnx") for node in body.node):
        raise Skip("its definition uses another domain")
    opset = imports.get("", site.opset)
    values: dict[str, Value | None] = {"": None}
    for inner in subgraphs(site.node):  # what its bodies capture
        for scope in scopes(inner, functions=False):
            made = {id(tensor) for node in scope.nodes for tensor in node.outputs} | set(map(id, scope.inputs))
            read = [tensor for node in scope.nodes for tensor in node.inputs if id(tensor) not in made]
            values.update({tensor.name: Value(tensor, ops=site.op) for tensor in read if tensor.name})
    for slot, name in enumerate(body.input):
        values[name] = site.input(slot)
    for node in body.node:
        if node.op_type != "Constant" and not same_spelling(node.op_type, opset, site.opset):
            raise Skip(f"its definition uses {node.op_type} as of opset {opset}")
        attrs = _attributes(node, site)
        if node.op_type == "Constant":
            values[node.output[0]] = site.op.const(_constant(attrs))
            continue
        inputs = [values[name] for name in node.input]
        results = site.op.raw(node.op_type, inputs, attrs, len(node.output))
        values.update(zip(node.output, results, strict=True))
    return [
        values[name] if site.wants(slot) or name in values else None
        for slot, name in enumerate(body.output[: len(site.node.outputs)])
    ]


def _with_bodies(site: Site, body: onnx.FunctionProto) -> Any:
    """The same for a definition that holds bodies of control flow: read as a function of a model, and copied."""
    opset = {entry.domain: entry.version for entry in body.opset_import}.get("", site.opset)
    if opset != site.opset and not all(same_spelling(op, opset, site.opset) for op in _operators(body.node)):
        raise Skip(f"its definition is of opset {opset}")
    copy = onnx.FunctionProto()
    copy.CopyFrom(body)
    copy.domain, copy.name = "definition", site.node.op
    call = onnx.helper.make_node(copy.name, list(copy.input), list(copy.output), domain=copy.domain)
    ports = [_port(name, site.input(slot)) for slot, name in enumerate(copy.input)]
    results = [_port(name, None) for name in copy.output]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([call], "g", ports, results),
        functions=[copy],
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("definition", 1)],
        ir_version=10,
    )
    function = load(model).functions[0]
    given = [
        value.tensor if value is not None and value.tensor is not None else new_variable("") for value in site.inputs
    ]
    given += [new_variable("") for _ in range(len(function.inputs) - len(given))]
    known = {id(formal): actual for formal, actual in zip(function.inputs, given, strict=False)}
    names = {
        value.name
        for node in function.nodes
        for value in node.attrs.values()
        if isinstance(value, gs.Node.AttributeRef)
    }
    copier = Copier(
        known, site.model.editor.fresh, {name: site.attr(name) for name in (*body.attribute, *names)}, site.opset
    )
    for part in function.nodes:
        site.op.made.append(copier.node(part, f"{site.node.name}/{part.name or part.op}"))
    return [Value(copier.tensor(formal), ops=site.op) for formal in function.outputs[: len(site.node.outputs)]]


def _port(name: str, value: Value | None) -> onnx.ValueInfoProto:
    dtype = dtypes.to_onnx(value.dtype) if value is not None and value.dtype is not None else onnx.TensorProto.FLOAT
    return onnx.helper.make_tensor_value_info(name, dtype, None)


def _operators(nodes: Any) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if node.op_type != "Constant":  # which has only gained ways to say it
            found.add(node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _operators(attribute.g.node)
    return found


def _body(site: Site) -> onnx.FunctionProto:
    node = site.node
    schema: Any = onnx.defs.get_schema(node.op, site.domain_opset, node.domain or "")
    newest = site.domain_opset
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= newest]
    if versions:
        proto = node_to_proto(node)
        for attribute in proto.attribute:
            _constants_as_nodes(attribute.g)
        types = [_type(tensor).SerializeToString() for tensor in node.inputs]
        raw = schema.get_context_dependent_function_with_opset_version(max(versions), proto.SerializeToString(), types)
    else:
        versions = [v for v in schema.function_opset_versions if v <= newest]
        if not versions:
            raise Skip(f"ONNX does not define {node.op} by other operators at opset {site.opset}")
        raw = schema.get_function_with_opset_version(max(versions))
    if isinstance(raw, onnx.FunctionProto):
        return raw
    if not raw:
        raise Skip("ONNX's definition does not cover these types")
    found: onnx.FunctionProto = onnx.FunctionProto.FromString(raw)
    return found


def _constants_as_nodes(body: onnx.GraphProto) -> None:
    """ONNX's own expansion of bodies knows nodes alone."""
    made = [onnx.helper.make_node("Constant", [], [one.name], value=one) for one in body.initializer]
    if made:
        rest = list(body.node)
        del body.node[:], body.initializer[:]
        body.node.extend([*made, *rest])


def _type(tensor: gs.Tensor) -> onnx.TypeProto:
    if not tensor.name:
        return onnx.TypeProto()
    dtype = dtypes.of(tensor)
    if dtype is None:
        raise Skip(f"the dtype of {tensor.name!r} is unknown")
    shape = shapes.of(tensor)
    return onnx.helper.make_tensor_type_proto(dtypes.to_onnx(dtype), shape)


def _attributes(node: onnx.NodeProto, site: Site) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in node.attribute:
        if one.ref_attr_name:
            value = site.attr(one.ref_attr_name)
            if value is not None:
                found[one.name] = value
        elif one.type == onnx.AttributeProto.TENSOR:
            found[one.name] = new_constant(one.t.name, numpy_helper.to_array(one.t))
        elif one.type in PLAIN:
            found[one.name] = PLAIN[one.type](one)
        else:
            raise Skip(f"its definition has bodies ({node.op_type})")
    return found


def _constant(attrs: dict[str, Any]) -> Any:
    for name, value in attrs.items():
        if name == "value":
            return value.values if isinstance(value, gs.Constant) else value
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Skip("its definition has a constant without a value")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [expand_functions]
