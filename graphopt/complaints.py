"""What a backend complains about, in words of what the user gave it."""

from __future__ import annotations

from pathlib import Path

import onnx_graphsurgeon as gs

from .backends.protocol import ParseError, ParserError
from .errors import BackendError
from .ir.graph import flatten, peek, scopes


def explained(error: BackendError, graph: gs.Graph, model: tuple[Path, str], engine: tuple[Path, Path]) -> BackendError:
    """The complaint, led back to the nodes and passes that it is about.

    model, engine: what was handed to the backend under a temporary name, and what the user calls it.
    """
    where = error.where.replace(str(model[0]), model[1] or "the model")
    where = str(engine[1]) if where.startswith(str(engine[0].parent)) else where
    if not isinstance(error, ParseError):
        return type(error)(error.what, where=where, hint=error.hint)
    nodes = {node.name: node for scope in scopes(graph) for node in scope.nodes}

    def story(one: ParserError) -> str:
        known = peek(nodes[one.node]) if one.node in nodes else None
        if known is None or not known.rules:
            return ""
        names, rules = flatten(known.origin), flatten(known.rules)
        return f"{one.node} was made by {', '.join(rules[-3:])} from {', '.join(names[:5])}"

    stories = [text for one in error.errors if (text := story(one))]
    hint = "\n  ".join(text for text in [error.hint, *stories] if text)
    return ParseError(error.what, where=where, hint=hint, errors=error.errors)
