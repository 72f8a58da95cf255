"""A layer's function comes into a model while passes run; models with bodies are inferred and walked as before."""

from __future__ import annotations

import numpy as np

import graphopt
from graphopt.testing import model


def test_a_model_with_a_loop_takes_a_layer() -> None:
    text = """g (float[4] x, bool go) => (int64[1, m] places, float[4] y) {
        y = Loop(rounds, go, x) <body = b (int64 i, bool on, float[4] a) => (bool on2, float[4] a2) {
            on2 = Identity(on)
            a2 = Abs(a)
        }>
        z = Sub(y, x)
        flags = Greater(z, zero)
        places = NonZero(flags)
    }"""
    source = model(text, weights={"rounds": 2, "zero": np.zeros(1, np.float32)})
    result = graphopt.optimize(source, strict=True)
    assert [one.name for one in result.model.functions] == ["FusedNonZero"]
