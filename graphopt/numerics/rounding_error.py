"""Is a low-precision result as good as its source, once every operator rounds?"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .difference import Array, Difference, Value, compare
from .execute import ExecutionError, Runner
from .rounding import NoRounding, low_types, rounded_copy
from .tolerance import ESCALATION_FACTOR, TABLE, Tolerance, tolerance_for

Values = Callable[[int], Mapping[str, Value]]
Breaches = dict[tuple[int, str], Difference]


def rounding_breaches(
    runner: Runner, source: Path, result: Path, samples: int, feeds: Values, expected: Values, precision: str
) -> tuple[Breaches, list[str]]:
    """found[sample, output] = a difference that rounding after every operator brings out in the result; and notes.

    expected: what the source gives in onnxruntime, which keeps float16 in float32. Of the float outputs, the rounded
    result must stay within the tolerance of the coarsest type in it, or be no worse than the source when that is
    rounded as well: not finite only where the source is not, and at most twice as far off elsewhere. Indices are not
    judged: a rounding may swap two equals. What cannot be evaluated is a note.
    """
    kinds = low_types(result)
    if not kinds:
        return {}, []
    coarsest = max((TABLE[kind] for kind in kinds), key=lambda row: row.relative_l2)
    what = f"rounded to {', '.join(sorted(kinds))} after every operator"
    breaches: Breaches = {}
    notes: list[str] = []
    try:
        actual = _evaluated(runner, result, samples, feeds)
        unsure: dict[tuple[int, str], Difference] = {}
        for sample in range(samples):
            for name, want in expected(sample).items():
                got = actual[sample][name]
                if isinstance(want, np.ndarray) and isinstance(got, np.ndarray) and _judged(want, got):
                    found = compare(want, got, _bound(want, precision, coarsest), name=name)
                    if not found.ok:
                        unsure[sample, name] = dataclasses.replace(found, sample=sample, shape=want.shape)
        if unsure:
            own = _evaluated(runner, source, samples, feeds) if low_types(source) else None
            for (sample, name), found in unsure.items():
                want = expected(sample)[name]
                rounded = want if own is None else own[sample][name]
                worse, note = _worse(found, np.asarray(want), np.asarray(rounded), np.asarray(actual[sample][name]))
                notes += [f"{name}, {what}: {note}"] if note else []
                if worse:
                    breaches[sample, name] = dataclasses.replace(found, ok=False, reason=f"{what}: {worse}")
    except (NoRounding, ExecutionError) as error:
        notes.append(f"not evaluated with rounding after every operator: {str(error).splitlines()[0]}")
    return breaches, notes


def _evaluated(runner: Runner, path: Path, samples: int, feeds: Values) -> list[dict[str, Value]]:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        copied = Path(folder, "rounded.onnx")
        copied.write_bytes(rounded_copy(path))
        runner.open(copied)
        found = [runner.run(feeds(sample)) for sample in range(samples)]
        runner.close()
    return found


def _judged(want: Array, got: Array) -> bool:
    return not tolerance_for(str(want.dtype.name)).exact and want.dtype == got.dtype and want.shape == got.shape


def _bound(want: Array, precision: str, coarsest: Tolerance) -> Tolerance:
    own = tolerance_for(str(want.dtype.name), precision)
    return Tolerance(max(own.relative_l2, coarsest.relative_l2), max(own.near_zero, coarsest.near_zero))


def _worse(found: Difference, want: Array, own: Array, got: Array) -> tuple[str, str]:
    """(why the result is worse than its source, or '', what to tell of the source itself, or '')."""
    want, own, got = (np.asarray(value, dtype=np.float64).ravel() for value in (want, own, got))
    with np.errstate(all="ignore"):
        lost_before, lost = (~_agrees(want, value) for value in (own, got))
        if np.any(lost & ~lost_before):
            count = int(np.count_nonzero(lost & ~lost_before))
            return f"{count} of {want.size} elements are not finite that are finite in the source", ""
        plain = np.isfinite(want) & np.isfinite(own) & np.isfinite(got)
        before, after = (_distance(want[plain], value[plain]) for value in (own, got))
    bound = max(found.tolerance, ESCALATION_FACTOR * before)
    if after > bound and found.max_abs > 0:
        return f"relative L2 difference {after:.3g} exceeds {bound:.3g} (the source's own error is {before:.3g})", ""
    if lost_before.any():
        count = int(np.count_nonzero(lost_before))
        return "", f"{count} of {want.size} elements of the source itself are not finite"
    return "", f"the source itself is off by {before:.3g} (relative L2)"


def _agrees(want: Array, value: Array) -> Array:
    """Where a value is finite, or is just as the wanted one is: infinity of the same sign, NaN."""
    return np.asarray(np.isfinite(value) | (value == want) | (np.isnan(value) & np.isnan(want)))


def _distance(want: Array, value: Array) -> float:
    top = float(np.abs(want).max()) if want.size else 0.0
    if top == 0.0:
        return np.inf if np.any(value != 0.0) else 0.0
    return float(np.linalg.norm((value - want) / top) / np.linalg.norm(want / top))
