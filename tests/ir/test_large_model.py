"""A model beyond 2 GB is loaded and written without ever being in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

COPY = """
import json, sys, time
from pathlib import Path
from graphopt.ir.load import load
from graphopt.ir.save import write
def peak():  # ru_maxrss would be inherited from the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
start = time.perf_counter()
graph = load(sys.argv[1])
loaded = time.perf_counter() - start
before = peak()
files = write(graph, sys.argv[2])
print(json.dumps({"load_s": loaded, "peak": peak(), "growth": peak() - before, "files": [str(f) for f in files]}))
"""


def adds(folder: Path, count: int, size: int) -> Path:
    """A chain of additions; its weights are one sparse file with a mark at the head of each."""
    rows = size // 4
    nodes = [helper.make_node("Add", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(count)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows]) for name in ("v0", f"v{count}")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]))
    for i in range(count):
        tensor = model.graph.initializer.add(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[rows])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", i * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(count * size)
        for i in range(count):
            file.seek(i * size)
            file.write(mark(i))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def mark(i: int) -> bytes:
    return bytes([i + 1]) * 64


def copied(source: Path, target: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", COPY, str(source), str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def check(folder: Path, count: int, size: int) -> None:
    (folder / "out").mkdir()
    report = copied(adds(folder, count, size), folder / "out" / "model.onnx")
    assert report["growth"] < 48 << 20, report  # less than one weight
    assert report["peak"] < 400 << 20, report
    assert report["load_s"] < 2, report
    model = onnx.load(folder / "out" / "model.onnx", load_external_data=False)
    assert len(model.graph.initializer) == count
    for i, tensor in enumerate(model.graph.initializer):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert int(entries["offset"]) % 4096 == 0
        assert int(entries["length"]) == size
        with (folder / "out" / entries["location"]).open("rb") as file:
            file.seek(int(entries["offset"]))
            assert file.read(65) == mark(i) + b"\0"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    check(tmp_path, 4, 64 << 20)


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_model_of_3_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    check(tmp_path, 16, 200 << 20)
