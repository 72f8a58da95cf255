"""Order between the streams of different threads; without CuPy there is nothing to order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def _cupy() -> Any:
    """CuPy if this process uses it already."""
    return sys.modules.get("cupy")


@contextmanager
def stream() -> Iterator[Any]:
    """A CUDA stream of this thread's own, current inside; None where no GPU is in use."""
    cupy = _cupy()
    if cupy is None:
        yield None
        return
    try:
        made = cupy.cuda.Stream(non_blocking=True)
    except cupy.cuda.runtime.CUDARuntimeError:
        yield None
        return
    with made:
        yield made


def mark(arrays: Iterable[Any]) -> Any:
    """An event after the work that made these arrays; None where all of them lie in host memory."""
    kinds = {type(one).__module__.partition(".")[0] for one in arrays if hasattr(one, "__cuda_array_interface__")}
    if not kinds:
        return None
    if "torch" in kinds:
        import torch

        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream())
        return event
    cupy = _cupy()
    event = cupy.cuda.Event(disable_timing=True)
    event.record(cupy.cuda.get_current_stream())
    return event


def wait(stream: Any, event: Any) -> None:
    """What the stream gets from now on runs after the event."""
    if event is None:
        return
    if stream is None or type(event).__module__.startswith("torch"):
        event.synchronize()
    else:
        stream.wait_event(event)


def finish(stream: Any, arrays: Iterable[Any]) -> None:
    """Return when the work on these arrays, queued by this thread, is done."""
    if any(type(one).__module__.startswith("torch") and one.is_cuda for one in arrays):
        import torch

        torch.cuda.current_stream().synchronize()
    if stream is not None:
        stream.synchronize()
