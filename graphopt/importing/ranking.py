"""Detections come in the order of their scores: two that score the same may change places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.numerics.difference import Array, Value

_MOST_ROWS = 2000


def ranked_alike(expected: Sequence[Value], actual: Sequence[Value], limit: float) -> list[Any] | None:
    """The actual outputs with rows of equal score in the expected order; None where that is not all that differs.

    Outputs with as many rows as the scores move together: boxes (n, 4), scores (n,), labels (n,). Scores are floats
    that do not increase. Equal, of scores and of the rows' other values: within `limit`, relative to the largest.
    """
    pairs = list(zip(expected, actual, strict=False))
    if len(expected) != len(actual) or not all(_alike(a, b) for a, b in pairs):
        return None
    for number, (wanted, found) in enumerate(pairs):
        if _are_scores(wanted) and _are_scores(found) and _close(wanted, found, limit).all():
            together = [index for index, one in enumerate(expected) if len(np.atleast_1d(one)) == len(wanted)]  # type: ignore[arg-type]
            order = _order([pairs[index] for index in together], pairs[number][0], limit)
            if order is not None:
                return [one[order] if index in together else one for index, one in enumerate(actual)]  # type: ignore[index,call-overload]
    return None


def _order(pairs: Sequence[tuple[Any, Any]], scores: Any, limit: float) -> Array | None:
    """order[i]: which actual row is the expected row i."""
    wrong = [int(row) for row in np.flatnonzero(~np.all([_rows(a, b, limit) for a, b in pairs], axis=0))]
    if not wrong or len(wrong) > _MOST_ROWS:
        return None
    order, free = np.arange(len(scores)), np.array(wrong)
    for row in wrong:
        fits = _close(np.broadcast_to(scores[row], free.shape), scores[free], limit, np.abs(scores).max())
        for a, b in pairs:
            fits &= _rows(np.broadcast_to(a[row], (len(free), *a.shape[1:])), b[free], limit, a)
        if not fits.any():
            return None
        first = int(np.argmax(fits))
        order[row] = free[first]
        free = np.delete(free, first)
    return order


def _alike(a: Any, b: Any) -> bool:
    return isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray) and np.shape(a) == np.shape(b)


def _are_scores(one: Any) -> bool:
    return np.ndim(one) == 1 and len(one) > 1 and one.dtype.kind == "f" and bool((np.diff(one) <= 0).all())


def _rows(a: Any, b: Any, limit: float, whole: Any = None) -> Any:
    """Which rows are equal."""
    size = np.max(np.abs(a if whole is None else whole), initial=0)
    return _close(a, b, limit, size).reshape(len(a), -1).all(axis=1)


def _close(a: Any, b: Any, limit: float, size: Any = None) -> Any:
    if a.dtype.kind in "f" and b.dtype.kind in "f":
        with np.errstate(invalid="ignore"):
            near = np.abs(a - b) <= limit * (np.max(np.abs(a), initial=0) if size is None else size)
        return near | (a == b)
    return a == b
