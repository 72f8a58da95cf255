"""On a GPU: engines called like functions, whatever the arrays, shapes and streams."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.config import Shapes
from graphopt.testing import model

pytestmark = pytest.mark.gpu
NETWORK = """g (float[N,8] x, float[N,8] z) => (float[N,4] y, float[N,8] s) {
    a = Add(x, z) s = Tanh(a) m = MatMul(s, w) y = Relu(m) }"""
W = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engines")
    onnx.save(model(NETWORK, weights={"w": W}), path / "net.onnx")
    dims = ("x", "z")
    shapes = Shapes({name: (1, 8) for name in dims}, {name: (4, 8) for name in dims}, {name: (16, 8) for name in dims})
    graphopt.optimize(path / "net.onnx", output=path / "opt.onnx", engine=path / "net.engine", shapes=shapes)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> graphopt.Engine:
    return graphopt.Engine(folder / "net.engine")


def feeds(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((rows, 8)).astype(np.float32) for name in ("x", "z")}


def truth(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    s = np.tanh(inputs["x"] + inputs["z"])
    return {"y": np.maximum(s @ W, 0), "s": s}


def agree(got: dict, inputs: dict[str, np.ndarray]) -> None:
    for name, want in truth(inputs).items():
        np.testing.assert_allclose(got[name], want, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("rows", [1, 3, 4, 16])
def test_numpy_in_and_out_at_any_size_of_the_profile(engine: graphopt.Engine, rows: int) -> None:
    inputs = feeds(rows, rows)
    got = engine(inputs)
    assert all(isinstance(array, np.ndarray) for array in got.values())
    agree(got, inputs)


def test_results_are_the_callers_own(engine: graphopt.Engine) -> None:
    one, two = feeds(4, 1), feeds(4, 2)
    first = engine(one)
    engine(two)
    agree(first, one)


def test_cupy_in_and_out_and_in_place_from_the_second_time_on(engine: graphopt.Engine) -> None:
    import cupy

    inputs = feeds(4, 5)
    arrays = {name: cupy.asarray(value) for name, value in inputs.items()}
    for turn in range(4):
        arrays["x"][...] = cupy.asarray(inputs["x"]) + turn
        got = engine(**arrays)
        assert isinstance(got["y"], cupy.ndarray)
        agree({k: cupy.asnumpy(v) for k, v in got.items()}, {**inputs, "x": inputs["x"] + turn})


def test_torch_on_the_gpu_and_on_the_host(engine: graphopt.Engine) -> None:
    torch = pytest.importorskip("torch")
    inputs = feeds(3, 6)
    on_gpu = engine({name: torch.from_numpy(value).cuda() for name, value in inputs.items()})
    assert on_gpu["y"].device.type == "cuda"
    agree({k: v.cpu().numpy() for k, v in on_gpu.items()}, inputs)
    agree(engine({name: torch.from_numpy(value) for name, value in inputs.items()}), inputs)


def test_a_host_array_beside_one_on_the_gpu_is_not_overwritten_by_the_next_call(engine: graphopt.Engine) -> None:
    """Such calls return before their copy from the host has been done."""
    import cupy

    every = [feeds(16, seed) for seed in range(40)]
    zs = [cupy.asarray(inputs["z"]) for inputs in every]
    found = [engine(x=inputs["x"], z=z) for inputs, z in zip(every, zs, strict=True)]
    for inputs, got in zip(every, found, strict=True):
        agree({name: cupy.asnumpy(value) for name, value in got.items()}, inputs)


def test_work_of_the_callers_stream_is_waited_for(engine: graphopt.Engine) -> None:
    import cupy

    inputs = feeds(16, 7)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x, z = cupy.zeros((16, 8), np.float32), cupy.asarray(inputs["z"])
        big = cupy.random.random((4000, 4000), dtype=np.float32)
        for _ in range(10):
            big = big @ big * np.float32(1e-3)
        x += cupy.asarray(inputs["x"]) + 0 * (big[0, 0] > -1)
        got = engine(x=x, z=z)
        y = got["y"] + 0
        stream.synchronize()
    np.testing.assert_allclose(cupy.asnumpy(y), truth(inputs)["y"], rtol=5e-3, atol=5e-3)


def test_a_bound_call_reads_and_writes_in_place(engine: graphopt.Engine) -> None:
    import cupy

    arrays = {name: cupy.zeros((4, 8), np.float32) for name in ("x", "z")}
    out = cupy.empty((4, 4), np.float32)
    call = engine.bind(arrays, {"y": out})
    for seed in range(3):
        inputs = feeds(4, seed)
        for name, value in inputs.items():
            arrays[name].set(value)
        cupy.cuda.get_current_stream().synchronize()
        assert call()["y"] is out
        call.stream.synchronize()
        agree({k: cupy.asnumpy(v) for k, v in call.outputs.items()}, inputs)


def test_a_bound_call_survives_larger_shapes(engine: graphopt.Engine) -> None:
    """Their scratch memory takes the place of the smaller one."""
    import cupy

    inputs = feeds(1, 3)
    call = engine.bind({name: cupy.asarray(value) for name, value in inputs.items()})
    engine(feeds(16))
    call()
    call.stream.synchronize()
    agree({k: cupy.asnumpy(v) for k, v in call.outputs.items()}, inputs)


def test_outputs_whose_size_the_engine_decides(engine: graphopt.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator that TensorRT-RTX 1.6.1 parses has such an output: here every output is treated as one."""
    monkeypatch.setattr("graphopt.runtime.bound.is_open", lambda shape: True)
    twin = engine.fork()
    for rows in (3, 16, 1, 3):
        inputs = feeds(rows, rows)
        agree(twin(inputs), inputs)
    import cupy

    arrays = {name: cupy.asarray(value) for name, value in feeds(3).items()}
    with pytest.raises(graphopt.UsageError, match="depend on data"):
        twin.bind(arrays)


def test_two_runners_beside_each_other(engine: graphopt.Engine) -> None:
    import threading

    twins, wrong = [engine.fork() for _ in range(3)], []

    def work(number: int) -> None:
        for turn in range(20):
            inputs = feeds(1 + turn % 7, number * 100 + turn)
            try:
                agree(twins[number](inputs), inputs)
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((17, 8), np.float32), "z": np.zeros((17, 8), np.float32)}, "no optimization profile"),
        ({"x": np.zeros((4, 9), np.float32)}, "has the shape"),
        ({"x": np.zeros((4, 8), np.float64)}, "float64"),
        ({"q": np.zeros(1)}, "no input 'q'"),
    ],
)
def test_wrong_inputs_are_named(engine: graphopt.Engine, change: dict, message: str) -> None:
    with pytest.raises(graphopt.UsageError, match=message):
        engine({**feeds(4), **change})


def test_a_missing_input_is_named(engine: graphopt.Engine) -> None:
    with pytest.raises(graphopt.UsageError, match="'z' is missing"):
        engine(x=np.zeros((4, 8), np.float32))


def test_a_damaged_engine_is_refused(folder: Path) -> None:
    data = (folder / "net.engine").read_bytes()
    (folder / "cut.engine").write_bytes(data[: len(data) // 2])
    with pytest.raises(graphopt.BackendError, match="does not take this engine"):
        graphopt.Engine(folder / "cut.engine")


def command(*words: str | Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_run_bench_and_profile(folder: Path) -> None:
    ran = command("run", folder / "net.engine", "--compare", "onnxruntime", "--check")
    assert ran["status"] == "ok", ran
    assert len(ran["checks"]) == 3
    rows = command("bench", folder / "net.onnx", folder / "net.engine", "--seconds", "0.2", "--shapes", "x=4x8,z=4x8")[
        "rows"
    ]
    assert len(rows) == 3
    assert all(row["device_ms"]["median"] > 0 and row["relative_l2"] < 5e-3 for row in rows), rows
    found = command("profile", folder / "net.engine", "--seconds", "0.2")
    assert found["layers"]
    assert found["named"] > 0.9


def test_bench_at_several_batch_sizes(folder: Path) -> None:
    rows = command("bench", folder / "net.engine", "--seconds", "0.2", "--batches", "all")["rows"]
    assert [row["batch"] for row in rows[1:]] == [1, 2, 4, 8, 16]
    assert all(row["device_ms"]["median"] > 0 and row["per_second"] > 0 for row in rows)
    wrong = command("bench", folder / "net.engine", "--seconds", "0.2", "--batches", "4,17")["rows"]
    assert [bool(row["failed"]) for row in wrong] == [False, False, True]
