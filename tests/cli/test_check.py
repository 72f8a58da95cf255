"""check: what TensorRT refuses, why, and what is done about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import check
from graphopt.backends.tensorrt import TensorRTBackend
from graphopt.config import Target
from graphopt.ir.load import load
from graphopt.legality import located
from graphopt.testing import model

from .conftest import Cli

pytest.importorskip("tensorrt_rtx")
REFUSED = "g (float[2,2] x, int32[4] i, int64 k) => (y, z, j) { y = Det(x) z = CumSum(x, k) j = BitwiseNot(i) }"


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    made = model(REFUSED, opset=18)
    for port, kind, shape in zip(made.graph.output, (1, 1, 6), ([], [2, 2], [4]), strict=True):
        port.CopyFrom(onnx.helper.make_tensor_value_info(port.name, kind, shape))
    path = tmp_path / "refused.onnx"
    onnx.save(made, path)
    return path


def test_every_refused_node_is_named_with_what_is_done(cli: Cli, refused: Path) -> None:
    found = cli("check", str(refused), "--bind", "k=0", "--json").json
    assert found["ok"]
    assert found["predicted"]
    assert found["result"]["builds"]
    assert found["source"]["parses"] is False
    told = {one["op"]: one["remedy"] for one in found["source"]["blockers"]}
    assert told == {"Det": "rewritten by spell-linear", "BitwiseNot": "rewritten by spell-bits"}
    bits, linear = sorted(found["rewrites"], key=lambda one: one["pass"])
    assert (bits["pass"], bits["dtypes"], bits["accuracy"]) == ("spell-bits", ["int32"], "exact.")
    assert linear["pass"] == "spell-linear"
    assert linear["nodes"] > 2
    assert "float32" in linear["accuracy"]


def test_a_model_that_needs_nothing(cli: Cli, tmp_path: Path) -> None:
    onnx.save(model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    found = cli("check", "m.onnx", "--json").json
    assert found["ok"]
    assert found["source"]["builds"]
    assert not found["rewrites"]
    assert not found["source"]["blockers"]


def test_what_stays_refused_says_what_to_do(tmp_path: Path, cli: Cli) -> None:
    text = "g (float[N,3] x, int64[K] a) => (float[?,?] y) { y = ReduceSum(x, a) }"
    onnx.save(model(text), tmp_path / "m.onnx")
    done = cli("check", "m.onnx", "--json")
    assert done.code == 1
    (one,) = done.json["result"]["blockers"]
    assert one["op"] == "ReduceSum"
    assert one["reason"] == "an operand must be a constant"
    assert one["remedy"] == "make it a constant: --bind a=VALUE"


def test_an_interface_that_no_engine_has(tmp_path: Path, cli: Cli) -> None:
    onnx.save(model("g (uint16[4] x) => (uint16[4] y) { y = Add(x, x) }"), tmp_path / "m.onnx")
    plain = cli("check", "m.onnx", "--json").json
    assert not plain["ok"]
    told = {one["node"]: (one["op"], one["remedy"]) for one in plain["result"]["blockers"]}
    remedy = "--promote-io gives it int32"
    assert told == {"x": ("input", remedy), "y": ("output", remedy)}
    promoted = cli("check", "m.onnx", "--promote-io", "--json").json
    assert promoted["ok"]
    assert promoted["interface"] == {"x": "uint16 as int32", "y": "uint16 as int32"}


def test_without_tensorrt_the_table_answers(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRTBackend, "available", lambda self: "it is not installed")
    found = check.check(str(refused), target=Target(), bind={"k": 0})
    assert found.version == ""
    assert found.ok
    assert {one.op for one in found.source.blockers} == {"Det", "BitwiseNot"}
    assert found.result.parses
    assert found.result.builds is None


def test_optimize_with_a_promoted_interface_is_verified(tmp_path: Path, cli: Cli) -> None:
    onnx.save(model("g (uint16[4] x, uint16[4] z) => (uint16[4] y) { y = Mul(x, z) }"), tmp_path / "m.onnx")
    found = cli("optimize", "m.onnx", "-o", "small.onnx", "--promote-io", "--json").json
    assert found["status"] in ("ok", "unverified")
    assert onnx.load(tmp_path / "small.onnx").graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32


LSTM_IN_IF = """g (float[3,1,4] x, int64 rate) => (float[1,1,4] y) {
    c = Equal(rate, k)
    y = If (c) <
        then_branch = t () => (float[1,1,4] a) { s, a = LSTM <hidden_size = 4> (x, w, r) },
        else_branch = e () => (float[1,1,4] b) { b = ReduceMax <axes = [0]> (x) }> }"""


def test_a_build_that_would_fail_is_foreseen_and_its_node_named(tmp_path: Path, cli: Cli) -> None:
    weights = {"w": (1, 16, 4), "r": (1, 16, 4), "k": 16000}
    onnx.save(model(LSTM_IN_IF, weights=weights), tmp_path / "m.onnx")
    found = cli("check", "m.onnx", "--json").json
    assert found["result"]["parses"]
    assert not found["predicted"]
    assert not found["ok"]
    (one,) = found["result"]["blockers"]
    assert (one["op"], one["remedy"]) == ("LSTM", "decide it: --bind rate=VALUE")
    assert cli("check", "m.onnx", "--bind", "rate=16000", "--json").json["ok"]


def test_a_builders_message_leads_to_its_nodes(tmp_path: Path) -> None:
    graph = load(model("g (float[2] x) => (float[2] y) { [first] a = Neg(x) [second] y = Relu(a) }"))
    named = located(graph, "Error during shape inference of\ny : f32[2] = relu(a), name=second\nno")
    assert {one.node for one in named} == {"first", "second"}
    assert [one.node for one in located(graph, "no tactic for node_of_y, sorry")] == ["second"]
    assert [one.op for one in located(graph, "out of memory")] == [""]


def test_an_operator_of_another_domain_says_so(tmp_path: Path, cli: Cli) -> None:
    onnx.save(model("g (float[2] x) => (float[2] y) { y = com.acme.Foo(x) }", **{"com.acme": 1}), tmp_path / "m.onnx")
    (one,) = cli("check", "m.onnx", "--json").json["result"]["blockers"]
    assert one["op"] == "Foo"
    assert "com.acme" in one["remedy"]


def test_an_empty_operand_is_no_obstacle(tmp_path: Path, cli: Cli) -> None:
    onnx.save(
        model("g (float[2,3] x, int64[0] like) => (int64[2,3] y) { y = CastLike(x, like) }", opset=18),
        tmp_path / "m.onnx",
    )
    assert cli("check", "m.onnx", "--json").json["ok"]


def test_without_a_library_the_answer_says_what_it_is_made_of(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRTBackend, "available", lambda self: "it is not installed")
    found = check.check(str(refused), target=Target("tensorrt"), bind={"k": 0})
    assert "unproved" in found.basis
    assert "unproved" not in check.check(str(refused), target=Target(), bind={"k": 0}).basis


@pytest.mark.parametrize(
    ("backend", "version", "legal"),
    [("tensorrt_rtx", "1.6.1", False), ("tensorrt", "10.13.0", True), ("tensorrt", "", True)],
)
def test_what_a_plugin_takes_is_left_to_it(
    backend: str, version: str, legal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX has no plugins: reducing scatters are spelled out there, and NonMaxSuppression stays refused."""
    monkeypatch.setattr(TensorRTBackend, "available", lambda self: "it is not installed")
    text = """g (float[4] x, int64[2] i, float[2] u, float[1,6,4] b, float[1,1,6] s) => (float[4] y, int64[?,3] n) {
        y = ScatterElements <reduction = "add"> (x, i, u) n = NonMaxSuppression(b, s) }"""
    found = check.check(model(text, opset=18), target=Target(backend, version))
    assert found.predicted is legal
    assert bool(found.rewrites) is not legal


def test_an_operator_that_a_version_lacks_is_spelled_out_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRTBackend, "available", lambda self: "it is not installed")
    text = """g (float16[1,2,4,16] q, float16[1,2,4,16] k, float16[1,2,4,16] v) => (float16[1,2,4,16] y) {
        y = Attention(q, k, v) }"""
    for version, natively in (("10.13.2", False), ("10.14.1", True), ("11.4.0", True)):
        found = check.check(model(text, opset=23), target=Target("tensorrt", version))
        assert found.predicted
        assert (found.nodes_after == 1) is natively


@pytest.mark.parametrize(
    ("text", "builds"),
    [
        ("g (float[4] x) => (float8e4m3fn[4] y) { y = QuantizeLinear <output_dtype = 17> (x, s) }", True),
        ("g (int4[2,2] x) => (float[2,2] y) { t = Transpose(x) y = DequantizeLinear(t, s) }", True),
        ("g (float[4] x) => (float8e4m3fn[4] y) { y = Cast <to = 17> (x) }", False),
        ("g (int4[4] x) => (float[4] y) { y = Cast <to = 1> (x) }", False),
    ],
)
def test_ports_of_few_bits_are_made_and_read_by_quantization_alone(
    text: str, builds: bool, tmp_path: Path, cli: Cli
) -> None:
    onnx.save(model(text, opset=21, weights={"s": np.float32(0.5)} if "s)" in text else {}), tmp_path / "m.onnx")
    found = cli("check", "m.onnx", "--json").json
    assert found["predicted"] is found["ok"] is builds
