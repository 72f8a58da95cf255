from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.numerics import ChildDied, ExecutionError, OutOfTime, Runner, execute

from .models import parse


def identity(kind: int, dims: list[int]) -> bytes:
    x, y = (helper.make_tensor_value_info(name, kind, dims) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


ENDLESS = parse(
    """g (int64 n, float[4] x) => (float[4] y) {
        yes = Constant<value = bool {1}>()
        y = Loop(n, yes, x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] e) {
            d = Identity(c)
            e = Sin(a)
        }>
    }"""
).SerializeToString()


def test_several_feeds_through_one_loading() -> None:
    body = "y = Neg(x)  zero = Constant<value = float {0}>()  b = Less(x, zero)"
    model = parse(f"g (float[n] x) => (float[n] y, bool[n] b) {{ {body} }}")
    feeds = [{"x": np.arange(n, dtype=np.float32) - 1} for n in (0, 1, 5)]
    found = execute(model.SerializeToString(), feeds)
    assert found.note == ""
    for given, got in zip(feeds, found.outputs, strict=True):
        assert list(got) == ["y", "b"]
        assert np.array_equal(got["y"], -given["x"])
        assert np.array_equal(got["b"], given["x"] < 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int4", "uint4"])
@pytest.mark.parametrize("dims", [[2, 3], [0, 3], []], ids=str)
def test_narrow_types_go_in_and_come_out(dtype: str, dims: list[int]) -> None:
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x = np.random.default_rng(0).uniform(0, 4, dims).astype(numpy_dtype)
    y = execute(identity(helper.np_dtype_to_tensor_dtype(numpy_dtype), dims), [{"x": x}]).outputs[0]["y"]
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    assert y.tolist() == x.tolist()


def test_strings_go_in_and_come_out() -> None:
    x = np.array([["a", "ü"], ["", "long " * 50]], object)
    assert execute(identity(TensorProto.STRING, [2, 2]), [{"x": x}]).outputs[0]["y"].tolist() == x.tolist()


def test_sequences_come_out() -> None:
    model = parse("g (float[4] x) => (seq(float[n]) y) { y = SplitToSequence(x) }")
    found = execute(model.SerializeToString(), [{"x": np.arange(4, dtype=np.float32)}]).outputs[0]["y"]
    assert [item.tolist() for item in found] == [[0], [1], [2], [3]]


def test_external_data_lies_beside_the_file(tmp_path: Path) -> None:
    model = parse("g (float[300] x, float[300] w) => (float[300] y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.full(300, 2, np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    assert (tmp_path / "m.data").exists()
    assert execute(tmp_path / "m.onnx", [{"x": np.ones(300, np.float32)}]).outputs[0]["y"].tolist() == [3] * 300


def test_a_missing_kernel_falls_back_and_is_said() -> None:
    model = parse("g (bfloat16[2] x) => (bfloat16[2] y) { y = Sin(x) }", opset=22)
    found = execute(model.SerializeToString(), [{"x": np.array([0, 1], ml_dtypes.bfloat16)}])
    assert "reference implementation" in found.note
    assert found.outputs[0]["y"].dtype == ml_dtypes.bfloat16
    with pytest.raises(ExecutionError):
        execute(model.SerializeToString(), [], engine="onnxruntime")


@pytest.mark.parametrize("model", [b"", b"no model", identity(TensorProto.FLOAT, [2])[:-20]])
def test_what_is_no_model_is_an_error(model: bytes) -> None:
    with pytest.raises(ExecutionError):
        execute(model, [{}])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="no such file"):
        execute(tmp_path / "none.onnx", [{}])


def test_wrong_feeds_are_an_error_and_the_model_stays_usable(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(identity(TensorProto.FLOAT, [2]))
    good = {"x": np.ones(2, np.float32)}
    with Runner() as runner:
        runner.open(path)
        with pytest.raises(ExecutionError):
            runner.run({"x": np.ones(3, np.float32)})
        with pytest.raises(ExecutionError):
            runner.run({})
        assert runner.run(good)["y"].tolist() == [1, 1]


def test_a_child_that_dies_is_an_error_and_the_next_model_runs(tmp_path: Path) -> None:
    endless, fine = tmp_path / "endless.onnx", tmp_path / "fine.onnx"
    endless.write_bytes(ENDLESS)
    fine.write_bytes(identity(TensorProto.FLOAT, [2]))
    with Runner() as runner:
        runner.open(endless)
        pid = runner.pid
        assert pid is not None
        threading.Timer(0.3, os.kill, (pid, signal.SIGSEGV)).start()
        with pytest.raises(ChildDied, match="SIGSEGV") as caught:
            runner.run({"n": np.array(1 << 60), "x": np.ones(4, np.float32)})
        assert caught.value.signal == signal.SIGSEGV
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        runner.open(fine)
        assert runner.run({"x": np.ones(2, np.float32)})["y"].tolist() == [1, 1]


def test_a_model_that_does_not_end_is_ended() -> None:
    with pytest.raises(OutOfTime, match="more than 2 s"):
        execute(ENDLESS, [{"n": np.array(1 << 60), "x": np.ones(4, np.float32)}], seconds=2)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Runner() as runner:
        path = tmp_path / "m.onnx"
        path.write_bytes(identity(TensorProto.FLOAT, [2]))
        runner.open(path)
        runner.run({"x": np.ones(2, np.float32)})
        pid = runner.pid
        assert pid is not None
        path.unlink()
    execute(identity(TensorProto.FLOAT, [2]), [{"x": np.ones(2, np.float32)}])
    assert list(tmp_path.iterdir()) == []
    for _ in range(50):
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)
