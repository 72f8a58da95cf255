"""Each rule of lint-precision finds what it is about, and says nothing about what graphopt itself writes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from graphopt.cli import main
from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.precision.lint import lint
from graphopt.precision.stage import Request, lower
from graphopt.testing import model

I8, U8 = np.zeros((), np.int8), np.zeros((), np.uint8)
Q = {"s": np.float32(0.1), "z": I8, "W": np.ones((32, 32), np.int8), "ws": np.full(32, 0.1, np.float32)}
HALF = np.float16
X = "g (float[4,32] x) => (float[4,32] y)"
IMAGE = "g (float[1,32,8,8] x) => (float[1,32,8,8] y)"
CONV = {**Q, "W": np.ones((32, 32, 1, 1), np.int8)}
QDQ = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"

CASES = {
    "zero-point": (f"{X} {{ {QDQ} y = Relu(d) }}", {**Q, "z": np.int8(3)}),
    "unsigned": (f"{X} {{ {QDQ} y = Relu(d) }}", {**Q, "z": U8}),
    "scale": (f"{X} {{ {QDQ} y = Relu(d) }}", {**Q, "s": np.float32(0)}),
    "activation-per-channel": (
        f"{X} {{ q = QuantizeLinear<axis = 1>(x, ws, wz) d = DequantizeLinear<axis = 1>(q, ws, wz) y = Relu(d) }}",
        {**Q, "wz": np.zeros(32, np.int8)},
    ),
    "two-scales": (
        f"{X} {{ {QDQ} r = QuantizeLinear(x, s2, z) e = DequantizeLinear(r, s2, z) y = Add(d, e) }}",
        {**Q, "s2": np.float32(0.2)},
    ),
    "half-quantized": (f"{X} {{ {QDQ} y = MatMul(d, f) }}", {**Q, "f": (32, 32)}),
    "quantized-bias": (
        f"{IMAGE} {{ {QDQ} w = DequantizeLinear<axis = 0>(W, ws) b = DequantizeLinear(B, s) y = Conv(d, w, b) }}",
        {**CONV, "B": np.zeros(32, np.int32)},
    ),
    "weight-per-tensor": (f"{IMAGE} {{ {QDQ} w = DequantizeLinear(W, s) y = Conv(d, w) }}", CONV),
    "does-not-build": (f"{IMAGE} {{ {QDQ} w = DequantizeLinear<axis = 0>(W, ws) y = Conv(d, w) }}", CONV),
    "quantized-before-activation": (
        f"{IMAGE} {{ c = Conv(x, F) q = QuantizeLinear(c, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }}",
        {**Q, "F": (32, 32, 1, 1)},
    ),
    "residual-in-float": (
        f"{IMAGE} {{ {QDQ} w = DequantizeLinear<axis = 0>(W, ws) c = Conv(d, w) y = Add(c, x) }}", CONV,
    ),
    "old-quantized-form": (
        "g (float[4,32] x) => (uint8[4,32] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }", {},
    ),
    "cast-there-and-back": (f"{X} {{ a = Cast<to = 10>(x) b = Cast<to = 1>(a) y = Relu(b) }}", {}),
    "cast-twice": (
        "g (float[4] x) => (float16[4] y) { a = Cast<to = 10>(x) b = Cast<to = 10>(x) y = Add(a, b) }", {},
    ),
    "cast-island": (
        "g (float16[4] x) => (float16[4] y) { a = Cast<to = 1>(x) b = Relu(a) y = Cast<to = 10>(b) }", {},
    ),
    "constant-nan": ("g (float16[4] x) => (float16[4] y) { y = Add(x, c) }", {"c": np.full(4, np.nan, HALF)}),
    "constant-zero": ("g (float16[4] x) => (float16[4] y) { y = Add(x, c) }", {"c": np.zeros((), HALF)}),
    "square-in-float16": (
        "g (float16[4,8] x) => (float16[4,1] y) { s = Mul(x, x) y = ReduceMean<axes = [1]>(s) }", {},
    ),
    "exp-in-float16": (
        "g (float16[4,8] x) => (float16[4,8] y) { e = Exp(x) s = ReduceSum(e, a) y = Div(e, s) }",
        {"a": np.array([1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_what_it_is_about(rule):
    text, weights = CASES[rule]
    found = lint(load(model(text, weights=weights, opset=17)), "tensorrt_rtx", "1.6.1")
    assert rule in {one.rule for one in found}
    assert all(one.node and one.reason and one.fix for one in found)


def test_what_graphopt_writes_is_clean():
    text = """g (float[1,32,8,8] x) => (float[1,32,8,8] y) {
        a = Conv(x, w1, b1) r = Relu(a) c = Conv(r, w2, b2) s = Add(c, x) y = Relu(s) }"""
    weights = {"w1": (32, 32, 1, 1), "b1": (32,), "w2": (32, 32, 1, 1), "b2": (32,)}
    for precision in ("fp16", "int8", "fp8"):
        graph = load(model(text, weights=weights, opset=21))
        calib = [{"x": np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)}]
        lower(graph, Request(precision, calib=calib), Target(version="1.7.1"))
        assert not lint(graph, "tensorrt_rtx", "1.7.1")


def test_two_dtypes():
    graph = load(model("g (float[4] x) => (float[4] y) { y = Add(x, c) }", weights={"c": np.ones(4, HALF)}))
    assert "two-dtypes" in {one.rule for one in lint(graph)}


def test_the_command(tmp_path, capsys):
    text, weights = CASES["unsigned"]
    onnx.save(model(text, weights=weights), tmp_path / "m.onnx")
    for words, code in ((["--json"], 0), (["--strict"], 1)):
        with pytest.raises(SystemExit) as left:
            main(["lint-precision", str(tmp_path / "m.onnx"), *words])
        assert (left.value.code or 0) == code
        printed = capsys.readouterr().out
        if "--json" in words:
            assert json.loads(printed)["findings"][0]["rule"] == "unsigned"


def test_what_is_wrong_for_one_reason_is_one_row(tmp_path, capsys):
    """Four equal findings: a count, the first three nodes, all of them with --all."""
    steps = " ".join(f"s{i} = Mul(x, x) y{i} = ReduceMean<axes = [1]>(s{i})" for i in range(4))
    results = ", ".join(f"float16[4,1] y{i}" for i in range(4))
    onnx.save(model(f"g (float16[4,8] x) => ({results}) {{ {steps} }}"), tmp_path / "m.onnx")
    for words in ([], ["--all"]):
        with pytest.raises(SystemExit):
            main(["lint-precision", str(tmp_path / "m.onnx"), *words])
        printed = capsys.readouterr().out
        assert printed.count("square-in-float16") == 1
        assert ("ReduceMean_3" in printed) == bool(words)
        assert ("1 more: --all" in " ".join(printed.split())) == (not words)
