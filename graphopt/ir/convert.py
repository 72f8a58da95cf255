"""Another opset on request: each node is spelled as that opset wants it, by ONNX's own version converter.

The converter sees one node at a time, with the types of its inputs. Given a whole model it loses model-local functions
and metadata, leaves bodies of control flow as they are, and copies every weight.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper, version_converter

from graphopt.errors import ModelError, UsageError

from . import dtypes, shapes
from .attributes import PLAIN
from .edits import Editor, inherit
from .graph import new_constant, scopes, subgraphs
from .infer import infer
from .weights import read, size
from .writer import node_to_proto

_NAME = "--opset"
_DATA_ELEMENTS = 256
"""Constants up to this size are shown to the converter; larger ones are inputs of a known type."""


RAISED = 13
"""Where models go that are too old for the target: enough for rewrites, and still near."""
_LATE = frozenset("QLinearConv QLinearMatMul ConvInteger MatMulInteger".split())
"""Operators that are spelled with others which come at opset 11."""
_SPREAD = frozenset("Add Sub Mul Div Pow And Or Xor Greater Less Equal Gemm".split())
_NEUTRAL = {"Reshape": ("allowzero",), "Shape": ("start", "end"), "Cast": ("saturate",)}
"""Attributes that newer schemas have, and whose absence means what the older ones do anyway."""
_WORDS = {"float32": "float", "float64": "double"}


def convert_opset(graph: gs.Graph, opset: int) -> dict[str, int]:
    """Make the model one of this opset; how many nodes were spelled anew, by operator.

    Weights are neither read nor copied. The graph is left half converted where it raises.

    Raises:
        UsageError: onnx knows no such opset.
        ModelError: a node cannot be said at that opset; it is named.
    """
    newest = onnx.defs.onnx_opset_version()
    if not 7 <= opset <= newest:
        raise UsageError(f"{_NAME} {opset}: choose 7 to {newest}")
    if graph.opset == opset:
        return {}
    infer(graph)
    for scope in scopes(graph, functions=False):
        for node in scope.nodes:
            _share_dtype(node, int(graph.opset))
    edit = Editor(graph)
    if graph.opset < 7 <= opset:
        _spread_slopes(graph, edit)
        _spread_operands(graph, edit)
    changed: Counter[str] = Counter()
    known: dict[Any, list[onnx.NodeProto]] = {}
    for scope in scopes(graph, functions=False):
        for node in list(scope.nodes):
            before = max(int(graph.opset), 7) if opset >= 7 and node.op in _SPREAD else int(graph.opset)
            if _same_meaning(node, before, opset):
                continue
            if subgraphs(node):
                raise _refused(node, opset, "its bodies are fed in another way there")
            _respell(node, before, opset, edit, known)
            changed[node.op] += 1
    for function in graph.functions:
        _check_function(function, opset)
    edit.flush()
    for root in (graph, *graph.functions):
        _import(root, opset)
    return dict(changed)


def raise_opset(graph: gs.Graph, least: int, to: int) -> dict[str, Any] | None:
    """Make a model below the opset `least` one of opset `to`; what changed, or None where it is not below.

    A model without standard operators states no opset and gets one. Raises ModelError as `convert_opset` does.
    """
    imports = {entry.domain for entry in graph.import_domains or ()}
    before = int(graph.opset)
    if any(node.op in _LATE for scope in scopes(graph) for node in scope.nodes):
        least = max(least, 11)
    if before >= least and (not imports or imports & {"", "ai.onnx"}):
        return None
    if imports and not imports & {"", "ai.onnx"}:
        graph.import_domains = [*graph.import_domains, helper.make_opsetid("", to)]
        for scope in scopes(graph, functions=False):
            scope.opset = to
        return {"before": 0, "after": to, "respelled": {}}
    return {"before": before, "after": to, "respelled": convert_opset(graph, to)}


def _spread_operands(graph: gs.Graph, edit: Editor) -> None:
    """Operands below opset 7 are broadcast where `broadcast` says so, from `axis` on; later always, and from the end.

    The converter does so only for static shapes.
    """
    for scope in scopes(graph, functions=False):
        for node in list(scope.nodes):
            if node.op not in _SPREAD or not _is_standard(node):
                continue
            axis = node.attrs.pop("axis", None)
            node.attrs.pop("broadcast", None)
            if axis is None or node.op == "Gemm":
                continue
            left, right = (shapes.of(tensor) for tensor in node.inputs)
            if left is None or right is None:
                raise _refused(node, 7, "the rank of an operand is not known")
            ones = len(left) - (int(axis) % len(left)) - len(right)
            if ones > 0:
                target = edit.constant(np.array([0] * len(right) + [1] * ones, np.int64), "operand_shape")
                spread = edit.insert("Reshape", [node.inputs[1], target], at=node).outputs[0]
                spread.dtype, spread.shape = dtypes.of(node.inputs[1]), (*right, *[1] * ones)
                node.inputs[1] = spread
            edit.edited(node)


def _spread_slopes(graph: gs.Graph, edit: Editor) -> None:
    """PRelu of a vector: a slope a channel below opset 7, and broadcast along the last axis from there on."""
    for scope in scopes(graph, functions=False):
        for node in list(scope.nodes):
            if node.op != "PRelu" or not _is_standard(node):
                continue
            x, slope = (shapes.of(tensor) for tensor in node.inputs)
            if slope is None or slope == (1,) or len(slope) != 1:
                continue
            if x is None:
                raise _refused(node, 7, "the rank of its input is not known")
            if len(x) > 2:
                target = edit.constant(np.array([-1, *[1] * (len(x) - 2)], np.int64), "slope_shape")
                spread = edit.insert("Reshape", [node.inputs[1], target], at=node).outputs[0]
                spread.dtype, spread.shape = dtypes.of(node.inputs[1]), (*slope, *[1] * (len(x) - 2))
                node.inputs[1] = spread
                edit.edited(node)


def _is_standard(node: gs.Node) -> bool:
    return node.domain in (None, "", "ai.onnx")


def _same_meaning(node: gs.Node, old: int, new: int) -> bool:
    """Whether a node may stay as it is: one schema, or two that differ in dtypes which it does not have.

    Control flow has only grown by types since opset 9.
    """
    if not _is_standard(node):
        return True
    if node.op in ("If", "Loop") or (node.op == "Scan" and min(old, new) >= 9):
        return True
    if not onnx.defs.has(node.op, old) or not onnx.defs.has(node.op, new):
        return False
    before, after = onnx.defs.get_schema(node.op, old), onnx.defs.get_schema(node.op, new)
    if before.since_version == after.since_version:
        return True
    without = frozenset(set(_NEUTRAL.get(node.op, ())) - node.attrs.keys()) if new < old else frozenset()
    alike = _form(node.op, old, without) == _form(node.op, new, without)
    return not after.deprecated and alike and _accepts(node, after)


def same_spelling(op: str, old: int, new: int) -> bool:
    """Whether a standard node of this operator is spelled alike at two opsets; its dtypes are not looked at."""
    if not onnx.defs.has(op, old) or not onnx.defs.has(op, new):
        return False
    before, after = onnx.defs.get_schema(op, old), onnx.defs.get_schema(op, new)
    if before.since_version == after.since_version:
        return True
    known = frozenset(_NEUTRAL.get(op, ()))
    return not after.deprecated and _form(op, old, known) == _form(op, new, known)


def _share_dtype(node: gs.Node, opset: int) -> None:
    """Where the shape could not be inferred nothing was: an output has the dtype of the inputs of its type variable."""
    if not _is_standard(node) or not onnx.defs.has(node.op, opset):
        return
    schema = onnx.defs.get_schema(node.op, opset)
    for place, tensor in enumerate(node.outputs):
        if not isinstance(tensor, gs.Variable) or tensor.dtype is not None or tensor.type != "tensor_type":
            continue
        kind = schema.outputs[min(place, len(schema.outputs) - 1)].type_str
        if kind == "tensor(int64)":
            tensor.dtype = np.dtype(np.int64)
        for slot, given in enumerate(node.inputs):
            if given.name and schema.inputs[min(slot, len(schema.inputs) - 1)].type_str == kind:
                tensor.dtype = dtypes.of(given)
                break


@cache
def _form(op: str, opset: int, without: frozenset[str]) -> Any:
    """Everything that a schema says about the spelling of a node, but for some attributes."""
    schema = onnx.defs.get_schema(op, opset)
    attributes = sorted(
        (name, str(one.type), one.required, one.default_value.SerializeToString())
        for name, one in schema.attributes.items()
        if name not in without
    )
    slots = [[(one.option, one.is_homogeneous) for one in side] for side in (schema.inputs, schema.outputs)]
    return attributes, slots, schema.min_input, schema.max_input, schema.min_output, schema.max_output


def _accepts(node: gs.Node, schema: onnx.defs.OpSchema) -> bool:
    """Whether the schema takes the dtypes of the node's inputs and outputs."""
    for tensors, slots in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for place, tensor in enumerate(tensors):
            slot = slots[min(place, len(slots) - 1)]
            dtype = dtypes.of(tensor) if tensor.name else None
            if not tensor.name:
                continue
            if dtype is None or getattr(tensor, "type", "tensor_type") != "tensor_type":
                return False
            if f"tensor({_WORDS.get(dtypes.name(dtype), dtypes.name(dtype))})" not in slot.types:
                return False
    return True


def _refused(node: gs.Node, opset: int, why: str) -> ModelError:
    return ModelError(
        f"{node.op} cannot be said at opset {opset}: {why}",
        where=f"node {node.name!r}",
        hint="choose another --opset, or leave it out",
    )


def _respell(node: gs.Node, old: int, new: int, edit: Editor, known: dict[Any, list[onnx.NodeProto]]) -> None:
    """The node, as the converter spells it, in its place."""
    if any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()):
        raise _refused(node, new, "an attribute is a parameter of a function")
    model = _alone(node, old, new)
    key = model.SerializeToString(deterministic=True)
    if key not in known:
        known[key] = _converted(model, node, new)
    names: dict[str, gs.Tensor] = {f"i{slot}": tensor for slot, tensor in enumerate(node.inputs)}
    protos = known[key]
    if len(protos) == 1 and protos[0].op_type == node.op and list(protos[0].input) == list(model.graph.node[0].input):
        node.attrs.clear()
        node.attrs.update(_attributes(protos[0]))
        edit.edited(node)
        return
    outputs = {f"o{slot}": tensor for slot, tensor in enumerate(node.outputs)}
    made = []
    for proto in protos:
        if proto.op_type == "Constant":
            names[proto.output[0]] = edit.constant(
                numpy_helper.to_array(next(a.t for a in proto.attribute if a.name == "value")), f"{node.name}_constant"
            )
            continue
        inputs = [names[name] if name else gs.Variable.empty() for name in proto.input]
        new_node = edit.insert(proto.op_type, inputs, _attributes(proto), at=node, outputs=len(proto.output))
        names.update(zip(proto.output, new_node.outputs, strict=True))
        inherit(new_node, [node], f"opset-{new}")
        made.append(new_node)
    used = {name: tensor for name, tensor in outputs.items() if tensor.name}
    if missing := next((name for name in used if name not in names), None):
        raise _refused(node, new, f"output {used[missing].name!r} does not exist there")
    edit.replace_all([(tensor, names[name]) for name, tensor in used.items()], at=node)
    edit.prune([node])


def _attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    found = {}
    for one in proto.attribute:
        if one.type == onnx.AttributeProto.TENSOR:
            found[one.name] = new_constant(one.t.name, numpy_helper.to_array(one.t))
        else:
            found[one.name] = PLAIN[one.type](one)
    return found


def _alone(node: gs.Node, old: int, new: int) -> onnx.ModelProto:
    """A model of this one node."""
    proto = node_to_proto(node)
    proto.name = proto.doc_string = ""
    del proto.metadata_props[:]
    inputs, constants, names = [], [], []
    for slot, tensor in enumerate(node.inputs):
        names.append(f"i{slot}" if tensor.name else "")
        if not tensor.name:
            continue
        if isinstance(tensor, gs.Constant) and size(tensor) <= _DATA_ELEMENTS:
            constants.append(numpy_helper.from_array(read(tensor), f"i{slot}"))
            continue
        inputs.append(_info(f"i{slot}", tensor, node, new))
    del proto.input[:]
    proto.input.extend(names)
    del proto.output[:]
    outputs = []
    for slot, tensor in enumerate(node.outputs):
        proto.output.append(f"o{slot}" if tensor.name else "")
        if tensor.name:
            known = dtypes.of(tensor) is not None and getattr(tensor, "type", "tensor_type") == "tensor_type"
            outputs.append(_info(f"o{slot}", tensor, node, new) if known else onnx.ValueInfoProto(name=f"o{slot}"))
    graph = helper.make_graph([proto], "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", old)], ir_version=8)


def _info(name: str, tensor: gs.Tensor, node: gs.Node, opset: int) -> onnx.ValueInfoProto:
    dtype, shape = dtypes.of(tensor), shapes.of(tensor)
    if dtype is None or getattr(tensor, "type", "tensor_type") != "tensor_type":
        raise _refused(node, opset, f"the type of {tensor.name!r} is not known")
    return helper.make_tensor_value_info(name, dtypes.to_onnx(dtype), shape)


def _converted(model: onnx.ModelProto, node: gs.Node, new: int) -> list[onnx.NodeProto]:
    try:
        made = version_converter.convert_version(model, new)
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = made.ir_version, {"": new}
        for proto in made.graph.node:
            onnx.checker.check_node(proto, context)
    except (RuntimeError, onnx.checker.ValidationError, ValueError) as error:
        raise _refused(node, new, str(error).strip().splitlines()[0][:300]) from error
    extra = [
        helper.make_node("Constant", [], [one.name], value=one)
        for one in made.graph.initializer
        if one.name not in {old.name for old in model.graph.initializer}
    ]
    return [*extra, *made.graph.node]


def _check_function(function: gs.Function, opset: int) -> None:
    for scope in scopes(function, functions=False):
        for node in scope.nodes:
            if not _same_meaning(node, function.opset, opset):
                raise ModelError(
                    f"{node.op} is spelled otherwise at opset {opset}, and the types inside a function are not known",
                    where=f"function {function.name!r}, node {node.name!r}",
                    hint="optimize the model without --opset first: its functions are inlined then",
                )


def _import(root: gs.Graph, opset: int) -> None:
    """Set the opset of the model, or of a function, and of its bodies."""
    for scope in scopes(root, functions=False):
        scope.opset = opset
        if scope.import_domains is not None:  # whose entries belong to the source
            scope.import_domains = [
                helper.make_opsetid(entry.domain, opset if entry.domain in ("", "ai.onnx") else entry.version)
                for entry in scope.import_domains
            ]
