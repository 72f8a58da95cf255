"""Names as a body sees them: its own, then those of the scopes around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs


class Chain(Mapping[str, gs.Tensor]):
    """Names of enclosing scopes, looked up from the inside out, without copying them."""

    def __init__(self, names: Mapping[str, gs.Tensor], outer: Mapping[str, gs.Tensor]) -> None:
        self.names, self.outer = names, outer

    def __getitem__(self, name: str) -> gs.Tensor:
        scope: Mapping[str, gs.Tensor] = self
        while isinstance(scope, Chain):
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return scope[name]

    def __iter__(self) -> Any:
        yield from self.names
        yield from self.outer

    def __len__(self) -> int:
        return len(self.names) + len(self.outer)
