"""How long a launch takes on the GPU, and a whole call on the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one launch or call."""

    median: float
    p10: float
    p90: float
    count: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        low, middle, high = np.percentile(milliseconds, [10, 50, 90])
        return cls(float(middle), float(low), float(high), len(milliseconds))

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 5) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.p10:.3f} to {self.p90:.3f})"


def on_device(
    launch: Callable[[], Any], stream: Any, *, seconds: float = 1.0, warm_up: float = 0.2, least: int = 20
) -> Timing:
    """Time between CUDA events around each launch, all of them queued on `stream`, after a warm-up of the clocks."""
    import cupy

    end = time.perf_counter() + warm_up
    launch()
    stream.synchronize()
    while time.perf_counter() < end:
        for _ in range(5):
            launch()
        stream.synchronize()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        events = [cupy.cuda.Event() for _ in range(21)]
        for event in events[:-1]:
            event.record(stream)
            launch()
        events[-1].record(stream)
        stream.synchronize()
        found += [cupy.cuda.get_elapsed_time(a, b) for a, b in pairwise(events)]
    return Timing.of(found)


def captured(launch: Callable[[], Any], stream: Any, count: int = 1) -> Callable[[], Any]:
    """`count` launches as one CUDA graph, so that Python's time does not show; as they are if that cannot be."""
    import cupy

    launch()
    stream.synchronize()
    graph: Any = None
    stream.begin_capture()
    try:
        for _ in range(count):
            launch()
    finally:
        try:
            graph = stream.end_capture()
        except cupy.cuda.runtime.CUDARuntimeError:
            graph = None
    if graph is not None:
        return lambda: graph.launch(stream)

    def plain() -> None:
        for _ in range(count):
            launch()

    return plain


def on_host(call: Callable[[], Any], *, seconds: float = 1.0, least: int = 10) -> Timing:
    """Wall time of each call, which ends when its result is there."""
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return Timing.of(found)
