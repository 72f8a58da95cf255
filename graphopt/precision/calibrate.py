"""Ranges of activations from real samples, and the scales that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import UsageError
from graphopt.numerics.difference import Array
from graphopt.numerics.execute import ChildDied, ExecutionError, Runner

from .observe import Feeds, observe
from .peaks import peaks
from .plan import LARGEST

METHODS = ("max", "percentile", "entropy", "mse")
BINS = 2048
PERCENTILE = 0.9999
_LEVELS = 128
_E4M3_BITS = 3
_TRIED = 96
_ENOUGH = 16 * BINS
"""A histogram of fewer values than this says too little for a divergence: its error is taken instead."""


@dataclass
class Histogram:
    """Counts of |x| in equal bins over [0, top]."""

    top: float
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.float64))

    def add(self, values: Array) -> None:
        if self.top > 0 and values.size:
            found, _ = np.histogram(np.abs(values.astype(np.float32)), bins=BINS, range=(0.0, self.top))
            self.counts += found

    @property
    def width(self) -> float:
        return self.top / BINS

    @property
    def centers(self) -> Array:
        return np.asarray((np.arange(BINS) + 0.5) * self.width)


def calibrate(
    graph: gs.Graph,
    tensors: Sequence[gs.Tensor],
    samples: Iterable[Feeds],
    runner: Runner,
    method: str,
    quantized: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, float]:
    """scale[name]: value = scale * q, q within +-LARGEST[quantized]; samples are gone through twice, one at a time.

    method: 'max' covers all that was seen; 'percentile' 99.99 % of it; 'entropy' and 'mse' choose the range at which
    the quantized histogram is closest to the true one, by Kullback-Leibler divergence (integers only, as TensorRT's
    calibrator did; float8 gets mse) and by squared error.
    Raises UsageError: a tensor that is not finite on a sample; ExecutionError.
    """
    tell = progress or (lambda what, done, total: None)
    top: dict[str, float] = dict.fromkeys((tensor.name for tensor in tensors), 0.0)

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: tell(f"calibrate: {what}", done, total)

    for sample, values in _observed(graph, tensors, samples, runner, told("ranges")):
        for name, value in values.items():
            peak = float(np.abs(value).max(initial=0.0))
            if not np.isfinite(peak):
                raise UsageError(f"tensor {name!r} is not finite on sample {sample}", where="calibration",
                                 hint="leave the sample out, or keep its reader with --keep")  # fmt: skip
            top[name] = max(top[name], peak)
    if method == "max":
        ranges = top
    else:
        histograms = {name: Histogram(peak) for name, peak in top.items()}
        for _, values in observe(graph, tensors, samples, runner, progress=told(method)):
            for name, value in values.items():
                histograms[name].add(value)
        ranges = {name: threshold(one, method, quantized) for name, one in histograms.items()}
    return {name: max(peak, 1e-12) / LARGEST[quantized] for name, peak in ranges.items()}


def _observed(
    graph: gs.Graph,
    tensors: Sequence[gs.Tensor],
    samples: Iterable[Feeds],
    runner: Runner,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """peaks(), where a sample that the model refuses, such as an index beyond its table, is the user's to mend."""
    reached = -1

    def counted() -> Iterator[Feeds]:
        nonlocal reached
        for reached, feeds in enumerate(samples):  # noqa: B007 (it is read where the model refuses)
            yield feeds

    class Again:
        def __iter__(self) -> Iterator[Feeds]:
            return counted()

    try:
        yield from peaks(graph, tensors, Again(), runner, progress=progress)
    except ChildDied:
        raise
    except ExecutionError as error:
        if reached < 0:
            raise  # it does not even load
        raise UsageError(f"the model refuses sample {reached}: {error.what}", where="calibration",
                         hint="leave the sample out, or mend its values") from error  # fmt: skip


def threshold(histogram: Histogram, method: str, quantized: str) -> float:
    """The magnitude that becomes the largest quantized value; what is beyond it saturates."""
    counts = histogram.counts
    total = counts.sum()
    if not total or histogram.top <= 0:
        return histogram.top
    if method == "percentile":
        return float((np.searchsorted(np.cumsum(counts), PERCENTILE * total) + 1) * histogram.width)
    if method == "entropy" and not quantized.startswith("float8") and total >= _ENOUGH:
        return _by_entropy(histogram)
    return _by_error(histogram, quantized)


def _by_error(histogram: Histogram, quantized: str) -> float:
    """argmin over thresholds of the sum of counts * (|x| - quantized |x|)^2."""
    x, counts = histogram.centers, histogram.counts
    best, found = np.inf, histogram.top
    for step in range(_TRIED, 3, -1):
        limit = histogram.top * step / _TRIED
        error = float(counts @ (x - _rounded(x, limit, quantized)) ** 2)
        if error < best:
            best, found = error, limit
    return found


def _rounded(x: Array, limit: float, quantized: str) -> Array:
    scale = limit / LARGEST[quantized]
    q = np.minimum(x / scale, LARGEST[quantized])
    if quantized.startswith("float8"):
        exponent = np.maximum(np.floor(np.log2(np.maximum(q, 1e-30))), -6.0)
        step = 2.0 ** (exponent - _E4M3_BITS)
        return np.asarray(np.round(q / step) * step * scale)
    return np.asarray(np.rint(q) * scale)


def _by_entropy(histogram: Histogram) -> float:
    """argmin over thresholds of KL(true | quantized to 128 levels), outliers counted into the last bin."""
    counts = histogram.counts.copy()
    counts[0] = min(counts[0], counts[1])  # zeros are exact at any scale: they must not decide it
    best, found = np.inf, BINS
    for end in range(_LEVELS, BINS + 1, _LEVELS // 8):
        kept = counts[:end]
        true = kept.copy()
        true[-1] += counts[end:].sum()
        level = np.minimum(np.arange(end) * _LEVELS // end, _LEVELS - 1)
        filled = (kept > 0).astype(np.float64)
        sums = np.bincount(level, kept, _LEVELS)
        slots = np.bincount(level, filled, _LEVELS)
        mean = np.divide(sums, slots, out=np.zeros(_LEVELS), where=slots > 0)
        guess = mean[level] * filled
        if not guess.sum():
            continue
        p, q = true / true.sum(), guess / guess.sum()
        here = p > 0
        # What the quantized histogram has nowhere costs as much as a bin of a billionth.
        divergence = float(np.sum(p[here] * np.log(p[here] / np.maximum(q[here], 1e-9))))
        if divergence < best:
            best, found = divergence, end
    return float(found * histogram.width)
