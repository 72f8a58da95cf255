"""Measured times of layers as seconds of nodes: what `graphopt profile` wrote, or a GPU at hand says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import UsageError
from graphopt.ir.graph import flatten, peek

from .cost import Cost

Times = dict[str, dict[str, float]]
"""Node -> {dtype: seconds}."""
_KNOWN = 0.5
"""Share of a profile's time whose nodes the model must have."""


def layers_of(path: str | Path) -> list[dict[str, Any]]:
    """The layers of a file that `graphopt profile -o` wrote. Raises UsageError."""
    where, hint = f"--layer-times {path}", "graphopt profile ENGINE -o FILE writes one"
    try:
        layers = json.loads(Path(path).read_text(encoding="utf-8"))["layers"]
        known = [(float(layer["ms"]), layer["nodes"], layer["name"]) for layer in layers]
    except FileNotFoundError:
        raise UsageError("there is no such file", where=where, hint=hint) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no profile: {error}", where=where, hint=hint) from error
    if not known:
        raise UsageError("this profile has no layers", where=where, hint=hint)
    for layer in layers:
        if layer["nodes"] and not layer.get("dtype"):
            raise UsageError(f"layer {layer['name']!r} has no dtype", where=where, hint=f"measure again: {hint}")
    return list(layers)


def gpus_of(path: str | Path) -> list[str]:
    """The GPU that such a file is of, if it says so."""
    found = json.loads(Path(path).read_text(encoding="utf-8")).get("gpu")
    return [str(found)] if found else []


def read_times(path: str | Path, graph: gs.Graph) -> Times:
    """Of such a file. Raises UsageError where it is none, or of another model."""
    layers, nodes = layers_of(path), _Nodes(graph)
    total = sum(layer["ms"] for layer in layers)
    known = sum(layer["ms"] for layer in layers if nodes.of(layer))
    if known < _KNOWN * total:
        raise UsageError(
            f"only {known / total:.0%} of its time is of nodes that this model has",
            where=f"--layer-times {path}",
            hint="profile an engine of this model, made by the same version with the same passes",
        )
    return times_of(layers, graph)


def times_of(layers: Sequence[Mapping[str, Any]], graph: gs.Graph) -> Times:
    """Seconds of the graph's nodes: the time of a layer shared out as bytes and arithmetic of its nodes say.

    layers: of a profile, in the engine's order: ms, dtype, nodes, sources. Casts and Q/DQ are no nodes of the graph:
    the time of a layer of these alone is of the next layer, which needs them, and the last ones' of the one before.
    """
    nodes, estimate = _Nodes(graph), Cost()
    found: Times = defaultdict(dict)
    waiting, last = 0.0, None

    def share(members: Sequence[gs.Node], dtype: str, seconds: float) -> None:
        weights = [estimate.seconds(node, dtype) for node in members]
        total = sum(weights)
        for node, weight in zip(members, weights, strict=True):
            part = weight / total if total else 1 / len(members)
            found[node.name][dtype] = found[node.name].get(dtype, 0.0) + seconds * part

    for layer in layers:
        members, seconds = nodes.of(layer), float(layer["ms"]) / 1e3
        if not members:
            waiting += seconds
            continue
        last = (members, str(layer["dtype"]))
        share(*last, seconds + waiting)
        waiting = 0.0
    if last is not None and waiting:
        share(*last, waiting)
    return dict(found)


class _Nodes:
    """The nodes of a graph that a layer stands for: by their names, else by those of the exported model."""

    def __init__(self, graph: gs.Graph) -> None:
        self.by_name = {node.name: node for node in graph.nodes}
        self.by_source: dict[str, list[gs.Node]] = defaultdict(list)
        for node in graph.nodes:
            known = peek(node)
            for name in flatten(known.origin) if known is not None and known.origin else [node.name]:
                self.by_source[name].append(node)

    def of(self, layer: Mapping[str, Any]) -> list[gs.Node]:
        named = layer.get("nodes", ())
        found = [self.by_name[name] for name in named if name in self.by_name]
        if not found and not any(_is_written(name) for name in named):
            found = [node for name in layer.get("sources", ()) for node in self.by_source.get(name, ())]
        return list({id(node): node for node in found}.values())


def _is_written(name: str) -> bool:
    """Whether the precision stage put the node in: it stands for the node before it, but it is none."""
    return name.startswith(("cast_", "QuantizeLinear_", "DequantizeLinear_"))


def merged(*several: Mapping[str, Mapping[str, float]]) -> Times:
    """All of them; of two times of a node in one dtype the later counts."""
    found: Times = {}
    for times in several:
        for name, by_dtype in times.items():
            found.setdefault(name, {}).update(by_dtype)
    return found
