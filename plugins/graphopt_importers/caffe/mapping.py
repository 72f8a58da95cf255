"""Which function writes which type of layer, and how a network becomes a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import ModelError, nearest

from .emit import Dim, Graph, Value
from .layer import Layer
from .network import Network

Writer = Callable[..., Value | Sequence[Value]]
"""(graph, layer, its parameters, *bottoms) -> tops."""

_NEVER_MATTERS = ("engine", "weight_filler", "bias_filler", "filler")


@dataclass(frozen=True)
class Converter:
    """param: the layer's message of parameters. ignored: fields of it that do not change what TEST phase computes."""

    write: Writer
    param: str
    ignored: tuple[str, ...]


CONVERTERS: dict[str, Converter] = {}
_HINTS = {
    "Python": "What it computes is in a Python file. If it reads data, put an Input layer in its place; else cut the "
    "network before it, and run it outside.",
}


def layer(*types: str, param: str = "", ignored: Sequence[str] = ()) -> Callable[[Writer], Writer]:
    """Registers the writer of these types of layers."""

    def register(write: Writer) -> Writer:
        for one in types:
            CONVERTERS[one] = Converter(write, param, tuple(ignored))
        return write

    return register


def write(
    network: Network,
    shapes: Mapping[str, Sequence[Dim]],
    opset: int,
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None],
) -> Graph:
    """The graph that computes what the network computes.

    Raises:
        ModelError: a layer, or a parameter of one, has no counterpart; blobs or shapes do not fit. Names the layer.
    """
    _check_types(network)
    graph = Graph(network.name, opset, options)
    graph.reserve([*shapes, *(top for one in network.layers for top in one.tops)])
    values = {name: graph.input(name, dims) for name, dims in shapes.items()}
    for number, one in enumerate(network.layers):
        progress("layers", number, len(network.layers))
        graph.begin(one.name)
        tops = _written(graph, one, [values[name] for name in one.bottoms])
        for name, value in zip(one.tops, tops, strict=False):
            values[name] = graph.rename(value, name)
    graph.begin("output")
    for name in network.outputs:
        value = values[name]
        if value.name != name:
            value = graph.rename(graph.op("Identity", value), name)
        graph.outputs.append(value)
    progress("layers", len(network.layers), len(network.layers))
    return graph


def _check_types(network: Network) -> None:
    """Every layer that has no counterpart, at once. Raises ModelError."""
    unknown = [one for one in network.layers if one.type not in CONVERTERS]
    if unknown:
        first = unknown[0]
        names = ", ".join(dict.fromkeys(f"{one.name} ({one.type})" for one in unknown[1:20]))
        hint = _HINTS.get(first.type) or (
            f"{nearest(first.type, CONVERTERS, '', 0.8)} Cut the network before this layer (delete it and what follows "
            "from the .prototxt), or write its meaning with supported ones: docs/importers_caffe.md lists them."
        )
        raise first.error(
            f"layers of type {first.type} have no counterpart" + (f"; nor have {names}" if names else ""), hint.strip()
        )


def _written(graph: Graph, one: Layer, bottoms: list[Value]) -> list[Value]:
    converter = CONVERTERS[one.type]
    _check_count(converter, one, bottoms)
    try:
        param = one.message.message(converter.param) if converter.param else one.message
        found = converter.write(graph, one, param, *bottoms)
    except ModelError as error:
        if error.where == one.where:
            raise
        raise ModelError(error.what, where=one.where, hint=error.hint) from error
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, MemoryError, TypeError) as error:
        shown = ", ".join("x".join(map(str, value.shape)) for value in bottoms)
        raise one.error(f"its parameters do not fit bottoms of {shown}: {error}") from error
    if converter.param:
        param.ignore(*_NEVER_MATTERS, *converter.ignored)
        if param.unread():
            raise one.error(
                f"{converter.param}.{param.unread()[0]} is not supported",
                "if it does not change what the network computes, delete it from the .prototxt",
            )
    tops = [found] if isinstance(found, Value) else list(found)
    if len(one.tops) > len(tops):
        raise one.error(f"{len(one.tops)} tops, where such a layer has {len(tops)}")
    return tops


def _check_count(converter: Converter, one: Layer, bottoms: Sequence[Any]) -> None:
    parameters = list(inspect.signature(converter.write).parameters.values())[3:]
    least = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    most = None if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters)
    if len(bottoms) < max(least, 1 if most is None else 0) or (most is not None and len(bottoms) > most):
        wanted = f"{least}" if most == least else f"{least} to {most}" if most else f"at least {max(least, 1)}"
        raise one.error(f"{len(bottoms)} bottoms, where such a layer has {wanted}")
