"""ENGINE.json beside an engine: what it was made of, and which source nodes its layers stand for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from . import __version__
from .ir.staging import staging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import onnx_graphsurgeon as gs

    from .backends.protocol import BuildOptions, BuildResult
    from .config import Shapes

SCHEMA = 1


def manifest(
    graph: gs.Graph,
    source: str,
    built: BuildResult,
    shapes: Shapes | None,
    options: BuildOptions,
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is known of a build.

    `made_by`: `key` (of the engine cache), and what makes the engine anew: `command`, `files` (file -> digest).

    `nodes`: nodes_of(the model that was built).
    """
    from dataclasses import asdict

    from .config import Shapes
    from .report.environment import environment

    return {
        "schema_version": SCHEMA,
        "graphopt": __version__,
        "backend": built.backend,
        "version": built.version,
        "source": source,
        "bytes": built.bytes,
        "profiles": [profile_json(one) for one in (shapes or Shapes(), *options.profiles)],
        "options": asdict(options),
        "made_by": {**(made_by or {}), "environment": environment()},
        "nodes": nodes_of(graph),
    }


def nodes_of(graph: gs.Graph) -> dict[str, dict[str, Any]]:
    """{name of a node: {"op", "outputs", "from": names of source nodes, "rules"}}."""
    from .ir.graph import flatten, peek, scopes

    nodes = {}
    for scope in scopes(graph):
        for node in scope.nodes:
            known = peek(node)
            names = flatten(known.origin) if known is not None and known.origin else [node.name]
            nodes[node.name] = {
                "op": node.op,
                "outputs": [tensor.name for tensor in node.outputs if tensor.name],
                "from": names,
                "rules": flatten(known.rules) if known is not None else [],
            }
    return nodes


def profile_json(shapes: Shapes) -> dict[str, list[list[int]]]:
    """Input -> its least, typical and largest shape."""
    names = sorted({*shapes.min, *shapes.opt, *shapes.max})
    return {name: [list(dims) for dims in shapes.of(name)] for name in names}


def write_manifest(engine: Path, data: dict[str, Any]) -> Path:
    """Write ENGINE.json beside the engine, whole or not at all. Raises OSError."""
    path = engine.with_name(engine.name + ".json")
    with staging(engine.parent) as folder:
        made = folder / path.name
        with made.open("w", encoding="utf-8") as file:
            json.dump(data, file, separators=(",", ":"))
        os.replace(made, path)
    return path
