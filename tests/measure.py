"""Measuring a whole run: peak memory of the process tree, and large models that take no disk space to speak of."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from onnx import TensorProto, helper


def sparse_model(folder: Path, *, count: int, side: int) -> Path:
    """count MatMuls by side x side weights in one sparse external file; a diagonal of distinct numbers in each."""
    data = folder / "weights.bin"
    each = side * side * 4
    with data.open("wb") as file:
        file.truncate(count * each)
        for i in range(count):
            for row in range(0, side, side // 50):
                file.seek(i * each + (row * side + row) * 4)
                file.write(np.float32(1 + i + row).tobytes())
    nodes, weights = [], []
    for i in range(count):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", i * each), ("length", each)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        nodes += [
            helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Identity", [f"m{i}"], [f"x{i + 1}"]),
        ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "big", ports[:1], ports[1:], weights)
    path = folder / "big.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def peak_rss(words: Sequence[str]) -> tuple[int, str, int, float]:
    """(exit code, standard output, peak RSS in bytes of graphopt and its children, seconds)."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "graphopt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not done.is_set():
            total = 0
            try:
                for one in (root, *root.children(recursive=True)):
                    total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            peak = max(peak, total)
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    out, err = process.communicate()
    done.set()
    thread.join()
    return process.returncode, out or err, peak, time.perf_counter() - began
