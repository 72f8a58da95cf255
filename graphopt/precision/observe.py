"""Inner values of a model on samples, some at a time: in float32, or with rounding after every operator."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import shapes
from graphopt.numerics.difference import Array, Value
from graphopt.numerics.execute import Runner
from graphopt.numerics.program import put
from graphopt.numerics.rounding import rounded_copy

Feeds = Mapping[str, Value]
_WINDOW_BYTES = 192 << 20
_MOST = 2048
_UNKNOWN = 24
"""What a dimension counts whose size is not known."""


def observe(
    graph: gs.Graph,
    tensors: Sequence[gs.Tensor],
    samples: Iterable[Feeds],
    runner: Runner,
    *,
    rounded: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """(number of the sample, {name: value}): each tensor of the main graph once for each sample, in windows.

    samples: iterated once a window. rounded: every operator's result is rounded to its declared dtype.
    Raises ExecutionError and NoRounding.
    """
    windows = list(_windows(tensors))
    for number, window in enumerate(windows):
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder, "observed.onnx")
            _put(graph, window, path)
            if rounded:
                copied = Path(folder, "rounded.onnx")
                copied.write_bytes(rounded_copy(path))
                path = copied
            runner.open(path)
            names = {tensor.name for tensor in window}
            for sample, feeds in enumerate(samples):
                found = runner.run(feeds)
                yield sample, {name: np.asarray(found[name]) for name in names}
                if progress is not None:
                    progress(number * 1000 + sample, len(windows) * 1000)
            runner.close()


def _put(graph: gs.Graph, window: Sequence[gs.Tensor], path: Path) -> None:
    old = list(graph.outputs)
    have = {tensor.name for tensor in old}
    try:
        graph.outputs = [*old, *(tensor for tensor in window if tensor.name not in have)]
        put(graph, path)
    finally:
        graph.outputs = old


def _windows(tensors: Sequence[gs.Tensor]) -> Iterator[list[gs.Tensor]]:
    window: list[gs.Tensor] = []
    total = 0
    for tensor in tensors:
        size = _bytes(tensor)
        if window and (total + size > _WINDOW_BYTES or len(window) >= _MOST):
            yield window
            window, total = [], 0
        window.append(tensor)
        total += size
    if window:
        yield window


def _bytes(tensor: gs.Tensor) -> int:
    count = 4
    for dim in shapes.of(tensor) or (1 << 16,):
        count *= dim if isinstance(dim, int) else _UNKNOWN
    return count
