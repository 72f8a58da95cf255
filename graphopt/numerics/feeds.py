"""Seeded input arrays that a model can take."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import UsageError

from .difference import Array, Value
from .ranges import Input, Values

_SEQUENCE_LENGTH = 2
_MOST = 1 << 36
"""Elements of one input."""
_WORDS = ("", "a", "graph", "Tensor RT", "ümlaut", "1.5")


def make_feeds(inputs: Sequence[Input], shapes: Mapping[str, Dims], seed: int) -> dict[str, Value]:
    """feeds[name] = f(seed, name, dtype, shape, values): the other inputs do not change it.

    inputs: those of the model; one that is not required and has no entry in shapes is left to its default.
    shapes: dims of every required input; zero-size dims are fine. floats ~ normal(0, 1) where nothing narrows them.
    Raises UsageError for an input that has no shape, or whose type cannot be made.
    """
    symbols = {
        dim: size
        for port in inputs
        for dim, size in zip(port.dims or (), shapes.get(port.name, ()), strict=False)
        if isinstance(dim, str)
    }
    feeds: dict[str, Value] = {}
    for port in inputs:
        if port.name not in shapes:
            if port.required:
                raise UsageError(f"input {port.name!r} has no shape", hint="name its dims with --shapes")
            continue
        if port.kind == "unsupported":
            raise UsageError(f"input {port.name!r} is neither tensor nor sequence of tensors")
        random = np.random.default_rng([seed, _stable_hash(port.name)])
        shape = shapes[port.name]
        if math.prod(shape) > _MOST:
            raise UsageError(
                f"input {port.name!r} has the shape {'x'.join(map(str, shape))}, which no memory holds",
                hint="name smaller dims with --shapes, or leave verification out with --verify none",
            )
        if port.kind == "sequence":
            feeds[port.name] = [_array(port, shape, symbols, random) for _ in range(_SEQUENCE_LENGTH)]
        else:
            feeds[port.name] = _array(port, shape, symbols, random)
    return feeds


def _stable_hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _array(port: Input, shape: Dims, symbols: Mapping[str, int], random: np.random.Generator) -> Array:
    values = port.values
    if isinstance(values.high, str):
        values = Values(values.kind, values.low, symbols.get(values.high, 1))
    if port.dtype_name == "string":
        words = np.empty(shape, dtype=object)
        words[...] = random.choice(np.array(_WORDS, dtype=object), size=shape)
        return words
    if port.dtype_name == "bool":
        return np.asarray(_mask(shape, random) if values.kind == "mask" else random.random(shape) < 0.5, dtype=bool)
    made: Any = _structured(values, shape, random)
    if made is None:
        integral = port.dtype_name.lstrip("u").startswith("int")
        made = _integers(port, values, shape, random) if integral else _floats(port, values, shape, random)
    if "e8m0" in port.dtype_name:  # an exponent alone: neither zero nor sign
        made = np.maximum(np.abs(made), 2.0**-20)
    return np.asarray(made).astype(port.dtype)


def _structured(values: Values, shape: Dims, random: np.random.Generator) -> Array | None:
    if values.kind == "mask":
        return _mask(shape, random)
    if values.kind == "fixed":
        return np.full(shape, values.low)
    if values.kind == "axes":
        return np.arange(int(np.prod(shape))).reshape(shape)
    if values.kind == "reshape":
        wanted = np.ones(shape)
        wanted.ravel()[-1:] = -1
        return wanted
    return None


def _mask(shape: Dims, random: np.random.Generator) -> Array:
    """Rows of at least one 1, then zeros: no row of an attention is masked whole."""
    if not shape:
        return np.ones(())
    lengths = random.integers(1, max(2, shape[-1] + 1), size=(*shape[:-1], 1))
    return (np.arange(shape[-1]) < lengths).astype(np.int64)


def _integers(port: Input, values: Values, shape: Dims, random: np.random.Generator) -> Array:
    limits = np.iinfo(port.dtype) if port.dtype.isbuiltin == 1 else None
    if values.kind in ("index", "span"):
        low, high = int(values.low), int(values.high)
    elif limits is None:
        bits = int("".join(c for c in port.dtype_name if c.isdigit()))
        unsigned = port.dtype_name.startswith("u")
        low, high = (0, 1 << bits) if unsigned else (-(1 << bits - 1), 1 << bits - 1)
    elif limits.bits == 8:
        low, high = int(limits.min), int(limits.max) + 1
    else:
        low, high = 0, 10
    if limits is not None:
        high = min(high, int(limits.max) + 1)
    return np.asarray(random.integers(low, max(low + 1, high), size=shape))


def _floats(port: Input, values: Values, shape: Dims, random: np.random.Generator) -> Array:
    if values.kind == "span":
        return np.asarray(random.uniform(values.low, float(values.high), size=shape))
    if values.kind == "index":
        return np.asarray(random.integers(0, max(1, int(values.high)), size=shape))
    made = np.asarray(random.standard_normal(shape))
    if port.dtype.kind == "c":
        return np.asarray(made + 1j * random.standard_normal(shape))
    return made
