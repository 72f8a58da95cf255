"""Which of many pairs of values deserve a second look? Runs beside the model, so that no value has to travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from .difference import Array, Value, compare
from .tolerance import tolerance_for

WINDOW_BYTES = 256 << 20
"""At most about this many bytes of values are held at once."""

Pairs = Sequence[tuple[str, str, int]]
"""(expected, actual, bytes of one of them, as far as known)."""


def suspects(run: Callable[[list[str]], Mapping[str, Value]], pairs: Pairs) -> list[int]:
    """Numbers of the pairs that are not clearly equal. run: gives the values of these names."""
    found: list[int] = []
    for window in _windows(pairs):
        values = run(list(dict.fromkeys(name for i in window for name in pairs[i][:2])))
        found += [i for i in window if not _alike(values[pairs[i][0]], values[pairs[i][1]])]
    return found


def _windows(pairs: Pairs) -> Iterator[list[int]]:
    window: list[int] = []
    total = 0
    for number, (_, _, size) in enumerate(pairs):
        if window and total + 2 * size > WINDOW_BYTES:
            yield window
            window, total = [], 0
        window.append(number)
        total += 2 * size
    if window:
        yield window


def _alike(expected: Value, actual: Value) -> bool:
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        if expected.dtype != actual.dtype or expected.shape != actual.shape:
            return False
        if expected.dtype in (np.float32, np.float64) and _quickly(expected, actual):
            return True
    with np.errstate(all="ignore"):
        return compare(expected, actual).ok


def _quickly(expected: Array, actual: Array) -> bool:
    """||a - e|| <= half the tolerance * ||e||, where nothing overflows or vanishes on the way."""
    with np.errstate(all="ignore"):
        e = expected.reshape(-1)
        gap = actual.reshape(-1) - e
        off, size = float(np.dot(gap, gap)), float(np.dot(e, e))
    bound = 0.5 * tolerance_for(expected.dtype.name).relative_l2
    return bool(1e-20 < size < 1e30 and off <= bound * bound * size)
