"""Which source nodes a node stands for, and by which rules, as a model file holds it.

At each node `graphopt.origin` and `graphopt.rule`, JSON lists. Where those would weigh more than a fiftieth of the
model, one table in the model's own metadata instead, `graphopt.lineage`: base85 of zlib of JSON {node: [origins,
rules]}.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from .graph import Extras, extras, flatten, scopes

TABLE = "graphopt.lineage"
_SHARE, _LEAST_BYTES = 50, 400
_NOTE_BYTES = 50
"""What the two keys and their framing take at a node."""

Line = tuple[list[str], list[str]]


def of(node: gs.Node, entry: Extras) -> Line | None:
    """(origins, rules) where there is more to say than that a node stands for itself."""
    if not entry.origin and not entry.rules:
        return None
    origins, rules = flatten(entry.origin), flatten(entry.rules)
    return (origins, rules) if rules or origins != [node.name] else None


def notes(line: Line) -> dict[str, str]:
    """The metadata of one node."""
    found = zip(("graphopt.origin", "graphopt.rule"), line, strict=True)
    return {key: f"[{', '.join(map(_quote, names))}]" for key, names in found if names}


def take(entry: Extras) -> None:
    """What the metadata of one node say, as its origin and rules."""
    for key, slot in (("graphopt.origin", "origin"), ("graphopt.rule", "rules")):
        if key in entry.metadata:
            try:
                names = json.loads(entry.metadata[key])
            except ValueError:
                continue
            if isinstance(names, list):
                setattr(entry, slot, tuple(str(name) for name in names))
                del entry.metadata[key]


def write(lines: Iterable[tuple[onnx.NodeProto, Line]], model: onnx.ModelProto, weight_bytes: int) -> int:
    """The lineage of the nodes of a message, at each node or in the table; how many nodes have notes of their own.

    weight_bytes: of all weights, wherever they are.
    """
    lines = list(lines)
    size = sum(_NOTE_BYTES + sum(len(name) + 4 for part in line for name in part) for _, line in lines)
    is_light = size < _LEAST_BYTES or size * _SHARE <= max(model.ByteSize(), weight_bytes)
    if is_light or not _are_unique({node.name for node, _ in lines}, model.graph):
        for node, line in lines:
            for key, value in notes(line).items():
                node.metadata_props.add(key=key, value=value)
        return len(lines)
    text = json.dumps({node.name: line for node, line in lines}, separators=(",", ":"), ensure_ascii=True)
    packed = base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    model.metadata_props.add(key=TABLE, value=packed)
    return 0


def _are_unique(names: set[str], graph: onnx.GraphProto) -> bool:
    """Whether each of these names is that of one node of the graph and its bodies."""
    pending, found = [graph], Counter[str]()
    while pending:
        for node in pending.pop().node:
            found[node.name] += 1
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else attribute.graphs
    return all(name and found[name] == 1 for name in names)


def restore(graph: gs.Graph, metadata: Any) -> None:
    """Take the table out of the model's metadata and give its nodes their origins and rules; a damaged one stays."""
    for place, prop in enumerate(metadata):
        if prop.key == TABLE:
            table = _read(prop.value)
            if table is None:
                continue
            del metadata[place]
            for scope in scopes(graph, functions=False):
                for node in scope.nodes:
                    line = table.get(node.name)
                    if line is not None:
                        entry = extras(node)
                        entry.origin, entry.rules = (tuple(map(str, part)) for part in line)
            return


def _read(value: str) -> dict[str, Any] | None:
    try:
        unpacked = zlib.decompressobj()
        text = unpacked.decompress(base64.b85decode(value), 1 << 28)
        table = json.loads(text)
    except (ValueError, zlib.error):
        return None
    if not isinstance(table, dict):
        return None
    return {
        name: line
        for name, line in table.items()
        if isinstance(line, list) and len(line) == 2 and all(isinstance(part, list) for part in line)
    }
