"""How many changes a run may make."""

from __future__ import annotations


class Enough(Exception):
    """The allowed number of changes is used up."""


class Budget:
    """How many changes a run may make, and has made."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.used = 0

    def check(self) -> None:
        """Called before a change is even prepared: a rewrite may be wrong enough to act while it is being built.

        Raises Enough.
        """
        if self.most is not None and self.used >= self.most:
            raise Enough
