"""Graphs for norms over groups and for rows of operators that only move elements."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import onnx

from graphopt.testing import model

from .families import family, numbers, opset


def _grouped(rng: Random, then: str, weights: dict[str, Any], channels: int, groups: int) -> onnx.ModelProto:
    known = {"s": numbers(rng, channels), "b": numbers(rng, channels), **weights}
    x = f"float[2,{channels},{rng.randint(1, 3)},2]"
    return model(
        f"""g ({x} x) => ({x} y) {{
        n = GroupNormalization <num_groups = {groups}> (x, s, b) {then} }}""",
        weights=known,
        opset=rng.choice((21, 23)),
    )


@family("fuse-group-norm")
def spelled(rng: Random) -> onnx.ModelProto:
    groups, each, width = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 4)
    channels = groups * each
    back = rng.choice(
        ("shape", f"{{2, {channels}, {width}}}", f"{{0, {channels}, -1}}", f"{{-1, {channels}, {width}}}")
    )
    made = "r = Shape(x)" if back == "shape" else f"r = Constant <value = int64[3] {back}> ()"
    return model(
        f"""g (float[2,{channels},{width}] x) => (y) {{
        p = Reshape(x, k) n = InstanceNormalization <epsilon = 0.01> (p, s, b) {made} y = Reshape(n, r) }}""",
        weights={"k": np.array([rng.choice((0, 2)), groups, -1]), "s": numbers(rng, groups), "b": numbers(rng, groups)},
        opset=rng.choice((21, 23)),
    )


@family("fold-group-norm-mul", "fold-group-norm-add")
def mapped(rng: Random) -> onnx.ModelProto:
    groups = rng.randint(1, 3)
    channels = groups * rng.randint(1, 3)
    shape = rng.choice(((channels, 1, 1), (1, channels, 1, 1), (1,)))
    op, last = rng.sample(("Mul", "Add"), 2)
    weights = {"c": numbers(rng, *shape), "d": numbers(rng, channels, 1, 1)}
    return _grouped(rng, f"m = {op}(n, c) y = {last}(m, d)", weights, channels, groups)


@family("fold-group-norm-bn")
def renormed(rng: Random) -> onnx.ModelProto:
    groups = rng.randint(1, 3)
    channels = groups * rng.randint(1, 3)
    weights = {name: numbers(rng, channels) for name in "cdm"} | {"v": np.abs(numbers(rng, channels)) + 0.1}
    return _grouped(rng, "y = BatchNormalization(n, c, d, m, v)", weights, channels, groups)


@family("shorten-movements")
def rows(rng: Random) -> onnx.ModelProto:
    """Two transposes with splits and joins of dimensions around them, as windows are cut out and put back."""
    a, b, c, d = (rng.randint(1, 4) for _ in range(4))
    perm = rng.sample(range(4), 4)
    split, second, axis = [(a, b, c, d)[axis] for axis in perm], rng.sample(range(4), 4), rng.randint(0, 4)
    return model(
        f"""g (float[{a * b},{c},{d}] x) => (y) {{
        p = Reshape(x, k) t = Transpose <perm = {perm}> (p) q = Reshape(t, j) u = Unsqueeze(q, one)
        v = Reshape(u, m) w = Transpose <perm = {second}> (v) y = Flatten <axis = {axis}> (w)
        }}""",
        weights={
            "k": np.array([a, b, c, d]),
            "j": np.array([split[0] * split[1], split[2], split[3]]),
            "one": np.array([rng.randint(-4, 3)]),
            "m": np.array([split[0], -1, *split[2:]]),
        },
        opset=rng.choice((13, 17, 21)),
    )


@family("spell-contributed")
def quantized_operators(rng: Random) -> onnx.ModelProto:
    """Scales that are powers of two, the result's the smallest: no value lies halfway between two integers."""
    kind, n = rng.choice(("int8", "uint8")), rng.randint(1, 4)
    op = rng.choice(("QLinearAdd", "QLinearMul"))
    scales = {"sa": rng.choice((0.5, 1.0)), "sb": rng.choice((0.5, 1.0)), "sy": rng.choice((0.25, 0.125))}
    zeros = {name: np.array(rng.randint(0, 9), kind) for name in ("za", "zb", "zy")}
    return model(
        f"""g ({kind}[2,{n}] x, {kind}[{rng.choice((1, n))}] w) => ({kind}[2,{n}] y) {{
        y = com.microsoft.{op}(x, sa, za, w, sb, zb, sy, zy) }}""",
        weights={name: np.float32(value) for name, value in scales.items()} | zeros,
        opset=rng.choice((13, 17, 21)),
        **{"com.microsoft": 1},
    )


@family("unflatten-products")
def flattened(rng: Random) -> onnx.ModelProto:
    a, b, k, n = (rng.randint(1, 4) for _ in range(4))
    bias = ", b" if rng.random() < 0.7 else ""
    x = rng.choice((f"{a},{b},{k}", f"{b},{a},{k}", f"{a},{b},1,{k}", f"{a},{b},{k},1"))
    return model(
        f"g (float[{x}] x) => (float[{a},{b},{n}] z) {{ r = Reshape(x, s) m = Gemm(r, w{bias}) z = Reshape(m, t) }}",
        weights={"s": np.array([-1, k]), "t": np.array([a, b, n]), "w": numbers(rng, k, n), "b": numbers(rng, n)},
        opset=opset(rng),
    )
