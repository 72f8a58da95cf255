"""On a GPU: what `auto` measures there is what it goes by."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.clock import clock_for
from graphopt.config import Limits, Shapes, Target
from graphopt.ir.load import load
from graphopt.precision.stage import Request
from graphopt.precision.times import times_of
from graphopt.testing import model

pytestmark = pytest.mark.gpu
RNG = np.random.default_rng(0)
SOURCE = """g (float[N,1024] x) => (float[N,1024] y) {
    a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c) y = MatMul(d, w2) }"""


def network():
    weights = {f"w{i}": (RNG.standard_normal((1024, 1024)) / 32).astype(np.float32) for i in range(3)}
    return model(SOURCE, weights=weights, opset=21)


def test_the_clock_times_all_layers_of_a_graph():
    made = graphopt.optimize(network(), verify="none").graph
    clock = clock_for(Target(), Limits(), Shapes(opt={"x": (512, 1024)}))
    timed = clock(made, {"x": np.zeros((4, 1024), np.float32)})
    times = times_of(timed.layers, made)
    assert timed.gpu
    assert sum(t for one in times.values() for t in one.values()) == pytest.approx(timed.ms / 1e3, rel=0.05)
    assert {node.name for node in made.nodes if node.op == "MatMul"} <= set(times)


def test_auto_measures_and_what_it_keeps_is_not_slower(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    onnx.save(network(), tmp_path / "net.onnx")
    feeds = {"x": RNG.standard_normal((64, 1024)).astype(np.float32)}
    found = graphopt.optimize(
        tmp_path / "net.onnx", output=tmp_path / "auto.onnx", shapes=Shapes(opt={"x": (512, 1024)}),
        precision=Request("auto", calib=[feeds], max_error=0.1),
    )  # fmt: skip
    about = found.report.precision
    assert any(note.startswith("timed on NVIDIA") for note in about["notes"]), about["notes"]
    rows = {row["name"]: row["ms"] for row in about["candidates"]}
    assert rows["float16"] is not None
    assert rows["float32"] is not None
    clock = clock_for(Target(), Limits(), Shapes(opt={"x": (512, 1024)}))
    graphopt.optimize(
        tmp_path / "net.onnx", output=tmp_path / "half.onnx", shapes=Shapes(opt={"x": (512, 1024)}),
        precision=Request("fp16", calib=[feeds]),
    )  # fmt: skip
    times = {name: clock(load(tmp_path / f"{name}.onnx"), feeds).ms for name in ("auto", "half")}
    assert times["auto"] <= 1.05 * times["half"]
