"""Inputs that find what random ones do not: zeros, tiny, large, the ends of integers, NaN and infinity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.config import Dims

from .difference import Array, Value
from .feeds import make_feeds
from .ranges import Input, Values

KINDS = ("zeros", "tiny", "large", "ends")
"""zeros: all zero. tiny: around 1e-3, zeros of both signs among them. large: around 1e3. ends: the least and the
largest that a dtype holds, NaN and both infinities at single places. Integers are small, and at their ends."""

_FREE = ("any", "span", "index")


def adversarial_feeds(inputs: Sequence[Input], shapes: Mapping[str, Dims], kind: str, seed: int) -> dict[str, Value]:
    """feeds of one of KINDS, within what the inputs may hold: an index stays one, a mask, an axis or a shape does too.

    They are put at the model's inputs, so that whatever a pass has proved from the graph still holds inside.
    """
    usual = make_feeds(inputs, shapes, seed)
    symbols = {
        dim: size
        for port in inputs
        for dim, size in zip(port.dims or (), shapes.get(port.name, ()), strict=False)
        if isinstance(dim, str)
    }
    found: dict[str, Value] = {}
    for port in inputs:
        value = usual.get(port.name)
        if isinstance(value, np.ndarray) and port.values.kind in _FREE and port.kind == "tensor":
            values = port.values
            if isinstance(values.high, str):
                values = Values(values.kind, values.low, symbols.get(values.high, 1))
            random = np.random.default_rng([seed, KINDS.index(kind), len(found)])
            value = _array(dataclasses.replace(port, values=values), value, kind, random)
        if port.name in usual:
            found[port.name] = value
    return found


def _array(port: Input, usual: Array, kind: str, random: np.random.Generator) -> Array:
    if port.dtype_name in ("string", "bool"):
        return usual if port.dtype_name == "string" or kind != "zeros" else np.zeros_like(usual)
    if port.dtype_name.lstrip("u").startswith("int"):
        return _integers(port, usual, kind, random)
    if port.dtype.kind == "c" or "float8" in port.dtype_name or "float4" in port.dtype_name:
        return usual
    return _floats(port, usual, kind, random)


def _integers(port: Input, usual: Array, kind: str, random: np.random.Generator) -> Array:
    if port.values.kind in ("index", "span"):
        low, high = int(port.values.low), max(int(port.values.low), int(port.values.high) - 1)
    elif port.dtype.isbuiltin == 1:
        limits = np.iinfo(port.dtype)
        low, high = int(limits.min), int(limits.max)
    else:
        return usual
    if kind == "zeros":
        return np.full_like(usual, min(max(low, 0), high))
    if kind == "tiny":
        return np.full_like(usual, low) if port.values.kind in ("index", "span") else np.full_like(usual, 1)
    if kind == "large":
        return np.full_like(usual, high) if port.values.kind in ("index", "span") else -np.abs(usual // 2) - 1
    ends = np.array([low, high, max(low, min(high, 1)), max(low, high - 1)], dtype=port.dtype)
    return np.asarray(ends[random.integers(0, len(ends), size=usual.shape)])


def _floats(port: Input, usual: Array, kind: str, random: np.random.Generator) -> Array:
    span = port.values.kind in ("span", "index")
    low, high = float(port.values.low), float(port.values.high) if span else 0.0
    if kind == "zeros":
        return np.full_like(usual, min(max(low, 0.0), high) if span else 0.0)
    if kind == "ends":
        wide = usual.astype(np.float64)
        flat = wide.reshape(-1)
        largest = 6e4 if port.dtype.itemsize == 2 and port.dtype.kind == "f" else 3e38
        marks = [np.nan, np.inf, -np.inf, largest, -largest, low if span else 0.0, high if span else -0.0, 1e-38]
        places = random.permutation(flat.size)[: len(marks)]
        flat[places] = marks[: len(places)]
        with np.errstate(all="ignore"):
            return np.asarray(wide.astype(port.dtype))
    if span:
        return np.full_like(usual, low if kind == "tiny" else high - (port.values.kind == "index"))
    wide = usual.astype(np.float64) * (1e-3 if kind == "tiny" else 1e3)
    if kind == "tiny":
        chosen = random.random(usual.shape)
        wide = np.where(chosen < 0.1, 0.0, np.where(chosen < 0.2, -0.0, wide))
    with np.errstate(all="ignore"):
        return np.asarray(wide.astype(port.dtype))
