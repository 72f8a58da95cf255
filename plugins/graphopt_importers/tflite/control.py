"""Loops and branches: graphs of the file that stand in nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from .emit import Builder, needed
from .handlers import handles
from .reader import Graph, Operator, Tensor
from .scope import Scope
from .walk import walk


def _nested(scope: Scope, operator: Operator, number: int) -> Graph:
    if not 0 < number < len(scope.file.graphs):
        raise scope.error(operator, f"it runs graph {number}, which does not exist")
    return scope.file.graphs[number]


def _inner(scope: Scope, graph: Graph, values: Sequence[str], build: Builder) -> list[str]:
    """The outputs of a graph as they are stored, for inputs as they are stored."""
    inside = Scope(scope.file, graph, build, scope.source, depth=scope.depth + 1)
    for index, value in zip(graph.inputs, values, strict=True):
        inside.bind(index, value)
    walk(inside, graph.outputs)
    return [inside.stored(index) for index in graph.outputs]


def _declared(name: str, tensor: Tensor, *, shaped: bool = True) -> onnx.ValueInfoProto:
    dims = [None if dim < 0 else dim for dim in tensor.dims] if shaped else None
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), dims)


def _kept(build: Builder, value: str) -> str:
    """A result of a subgraph must be made in it, and once."""
    return build("Identity", value)


@handles("WHILE")
def loop(scope: Scope, operator: Operator) -> None:
    """while condition(values): values = body(values)."""
    condition = _nested(scope, operator, int(operator.option("CondSubgraphIndex")))
    body = _nested(scope, operator, int(operator.option("BodySubgraphIndex")))
    if (
        len(condition.inputs) != len(operator.inputs)
        or len(body.inputs) != len(body.outputs)
        or len(body.inputs) != len(operator.inputs)
    ):
        raise scope.error(operator, "its graphs take other values than it has")
    outer = scope.build
    start = [scope.stored(index) for index in operator.inputs]
    begin = _truth(outer, _inner(scope, condition, start, outer)[0], condition)
    inner = Builder(outer.constants, outer.opset)
    inner.where = outer.where
    free = outer.constants.free_name
    names = [free(f"{outer.where}/carried") for _ in body.inputs]
    number, go = free(f"{outer.where}/step"), free(f"{outer.where}/go")
    results = _inner(scope, body, names, inner)
    on = _kept(inner, _truth(inner, _inner(scope, condition, results, inner)[0], condition))
    results = [_kept(inner, value) for value in results]
    tensors = [body.tensors[index] for index in body.inputs]
    graph = helper.make_graph(
        needed(inner.nodes, [on, *results]),
        free(f"{outer.where}/body"),
        [
            helper.make_tensor_value_info(number, onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(go, onnx.TensorProto.BOOL, []),
            *[_declared(name, tensor) for name, tensor in zip(names, tensors, strict=True)],
        ],
        [
            helper.make_tensor_value_info(on, onnx.TensorProto.BOOL, []),
            *[_declared(name, tensor, shaped=False) for name, tensor in zip(results, tensors, strict=True)],
        ],
    )
    for index, value in zip(
        operator.outputs, outer.several("Loop", ["", begin, *start], len(start), body=graph), strict=True
    ):
        scope.bind(index, value)


def _truth(build: Builder, value: str, graph: Graph) -> str:
    """A condition of one element as a scalar."""
    return value if graph.tensors[graph.outputs[0]].dims == () else build("Squeeze", value)


@handles("IF")
def branch(scope: Scope, operator: Operator) -> None:
    """then(values) if condition else otherwise(values)."""
    outer = scope.build
    values = [scope.stored(index) for index in operator.inputs[1:]]
    branches = {}
    for attribute, option in (("then_branch", "ThenSubgraphIndex"), ("else_branch", "ElseSubgraphIndex")):
        graph = _nested(scope, operator, int(operator.option(option)))
        if len(graph.inputs) != len(values) or len(graph.outputs) != len(operator.outputs):
            raise scope.error(operator, "its graphs take other values than it has")
        inner = Builder(outer.constants, outer.opset)
        inner.where = outer.where
        results = [_kept(inner, value) for value in _inner(scope, graph, values, inner)]
        declared = [_declared(r, graph.tensors[i], shaped=False) for r, i in zip(results, graph.outputs, strict=True)]
        branches[attribute] = helper.make_graph(
            needed(inner.nodes, results), outer.constants.free_name(attribute), [], declared
        )
    condition = scope.real(operator.inputs[0])
    if scope.tensor(operator.inputs[0]).dims != ():
        condition = outer("Reshape", condition, outer.const(np.zeros(0, np.int64)))
    for index, value in zip(
        operator.outputs, outer.several("If", [condition], len(operator.outputs), **branches), strict=True
    ):
        scope.bind(index, value)
