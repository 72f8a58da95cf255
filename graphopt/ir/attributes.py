"""Attributes of nodes and functions: plain Python values where Python has them, messages where it has not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx_graphsurgeon as gs
from onnx import AttributeProto, NodeProto, helper

from . import dtypes


class EmptyList(list[Any]):
    """An empty list attribute that remembers of what it is empty."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind


def node_names(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Names of the nodes, and of those in their bodies."""
    for node in nodes:
        yield node.name
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for body in (attribute.g, *attribute.graphs):
                    yield from node_names(body.node)


def text(raw: bytes) -> str | bytes:
    """A string attribute; bytes where they are no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _filled(field: str) -> Callable[[AttributeProto], Any]:
    def plain(proto: AttributeProto) -> Any:
        return getattr(proto, field)[:] or EmptyList(proto.type)

    return plain


PLAIN: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.INTS: lambda a: a.ints[:],
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.FLOATS: _filled("floats"),
    AttributeProto.STRING: lambda a: text(a.s),
    AttributeProto.STRINGS: lambda a: [text(item) for item in a.strings] or EmptyList(AttributeProto.STRINGS),
    AttributeProto.TYPE_PROTO: lambda a: a,
    AttributeProto.TYPE_PROTOS: lambda a: a,
}
"""How to read the kinds that hold no tensor and no graph."""

_PYTHON = {AttributeProto.FLOAT: float, AttributeProto.INT: int, AttributeProto.STRING: str}


def reference(proto: AttributeProto) -> gs.Node.AttributeRef:
    """An attribute that takes its value from the enclosing function's call."""
    made = gs.Node.AttributeRef(proto.ref_attr_name, _PYTHON.get(proto.type, proto.type))
    made.onnx_type = proto.type
    return made


def _referred(value: gs.Node.AttributeRef) -> int:
    known = getattr(value, "onnx_type", None)
    if known is not None:
        return int(known)
    kinds = {python: number for number, python in _PYTHON.items()} | {gs.Graph: AttributeProto.GRAPH}
    fallback = AttributeProto.TENSOR if value.type is gs.Tensor else AttributeProto.INTS
    return int(kinds.get(value.type, value.type if isinstance(value.type, int) else fallback))


_FAST: dict[Any, tuple[int, str]] = {
    int: (int(AttributeProto.INT), "i"),
    float: (int(AttributeProto.FLOAT), "f"),
    str: (int(AttributeProto.STRING), "s"),
    (list, int): (int(AttributeProto.INTS), "ints"),
    (list, float): (int(AttributeProto.FLOATS), "floats"),
}
"""What onnx.helper.make_attribute makes of the common kinds, at a tenth of its time."""


def write_plain(name: str, value: Any, out: AttributeProto) -> None:
    """Write a value that holds no tensor and no graph of ours. Raises TypeError or ValueError for what ONNX lacks."""
    kind: Any = type(value)
    if kind is list:
        kinds = set(map(type, value))
        kind = (list, kinds.pop()) if len(kinds) == 1 else None
    if kind in _FAST:
        number, slot = _FAST[kind]
        out.name, out.type = name, number  # type: ignore[assignment]
        if kind is int or kind is float:
            setattr(out, slot, value)
        elif kind is str:
            out.s = value.encode()
        else:
            getattr(out, slot).extend(value)
    elif isinstance(value, AttributeProto):
        out.CopyFrom(value)
        out.name = name
    elif isinstance(value, gs.Node.AttributeRef):
        out.name, out.ref_attr_name = name, value.name
        out.type = _referred(value)  # type: ignore[assignment]
    elif isinstance(value, (list, tuple)) and not value:
        out.name = name
        out.type = value.kind if isinstance(value, EmptyList) else AttributeProto.INTS  # type: ignore[assignment]
    elif isinstance(value, (dict, set)):
        raise TypeError(f"{value!r} is no value of ONNX")  # onnx would take its keys
    else:
        out.CopyFrom(helper.make_attribute(name, dtypes.to_onnx(value) if isinstance(value, type) else value))
