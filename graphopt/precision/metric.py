"""How far low precision is off: one number per run, the larger the worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.numerics.difference import Array, Value

from .foreign import function_of

BUDGET: Mapping[str, float] = {
    "fp16": 1e-2, "bf16": 5e-2, "fp8": 0.1, "int8": 0.1, "int4": 0.2, "auto": 1e-2, "tf32": 2e-3, "fp32": 1e-5,
}  # fmt: skip
"""--max-error where it is not given, for the metric l2."""
Metric = Callable[[Array, Array], float]


def relative_l2(expected: Array, actual: Array) -> float:
    """||actual - expected|| / ||expected||; infinity where one is finite and the other is not."""
    e, a = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    fine = np.isfinite(e)
    with np.errstate(all="ignore"):
        same = (e == a) | (np.isnan(e) & np.isnan(a))
        # A mask far beyond float16 may be another mask: only its sign is told.
        mask = (np.abs(e) > 1e4) & (np.abs(a) > 1e4) & (np.sign(e) == np.sign(a)) & (~fine | (np.abs(e) > 1e30))
    if np.any((fine != np.isfinite(a)) & ~same & ~mask):
        return float("inf")
    plain = fine & ~mask
    e, a = e[plain], a[plain]
    top = float(np.abs(e).max(initial=0.0))
    if top == 0.0:
        return 0.0 if not np.any(a) else float("inf") if float(np.abs(a).max()) > 1e-6 else 0.0
    return float(np.linalg.norm((a - e) / top) / np.linalg.norm(e / top))


def cosine(expected: Array, actual: Array) -> float:
    """1 - cos(expected, actual)."""
    e, a = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    if not np.all(np.isfinite(a)):
        return float("inf")
    norm = float(np.linalg.norm(e) * np.linalg.norm(a))
    return 1.0 - float(e @ a) / norm if norm else float(np.any(e != a))


def largest(expected: Array, actual: Array) -> float:
    """max|actual - expected|."""
    with np.errstate(all="ignore"):
        gap = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def top1(expected: Array, actual: Array) -> float:
    """The share of rows (along the last axis) whose largest element is another one."""
    if expected.ndim == 0:
        return 0.0
    return float(np.mean(expected.argmax(-1) != np.nan_to_num(actual, nan=-np.inf).argmax(-1)))


METRICS: Mapping[str, Metric] = {"l2": relative_l2, "cosine": cosine, "max": largest, "top1": top1}


def metric(name: str) -> Metric:
    """The metric of --metric: one of METRICS, or MODULE:FUNCTION of (expected, actual). Raises UsageError."""
    if name in METRICS:
        return METRICS[name]
    module, mark, function = name.rpartition(":")
    if not mark:
        raise UsageError(f"there is no metric {name!r}", where="--metric",
                         hint=f"choose {', '.join(METRICS)}, or MODULE:FUNCTION of (expected, actual)")  # fmt: skip
    try:
        return function_of(module, function)  # type: ignore[no-any-return]
    except Exception as error:  # whatever the user's module raises on import
        raise UsageError(f"{name}: {type(error).__name__}: {error}", where="--metric") from error


def judged(expected: Value, actual: Value) -> bool:
    """Whether an output is a float tensor in both: others (indices, flags) may fall differently after a rounding."""
    both = isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray)
    return both and _is_float(expected) and _is_float(actual)


def _is_float(value: Any) -> bool:
    return value.dtype.kind == "f" or "float" in value.dtype.name


def error_of(measure: Metric, expected: Value, actual: Value) -> float:
    """The error of one output; infinity where the shapes differ."""
    e, a = np.asarray(expected), np.asarray(actual)
    if e.shape != a.shape:
        return float("inf")
    return float(measure(e.astype(np.float64), a.astype(np.float64))) if e.size else 0.0
