"""How far two values are apart, and whether that is within the tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tolerance import EXACT, Tolerance, tolerance_for

Array = NDArray[Any]
Value = Array | Sequence["Value"] | Mapping[Any, "Value"] | None
"""What an ONNX output can be: a tensor, a sequence, a map, or an absent optional."""

_SENTINEL = 1e30


@dataclass(frozen=True)
class Difference:
    """One output of the result against the source's: relative_l2 = ||actual - expected|| / ||expected||.

    relative_l2, max_abs: over the finite elements, in float64; for exact dtypes relative_l2 is the fraction of unequal
    elements. cosine: of the finite elements, 1 where both are zero. tolerance: the relative bound that was applied.
    """

    name: str
    dtype: str
    relative_l2: float
    max_abs: float
    cosine: float
    tolerance: float
    ok: bool
    reason: str = ""
    sample: int = 0
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        gap = f"{self.max_abs:.3g}" if math.isfinite(self.max_abs) else "no number"
        return f"{self.name}: {self.reason or 'equal'} (largest difference {gap}, relative L2 {self.relative_l2:.3g})"

    def to_json(self) -> dict[str, Any]:
        """A dict for json.dumps; what is not finite becomes None."""
        found = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def dtype_name(value: Array) -> str:
    """'float32', 'bfloat16', 'int64', 'bool' or 'string' for any array of text."""
    return "string" if value.dtype.kind in "OUST" else str(value.dtype.name)


def compare(expected: Value, actual: Value, tolerance: Tolerance | None = None, *, name: str = "") -> Difference:
    """ok = same structure, dtype, shape, NaN and infinity positions, and an error within the tolerance.

    expected, actual: arrays, sequences, maps or None. tolerance: by default that of the expected dtype; ints, bool and
    strings are always exact. A sequence gives the worst of its elements.
    """
    if expected is None or actual is None:
        return _verdict(name, "none", expected is actual, "" if expected is actual else "present in one only")
    if isinstance(expected, Mapping) or isinstance(actual, Mapping):
        if not (isinstance(expected, Mapping) and isinstance(actual, Mapping)):
            return _verdict(name, "map", False, "a map in one only")
        if list(expected) != list(actual):
            return _verdict(name, "map", False, "maps with different keys")
        return _worst(name, "map", list(expected.values()), list(actual.values()), tolerance)
    if isinstance(expected, list | tuple) or isinstance(actual, list | tuple):
        if not (isinstance(expected, list | tuple) and isinstance(actual, list | tuple)):
            return _verdict(name, "sequence", False, "a sequence in one only")
        if len(expected) != len(actual):
            return _verdict(name, "sequence", False, f"sequence of {len(actual)} instead of {len(expected)}")
        return _worst(name, "sequence", expected, actual, tolerance)
    return _tensors(np.asarray(expected), np.asarray(actual), tolerance, name)


def _verdict(name: str, dtype: str, ok: bool, reason: str, shape: tuple[int, ...] = ()) -> Difference:
    error = 0.0 if ok else math.inf
    return Difference(name, dtype, error, error, 1.0 if ok else 0.0, 0.0, ok, reason, 0, shape)


def _worst(
    name: str, kind: str, expected: Sequence[Value], actual: Sequence[Value], tolerance: Tolerance | None
) -> Difference:
    found = [compare(e, a, tolerance, name=name) for e, a in zip(expected, actual, strict=True)]
    if not found:
        return _verdict(name, kind, True, "")
    index = max(range(len(found)), key=lambda i: severity(found[i]))
    worst = found[index]
    return replace(worst, reason=f"element {index}: {worst.reason}" if worst.reason else "")


def severity(difference: Difference) -> tuple[bool, float]:
    """Orders differences: a failed one above all passed ones, then by error measured in tolerances."""
    error = difference.relative_l2 / (difference.tolerance or 1.0)
    return not difference.ok, math.inf if math.isnan(error) else error


def _tensors(expected: Array, actual: Array, tolerance: Tolerance | None, name: str) -> Difference:
    dtype, other = dtype_name(expected), dtype_name(actual)
    shape = tuple(expected.shape)
    if dtype != other:
        return _verdict(name, dtype, False, f"dtype {other} instead of {dtype}", shape)
    if expected.shape != actual.shape:
        return _verdict(name, dtype, False, f"shape {_dims(actual)} instead of {_dims(expected)}", shape)
    own = tolerance_for(dtype)
    bound = EXACT if own.exact else tolerance or own
    if bound.exact:
        return _exactly(expected, actual, dtype, name)
    if expected.size == 0:
        return replace(_verdict(name, dtype, True, "", shape), tolerance=bound.relative_l2)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        return _within(expected.astype(wide).ravel(), actual.astype(wide).ravel(), bound, name, dtype, shape)


def _dims(value: Array) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _exactly(expected: Array, actual: Array, dtype: str, name: str) -> Difference:
    shape = tuple(expected.shape)
    wrong = np.asarray(expected != actual)
    if dtype.startswith("float"):
        wrong = wrong & ~(np.isnan(expected.astype(np.float64)) & np.isnan(actual.astype(np.float64)))
    count = int(np.count_nonzero(wrong))
    if not count:
        return _verdict(name, dtype, True, "", shape)
    largest = math.inf
    if dtype not in ("string", "bool"):
        largest = max(
            abs(float(int(a) - int(b))) for a, b in zip(actual[wrong][:10000], expected[wrong][:10000], strict=True)
        )
    reason = f"{count} of {expected.size} elements differ, the first at {_index(wrong, shape)}"
    return Difference(name, dtype, count / expected.size, largest, 0.0, 0.0, False, reason, 0, shape)


def _index(wrong: Array, shape: tuple[int, ...]) -> list[int]:
    return [int(i) for i in np.unravel_index(int(np.argmax(wrong.ravel())), shape)]


def _within(e: Array, a: Array, bound: Tolerance, name: str, dtype: str, shape: tuple[int, ...]) -> Difference:
    lost = np.isnan(e) != np.isnan(a)
    infinite = np.isinf(e) | np.isinf(a)
    # NaN at the same place counts as equal; an infinity must meet an equal one.
    moved = infinite & ~lost & (e != a) & ~(np.isnan(e) & np.isnan(a))
    plain = np.isfinite(e) & np.isfinite(a)
    huge = plain & (np.abs(e) >= _SENTINEL)
    ordinary = plain & ~huge if dtype not in ("float64", "complex128") else plain
    relative, cosine, largest, top = _errors(e[ordinary], a[ordinary])
    if ordinary is not plain and huge.any():
        # -3.4e38 in a mask would outweigh every other element of the norm.
        rel, cos, peak, _ = _errors(e[huge], a[huge])
        relative, cosine, largest = max(relative, rel), min(cosine, cos), max(largest, peak)
    near_zero = top <= bound.near_zero and largest <= bound.near_zero
    reason = ""
    if lost.any():
        reason = f"{int(lost.sum())} NaN at other places, the first at {_index(lost, shape)}"
    elif moved.any():
        reason = f"{int(moved.sum())} infinities differ, the first at {_index(moved, shape)}"
    elif not (relative <= bound.relative_l2 or near_zero):
        reason = f"relative L2 difference {relative:.3g} exceeds {bound.relative_l2:.3g}"
    return Difference(name, dtype, relative, largest, cosine, bound.relative_l2, not reason, reason, 0, shape)


def _errors(e: Array, a: Array) -> tuple[float, float, float, float]:
    """(relative L2, cosine, max|a - e|, max|e|) of finite elements, scaled so that no square overflows."""
    if not e.size:
        return 0.0, 1.0, 0.0, 0.0
    top = float(np.abs(e).max())
    scale = max(top, float(np.abs(a).max()))
    if scale == 0.0:
        return 0.0, 1.0, 0.0, 0.0
    e, a = e / scale, a / scale
    gap = a - e
    norm_e, norm_a, norm_gap = (float(np.linalg.norm(v)) for v in (e, a, gap))
    relative = norm_gap / norm_e if norm_e else (math.inf if norm_gap else 0.0)
    if norm_e and norm_a:
        cosine = float(np.real(np.vdot(e / norm_e, a / norm_a)))
    else:
        cosine = 1.0 if norm_e == norm_a else 0.0
    return relative, cosine, float(np.abs(gap).max()) * scale, top
