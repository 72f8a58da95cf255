"""A float32 output is held to the coarsest dtype that the source rounds to on the way to it, and to no coarser one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.numerics import verify
from graphopt.numerics.coarse import computed_in
from graphopt.numerics.ports import read_outline
from graphopt.testing import model

HALF = "g (float[2, 8] x) => (float[2, 4] y) { h = Cast<to = 10>(x) m = MatMul(h, w) y = Cast<to = 1>(m) }"


def half(weights: np.ndarray, text: str = HALF) -> onnx.ModelProto:
    return model(text, weights={"w": weights.astype(np.float16)})


WEIGHTS = np.random.default_rng(3).standard_normal((8, 4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HALF, {"y": "float16"}),
        # stored in float16, computed in float32
        ("g (float[2, 8] x) => (float[2, 4] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }", {}),
        # one output is behind it, the other is not
        (
            "g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) "
            "{ h = Cast<to = 10>(x) y = Cast<to = 1>(h) z = Relu(x) unused = Identity(w) }",
            {"y": "float16"},
        ),
        # the coarser of two
        (
            "g (float[2, 8] x) => (float[2, 8] y) "
            "{ h = Cast<to = 10>(x) b = Cast<to = 16>(h) y = Cast<to = 1>(b) unused = Identity(w) }",
            {"y": "bfloat16"},
        ),
        # inside a body, from outside and back
        (
            "g (float[2, 8] x, bool c) => (float[2, 8] y) { h = Cast<to = 10>(x) y = If(c) <"
            "then_branch = t () => (float[2, 8] p) { p = Cast<to = 1>(h) }, "
            "else_branch = e () => (float[2, 8] q) { q = Relu(x) }> unused = Identity(w) }",
            {"y": "float16"},
        ),
    ],
)
def test_where_an_output_is_rounded(text: str, expected: dict[str, str]) -> None:
    assert computed_in(half(WEIGHTS, text)) == expected


def test_a_call_of_a_function_is_looked_into() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
    g (float[4] x) => (float[4] y) { y = f.Half(x) }
    <domain: "f", opset_import: ["" : 17]> Half (a) => (b) { h = Cast<to = 10>(a) b = Cast<to = 1>(h) }"""
    assert computed_in(onnx.parser.parse_model(text)) == {"y": "float16"}


def test_what_the_real_networks_say() -> None:
    plain = model("g (float[2, 8] x) => (float[2, 8] y) { y = Relu(x) }")
    assert computed_in(read_outline(plain.SerializeToString())) == {}


@pytest.mark.parametrize(("error", "status"), [(5e-4, "passed"), (2e-2, "failed")])
def test_float32_behind_float16_is_held_to_float16(error: float, status: str) -> None:
    found = verify(half(WEIGHTS).SerializeToString(), half(WEIGHTS * (1 + error)).SerializeToString())
    assert found.status == status
    assert found.outputs[0].tolerance == 5e-3


@pytest.mark.parametrize("error", [5e-4, 2e-2])
def test_float32_from_stored_float16_is_held_to_float32(error: float) -> None:
    text = "g (float[2, 8] x) => (float[2, 4] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }"
    found = verify(half(WEIGHTS, text).SerializeToString(), half(WEIGHTS * (1 + error), text).SerializeToString())
    assert found.status == "failed"
