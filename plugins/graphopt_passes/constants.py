"""Constants: lift them out of nodes, and compute at optimization time what does not depend on inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

import graphopt
from graphopt.config import Limits, Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import new_constant, scopes, subgraphs
from graphopt.ir.save import constants, node_to_proto
from graphopt.ir.weights import nbytes, read
from graphopt.rewrite.spelling import RANDOM, is_standard, schema
from graphopt.rewrite.value import lifted
from graphopt.rewrite.worklist import Model

from .numpy_operators import calculate

NEVER = RANDOM | frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear If Loop Scan Constant Dropout Optional OptionalGetElement "
    "OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
    "SequenceMap SplitToSequence ConcatFromSequence ImageDecoder".split()
)
"""Random, quantization (TensorRT reads precision from it), control flow, and what yields no tensor."""

_LIMIT = Limits().fold_bytes
_MOST = 8 * _LIMIT
"""All folded constants together may grow to this size beyond four times the source's weights."""
_NARROW_LIMIT = 1 << 10
_TIED = 64 << 10
"""Beyond this many bytes a weight that others read too is not stored a second time in another form."""
_MAKERS = frozenset("ConstantOfShape Expand Tile Range OneHot Resize EyeLike Pad".split())


@graphopt.pass_("canonicalize", ops=["Constant"], typed=False)
def lift_constants(graph: gs.Graph, target: Target, model: Model) -> int:
    """A Constant node is an initializer (inside functions, the IR's constant)."""
    edit = model.editor
    changes = 0
    for node in edit.of("Constant"):
        if not is_standard(node):
            continue
        values = lifted(node)
        if values is None:
            continue
        tensor = node.outputs[0]
        if edit.is_result(tensor):
            continue  # the output's name must be made by something
        edit.replace(tensor, new_constant(edit.fresh(tensor.name), values._values))
        edit.prune([node])
        changes += 1
    return changes


@graphopt.pass_("canonicalize", after=["lift-constants"], typed=False)
def remove_dead_nodes(graph: gs.Graph, target: Target, model: Model) -> int:
    """A node whose outputs nothing reads goes, and then what only it read."""
    return model.editor.sweep(model.fresh("remove-dead-nodes"))


@graphopt.pass_("canonicalize", after=["lift-constants", "remove-dead-nodes"])
def fold_constants(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(constants) is a constant, unless f is random, quantizes, or makes far more bytes than it reads.

    Not where a large weight that others read as it is would be stored twice: a tied embedding stays tied.
    """
    changes = 0
    if not any(_reads_constants_only(node) for node in model.fresh("fold-constants")):
        return 0
    for home in (graph, *graph.functions):
        local = {(function.domain or "", function.name) for function in graph.functions}
        nodes = _within(_growth(graph, model), _foldable(home, model, local))
        if nodes:
            changes += _replace(nodes, _evaluate(nodes, home, model), model)
    return changes


def _reads_constants_only(node: gs.Node) -> bool:
    return node.op not in NEVER and all(type(tensor) is gs.Constant or not tensor.name for tensor in node.inputs)


def _foldable(home: gs.Graph, model: Model, local: set[tuple[str, str]]) -> list[gs.Node]:
    """The nodes that depend on constants alone, in order."""
    found: list[gs.Node] = []
    known: set[int] = set()
    for scope in scopes(home, functions=False):
        for node in scope.nodes:
            for tensor in node.inputs:
                if type(tensor) is not gs.Constant and id(tensor) not in known and tensor.name:
                    break
            else:
                if _may_fold(node, model, home, local):
                    found.append(node)
                    known.update(map(id, node.outputs))
    return found


def _may_fold(node: gs.Node, model: Model, home: gs.Graph, local: set[tuple[str, str]]) -> bool:
    """Whether a node that depends on constants alone is one that may be computed now."""
    if node.op in NEVER or not is_standard(node) or ("", node.op) in local or _has_references(node):
        return False
    if node.op == "Identity" and model.editor.is_result(node.outputs[0]):
        return False  # an output must be made by a node
    if schema(node.op, int(home.opset)) is None or _traps(node) or not _is_small_enough(node):
        return False
    return not _would_be_stored_twice(node)


def _growth(graph: gs.Graph, model: Model) -> int:
    """How many bytes of constants may still be made: what is folded may be folded again, and double each time."""
    now = sum(map(nbytes, constants(graph)))
    if model.source_bytes is None:
        model.source_bytes = now
    return 4 * model.source_bytes + _MOST - now


def _within(room: int, nodes: list[gs.Node]) -> list[gs.Node]:
    """The first nodes whose results fit into so many bytes."""
    for count, node in enumerate(nodes):
        room -= _makes(node)
        if room < 0:
            return nodes[:count]
    return nodes


def _makes(node: gs.Node) -> int:
    volumes = [(shapes.volume(shapes.of(tensor)), tensor) for tensor in node.outputs]
    return sum((volume or 0) * dtypes.bits(dtypes.of(tensor) or np.float32) // 8 for volume, tensor in volumes)


def _has_references(node: gs.Node) -> bool:
    return any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()) or bool(subgraphs(node))


def _traps(node: gs.Node) -> bool:
    """Whether an integer division could trap in native code, also that by an empty operand's size in Einsum."""
    if node.op == "Einsum":
        return not all(shapes.volume(shapes.of(tensor)) for tensor in node.inputs)
    if node.op not in ("Div", "Mod"):
        return False
    divisor = node.inputs[1]
    if dtypes.is_float(dtypes.of(node.inputs[0])):
        return False
    if not isinstance(divisor, gs.Constant):
        return True
    values = read(divisor)
    return bool((values == 0).any() or (values.dtype.kind == "i" and (values == -1).any()))


def _would_be_stored_twice(node: gs.Node) -> bool:
    """Whether the result is a large weight beside the one it is made of, which others go on to read."""
    return _makes(node) > _TIED and any(
        isinstance(tensor, gs.Constant) and nbytes(tensor) > _TIED and any(user is not node for user in tensor.outputs)
        for tensor in node.inputs
    )


def _is_small_enough(node: gs.Node) -> bool:
    reads = sum(nbytes(t) for t in node.inputs if isinstance(t, gs.Constant))
    narrow = any(
        isinstance(t, gs.Constant) and dtypes.bits(t.dtype) <= 8 and nbytes(t) > _NARROW_LIMIT for t in node.inputs
    )
    if node.op in _MAKERS and any(shapes.volume(shapes.of(tensor)) is None for tensor in node.outputs):
        return False
    return _makes(node) <= reads + (_NARROW_LIMIT if narrow else _LIMIT)


def _needed(nodes: list[gs.Node], model: Model) -> list[gs.Tensor]:
    """Values of folded nodes that something else reads."""
    inside = {id(node) for node in nodes}
    return [
        tensor
        for node in nodes
        for tensor in node.outputs
        if tensor.name and (model.editor.is_result(tensor) or any(id(user) not in inside for user in tensor.outputs))
    ]


def _evaluate(nodes: list[gs.Node], home: gs.Graph, model: Model) -> dict[int, np.ndarray[Any, Any]]:
    """id(tensor) -> value: by NumPy where that is exact, the rest in one onnxruntime session, or node by node."""
    wanted = _needed(nodes, model)
    if not wanted:
        return {}
    known: dict[int, np.ndarray[Any, Any]] = {}
    rest = [node for node in nodes if not _calculate(node, known, int(home.opset))]
    found = {id(tensor): known[id(tensor)] for tensor in wanted if id(tensor) in known}
    missing = [tensor for tensor in wanted if id(tensor) not in known]
    if not missing:
        return found
    try:
        values = _run(_model(rest, missing, home, known), [tensor.name for tensor in missing])
        return {**found, **{id(tensor): value for tensor, value in zip(missing, values, strict=True)}}
    except Exception:
        return {**found, **_one_by_one(rest, home, known)}


def _calculate(node: gs.Node, known: dict[int, np.ndarray[Any, Any]], opset: int) -> bool:
    """Add the node's value to what is known, if NumPy has it."""
    operands: list[np.ndarray[Any, Any] | None] = []
    for tensor in node.inputs:
        if tensor.name and not isinstance(tensor, gs.Constant) and id(tensor) not in known:
            return False
        operands.append(known.get(id(tensor)) if not isinstance(tensor, gs.Constant) else read(tensor))
    value = calculate(node, operands, opset)
    if value is not None:
        known[id(node.outputs[0])] = value
    return value is not None


def _one_by_one(
    nodes: list[gs.Node], home: gs.Graph, known: dict[int, np.ndarray[Any, Any]]
) -> dict[int, np.ndarray[Any, Any]]:
    known = dict(known)
    for node in nodes:
        if not all(not t.name or isinstance(t, gs.Constant) or id(t) in known for t in node.inputs):
            continue
        outputs = [tensor for tensor in node.outputs if tensor.name]
        proto = _model([node], outputs, home, known)
        values = _first_that_runs(proto, [tensor.name for tensor in outputs])
        known.update(zip(map(id, outputs), values, strict=False))
    return known


def _first_that_runs(proto: onnx.ModelProto, names: list[str]) -> list[np.ndarray[Any, Any]]:
    """The values from onnxruntime or the reference evaluator; none where neither knows the operator."""
    from onnx.reference import ReferenceEvaluator

    for evaluate in (_run, lambda m, n: [np.asarray(value) for value in ReferenceEvaluator(m).run(n, {})]):
        try:
            return evaluate(proto, names)
        except Exception:
            continue
    return []


def _run(proto: onnx.ModelProto, names: list[str]) -> list[np.ndarray[Any, Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(names, {})]


def _model(
    nodes: list[gs.Node],
    wanted: list[gs.Tensor],
    home: gs.Graph,
    known: dict[int, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:
    known = known or {}
    initializers: dict[str, onnx.TensorProto] = {}
    for node in nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.name not in initializers:
                initializers[tensor.name] = numpy_helper.from_array(np.asarray(read(tensor), order="C"), tensor.name)
            elif id(tensor) in known and tensor.name not in initializers:
                initializers[tensor.name] = numpy_helper.from_array(known[id(tensor)], tensor.name)
    outputs = [_output(tensor) for tensor in wanted]
    graph = helper.make_graph(
        [node_to_proto(node) for node in nodes], "constants", [], outputs, list(initializers.values())
    )
    imports = [entry for entry in home.import_domains or () if entry.domain in ("", "ai.onnx")]
    return helper.make_model(
        graph, opset_imports=imports or [helper.make_opsetid("", home.opset)], ir_version=_ir_version(home)
    )


def _ir_version(home: gs.Graph) -> int:
    return max(8, min(int(home.ir_version or 8), 11))


def _output(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    dtype = dtypes.of(tensor)
    if dtype is None:
        return onnx.ValueInfoProto(name=tensor.name)
    return helper.make_tensor_value_info(tensor.name, dtypes.to_onnx(dtype), None)


def _replace(nodes: list[gs.Node], values: dict[int, np.ndarray[Any, Any]], model: Model) -> int:
    edit = model.editor
    changes = 0
    for node in nodes:
        for tensor in node.outputs:
            value = values.get(id(tensor))
            if value is None or not edit.is_used(tensor):
                continue
            dtype = dtypes.of(tensor)
            if dtype is not None and value.dtype != dtype and value.dtype.kind not in "OSU":
                continue
            if value.nbytes > sum(nbytes(t) for t in _roots(node)) + _LIMIT:
                continue
            constant = new_constant(edit.fresh(tensor.name), value)
            edit.replace(tensor, constant)
            changes += 1
    edit.prune(reversed(nodes))
    return changes


def _roots(node: gs.Node) -> Iterable[gs.Constant]:
    return (tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [lift_constants, remove_dead_nodes, fold_constants]
