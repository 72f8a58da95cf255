"""The optimizers, each as its documentation says to call it from Python. Run under forks.py with the tool's own Python.

A call takes a ModelProto in memory and ends with a ModelProto in memory; reading, writing and copying are not counted.
"""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import onnx

PACKAGES = {
    "graphopt": "graphopt",
    "onnxsim": "onnxsim",
    "onnxslim": "onnxslim",
    "onnxscript": "onnxscript",
    "onnxoptimizer": "onnxoptimizer",
    "onnxruntime": "onnxruntime",
}
MODULES = {
    "graphopt": ("graphopt", "graphopt.pipeline", "graphopt.ir.save", "onnxruntime"),
    "onnxscript": ("onnxscript.optimizer",),
}
Model = onnx.ModelProto


def _graphopt(model: Model) -> Model:
    import graphopt

    return graphopt.to_proto(graphopt.optimize(model, verify="none").graph)


def _onnxsim(model: Model) -> Model:
    import onnxsim

    return onnxsim.simplify(model)[0]


def _onnxslim(model: Model) -> Model:
    import onnxslim

    return onnxslim.slim(model)


def _onnxscript(model: Model) -> Model:
    from onnxscript import optimizer

    return optimizer.optimize(model)


def _onnxoptimizer(model: Model) -> Model:
    import onnxoptimizer

    return onnxoptimizer.optimize(model)


def _onnxruntime(model: Model) -> Model:
    import onnxruntime as rt

    options = rt.SessionOptions()
    options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = path = f"/dev/shm/graphopt-bench-{os.getpid()}.onnx"
    options.log_severity_level = 4
    try:
        rt.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


CALLS: dict[str, Callable[[Model], Model]] = {
    "graphopt": _graphopt,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "onnxruntime": _onnxruntime,
}


def prepare(tool: str = "") -> None:
    """Import the tool, so that no fork pays for it."""
    if tool:
        for name in MODULES.get(tool, (tool,)):
            importlib.import_module(name)
        if tool == "graphopt":
            _graphopt(onnx.parser.parse_model(_TINY))  # it loads its plugins on the first call


_TINY = '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Optimize request['source'] into request['result'], repeats times while that takes less than patience seconds."""
    tool = request["tool"]
    if request.get("what") == "version":
        return {"version": version(PACKAGES[tool])}
    cpu, wall = [], []
    spent = 0.0
    for _ in range(request["repeats"]):
        model = onnx.load(request["source"])
        gc.collect()
        began, cpu_began = time.perf_counter(), time.process_time()
        result = CALLS[tool](model)
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.perf_counter() - began)
        spent += wall[-1]
        if len(cpu) == 1:
            onnx.save(result, request["result"])
        if spent > request["patience"]:
            break
    return {"cpu_seconds": cpu, "wall_seconds": wall}
