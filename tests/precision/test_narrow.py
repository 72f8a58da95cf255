"""The precision stage as a part of a run: opsets, the TF32 flag, what could not be judged."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.backends.protocol import BuildOptions
from graphopt.errors import UsageError, VerificationError
from graphopt.narrow import build_options
from graphopt.precision.stage import Request
from graphopt.testing import model

TEXT = "g (float[4,64] x) => (float[4,64] y) { y = MatMul(x, w) }"
WEIGHTS = {"w": (64, 64)}
CALIB = [{"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}]


@pytest.mark.parametrize(("precision", "opset"), [("fp16", 11), ("bf16", 13), ("int8", 19), ("fp8", 19), ("int4", 21)])
def test_the_opset_rises_to_the_least_that_can_say_it(precision, opset):
    result = graphopt.optimize(model(TEXT, weights=WEIGHTS, opset=11), precision=Request(precision, calib=CALIB))
    assert result.report.result.opset == opset
    assert (result.report.opset is None) == (opset == 11)


def test_an_opset_that_is_asked_for_is_kept_and_too_old_a_one_is_an_error():
    source = model(TEXT, weights=WEIGHTS, opset=17)
    with pytest.raises(UsageError, match="int4 needs opset 21, the model has 18"):
        graphopt.optimize(source, precision="int4", opset=18)


def test_fp32_clears_the_tf32_flag_and_warns_where_that_does_not_help():
    warnings: list[str] = []
    assert build_options(None, "fp32", "tensorrt", warnings) == BuildOptions(tf32=False)
    assert not warnings
    build_options(None, "fp32", "tensorrt_rtx", warnings)
    assert "TF32 whatever it is told" in warnings[0]
    assert build_options(None, "tf32", "tensorrt", warnings) is None


def test_what_was_not_judged_is_a_warning_and_strictly_an_error():
    source = model("g (float[3] x) => (float[3] y) { a = com.x.Foo(x) y = Relu(a) }", **{"com.x": 1})
    result = graphopt.optimize(source, precision="fp16")
    assert any("was not evaluated" in text for text in result.report.warnings)
    with pytest.raises(VerificationError):
        graphopt.optimize(source, precision="fp16", strict=True)


def test_calibration_without_anything_to_calibrate():
    with pytest.raises(UsageError, match="nothing to calibrate"):
        graphopt.optimize(model(TEXT, weights=WEIGHTS), precision=Request("tf32", calib=CALIB))


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text("def twice(expected, actual):\n    return 0.25\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = model(TEXT, weights=WEIGHTS)
    result = graphopt.optimize(source, precision=Request("fp16", metric="my_metric:twice", max_error=0.3))
    assert set(result.report.precision["error"].values()) == {0.25}
    with pytest.raises(VerificationError, match=r"off by 0\.25 \(my_metric:twice\)"):
        graphopt.optimize(source, precision=Request("fp16", metric="my_metric:twice", max_error=0.2))
    with pytest.raises(UsageError, match="there is no metric 'l3'"):
        graphopt.optimize(source, precision=Request("fp16", metric="l3"))


HARD_SWISH = {
    "HardSigmoid": "h = HardSigmoid<alpha = 0.16666667>(a) y = Mul(a, h)",
    "Clip": "b = Add(a, three) c = Clip(b, zero, six) d = Mul(a, c) y = Div(d, six)",
}


@pytest.mark.parametrize("text", HARD_SWISH.values(), ids=HARD_SWISH)
def test_a_spelled_out_hard_swish_brings_fp16_to_the_opset_that_has_it(text):
    numbers = {name: np.float32(value) for name, value in (("three", 3), ("zero", 0), ("six", 6)) if name in text}
    source = model(f"g (float[4,64] x) => (float[4,64] y) {{ a = MatMul(x, w) {text} }}",
                   weights={**WEIGHTS, **numbers}, opset=11)  # fmt: skip
    result = graphopt.optimize(source, precision=Request("fp16", calib=CALIB))
    assert result.report.result.opset == 14
    assert "HardSwish" in {node.op for node in result.graph.nodes}


def test_another_hard_sigmoid_does_not():
    source = model("g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) h = HardSigmoid(a) y = Mul(a, h) }",
                   weights=WEIGHTS, opset=11)  # fmt: skip
    assert graphopt.optimize(source, precision=Request("fp16", calib=CALIB)).report.result.opset == 11
