"""Which outputs of a model depend on random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx

from .ranges import subgraphs

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def random_outputs(model: onnx.ModelProto) -> set[str]:
    """Names of graph outputs that a random op reaches, through subgraphs and model-local functions.

    Dropout counts where its training_mode is not known to be false.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    graph = model.graph
    tainted = _spread(graph.node, set(), functions, _falses(graph.initializer, graph.node), frozenset())
    return {output.name for output in graph.output if output.name in tainted}


def _spread(
    nodes: Iterable[onnx.NodeProto],
    tainted: set[str],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    falses: set[str],
    calling: frozenset[tuple[str, str]],
) -> set[str]:
    """The names that are random once the nodes, in order, have run."""
    for node in nodes:
        inner = False
        for graph in subgraphs(node):
            known = falses | _falses(graph.initializer, graph.node)
            before = set(tainted)
            after = _spread(graph.node, before, functions, known, calling)
            inner = inner or len(after) > len(tainted) or any(o.name in after for o in graph.output)
        key = (node.domain, node.op_type)
        if key in functions and key not in calling:
            body = functions[key].node
            inner = inner or bool(_spread(body, set(), functions, _falses((), body), calling | {key}))
        if inner or _is_random(node, falses) or any(name in tainted for name in node.input):
            tainted.update(name for name in node.output if name)
    return tainted


def _is_random(node: onnx.NodeProto, falses: set[str]) -> bool:
    if node.op_type in RANDOM_OPS:
        return True
    return node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] not in ("", *falses)


def _falses(initializers: Iterable[onnx.TensorProto], nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of boolean constants of one element that are false; of larger ones an outline has no values."""
    constants = [(t.name, t) for t in initializers]
    for node in nodes:
        if node.op_type == "Constant":
            constants += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    return {
        name
        for name, tensor in constants
        if tensor.data_type == onnx.TensorProto.BOOL
        and math.prod(tensor.dims) == 1
        and tensor.data_location != onnx.TensorProto.EXTERNAL
        and not onnx.numpy_helper.to_array(tensor).any()
    }
