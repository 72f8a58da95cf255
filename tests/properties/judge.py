"""What a pass made of a model, against the model: in onnxruntime without optimizations, and in float64."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from graphopt import Target
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.difference import compare
from graphopt.numerics.double import double_copy
from graphopt.numerics.tolerance import Tolerance
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.rule import Entry

EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -3.0, 6.0, 1e-30, -1e-30, 1e4, -1e4)
SPECIAL = (np.nan, np.inf, -np.inf)
WITHOUT_DOUBLE = Tolerance(1e-3, 1e-6)
"""Where onnxruntime has no float64 kernel (ConvTranspose): 1e4 - 1e4 + 1 in float32 is off by 1e-4."""
Run = list[Any]


class Illegal(Exception):
    """No model: the checker or onnxruntime refuses it."""


def session(model: onnx.ModelProto | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def feeds_of(opened: ort.InferenceSession, seed: int) -> list[dict[str, Any]]:
    """Normal numbers; edge values; NaN and infinity among normal numbers."""
    random = np.random.default_rng(seed)
    sets: list[dict[str, Any]] = [{}, {}, {}]
    for port in opened.get_inputs():
        shape = [dim if isinstance(dim, int) else 2 for dim in port.shape]
        normal = np.asarray(random.normal(0, 2, shape))
        edges = np.asarray(random.choice(EDGES, shape))
        special = np.where(random.random(shape) < 0.2, random.choice(SPECIAL, shape), normal)
        for feeds, values in zip(sets, (normal, edges, special), strict=True):
            feeds[port.name] = _typed(values, port.type)
    return sets


def _typed(values: Any, kind: str) -> Any:
    if kind == "tensor(bool)":
        return values > 0
    if "int" in kind:
        return np.nan_to_num(values, nan=0, posinf=7, neginf=-7).astype(kind[7:-1])
    return values.astype({"tensor(double)": np.float64, "tensor(float16)": np.float16}.get(kind, np.float32))


def optimized(model: onnx.ModelProto, passes: Iterable[Entry]) -> tuple[onnx.ModelProto, dict[str, int]]:
    manager = Manager(load(model), list(passes), Target())
    fired = {one.name: one.changes for one in manager.run()}
    return to_proto(manager.graph), fired


def differences(source: onnx.ModelProto, result: onnx.ModelProto, seed: int, *, special: bool = True) -> list[str]:
    """What differs, in words. A difference in float32 that float64 doesn't show is rounding. Raises Illegal."""
    try:
        onnx.checker.check_model(source, full_check=True)
        opened = session(source)
    except Exception as error:
        raise Illegal(str(error)) from error
    try:
        after = session(result)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error):
            raise Illegal("onnxruntime has no kernel for the result's dtype") from error
        return [f"onnxruntime refuses the result: {error}"]
    found: list[str] = []
    wide: tuple[ort.InferenceSession, ort.InferenceSession] | None = None
    labels = ("normal", "edges", "special") if special else ("normal", "edges")
    for label, feeds in zip(labels, feeds_of(opened, seed), strict=False):
        try:
            expected = opened.run(None, feeds)
        except Exception as error:
            if label == "normal":
                raise Illegal(str(error)) from error
            continue
        known = {port.name for port in after.get_inputs()}
        try:
            actual = after.run(None, {name: value for name, value in feeds.items() if name in known})
        except Exception as error:
            found.append(f"{label}: the result does not run: {error}")
            continue
        wrong = _apart(source, expected, actual)
        if wrong:
            wide = wide or _wide(source, result)
            if wide is not None:
                wrong = _apart(source, *(_run_wide(one, feeds) for one in wide), bound=Tolerance(1e-5, 1e-6))
            else:
                wrong = _apart(source, expected, actual, bound=WITHOUT_DOUBLE)
        found += [f"{label}: {line}" for line in wrong]
    return found


def _apart(source: onnx.ModelProto, expected: Run, actual: Run, bound: Tolerance | None = None) -> list[str]:
    rows = zip((port.name for port in source.graph.output), expected, actual, strict=True)
    verdicts = [(name, compare(want, got, bound)) for name, want, got in rows]
    return [f"{name}: {verdict.reason}" for name, verdict in verdicts if not verdict.ok]


def _wide(*models: onnx.ModelProto) -> Any:
    opened = []
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            onnx.save(model, path)
            try:
                opened.append(session(double_copy(path)))
            except Exception:
                return None
    return tuple(opened)


def _run_wide(opened: ort.InferenceSession, feeds: dict[str, Any]) -> Run:
    ports = {port.name: port.type for port in opened.get_inputs()}
    widened = {n: v.astype(np.float64) if ports[n] == "tensor(double)" else v for n, v in feeds.items() if n in ports}
    return opened.run(None, widened)  # type: ignore[no-any-return]
