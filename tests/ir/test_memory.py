"""Peak memory and time of load and write, in a process of their own, beside those of `cp`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from .models import model, node, run, save, value

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

COPY = """
import json, sys, time
from pathlib import Path
from graphopt.ir.load import load
from graphopt.ir.save import write
def peak():  # ru_maxrss would be inherited from the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM:"))
said = {"import_mb": peak()}
start = time.perf_counter()
graph = load(sys.argv[1])
said |= {"load_s": time.perf_counter() - start, "load_mb": peak()}
start = time.perf_counter()
write(graph, sys.argv[2])
said |= {"write_s": time.perf_counter() - start, "write_mb": peak()}
print(json.dumps(said))
"""


def copied(source: Path, target: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", COPY, str(source), str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = dict(json.loads(done.stdout))
    print("\n" + ", ".join(f"{key} {figure:.2f}" for key, figure in said.items()))  # noqa: T201
    return said


def chain(count: int, side: int, weights: Any) -> onnx.ModelProto:
    nodes = [node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(count)]
    return model(nodes, [value("v0", (1, side))], [value(f"v{count}", (1, side))], weights)


def test_3_2_gigabytes_of_external_data(tmp_path: Path) -> None:
    count, side = 8, 10_000
    size = side * side * 4
    weights = []
    for i in range(count):
        weight = TensorProto(name=f"w{i}", data_type=1, dims=[side, side], data_location=TensorProto.EXTERNAL)
        for key, entry in (("location", "w.bin"), ("offset", i * size), ("length", size)):
            weight.external_data.add(key=key, value=str(entry))
        weights.append(weight)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(count * size)
        for i in range(count):
            file.seek(i * size)
            file.write(np.float32(2).tobytes())
    said = copied(save(chain(count, side, weights), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    start = time.perf_counter()
    subprocess.run(["cp", "--sparse=never", tmp_path / "w.bin", tmp_path / "copy.bin"], check=True)
    print(f"cp {time.perf_counter() - start:.2f} s")  # noqa: T201
    (tmp_path / "copy.bin").unlink()
    assert said["write_mb"] < 500
    written = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    assert len({dict((e.key, e.value) for e in t.external_data)["location"] for t in written.graph.initializer}) == 1
    (tmp_path / "w.bin").unlink()
    result = run(tmp_path / "o.onnx", {"v0": np.ones((1, side), np.float32)})[0]
    assert result[0, 0] == 2**count


def test_one_gigabyte_inside_the_model(tmp_path: Path) -> None:
    side = 5_000
    weights = [
        TensorProto(name=f"w{i}", data_type=1, dims=[side, side], raw_data=np.full((side, side), i, "f4").tobytes())
        for i in range(10)
    ]
    source = save(chain(10, side, weights), tmp_path / "m.onnx")
    del weights
    said = copied(source, tmp_path / "o.onnx")
    size = source.stat().st_size / 1e6
    assert said["load_mb"] < 2.3 * size
    assert said["write_mb"] <= said["load_mb"] + 10, "writing copies one weight at a time"
    assert abs((tmp_path / "o.onnx").stat().st_size / 1e6 - size) < 1
