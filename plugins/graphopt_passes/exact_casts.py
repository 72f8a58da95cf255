"""Which dtype holds every value of which other."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import dtypes

_FLOATS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
"""Bits of the significand: integers up to 2 ** bits are exact (all are within the range of the exponent)."""
_INTS = {
    "bool": (1, False),
    "uint8": (8, False),
    "uint16": (16, False),
    "uint32": (32, False),
    "uint64": (64, False),
    "int8": (7, True),
    "int16": (15, True),
    "int32": (31, True),
    "int64": (63, True),
}
"""Bits of the magnitude, and whether there is a sign."""
_WIDER = {
    "float16": {"float32", "float64"},
    "bfloat16": {"float32", "float64"},
    "float32": {"float64"},
}


def holds_every(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Whether a cast from `narrow` to `wide` changes no value, whatever it is."""
    big, small = dtypes.name(wide), dtypes.name(narrow)
    if big == small:
        return True
    if big == "bool":
        return False
    if small in _INTS:
        bits, signed = _INTS[small]
        if big in _FLOATS:
            return bits <= _FLOATS[big]
        if big in _INTS:
            return bits <= _INTS[big][0] and (_INTS[big][1] or not signed)
        return False
    return big in _WIDER.get(small, ())
