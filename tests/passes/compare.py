"""One random graph through the default pipeline, and its numbers before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import graphopt
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.difference import compare
from graphopt.numerics.tolerance import Tolerance
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.rule import Entry

from .random_graphs import Graph, random_graph

BOUNDED = frozenset({"Clip", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"})
LOOSE = Tolerance(1e-3, 1e-5)
"""Of small graphs with tame numbers; a wrong rule is off by far more."""


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def optimized(model: onnx.ModelProto, entries: Sequence[Entry]) -> tuple[onnx.ModelProto, list[str]]:
    """The model after the passes, and the names of those that fired."""
    manager = Manager(load(model), entries, graphopt.Target())
    fired = manager.run()
    return to_proto(manager.graph), [one.name for one in fired if one.changes]


def entries() -> list[Entry]:
    return Registry().select()


def check(seed: int, passes: Sequence[Entry]) -> tuple[str, list[str]]:
    """('', fired) where the numbers stay, ('skipped', []) where the source does not run, else what differs."""
    graph = random_graph(seed)
    if not graph.nodes:
        return "skipped", []
    model = graph.model()
    try:
        source = session(model)
        samples = _samples(graph)
        expected = [source.run(None, feeds) for feeds in samples]
    except Exception:
        return "skipped", []
    result, fired = optimized(model, passes)
    names = [value.name for value in model.graph.output]
    try:
        opened = session(result)
        actual = [opened.run(None, feeds) for feeds in samples]
    except Exception as error:
        return f"the result does not run: {str(error)[:300]}", fired
    for number, (wants, gots) in enumerate(zip(expected, actual, strict=True)):
        for name, want, got in zip(names, wants, gots, strict=True):
            found = compare(want, got, LOOSE if np.asarray(want).dtype.kind == "f" else None)
            if not found.ok:
                return f"sample {number}, {name}: {found.reason}", fired
    return "", fired


def _samples(graph: Graph) -> list[dict[str, Any]]:
    # Clip without a bound and maxima of windows turn infinity into the largest number
    found = [graph.feeds(), graph.feeds(special=not any(node.op_type in BOUNDED for node in graph.nodes))]
    if any("N" in dims for dims in graph.dynamic.values()):
        found += [graph.feeds(batch=1), graph.feeds(batch=5)]
    return found
