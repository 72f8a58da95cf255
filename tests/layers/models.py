"""Networks in which the third party's layer stands, in the spellings and dtypes of exporters."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx

from graphopt.testing import model

TYPES = {
    "float": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)
}  # fmt: skip
NUMBER = {"float": 1, "float16": 10, "bfloat16": 16}


def norms(
    dtype: str = "float", opset: int = 18, spelling: str = "pow", wide: bool = False, epsilons=(1e-5, 1e-3)
) -> onnx.ModelProto:
    """x -> RMSNorm -> Relu -> RMSNorm -> Relu, each with its own epsilon and weight. wide: computed in float32."""
    lines, weights, last = [], {}, "x"
    inner = np.dtype(np.float32) if wide else TYPES[dtype]
    for i, epsilon in enumerate(epsilons):
        weights[f"g{i}"] = np.random.default_rng(i).standard_normal(64).astype(TYPES[dtype])
        weights[f"e{i}"], weights[f"two{i}"] = np.array(epsilon, inner), np.array(2, np.float32)
        w = f"w{i}" if wide else last
        if wide:
            lines.append(f"w{i} = Cast<to=1>({last})")
        square = f"Pow({w}, two{i})" if spelling == "pow" else f"Mul({w}, {w})"
        mean = f"ReduceMean<axes=[-1], keepdims=1>(p{i})" if opset < 18 else f"ReduceMean<keepdims=1>(p{i}, axes)"
        lines += [f"p{i} = {square}", f"m{i} = {mean}", f"a{i} = Add(m{i}, e{i})", f"s{i} = Sqrt(a{i})"]
        if spelling == "reciprocal":
            lines += [f"r{i} = Reciprocal(s{i})", f"n{i} = Mul({w}, r{i})"]
        else:
            lines.append(f"n{i} = Div({w}, s{i})")
        normed = f"n{i}"
        if wide:
            lines.append(f"c{i} = Cast<to={NUMBER[dtype]}>(n{i})")
            normed = f"c{i}"
        lines += [f"y{i} = Mul(g{i}, {normed})", f"z{i} = Relu(y{i})"]
        last = f"z{i}"
    if opset >= 18:
        weights["axes"] = np.array([-1])
    text = f"g ({dtype}[2,N,64] x) => ({dtype}[2,N,64] {last}) {{ {' '.join(lines)} }}"
    return model(text, weights=weights, opset=opset)
