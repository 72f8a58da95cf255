"""Networks in which first-party layers stand between matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.testing import model

WORDS = {"float": np.float32, "float16": np.float16}


def decoder(
    length: int = 64, heads: int = 4, size: int = 32, dtype: str = "float16", epsilon: float = 1e-5
) -> onnx.ModelProto:
    """x -> product -> rotary embedding of pairs -> product -> + x -> RMS norm -> product -> + residual, for N rows.

    Between the three products stand FusedRotaryInterleaved and FusedAddRMSNorm.
    """
    wide, half, kind = heads * size, size // 2, WORDS[dtype]
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((wide, wide)) / np.sqrt(wide)).astype(kind) for i in range(3)}
    weights["gain"] = rng.standard_normal(wide).astype(kind)
    weights["split"], weights["joined"] = np.array([0, length, heads, size]), np.array([0, length, wide])
    text = f"""g ({dtype}[N,{length},{wide}] x, {dtype}[N,{length},{half}] cos, {dtype}[N,{length},{half}] sin)
        => ({dtype}[N,{length},{wide}] y) {{
      q = MatMul(x, w0) r = Reshape(q, split) t = Transpose<perm = [0, 2, 1, 3]>(r)
      h = RotaryEmbedding<interleaved = 1>(t, cos, sin) u = Transpose<perm = [0, 2, 1, 3]>(h) v = Reshape(u, joined)
      p = MatMul(v, w1) s = Add(p, x) g = RMSNormalization<axis = -1, epsilon = {epsilon}>(s, gain)
      l = MatMul(g, w2) y = Add(l, s) }}"""
    return model(text, weights=weights, opset=23)


def tables(rows: int, length: int, half: int, dtype: str = "float16") -> dict[str, np.ndarray[Any, Any]]:
    """The inputs cos and sin of `decoder`."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return {
        name: np.repeat(turn(angles)[None], rows, 0).astype(WORDS[dtype])
        for name, turn in (("cos", np.cos), ("sin", np.sin))
    }


def keep() -> onnx.ModelProto:
    """Between two operators of the engine, rows are kept by a mask: how many, only the data tell."""
    text = """g (float[N,8] x, bool[N] mask) => (float[M,8] y, float[M] s, float[N,8] t) {
      t = Tanh(x) k = Compress<axis = 0>(t, mask) y = Exp(k) s = ReduceSum<keepdims = 0>(y, axes) }"""
    return model(text, weights={"axes": np.array([1])}, opset=18)


def scatter(dtype: str = "float16") -> onnx.ModelProto:
    """A sum over bins, which TensorRT-RTX cannot parse, between two operators that it can."""
    text = f"""g ({dtype}[N,8] x, int64[M,1] i, {dtype}[M,8] u) => ({dtype}[N,8] y) {{
      a = Tanh(x) s = ScatterND<reduction = "add">(a, i, u) y = Abs(s) }}"""
    return model(text, opset=18)
