"""How long a graph takes on the GPU at hand: built, run and profiled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphopt import backends
from graphopt.config import Limits, Shapes, Target
from graphopt.engines.request import gpu
from graphopt.errors import BackendError
from graphopt.manifest import nodes_of
from graphopt.numerics.program import put
from graphopt.precision.observe import Feeds
from graphopt.precision.watch import Clock, Timed

from .runtime.engine import Engine
from .runtime.loaded import library
from .runtime.profile import profile
from .runtime.subject import inputs_of
from .runtime.timing import on_device

_SECONDS = 0.3
_AGAIN = 0.04


def capability() -> tuple[int, int] | None:
    """Of the GPU at hand, as CuPy tells it; None where there is none."""
    if not gpu():
        return None
    try:
        found = str(library().cuda.Device().compute_capability)
    except BackendError:
        return None
    return int(found[:-1]), int(found[-1])


def clock_for(
    target: Target, limits: Limits, shapes: Shapes | None, finish: Callable[[gs.Graph], None] = lambda graph: None
) -> Clock | None:
    """A clock for graphs of this target; None where no GPU, no CuPy or no TensorRT is at hand.

    shapes: the typical ones are timed; those of the feeds where there are none. finish: what is done to a graph first.
    """
    if target.backend == "onnxruntime" or not gpu():
        return None
    backend = backends.get(target.backend, limits)
    try:
        library()
    except BackendError:
        return None
    if backend.available() is not None:
        return None

    def clock(graph: gs.Graph, feeds: Feeds) -> Timed:
        finish(graph)
        asked = shapes or Shapes()
        typical = {name: asked.of(name)[1] for name in {*asked.min, *asked.opt, *asked.max}}
        wanted = {name: typical.get(name) or tuple(np.shape(np.asarray(value))) for name, value in feeds.items()}
        is_open = {t.name for t in graph.inputs if not all(isinstance(dim, int) for dim in t.shape or ("?",))}
        profiles = Shapes(opt={name: dims for name, dims in wanted.items() if name in is_open})
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            model, path = Path(folder, "timed.onnx"), Path(folder, "timed.engine")
            put(graph, model)
            backend.build(model, path, profiles)
            engine = Engine(path)
            same = all(np.shape(np.asarray(feeds[name])) == dims for name, dims in wanted.items())
            given = dict(feeds) if same else inputs_of(engine.inputs, model, shapes=wanted)
            found = profile(engine, given, nodes_of(graph), seconds=_SECONDS)
            call = engine.bind({name: library().asarray(value) for name, value in given.items()})

        def again() -> float:
            return on_device(call, engine.stream, seconds=_AGAIN, warm_up=_AGAIN / 2).median

        return Timed(found.launch.median, [layer.to_json() for layer in found.layers], found.gpu, again)

    return clock
