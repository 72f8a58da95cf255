"""Loops on a GPU: the engine of the loop against that of its unrolled body, over turns and sizes.

    python tests/bench/loops_gpu.py [MODEL.onnx ...]      the loops below, and the models given

Every line is one `graphopt bench`: medians of CUDA events over whole launches, both engines in one process, in turns.
JSON goes to $OUT/loops.json after every model; one that fails is written down and the rest goes on. The parser's and
the builder's words on the loop as it is are kept, too: where it cannot be built, the unrolled one is all there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = Path(os.environ.get("OUT", "."))
CASES = [(kind, turns, rows, width) for rows, width in ((2, 8), (8, 256)) for kind in ("scan", "loop", "loop-state")
         for turns in (4, 8, 32)]  # fmt: skip
RESULTS: dict = {}


def port(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def written(folder, kind, turns, rows, width):
    """state = tanh(state @ w + row), all states collected: a Scan, a Loop that collects, a Loop of one state."""
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array((rng.normal(size=(width, width)) / width**0.5).astype(np.float32), "w")
    state, step = port("state", [rows, width]), [
        helper.make_node("MatMul", ["state", "w"], ["m"]),
        helper.make_node("Add", ["m", "row"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]  # fmt: skip
    after = [port("next", [rows, width]), port("seen", [rows, width])]
    inputs, weights, outputs = [port("x", [rows, width])], [w], [port("last", [rows, width])]
    if kind == "scan":
        inputs.append(port("rows", [turns, rows, width]))
        outputs.append(port("all", [turns, rows, width]))
        body = helper.make_graph(step, "body", [state, port("row", [rows, width])], after)
        node = helper.make_node("Scan", ["x", "rows"], ["last", "all"], body=body, num_scan_inputs=1)
    else:
        inputs.append(port("row", [rows, width]))
        weights += [numpy_helper.from_array(np.array(turns), "turns"), numpy_helper.from_array(np.array(True), "yes")]
        counters = [port("i", [], TensorProto.INT64), port("going", [], TensorProto.BOOL)]
        keep, on = helper.make_node("Identity", ["going"], ["on"]), port("on", [], TensorProto.BOOL)
        if kind == "loop":
            outputs.append(port("all", [turns, rows, width]))
            body = helper.make_graph([keep, *step], "body", [*counters, state], [on, *after])
        else:
            body = helper.make_graph([keep, *step[:3]], "body", [*counters, state], [on, after[0]])
        node = helper.make_node("Loop", ["turns", "yes", "x"], [one.name for one in outputs], body=body)
    graph = helper.make_graph([node], "g", inputs, outputs, weights)
    path = folder / f"{kind}-{turns}x{rows}x{width}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def benched(path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "bench", str(path), "--seconds", "0.5", "--json"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if not done.stdout:
        return {"failed": done.stderr[-600:]}
    found = json.loads(done.stdout)
    return {"seconds": round(time.monotonic() - began, 1), "rows": found["rows"]}


def main(given):
    with tempfile.TemporaryDirectory() as folder:
        paths = [*map(Path, given), *(written(Path(folder), *case) for case in CASES)]
        for path in paths:
            try:
                found = benched(path)
            except Exception as error:
                found = {"failed": f"{type(error).__name__}: {error}"}
            RESULTS[path.stem] = found
            (OUT / "loops.json").write_text(json.dumps(RESULTS, indent=1))
            medians = [f"{row['name']} {(row['device_ms'] or {}).get('median')} ms {(row['failed'] or '')[:120]}"
                       for row in found.get("rows", ())]  # fmt: skip
            print(f"{path.stem:24} {'; '.join(medians) or found['failed'][-200:]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
