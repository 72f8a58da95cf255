"""Operands of Reshapes that a layer captures from a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def gives(given: Sequence[int], shape: Sequence[Any], copied: int = 0) -> bool:
    """Whether a Reshape with this operand is proved to give this shape: sizes as they are, and one -1 for any.

    copied: so many axes are the input's own, and a 0 at one of them stands for it.
    """
    if len(given) != len(shape) or list(given).count(-1) > 1:
        return False
    fits = zip(given, shape, range(len(shape)), strict=True)
    return all(got in (-1, want) or (got == 0 and axis < copied) for got, want, axis in fits)
