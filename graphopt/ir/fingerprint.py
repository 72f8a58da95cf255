"""Is it the same model? By content (names aside), or by identity within one process."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from . import dtypes
from .graph import peek, scopes
from .weights import digest


def fingerprint(graph: gs.Graph) -> str:
    """A hash of operators, attributes, edges, constants' contents, I/O names and opset; inner names don't count."""
    state = hashlib.blake2b(digest_size=16)
    numbers: dict[int, int] = {}
    for home in (graph, *graph.functions):
        state.update(repr((home.opset, _overload(home))).encode())
        if home is not graph:
            attrs = [(name, _attribute(value)) for name, value in sorted(home.attrs.items())]
            state.update(repr((home.domain, home.name, attrs)).encode())
        for tensor in (*home.inputs, *home.outputs):
            state.update(repr((tensor.name, _type(tensor))).encode())
        for scope in scopes(home, functions=False):
            _scope(scope, numbers, state)
    return state.hexdigest()


def _scope(scope: gs.Graph, numbers: dict[int, int], state: Any) -> None:
    def number(tensor: gs.Tensor) -> str:
        if not tensor.name:
            return "-"
        if isinstance(tensor, gs.Constant):
            return digest(tensor).hex()
        return str(numbers.setdefault(id(tensor), len(numbers)))

    ins = [(number(tensor), _default(tensor)) for tensor in scope.inputs]
    state.update(f"graph {ins}".encode())
    for node in scope.nodes:
        attrs = [(name, _attribute(value)) for name, value in sorted(node.attrs.items())]
        edges = [number(t) for t in node.inputs], [number(t) for t in node.outputs]
        state.update(repr((node.op, node.domain or "", _overload(node), attrs, edges)).encode())
    state.update(f"returns {[number(tensor) for tensor in scope.outputs]}".encode())


def _type(tensor: gs.Tensor) -> Any:
    entry = peek(tensor)
    if entry is not None and entry.type_proto is not None and entry.type_proto.WhichOneof("value") != "tensor_type":
        return entry.type_proto.SerializeToString(deterministic=True)
    return dtypes.name(dtypes.of(tensor)), None if tensor.shape is None else tuple(tensor.shape)


def _overload(obj: Any) -> str:
    entry = peek(obj)
    return entry.overload if entry is not None else ""


def _default(tensor: gs.Tensor) -> str:
    entry = peek(tensor)
    return digest(entry.default).hex() if entry is not None and entry.default is not None else ""


def _attribute(value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return digest(value).hex()
    if isinstance(value, gs.Graph):
        return "graph"
    if isinstance(value, gs.Node.AttributeRef):
        return "reference", value.name
    if isinstance(value, onnx.AttributeProto):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list) and value and isinstance(value[0], gs.Graph):
        return "graphs", len(value)
    return value if isinstance(value, (int, str, bytes, list)) else repr(value)


def signature(graph: gs.Graph) -> int:
    """A hash of which objects the graph is made of and how they are linked: equal unless an edge or attribute changed.

    Values of constants don't count: graphsurgeon loads them behind the scenes.
    """
    parts: list[int] = []
    add = parts.append
    for scope in scopes(graph):
        add(hash((*map(id, scope.inputs), *map(id, scope.outputs))))
        for node in scope.nodes:
            add(hash((id(node), node.op, node.domain or "", *map(id, node.inputs), 0, *map(id, node.outputs))))
            if node.attrs:
                add(hash(tuple([(name, *_identity(value)) for name, value in node.attrs.items()])))
    for tensor in (*graph.inputs, *graph.outputs):
        add(hash((tensor.name, dtypes.name(dtypes.of(tensor)), tuple(tensor.shape) if tensor.shape else None)))
    return hash(tuple(parts))


def _identity(value: Any) -> tuple[Any, ...]:
    kind = type(value)
    if kind is int or kind is float or kind is str:
        return (value,)
    if kind is list and value and type(value[0]) in (int, float, str, bytes):
        return tuple(value)
    return (id(value),)
