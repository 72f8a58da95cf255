"""A layer is found in a model of its pattern, and a call of one function takes its place."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt.layers.measured import Measurement, Store
from graphopt.testing import model

from . import third_party
from .models import norms


def lowered(source: onnx.ModelProto, mode: str = "always", **options: object) -> graphopt.Result:
    return graphopt.optimize(source, lower=mode, plugins=[third_party], **options)


def test_a_layer_is_written_in_forty_lines() -> None:
    lines = Path(third_party.__file__).read_text().splitlines()
    assert len(lines) <= 42  # the docstring of the file and the blank line below it are no part of it


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("spelling", ["pow", "mul", "reciprocal"])
def test_it_is_found_in_each_spelling_and_opset(spelling: str, opset: int) -> None:
    result = lowered(norms(opset=opset, spelling=spelling))
    assert result.status == "ok"
    onnx.checker.check_model(result.model, full_check=True)
    calls = [node for node in result.model.graph.node if node.domain == "graphopt"]
    assert [node.op_type for node in result.model.graph.node] == [calls[0].op_type, "Relu", calls[0].op_type, "Relu"]
    assert len(result.model.functions) == 1, "sites that differ in epsilon share a function"
    found = [next(a.f for a in node.attribute if a.name == "epsilon") for node in calls]
    np.testing.assert_allclose(found, [1e-5, 1e-3], rtol=1e-6)
    assert all(next(a.s for a in node.attribute if a.name == "plugin_namespace") == b"graphopt" for node in calls)


@pytest.mark.parametrize(("dtype", "wide"), [("float16", False), ("float16", True), ("bfloat16", True)])
def test_half_precision_models_work(dtype: str, wide: bool) -> None:
    source = norms(dtype, wide=wide)
    result = lowered(source)
    onnx.checker.check_model(result.model, full_check=True)
    assert [node.op_type for node in result.model.graph.node] == ["FusedRootNorm", "Relu"] * 2
    assert result.status in ("ok", "unverified")


def test_the_same_numbers_in_onnxruntime(tmp_path: Path) -> None:
    source = norms()
    result = lowered(source, output=tmp_path / "out.onnx")
    x = np.random.default_rng(7).standard_normal((2, 5, 64)).astype(np.float32)
    before = ort.InferenceSession(source.SerializeToString()).run(None, {"x": x})[0]
    after = ort.InferenceSession(str(tmp_path / "out.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)
    assert result.report.passes[-1].stage in ("lower", "legalize")


def test_tensorrt_rtx_builds_the_body(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    for dtype, wide in (("float", False), ("float16", True)):
        result = lowered(
            norms(dtype, wide=wide), output=tmp_path / "out.onnx", engine=tmp_path / "out.engine",
            shapes=graphopt.Shapes(opt={"x": (2, 8, 64)}), verify="none",
        )  # fmt: skip
        assert any(node.op_type == "FusedRootNorm" for node in result.model.graph.node)
        assert (tmp_path / "out.engine").stat().st_size > 1000


def test_a_weight_of_another_shape_is_left_alone() -> None:
    source = norms()
    for tensor in source.graph.initializer:
        if tensor.name == "g0":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32)[None], "g0"))
    result = lowered(source)
    kinds = [node.op_type for node in result.model.graph.node]
    assert kinds.count("FusedRootNorm") == 1
    vetoes = [text for fired in result.report.passes if fired.stage == "lower" for text in fired.vetoes.values()]
    assert any("weight has 3 axes" in text for text in vetoes)


def test_a_constant_that_adds_an_axis_is_left_alone() -> None:
    source = model(
        "g (float[2,64] x) => (float[1,2,64] z) {"
        " p = Mul(x, x) m = ReduceMean<axes=[-1], keepdims=1>(p) a = Add(m, e) s = Sqrt(a) n = Div(x, s)"
        " y = Mul(n, g) z = Relu(y) }",
        weights={"e": np.full((1, 1, 1), 1e-5, np.float32), "g": (64,)},
    )
    result = lowered(source)
    assert result.status == "ok"
    assert not result.model.functions


def test_a_shared_inner_value_is_left_alone() -> None:
    source = model(
        "g (float[2,64] x) => (float[2,64] y, float[2,1] m) {"
        " p = Mul(x, x) m = ReduceMean<axes=[-1], keepdims=1>(p) a = Add(m, e) s = Sqrt(a) n = Div(x, s)"
        " y = Mul(n, g) }",
        weights={"e": np.float32(1e-5), "g": (64,)},
    )
    assert not lowered(source).model.functions


def test_inside_control_flow_the_operators_stay() -> None:
    body = (
        "p = Mul(x, x) m = ReduceMean<axes=[-1], keepdims=1>(p) a = Add(m, e) s = Sqrt(a) n = Div(x, s) y = Mul(n, g)"
    )
    source = model(
        "g (float[2,64] x, bool c) => (float[2,64] z) {"
        f" z = If (c) <then_branch = t () => (float[2,64] y) {{ {body} }},"
        " else_branch = f () => (float[2,64] y2) { y2 = Neg(x) }> }",
        weights={"e": np.float32(1e-5), "g": (64,)},
    )
    result = lowered(source)
    assert not result.model.functions
    reasons = [text for fired in result.report.passes for text in fired.vetoes.values()]
    assert any("control flow" in text for text in reasons)


def test_a_second_run_changes_nothing() -> None:
    once = lowered(norms()).model
    twice = lowered(once)
    assert [node.op_type for node in twice.model.graph.node] == [node.op_type for node in once.graph.node]
    assert sum(one.changes for one in twice.report.passes if one.stage == "lower") == 0


def test_shapes_behind_a_call_are_inferred() -> None:
    once = lowered(norms()).model
    del once.graph.value_info[:]
    source = onnx.ModelProto()
    source.CopyFrom(once)
    result = graphopt.optimize(source, plugins=[third_party], freeze={"x": (2, 5, 64)})
    dims = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in result.model.graph.value_info}
    assert dims
    assert all(shape == [2, 5, 64] for shape in dims.values())


class TestWhereItPays:
    """--lower auto places only what was measured to win."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def _measured(self, kernel_ms: float, nbytes: int, dtype: str = "float32") -> None:
        Store("NVIDIA Test").add(
            [Measurement("FusedRootNorm", dtype, nbytes, ((2, 8, 64), (64,)), kernel_ms, 1.0, "1.6.1")]
        )

    SIZE = 2 * (2 * 8 * 64 * 4) + 64 * 4

    def _calls(self, **options: object) -> int:
        result = lowered(norms(), "auto", freeze={"x": (2, 8, 64)}, **options)
        return sum(node.domain == "graphopt" for node in result.model.graph.node)

    def test_nothing_unmeasured(self) -> None:
        assert self._calls() == 0

    def test_a_winner(self) -> None:
        self._measured(0.5, self.SIZE)
        assert self._calls() == 2

    def test_no_loser(self) -> None:
        self._measured(1.5, self.SIZE)
        assert self._calls() == 0

    def test_not_at_a_size_far_from_the_measured_one(self) -> None:
        self._measured(0.5, self.SIZE * 100)
        assert self._calls() == 0

    def test_not_in_another_dtype(self) -> None:
        self._measured(0.5, self.SIZE, "float16")
        assert self._calls() == 0

    def test_never(self) -> None:
        self._measured(0.5, self.SIZE)
        result = lowered(norms(), "never")
        assert not result.model.functions
        assert result.report.not_lowered["fused-root-norm"] == "--lower never"

    def test_a_damaged_store_is_an_error_that_says_what_to_do(self, tmp_path: Path) -> None:
        self._measured(0.5, self.SIZE)
        Store("NVIDIA Test").path.write_text("{")
        with pytest.raises(graphopt.GraphoptError, match="no store of measurements"):
            self._calls()


def test_an_unknown_mode_is_a_usage_error() -> None:
    with pytest.raises(graphopt.UsageError, match="--lower sometimes"):
        lowered(norms(), "sometimes")


class FusedHalves(graphopt.Layer):
    """y = x / 2, written as a chain of two operators."""

    ops = ("Neg",)
    traced = []

    def body(self, op, x):
        self.traced.append(op.opset)
        return op.Neg(op.Mul(x, -0.5))

    def infer(self, x):
        return x

    def enqueue(self, x, y): ...


@graphopt.hookimpl
def _halves():
    return [FusedHalves]


halves = ModuleType("halves")
halves.graphopt_layers = _halves


def test_a_layer_is_not_traced_for_a_model_without_its_operators() -> None:
    plain, neg = (
        model(f"g (float[4] x) => (float[4] y) {{ {body} }}")
        for body in ("y = Exp(x)", "h = Constant<value_float = -0.5>() m = Mul(x, h) y = Neg(m)")
    )
    FusedHalves.traced.clear()
    result = graphopt.optimize(plain, lower="always", plugins=[halves])
    assert FusedHalves.traced == []
    assert result.report.not_lowered["fused-halves"] == "the model holds no Neg"
    assert "fused-halves" not in graphopt.optimize(neg, lower="always", plugins=[halves]).report.not_lowered
    assert FusedHalves.traced


def test_what_layers_look_like_is_worked_out_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.layers import lower

    lowered(norms())
    monkeypatch.setattr(lower, "find", lambda *_: pytest.fail("the spellings were worked out again"))
    assert lowered(norms()).status == "ok"
