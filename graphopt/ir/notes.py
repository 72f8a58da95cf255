"""What exporters write about every node for their own use: stack traces, class hierarchies, traced expressions."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from .declared import prose
from .graph import peek, scopes

EXPORTERS = ("pkg.torch.", "pkg.onnxscript.")
"""Prefixes of metadata keys. The nodes' names lead back to the source model, where all this still stands."""


def metadata(holder: Any, notes: bool = True) -> dict[str, str]:
    """The metadata of a message. notes: exporters' among it, which are not even decoded else."""
    props = holder.metadata_props
    if not props:
        return {}
    keys = [prose(prop.key) for prop in props]
    if notes or not any(key.startswith(EXPORTERS) for key in keys):
        return {key: prose(prop.value) for key, prop in zip(keys, props, strict=True)}
    kept = [pair for pair in zip(keys, props, strict=True) if _is_kept(pair[0])]
    return {key: prose(prop.value) for key, prop in kept}


def _is_kept(key: str) -> bool:
    return not key.startswith(EXPORTERS) and key != "namespace"


def drop_exporters_notes(graph: gs.Graph) -> None:
    """Remove exporters' metadata from nodes, values, graphs and functions; in some exports it outweighs the network."""
    for scope in scopes(graph):
        _drop(scope)
        for tensor in (*scope.inputs, *scope.outputs):
            _drop(tensor)
        for node in scope.nodes:
            _drop(node)
            for tensor in node.outputs:
                _drop(tensor)
    entry = peek(graph)
    if entry is not None and entry.proto is not None:
        held = entry.proto.graph.metadata_props
        kept = [one for one in held if not one.key.startswith(EXPORTERS)]
        if len(kept) < len(held):
            del held[:]
            held.extend(kept)


def _drop(owner: Any) -> None:
    entry = peek(owner)
    if entry is None or not entry.metadata or not any(key.startswith(EXPORTERS) for key in entry.metadata):
        return
    entry.metadata = {key: value for key, value in entry.metadata.items() if _is_kept(key)}
