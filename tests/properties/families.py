"""Graphs for passes that are no single pattern: written in ONNX text with what matters drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx

from graphopt.testing import model

Family = Callable[[Random], onnx.ModelProto]
FAMILIES: dict[str, Family] = {}


def family(*names: str) -> Callable[[Family], Family]:
    def keep(function: Family) -> Family:
        def made(rng: Random) -> onnx.ModelProto:
            return with_types(function(rng))

        for name in names:
            FAMILIES[name] = made
        return made

    return keep


def with_types(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its outputs, as the text leaves them out."""
    if all(port.HasField("type") for port in source.graph.output):
        return source
    names = [port.name for port in source.graph.output]
    bare = onnx.ModelProto()
    bare.CopyFrom(source)
    del bare.graph.output[:]
    known = {port.name: port for port in onnx.shape_inference.infer_shapes(bare).graph.value_info}
    del source.graph.output[:]
    source.graph.output.extend(known[name] for name in names)
    return source


def numbers(rng: Random, *shape: int) -> Any:
    return np.random.default_rng(rng.getrandbits(32)).normal(0, 1, shape).astype(np.float32)


def opset(rng: Random, least: int = 13) -> int:
    return rng.choice([n for n in (13, 15, 17, 18, 20, 21, 23) if n >= least])


@family("skip-expand")
def expands(rng: Random) -> onnx.ModelProto:
    n, c = rng.randint(1, 3), rng.randint(1, 4)
    x = rng.choice([f"1,{c}", f"{n},1", "1", f"{n},{c}"])
    op = rng.choice(("Add", "Sub", "Mul", "Div", "Less", "Pow"))
    kind = "bool" if op == "Less" else "float"
    operands = rng.choice(("e, y", "y, e"))
    return model(
        f"g (float[{x}] x, float[{n},{c}] y) => ({kind}[{n},{c}] z) {{ e = Expand(x, s) z = {op}({operands}) }}",
        weights={"s": np.array([n, c])},
        opset=opset(rng),
    )


@family(
    "lift-constants",
    "remove-dead-nodes",
    "fold-constants",
    "merge-equal-weights",
    "merge-equal-nodes",
    "remove-identities",
)
def arithmetic(rng: Random) -> onnx.ModelProto:
    """A random line of elementwise operators with constants, repeats, identities and dead ends."""
    lines = ["k = Constant <value = float[3] {1.5, -2.0, 0.0}>()", "d = Neg(x)", "i = Identity(x)"]
    known = ["x", "y", "k", "w", "w2", "i"]
    for n in range(rng.randint(2, 9)):
        a, b = rng.choice(known), rng.choice(known)
        op = rng.choice(("Add", "Sub", "Mul", "Max", "Min"))
        lines.append(f"t{n} = {op}({a}, {b})")
        if rng.random() < 0.4:
            lines.append(f"s{n} = {op}({a}, {b})")
            known.append(f"s{n}")
        if rng.random() < 0.2:
            lines.append(f"r{n} = Identity(t{n})")
            known.append(f"r{n}")
        known.append(f"t{n}")
    lines += ["f0 = Add(w, w2)", f"z = Add({known[-1]}, f0)", f"u = Identity({rng.choice(known)})"]
    w = numbers(rng, 3)
    return model(
        f"g (float[2,3] x, float[2,3] y) => (z, u) {{ {' '.join(lines)} }}",
        weights={"w": w, "w2": w.copy() if rng.random() < 0.7 else -w},
        opset=opset(rng),
    )


@family("inline-known-if")
def ifs(rng: Random) -> onnx.ModelProto:
    op = rng.choice(("Add", "Sub", "Mul"))
    taken = rng.choice((True, False))
    return model(
        f"""g (float[2,3] x) => (float[2,3] z) {{ h = Neg(x)
        y = If (c) <then_branch = a () => (float[2,3] p) {{ q = {op}(h, w) p = Abs(q) }},
                    else_branch = b () => (float[2,3] p2) {{ q2 = {op}(w, x) p2 = Identity(q2) }}>
        z = Relu(y) }}""",
        weights={"w": numbers(rng, rng.choice((1, 3))), "c": np.array(taken)},
        opset=opset(rng),
    )


@family("inline-functions")
def functions(rng: Random) -> onnx.ModelProto:
    op, alpha = rng.choice(("Add", "Sub", "Mul")), rng.choice((0.0, 0.5, 2.0))
    version = opset(rng)
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {version}, "l" : 1]>
        g (float[2,3] x) => (float[2,3] z) {{ a = l.F <alpha = {alpha}> (x, x) b = Neg(a) z = l.F <alpha = 1.5> (b, x) }}
        <domain: "l", opset_import: ["" : {version}]>
        F <alpha> (p, q) => (r) {{ t = {op}(p, q) r = LeakyRelu <alpha: float = @alpha> (t) }}"""
    )


@family("unroll-loops")
def loops(rng: Random) -> onnx.ModelProto:
    op = rng.choice(("Add", "Sub", "Mul"))
    return model(
        f"""g (float[2] x) => (float[2] z, float[k,2] s) {{
        z, s = Loop (n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool on, float[2] nv, float[2] out) {{
            f = Cast <to = 1> (i) on = Identity(go) u = {op}(v, w) nv = Add(u, f) out = Neg(v) }}> }}""",
        weights={"n": np.array(rng.randint(1, 4)), "c": np.array(True), "w": numbers(rng, 2)},
        opset=opset(rng),
    )


@family("share-transposed-weights")
def shared_weights(rng: Random) -> onnx.ModelProto:
    w = numbers(rng, 40, 30)
    return model(
        "g (float[n,40] x, float[n,30] y) => (z, u) { z = Gemm <alpha = 0.5> (x, w) u = Gemm(y, t) }",
        weights={"w": w, "t": np.ascontiguousarray(w.T)},
        opset=opset(rng),
    )


@family("move-scale-to-weights", "fold-scale-into-weights")
def scaled(rng: Random) -> onnx.ModelProto:
    k, h, d = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
    c = rng.choice((0.5, -2.0, 0.125, 3.0))
    return model(
        f"""g (float[2,3,{k}] x) => (float[2,{h},3,{d}] z) {{ m = MatMul(x, w) a = Add(b, m) r = Reshape(a, s)
        t = Transpose <perm = [0,2,1,3]> (r) z = {rng.choice(("Mul(t, c)", "Mul(c, t)", "Div(t, c)"))} }}""",
        weights={
            "w": numbers(rng, k, h * d),
            "b": numbers(rng, h * d),
            "s": np.array([2, 3, h, d]),
            "c": np.array(c, np.float32),
        },
        opset=opset(rng),
    )


@family("remove-split-into-one")
def one_part(rng: Random) -> onnx.ModelProto:
    axis = rng.choice((0, 1, -1, -2))
    attribute = ", num_outputs = 1" if (version := opset(rng)) >= 18 else ""
    return model(
        f"g (float[2,3] x) => (float[2,3] z) {{ s = Split <axis = {axis}{attribute}> (x) z = Relu(s) }}", opset=version
    )


@family("narrow-places", "align-constants", "split-evenly")
def for_tensorrt(rng: Random) -> onnx.ModelProto:
    n, axis = rng.randint(1, 3), rng.choice((1, -1))
    return model(
        f"""g (float[2,{2 * n}] x) => (y, z, v) {{ a, b = Split <axis = {axis}> (x, s) y = Sub(c, a) z = Gather <axis = 1> (b, i)
        v = Slice(x, st, en) }}""",
        weights={
            "s": np.array([n, n]), "c": numbers(rng, *rng.choice(((1,), (n,), ()))), "i": np.array([0, -1]),
            "st": np.array([0]), "en": np.array([rng.choice((1, 2, 9, -1))]),
        },
        opset=opset(rng),
    )  # fmt: skip


@family("merge-concats", "split-concat", "take-from-concat")
def concats(rng: Random) -> onnx.ModelProto:
    a, b, c = (rng.randint(1, 3) for _ in range(3))
    axis = rng.choice((1, -1))
    parts = ("split", "slice", "nested")[rng.randrange(3)]
    if parts == "split":
        body = f"j = Concat <axis = {axis}> (x, y) p, q = Split <axis = 1> (j, s) z = Neg(p) u = Abs(q)"
    elif parts == "slice":
        body = f"j = Concat <axis = {axis}> (x, y) z = Slice(j, st, en, ax) u = Abs(x)"
    else:
        last = "w, j" if rng.random() < 0.7 else "j, w"
        other = rng.choice((f"Concat <axis = {rng.choice((1, -1))}> (j, x, j)", "Neg(x)", "Neg(j)"))
        body = f"j = Concat <axis = {axis}> (x, y) z = Concat <axis = {rng.choice((1, -1))}> ({last}) u = {other}"
    lo, hi = rng.choice(((0, a), (a, a + b), (0, a + 1), (a - a - b, 2**31 - 1)))
    return model(
        f"g (float[2,{a}] x, float[2,{b}] y, float[2,{c}] w) => (z, u) {{ {body} }}",
        weights={"s": np.array([a, b]), "st": np.array([lo]), "en": np.array([hi]), "ax": np.array([axis])},
        opset=opset(rng),
    )


@family("reassemble-split", "reassemble-slices", "split-instead-of-slices")
def tiles(rng: Random) -> onnx.ModelProto:
    a, b, c = (rng.randint(1, 3) for _ in range(3))
    order = rng.choice((("p", "q", "r"), ("p", "q", "r"), ("q", "p", "r"), ("p", "q")))
    axis = rng.choice((1, 1, -1, 0)) if a == b == c else rng.choice((1, -1))
    if rng.random() < 0.5:
        make = "p, q, r = Split <axis = 1> (x, s)"
    else:
        make = "p = Slice(x, i0, i1, one) q = Slice(x, i1, i2, one) r = Slice(x, i2, i3, one)"
    tail = (
        f"z = Concat <axis = {axis}> ({', '.join(order)})"
        if rng.random() < 0.6
        else "m = Neg(p) n = Abs(r) z = Concat <axis = 1> (m, q, n)"
    )
    return model(
        f"g (float[2,{a + b + c}] x) => (z) {{ {make} {tail} }}",
        weights={
            "s": np.array([a, b, c]), "i0": np.array([0]), "i1": np.array([a]), "i2": np.array([a + b]),
            "i3": np.array([rng.choice((a + b + c, 2**31 - 1))]), "one": np.array([1]),
        },
        opset=opset(rng),
    )  # fmt: skip


@family("merge-projections")
def projections(rng: Random) -> onnx.ModelProto:
    k, a, b = rng.randint(8, 16), rng.randint(4, 16), rng.randint(4, 16)
    return model(
        f"""g (float[2,3,{k}] x) => (u, v) {{ m = MatMul(x, w) n = MatMul(x, w2) p = Add(m, b) q = Add(n, b2)
        u = Relu(p) v = Neg(q) }}""",
        weights={"w": numbers(rng, k, a), "w2": numbers(rng, k, b), "b": numbers(rng, a), "b2": numbers(rng, b)},
        opset=opset(rng),
    )


@family("drop-zero-states")
def recurrent(rng: Random) -> onnx.ModelProto:
    op, gates = rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    c = ", zero" if op == "LSTM" else ""
    state = np.zeros((1, 2, 3), np.float32) if rng.random() < 0.8 else numbers(rng, 1, 2, 3)
    return model(
        f"g (float[4,2,5] x) => (y, h) {{ y, h = {op} <hidden_size = 3> (x, w, r, b, , zero{c}) }}",
        weights={
            "w": numbers(rng, 1, gates * 3, 5),
            "r": numbers(rng, 1, gates * 3, 3),
            "b": numbers(rng, 1, gates * 6),
            "zero": state,
        },
        opset=opset(rng, 15),
    )


@family("transpose-without-reshapes")
def joined(rng: Random) -> onnx.ModelProto:
    a, b, c = (rng.randint(2, 4) for _ in range(3))
    return model(
        f"g (float[{a},{b},{c}] x) => (z) {{ r = Reshape(x, s) t = Transpose <perm = [1,0]> (r) y = Reshape(t, u) z = Relu(y) }}",
        weights={"s": np.array([a, b * c]), "u": np.array([b, c, a])},
        opset=opset(rng),
    )


@family("evaluate-shapes", "shape-of-operand")
def shape_arithmetic(rng: Random) -> onnx.ModelProto:
    axis = rng.choice((0, 1, -1))
    return model(
        f"""g (float[N,3,M] x) => (z, u) {{ e = Relu(x) sh = Shape(e) n = Gather <axis = 0> (sh, i) m = Gather <axis = 0> (sh, i)
        k = {rng.choice(("Mul(n, m)", "Add(n, m)", "Sub(n, one)"))} t = Unsqueeze(m, zero) c = Concat <axis = 0> (t, minus) z = Reshape(x, c) u = Cast <to = 1> (k) }}""",
        weights={"i": np.array(axis), "one": np.array(1), "zero": np.array([0]), "minus": np.array([-1])},
        opset=opset(rng),
    )


@family("gather-instead-of-squeezed-split")
def squeezed_split(rng: Random) -> onnx.ModelProto:
    return model(
        "g (float[2,3] x) => (u, v) { a, b, c = Split <axis = 1> (x, s) p = Squeeze(a, one) q = Squeeze(c, one) u = Relu(p) v = Neg(q) }",
        weights={"s": np.array([1, 1, 1]), "one": np.array([rng.choice((1, -1))])},
        opset=opset(rng),
    )


@family("split-instead-of-sequence")
def sequences(rng: Random) -> onnx.ModelProto:
    n, keep = rng.randint(1, 3), rng.choice((0, 1))
    sizes = np.array([n, 2])
    return model(
        f"g (float[2,{n + 2}] x) => (u, v) {{ q = SplitToSequence <axis = {rng.choice((1, -1))}, keepdims = {keep}> (x, s) a = SequenceAt(q, zero) b = SequenceAt(q, last) u = Relu(a) v = Neg(b) }}",
        weights={"s": sizes, "zero": np.array(0), "last": np.array(rng.choice((1, -1)))},
        opset=opset(rng),
    )


@family("cancel-transposes")
def regions(rng: Random) -> onnx.ModelProto:
    middle = rng.choice(
        (
            "m = Relu(a)", "m = Softmax <axis = 1> (a)", "m = Add(a, c)", "m = Concat <axis = 1> (a, a)",
            "m = Sub(c, a)", "m = ReduceMean <keepdims = 1, axes = [1]> (a)", "h = Mul(a, a) m = Sub(h, a)",
        )
    )  # fmt: skip
    version = rng.choice((13, 15, 17))
    return model(
        f"g (float[2,3,4,5] x) => (z) {{ a = Transpose <perm = [0,3,1,2]> (x) {middle} z = Transpose <perm = [0,2,3,1]> (m) }}",
        weights={"c": numbers(rng, *rng.choice(((1,), (5, 1, 1), (1, 5, 3, 4), (4,))))},
        opset=version,
    )


@family("remove-upsample-to-same")
def upsample(rng: Random) -> onnx.ModelProto:
    return model(
        "g (float[1,2,3,4] x) => (z) { u = Upsample(x, s) z = Relu(u) }",
        weights={"s": np.array([1, 1, 1, rng.choice((1, 2))], np.float32)},
        opset=9,
    )


@family("decide-if-by-rank")
def ranks(rng: Random) -> onnx.ModelProto:
    """One branch fits the Conv that reads it; the condition is computed."""
    first = rng.random() < 0.5
    fit, other = "Relu(x)", "Unsqueeze(x, zero)"
    then, otherwise = (fit, other) if first else (other, fit)
    return model(
        f"""g (float[2,3,5] x) => (float[2,4,5] y) {{
            s = Shape(x) d = Gather(s, zero) c = Equal(d, n)
            z = If(c)<then_branch = t () => (u) {{ u = {then} }}, else_branch = e () => (v) {{ v = {otherwise} }}>
            {rng.choice(("r = Neg(z)", "q = Unsqueeze(z, zero) r = Squeeze(q, zero)"))} y = Conv(r, w)
        }}""",
        weights={"zero": np.array([0]), "n": np.array([2 if first else 7]), "w": numbers(rng, 4, 3, 1)},
        opset=opset(rng),
    )


@family("fuse-space-to-depth")
def focus(rng: Random) -> onnx.ModelProto:
    """Strided slices of all places of a block, in any order, one axis after the other or at once."""
    b, channels = rng.choice((2, 2, 3)), rng.randint(1, 3)
    places = [(i, j) for i in range(b) for j in range(b)]
    if rng.random() < 0.7:
        rng.shuffle(places)
    at_once, end = rng.random() < 0.5, np.array([2**31 - 1, 2 * b] if rng.random() < 0.5 else [2**63 - 1] * 2)
    lines, weights = (
        [],
        {"end": end, "end0": end[:1], "end1": end[1:], "step": np.array([b, b]), "step1": np.array([b])},
    )
    weights |= {"axes": np.array([2, 3]), "axis2": np.array([2]), "axis3": np.array([-1])}
    for n, (i, j) in enumerate(places):
        weights |= {f"s{n}": np.array([i, j]), f"i{n}": np.array([i]), f"j{n}": np.array([j])}
        rows = f"r{n} = Slice(x, i{n}, end0, axis2, step1) p{n} = Slice(r{n}, j{n}, end1, axis3, step1)"
        lines.append(f"p{n} = Slice(x, s{n}, end, axes, step)" if at_once else rows)
    parts, used = ", ".join(f"p{n}" for n in range(b * b)), " ".join(lines)
    return model(
        f"g (float[1,{channels},{3 * b},{2 * b}] x) => (y) {{ {used} z = Concat<axis = 1>({parts}) y = Conv(z, w) }}",
        weights={k: v for k, v in weights.items() if re.search(rf"\b{k}\b", used)}
        | {"w": numbers(rng, 2, b * b * channels, 1, 1)},
        opset=opset(rng),
    )


@family("drop-zero-gemm-bias")
def zero_biases(rng: Random) -> onnx.ModelProto:
    zeros = np.array([0, 0, 0, rng.choice((0.0, 0.0, 0.0, -0.0, 1.0))], np.float32)
    return model(
        """g (float[1,4,5,5] x) => (y) {
            a = Conv(x, w, b) t = ConvTranspose(a, v, b) f = Flatten(t) y = Gemm<beta = 0.5>(f, m, b)
        }""",
        weights={"w": numbers(rng, 4, 4, 3, 3), "v": numbers(rng, 4, 4, 2, 2), "m": numbers(rng, 64, 4), "b": zeros},
        opset=opset(rng),
    )


@family("reshape-instead-of-flatten")
def flattens(rng: Random) -> onnx.ModelProto:
    dims = ["N", *map(str, rng.sample((1, 2, 3, 4, 5), rng.randint(1, 3)))]
    rng.shuffle(dims)
    axis = rng.randint(-len(dims), len(dims))
    return model(
        f"g (float[{','.join(dims)}] x) => (float[R,C] y) {{ a = Neg(x) y = Flatten<axis = {axis}>(a) }}",
        opset=opset(rng),
    )
