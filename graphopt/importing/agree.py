"""Whether the ONNX model computes, in onnxruntime, what the framework computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.numerics.difference import Difference, Value, compare
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.tolerance import Tolerance, tolerance_for

from .ranking import ranked_alike


@dataclass(frozen=True)
class Sample:
    """One set of inputs, and what the framework made of it, in the order of the ONNX model's outputs."""

    feeds: Mapping[str, Value]
    expected: Sequence[Value]


def differences(
    path: Path, samples: Sequence[Sample], limit: float, runner: Runner, rounding: Sequence[float] = ()
) -> list[Difference]:
    """Of each output, in the model's order: the first sample at which it is off, else its largest difference.

    limit: of the relative L2 difference; a dtype's own tolerance, if larger, counts. Of integers and truth values, it
    is the limit of the share of elements that differ; 8-bit integers, which come of rounding, may be off by one.
    rounding: by output, how far elements may be off whatever the limit says. Rows of equal score may change places.

    Raises ExecutionError: onnxruntime cannot load it, or not run the first sample.
    """
    runner.open(path)
    worst: dict[str, Difference] = {}
    for number, sample in enumerate(samples):
        try:
            found = runner.run(sample.feeds)
        except ExecutionError as error:
            if not number:
                raise
            reason = f"onnxruntime does not run it: {error.what}"
            worst = {
                name: one if not one.ok else replace(_absent(name, reason), sample=number)
                for name, one in worst.items()
            }
            continue
        listed = _listed(list(found), list(found.values()), sample.expected, limit, rounding)
        if not all(one.ok for one in listed):
            ordered = ranked_alike(sample.expected, list(found.values()), limit)
            if ordered is not None:
                listed = _listed(list(found), ordered, sample.expected, limit, rounding)
        for one in listed:
            one = replace(one, sample=number)
            known = worst.get(one.name)
            if known is None or (known.ok and (not one.ok or one.relative_l2 > known.relative_l2)):
                worst[one.name] = one
    return list(worst.values())


def _listed(
    names: Sequence[str], found: Sequence[Value], expected: Sequence[Value], limit: float, rounding: Sequence[float]
) -> list[Difference]:
    listed = []
    for index in range(max(len(names), len(expected))):
        name = names[index] if index < len(names) else f"#{index}"
        if index >= min(len(names), len(expected)):
            one = _absent(name, f"{len(names)} outputs, where the framework has {len(expected)}")
        else:
            one = difference(name, expected[index], found[index], limit)
            if not one.ok and index < len(rounding) and _near(expected[index], found[index], rounding[index]):
                one = replace(one, ok=True, reason="")
        listed.append(one)
    return listed


def _near(expected: Value, actual: Value, most: float) -> bool:
    a, b = np.asarray(expected), np.asarray(actual)
    if a.shape != b.shape or a.dtype.kind not in "iuf" or b.dtype.kind not in "iuf":
        return False
    return bool((np.abs(a.astype(np.float64) - b.astype(np.float64)) <= most).all())


def difference(name: str, expected: Value, actual: Value, limit: float) -> Difference:
    """One output against the framework's."""
    if isinstance(expected, np.ndarray | np.generic) and isinstance(actual, np.ndarray):
        expected = np.asarray(expected)
        if expected.dtype != actual.dtype and _kind(expected) == _kind(actual):
            expected = expected.astype(actual.dtype)  # a framework may compute wider than the file says
        own = tolerance_for(str(actual.dtype.name))
        if own.exact:
            return _exact(name, expected, actual, limit)
        return compare(expected, actual, Tolerance(max(limit, own.relative_l2), own.near_zero), name=name)
    return compare(expected, actual, Tolerance(limit, 1e-6), name=name)


def _exact(name: str, expected: Any, actual: Any, limit: float) -> Difference:
    found = compare(expected, actual, name=name)
    rounded = actual.dtype.itemsize == 1 and actual.dtype.kind in "iu" and found.max_abs <= 1
    if found.ok or not (found.relative_l2 <= limit or rounded):
        return found
    return Difference(
        name, found.dtype, found.relative_l2, found.max_abs, found.cosine, limit, True, "", 0, found.shape
    )


def _kind(array: np.ndarray[Any, Any]) -> str:
    return "i" if array.dtype.kind in "iu" else "f" if array.dtype.kind in "fV" else array.dtype.kind


def _absent(name: str, reason: str) -> Difference:
    return Difference(name, "none", np.inf, np.inf, 0.0, 0.0, False, reason)
