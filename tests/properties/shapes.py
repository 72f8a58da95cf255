"""Shapes, index vectors and attributes that an operator may take, by operator and slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

Kind = tuple[int, tuple[int, ...]]
WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


def rank_for(rng: Random, ops: frozenset[str]) -> int:
    """A rank that most of these operators take."""
    if "Gemm" in ops:
        return 2
    if ops & WINDOWED:
        return rng.choice((3, 4, 4, 4, 5))
    if ops & {"Resize", "Upsample"}:
        return 4
    if "BatchNormalization" in ops:
        return 2 if "MatMul" in ops else rng.choice((2, 3, 4, 5))
    if "MatMul" in ops:
        return rng.choice((1, 2, 2, 3, 4))
    if "Concat" in ops or any(op.startswith("Reduce") for op in ops):
        return rng.randint(1, 4)
    return rng.randint(0, 5)


def broadcast(rng: Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A scalar, [1], per channel, the last axis, the same, or any form that broadcasts to and fro."""
    draw = rng.randrange(8)
    if draw < 2:
        return () if draw else (1,)
    if draw == 2 and len(shape) > 1:
        return (shape[1], *(1,) * (len(shape) - 2))
    if draw == 3 and shape:
        return shape[-1:]
    if draw == 4:
        return shape
    if draw == 5:
        return (rng.choice((1, 2)), *shape)
    return tuple(1 if rng.random() < 0.5 else dim for dim in shape)


def constant_shape(rng: Random, op: str, slot: int, kinds: Sequence[Kind | None], attrs: dict[str, Any]) -> Any:
    """(shape, whether its numbers are positive) of this operand, or the index vector itself."""
    given = next((kind for kind in kinds if kind), None)
    shape = given[1] if given else ()
    rank = len(shape)
    if op == "BatchNormalization" and slot:
        return (shape[1] if rank > 1 else 1,), slot == 4
    if op in ("Conv", "ConvTranspose") and slot:
        if slot == 2:
            weight = kinds[1][1] if kinds[1] else (1, 1)
            return (weight[0] if op == "Conv" else weight[1] * attrs.get("group", 1),), False
        group = attrs.get("group", 1)
        window = attrs.get("kernel_shape") or [rng.randint(1, 3) for _ in shape[2:]]
        channels = shape[1] if rank > 1 else 1
        if op == "Conv":
            return (group * rng.randint(1, 3), max(channels // group, 1), *window), False
        return (channels, rng.randint(1, 3), *window), False
    if op == "Gemm" and slot == 1 and rank == 2:
        inner, free = shape[0 if attrs.get("transA") else 1], rng.randint(1, 4)
        return ((free, inner) if attrs.get("transB") else (inner, free)), False
    if op == "Gemm" and slot == 0 and rank == 2:
        inner, free = shape[1 if attrs.get("transB") else 0], rng.randint(1, 4)
        return ((inner, free) if attrs.get("transA") else (free, inner)), False
    if op == "Gemm" and slot == 2 and kinds[0] and kinds[1] and len(kinds[0][1]) == len(kinds[1][1]) == 2:
        rows, columns = kinds[0][1][attrs.get("transA", 0)], kinds[1][1][1 - attrs.get("transB", 0)]
        return rng.choice([(rows, columns), (columns,), (1, columns), (rows, 1), (), (1,)]), False
    if op == "MatMul" and rank:
        free = rng.randint(1, 4)
        if kinds[0]:
            return rng.choice([(shape[-1], free), (shape[-1], free), (*shape[:-2], shape[-1], free)]), False
        return rng.choice([(free, shape[-2] if rank > 1 else shape[0]), (2, free, shape[max(rank - 2, 0)])]), False
    if op == "LayerNormalization" and slot:
        return shape[attrs.get("axis", -1) :], False
    if op == "RMSNormalization" and slot:
        return shape[attrs.get("axis", -1) :], False
    if op == "Clip" or (op == "Pad" and slot == 2) or (op == "Dropout" and slot == 1):
        return (), False
    vector = _vector(rng, op, slot, shape, kinds)
    return vector if vector is not None else (broadcast(rng, shape), False)


def _vector(rng: Random, op: str, slot: int, shape: tuple[int, ...], kinds: Sequence[Kind | None]) -> Any:
    rank = len(shape)
    if slot == 0:
        return None
    if op.startswith("Reduce") or op == "Squeeze":
        ones = [i for i, d in enumerate(shape) if d == 1] if op == "Squeeze" else list(range(rank))
        if op == "ReduceMean" and rng.random() < 0.6 and rank:
            return np.array([-1 if rng.random() < 0.5 else rank - 1])
        chosen = sorted(rng.sample(ones, rng.randint(min(1, len(ones)), len(ones))))
        return np.array([i - rank if rng.random() < 0.4 else i for i in chosen], np.int64)
    if op == "Unsqueeze":
        count = rng.randint(0, 2)
        full = rank + count
        chosen = sorted(rng.sample(range(full), count))
        return np.array([i - full if rng.random() < 0.4 else i for i in chosen], np.int64)
    if op == "Slice":
        length = len(kinds[1][1]) and kinds[1][1][0] if slot > 1 and kinds[1] else rng.randint(1, max(rank, 1))
        if slot == 1:
            return np.array([rng.choice((0, 0, 0, 1, -2, -1, 5)) for _ in range(length)])
        if slot == 2:
            return np.array([rng.choice((2**31 - 1, 2**63 - 1, 3, 2, -1, 1, 4)) for _ in range(length)])
        if slot == 3:
            return np.array(rng.sample(range(-rank, 0) if rng.random() < 0.4 else range(rank), min(length, rank)))
        return np.array([rng.choice((1, 1, 1, 1, 2, -1)) for _ in range(length)])
    if op == "Pad" and slot == 1:
        spatial = [rng.choice((0, 0, 1, 2)) for _ in range(2 * max(rank - 2, 0))]
        half = len(spatial) // 2
        free = rng.random() < 0.2 and rank
        pads = [0, 0, *spatial[:half], 0, 0, *spatial[half:]] if rank > 1 else [0] * 2 * rank
        if free:
            pads[rng.randrange(2 * rank)] = 1
        return np.array(pads if rng.random() < 0.7 else [0] * 2 * rank, np.int64)
    if op == "Pad" and slot == 3:
        return np.arange(rank)
    if op == "Reshape":
        total = math.prod(shape)
        forms = [list(shape), [-1], [0, -1] if rank else [-1], [total], [1, *shape], [*shape[:1], -1]]
        return np.array(rng.choice(forms), np.int64)
    if op == "Upsample":
        return np.array([rng.choice((1, 1, 1, 2)) if i == rank - 1 else 1 for i in range(rank)], np.float32)
    if op == "Expand":
        return np.array(rng.choice([list(shape), [1] * rank, [2, *shape]]), np.int64)
    if op == "Tile":
        return np.array([rng.choice((1, 1, 1, 2)) for _ in range(rank)], np.int64)
    if op == "Gather":
        return rng.choice([np.arange(shape[0] if rank else 1), np.array([0]), np.array(0)])
    if op == "Resize":
        if slot == 2:
            return np.array([rng.choice((1, 1, 1, 2)) for _ in range(rank)], np.float32)
        if slot == 1:
            return np.zeros(0, np.float32)
        return np.array(shape, np.int64)
    return None


def attributes(rng: Random, op: str, key: str, kind: Kind) -> Any:
    """A value of an attribute that the pattern binds; None leaves it out."""
    dtype, shape = kind
    rank = len(shape)
    if key == "perm":
        if rng.random() < 0.2:
            return None
        order = list(range(rank))
        rng.shuffle(order)
        return order if rng.random() < 0.8 else list(range(rank))
    if key == "axis":
        if op in ("LayerNormalization", "RMSNormalization"):
            return rng.choice((-1, -1, rank - 1, max(rank - 2, 0)))
        if op == "Flatten":
            return rng.choice((None, rng.randint(-rank, rank)))
        return rng.randrange(-rank, rank) if rank else 0
    if key in ("keepdims", "transA", "transB", "allowzero", "noop_with_empty_axes"):
        return rng.choice((0, 1, None)) if key in ("keepdims", "transA", "transB") else None
    if key in ("to", "wide", "narrow"):
        return rng.choice((dtype, 1, 11, 10, 7, 6))
    if key == "kernel_shape":
        return [rng.choice((1, 1, 2)) for _ in shape[2:]]
    if key in ("alpha", "beta", "epsilon"):
        return rng.choice((None, 0.2, 0.5, 1e-5, 1e-3))
    return None


def rest_attributes(rng: Random, op: str, kind: Kind) -> dict[str, Any]:
    """The attributes that a pattern leaves free."""
    shape = kind[1]
    spatial = len(shape) - 2
    if op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
        found: dict[str, Any] = {}
        if rng.random() < 0.5:
            found["pads"] = [rng.choice((0, 1)) for _ in range(2 * spatial)]
        if rng.random() < 0.3:
            found["strides"] = [rng.choice((1, 2)) for _ in range(spatial)]
        if op.endswith("Pool"):
            found["kernel_shape"] = [rng.choice((1, 2, 2, 3)) for _ in range(spatial)]
        if op.startswith("Conv"):
            divisors = [g for g in range(1, shape[1] + 1) if shape[1] % g == 0] if len(shape) > 1 else [1]
            if rng.random() < 0.4:
                found["group"] = rng.choice(divisors)
            if rng.random() < 0.2:
                found["dilations"] = [2] * spatial
        elif op == "AveragePool" and rng.random() < 0.5:
            found["count_include_pad"] = rng.choice((0, 1))
        if rng.random() < 0.15:
            found.pop("pads", None)
            found["auto_pad"] = rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        return found
    if op == "BatchNormalization":
        return {"epsilon": rng.choice((1e-5, 1e-3, 0.5))} if rng.random() < 0.6 else {}
    if op == "Gemm":
        found = {"transB": rng.choice((0, 1))} if rng.random() < 0.5 else {}
        return found | (
            {"alpha": rng.choice((1.0, 0.5)), "beta": rng.choice((1.0, 2.0, 0.0))} if rng.random() < 0.4 else {}
        )
    return {}
