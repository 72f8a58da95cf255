"""Graphs for the legalize stage: operators that TensorRT refuses, in small shapes."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx

from graphopt.testing import model

from .families import family, numbers


@family("expand-functions")
def definitions(rng: Random) -> onnx.ModelProto:
    sizes = [rng.randint(1, 6), rng.randint(1, 6)]
    return model(
        f"g (float[{rng.randint(2, 5)},{rng.randint(2, 5)}] x) => (y) {{ y = CenterCropPad(x, s) }}",
        weights={"s": np.array(sizes)},
        opset=rng.choice((18, 21)),
    )


@family("spell-bits")
def bits(rng: Random) -> onnx.ModelProto:
    op = rng.choice(("BitwiseAnd", "BitwiseOr", "BitwiseXor"))
    return model(f"g (int32[3,4] x, int32[4] y) => (int32[3,4] z) {{ a = {op}(x, y) z = BitwiseNot(a) }}", opset=18)


@family("spell-quantized")
def quantized(rng: Random) -> onnx.ModelProto:
    zero = rng.randint(0, 255)
    return model(
        "g (float[2,3] x) => (float[2,3] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        weights={"s": np.float32(rng.choice((0.25, 0.5, 2.0))), "z": np.uint8(zero)},
        opset=rng.choice((13, 17, 19, 21)),
    )


@family("widen-dtypes")
def narrow(rng: Random) -> onnx.ModelProto:
    kind = rng.choice(("int8", "int16", "uint8", "uint16"))
    number = {"int8": 3, "int16": 5, "uint8": 2, "uint16": 4}[kind]
    op = rng.choice(("Add", "Sub", "Mul"))
    return model(
        f"""g (int32[2,3] x, int32[3] y) => (int32[2,3] z) {{
        a = Cast <to = {number}> (x) b = Cast <to = {number}> (y) c = {op}(a, b) z = Cast <to = 6> (c) }}""",
        opset=rng.choice((14, 17, 18)),
    )


@family("spell-linear")
def transforms(rng: Random) -> onnx.ModelProto:
    n, inverse = rng.randint(2, 6), rng.randint(0, 1)
    return model(
        f"g (float[2,{n},2] x) => (y) {{ y = DFT <axis = 1, inverse = {inverse}> (x) }}",
        opset=17,
    )


@family("spell-pools")
def dilated(rng: Random) -> onnx.ModelProto:
    pads = rng.choice(("0, 0", "1, 1", "0, 1"))
    return model(
        f"""g (float[1,2,{rng.randint(6, 9)}] x) => (y) {{
        y = MaxPool <kernel_shape = [2], dilations = [2], strides = [{rng.randint(1, 2)}], pads = [{pads}]> (x) }}""",
        opset=rng.choice((13, 17)),
    )


@family("spell-resizes")
def resizes(rng: Random) -> onnx.ModelProto:
    mode = rng.choice(("linear", "cubic"))
    return model(
        f"""g (float[1,1,{rng.randint(3, 5)},{rng.randint(3, 5)}] x) => (y) {{
        y = Resize <antialias = 1, mode = "{mode}"> (x, , s) }}""",
        weights={"s": np.array([1, 1, rng.choice((0.5, 0.75, 2.0)), 0.6], np.float32)},
        opset=rng.choice((18, 19)),
    )


@family("spell-training")
def optimizers(rng: Random) -> onnx.ModelProto:
    return model(
        "g (float[2,3,4] x) => (y) { y, rm, rv = BatchNormalization <training_mode = 1> (x, s, b, m, v) }",
        weights={"s": numbers(rng, 3), "b": numbers(rng, 3), "m": numbers(rng, 3), "v": np.abs(numbers(rng, 3))},
        opset=rng.choice((15, 17, 21)),
    )


@family("mend-corners")
def corners(rng: Random) -> onnx.ModelProto:
    low, high = sorted((rng.randint(-5, 5), rng.randint(-5, 5)))
    return model(
        f"g (int32[3,{rng.randint(1, 4)}] x) => (y) {{ y = Clip(x, low, high) }}",
        weights={"low": np.int32(low), "high": np.int32(high)},
        opset=rng.choice((13, 17)),
    )


@family("resolve-sequences")
def sequences(rng: Random) -> onnx.ModelProto:
    place = rng.choice((0, 1, -1))
    return model(
        """g (float[2,3] x, float[2,3] y) => (float[2,3] z, float[4,3] c) {
        s = SequenceConstruct(x, y) z = SequenceAt(s, p) t = SequenceInsert(s, x, p) e = SequenceErase(t, p)
        c = ConcatFromSequence <axis = 0> (e) }""",
        weights={"p": np.int64(place)},
        opset=rng.choice((13, 17)),
    )


@family("spell-sampling")
def scatters(rng: Random) -> onnx.ModelProto:
    reduction, n = rng.choice(("add", "mul")), rng.randint(2, 5)
    return model(
        f"""g (float[3,{n}] x, float[3,2] u) => (float[3,{n}] y) {{
        y = ScatterElements <axis = 1, reduction = "{reduction}"> (x, i, u) }}""",
        weights={"i": np.random.default_rng(rng.getrandbits(32)).integers(-n, n, (3, 2))},
        opset=rng.choice((16, 18)),
    )
