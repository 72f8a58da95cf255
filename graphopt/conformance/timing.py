"""Time on the device: CUDA graphs of many launches between events, medians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.layers.host import Prepared
from graphopt.layers.tensor import Tensor

from .cases import Case
from .guard import captured

LAUNCHES = 20
"""In one graph, so that Python's time does not count."""
ROUNDS = 15


def median_ms(launch: Callable[[Any], None], launches: int = LAUNCHES) -> tuple[float, float, float]:
    """(median, p10, p90) milliseconds of one launch."""
    import cupy

    warm = cupy.cuda.Stream(non_blocking=True)
    launch(warm)
    warm.synchronize()

    def many(stream: Any) -> None:
        for _ in range(launches):
            launch(stream)

    graph = captured(many)
    stream = cupy.cuda.Stream(non_blocking=True)
    times = []
    for turn in range(ROUNDS + 3):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        if turn >= 3:
            times.append(cupy.cuda.get_elapsed_time(begin, end) / launches)
    low, middle, high = np.percentile(times, [10, 50, 90])
    return float(middle), float(low), float(high)


def bandwidth(nbytes: int = 256 << 20) -> float:
    """Bytes per second, read and written, of a device copy of this size."""
    import cupy

    a, b = cupy.zeros(nbytes, cupy.uint8), cupy.empty(nbytes, cupy.uint8)

    def copy(stream: Any) -> None:
        cupy.cuda.runtime.memcpyAsync(b.data.ptr, a.data.ptr, nbytes, 3, stream.ptr)

    return 2 * nbytes / (median_ms(copy)[0] / 1e3)


def time_case(case: Case, prepared: Prepared, launch: Callable[[Any], None], copy_bandwidth: float) -> dict[str, Any]:
    """Time of one call, and the share of the copy bandwidth that it reaches."""
    middle, low, high = median_ms(launch)
    made = [Tensor(kind, shape) for kind, shape in prepared.outputs]
    bounds = case.layer.limit(*case.tensors(), *made)
    reached = bounds.get("bytes", 0.0) / (middle / 1e3) if middle else 0.0
    return {
        "case": str(case),
        "ms": round(middle, 5),
        "p10_ms": round(low, 5),
        "p90_ms": round(high, 5),
        "bytes": int(bounds.get("bytes", 0)),
        "gb_per_s": round(reached / 1e9, 1),
        "of_copy_bandwidth": round(reached / copy_bandwidth, 3),
        "gflop_per_s": round(bounds.get("flops", 0.0) / (middle / 1e3) / 1e9, 1) if middle else 0.0,
    }
