"""Whoever wants to see each change as it is made: verification of every single match."""

from __future__ import annotations

from typing import Any, Protocol

import onnx_graphsurgeon as gs

from .match import Match
from .rule import Entry


class Observer(Protocol):
    """Sees every change of a run; must not edit the graph."""

    def before(self, entry: Entry, match: Match | None) -> Any:
        """Called before a rule's `rewrite`, or with no match before a function pass; what it returns comes back."""

    def after(self, token: Any, new: list[gs.Tensor], made: list[gs.Node]) -> None:
        """Called when a rule has made its nodes, before they replace the old; or when a function pass is done.

        new: by output of the pattern, the tensor that replaces it. made: the nodes that compute them, in order.
        """
