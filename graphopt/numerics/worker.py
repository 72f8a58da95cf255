"""The child process: loads one model at a time and runs feeds through it, at the word of graphopt.numerics.execute."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from .close import suspects
from .difference import Array, Value
from .exchange import read_values, write_values

REFERENCE_BYTES = 200 << 20
"""A model of more bytes is not evaluated by the reference implementation."""
LARGE_BYTES = 512 << 20
"""From here on memory counts more than speed."""

_TYPES = {f"tensor({t.lower()})": v for t, v in onnx.TensorProto.DataType.items()}
_BITS = {name: v for name, v in _TYPES.items() if name.startswith(("tensor(bfloat16", "tensor(float8"))}
_PACKED = frozenset({"tensor(int4)", "tensor(uint4)", "tensor(int2)", "tensor(uint2)", "tensor(float4e2m1)"})


class OnnxRuntime:
    """A model in onnxruntime on the CPU, its optimizations off."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if stored_bytes(path) >= LARGE_BYTES:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        self._runtime = onnxruntime
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value.type for value in self._session.get_inputs()}
        self._inputs |= {value.name: value.type for value in self._session.get_overridable_initializers()}
        self._outputs = {value.name: value.type for value in self._session.get_outputs()}

    @property
    def packed(self) -> bool:
        """Whether a value of less than a byte per element goes in or out."""
        return not _PACKED.isdisjoint((*self._inputs.values(), *self._outputs.values()))

    def run(self, feeds: Mapping[str, Value], wanted: list[str] | None = None) -> dict[str, Value]:
        """The outputs, or those wanted: then nothing else is computed."""
        names, options = list(self._outputs), None
        if wanted is not None and len(wanted) < len(names):
            names, options = wanted, self._runtime.RunOptions()
            options.only_execute_path_to_fetches = True
        types = (*self._inputs.values(), *self._outputs.values())
        if not any(bits in kind for kind in types for bits in _BITS):
            return dict(zip(names, self._session.run(names, dict(feeds), options), strict=True))
        values = {name: self._to_runtime(name, value) for name, value in feeds.items()}
        found = self._session.run_with_ort_values(names, values, options)
        return {name: self._from_runtime(name, value) for name, value in zip(names, found, strict=True)}

    def _to_runtime(self, name: str, value: Value) -> Any:
        make = self._runtime.OrtValue
        bits = _BITS.get(self._inputs.get(name, ""))
        if bits is None:
            return make.ortvalue_from_numpy(value)
        array = np.asarray(value, order="C")
        plain = array.view(f"u{array.dtype.itemsize}")
        return make.ortvalue_from_numpy_with_onnx_type(plain, bits)

    def _from_runtime(self, name: str, value: Any) -> Value:
        if (bits := _BITS.get(self._outputs[name])) is None:
            array: Array = value.numpy()
            return array
        dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(bits), value.shape()
        size = math.prod(shape)
        raw = ctypes.string_at(value.data_ptr(), size * dtype.itemsize) if size else b""
        return np.frombuffer(raw, dtype=dtype).reshape(shape)


class Reference:
    """A model in onnx's reference implementation."""

    def __init__(self, path: str) -> None:
        from onnx.reference import ReferenceEvaluator

        from .reference_ops import REPLACED_OPS

        if stored_bytes(path) > REFERENCE_BYTES:
            raise ValueError(f"model over {REFERENCE_BYTES >> 20} MiB: too large for the reference implementation")
        self._evaluator = ReferenceEvaluator(path, new_ops=list(REPLACED_OPS))

    def run(self, feeds: Mapping[str, Value], wanted: list[str] | None = None) -> dict[str, Value]:
        with np.errstate(all="ignore"):
            found: Any = self._evaluator.run(None, dict(feeds))
        return dict(zip(self._evaluator.output_names, found, strict=True))


def stored_bytes(path: str) -> int:
    """Size of a model file with the external data that lies beside it."""
    total = os.path.getsize(path)
    if total >= LARGE_BYTES:
        return total
    names = set()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    return total + sum(os.path.getsize(p) for n in names if (p := Path(path).parent / n).is_file())


def load(path: str, engine: str, threads: int) -> tuple[OnnxRuntime | Reference, str]:
    """The model in the asked engine, and a note; 'auto' falls back to the reference where onnxruntime has no kernel."""
    if engine == "reference":
        return Reference(path), ""
    try:
        model = OnnxRuntime(path, threads)
        if engine == "onnxruntime" or not model.packed:
            return model, ""
        reason = "onnxruntime cannot exchange inputs or outputs of 4 bits"
    except Exception as error:
        # Only a missing kernel: what onnxruntime calls invalid must not pass by a more lenient evaluator.
        if engine != "auto" or type(error).__name__ != "NotImplemented":
            raise
        reason = str(error).splitlines()[0]
    return Reference(path), f"evaluated by onnx's reference implementation: {reason}"


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answers each line of JSON with one; ends with the requests."""
    model: OnnxRuntime | Reference | None = None
    for line in requests:
        request = json.loads(line)
        answer: dict[str, Any] = {"ok": True}
        try:
            if request["do"] == "open":
                model = None
                model, answer["note"] = load(request["path"], request["engine"], request["threads"])
            elif request["do"] == "run" and model is not None:
                write_values(Path(request["outputs"]), model.run(read_values(Path(request["feeds"]))))
            elif request["do"] == "probe" and model is not None:
                feeds = read_values(Path(request["feeds"]))
                answer["suspects"] = suspects(partial(model.run, feeds), request["pairs"])
            else:
                model = None
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _limit_memory(most: int) -> None:
    """An allocation beyond it fails with a message, instead of the machine ending some process."""
    import resource

    if most > 0:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def main() -> None:
    _limit_memory(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    # Native code prints to descriptor 1; the answers get a descriptor of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, channel)


if __name__ == "__main__":
    main()
