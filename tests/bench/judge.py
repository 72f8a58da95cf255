"""What a model is worth: nodes, bytes, outputs, TensorRT layers. Run under forks.py with graphopt's Python."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

NUDGE = 1e-5
"""Relative change of inputs, about float32 rounding in a network: where a TopK then picks others, outputs jump."""
STANDARD = ("", "ai.onnx", "ai.onnx.ml")


def count(model: onnx.ModelProto) -> Counter[str]:
    """Nodes by operator: subgraphs included, functions as if inlined, Constant nodes left out.

    An operator of a domain that is not ONNX's own is called DOMAIN::OP.
    """
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    known: dict[tuple[str, str, str], Counter[str]] = {}

    def inside(nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                if key not in known:
                    known[key] = inside(functions[key].node)
                found.update(known[key])
            elif not (node.op_type == "Constant" and node.domain in STANDARD):
                found[node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"] += 1
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                    found.update(inside(graph.node))
        return found

    return inside(model.graph.node)


def difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> float:
    """The largest relative L2 difference of an output; for what is no float, the share of unequal elements.

    inf where an output is missing, or has another dtype, shape, or place of NaN or infinity.
    """
    if list(expected) != list(actual):
        return float("inf")
    return max((_apart(np.asarray(value), np.asarray(actual[name])) for name, value in expected.items()), default=0.0)


def _apart(expected: Any, actual: Any) -> float:
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        return float(np.mean(expected != actual))
    e, a = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    plain = np.isfinite(e)
    if not np.array_equal(plain, np.isfinite(a)) or not np.array_equal(e[~plain], a[~plain], equal_nan=True):
        return float("inf")
    e, a = e[plain], a[plain]
    gap, norm = float(np.linalg.norm(a - e)), float(np.linalg.norm(e))
    return gap / norm if norm else (float("inf") if gap else 0.0)


def prepare() -> None:
    import onnxruntime  # noqa: F401
    import tensorrt_rtx  # noqa: F401

    import graphopt.backends.native  # noqa: F401


def answer(request: dict[str, Any]) -> dict[str, Any]:
    return {"count": _count, "run": _run, "compare": _compare, "layers": _layers}[request["what"]](request)


def _count(request: dict[str, Any]) -> dict[str, Any]:
    model = onnx.load(request["model"])
    ops = count(model)
    foreign = sorted(name for name in ops if "::" in name)
    external = sum(int(e.value) for t in model.graph.initializer for e in t.external_data if e.key == "length")
    return {
        "nodes": sum(ops.values()),
        "ops": dict(ops),
        "foreign": foreign,
        "bytes": os.path.getsize(request["model"]) + external,
        "narrow": any(t.data_type in (10, 16) for t in model.graph.initializer),
        "inputs": [one.name for one in model.graph.input],
    }


def _session(path: str) -> Any:
    import onnxruntime as rt

    options = rt.SessionOptions()
    options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return rt.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _outputs(request: dict[str, Any], nudge: float = 0.0) -> dict[str, Any]:
    session = _session(request["model"])
    random = np.random.default_rng(0)
    feeds = dict(np.load(request["feeds"]))
    for name, value in feeds.items():
        if nudge and value.dtype.kind == "f":
            feeds[name] = (value * (1 + nudge * random.standard_normal(value.shape))).astype(value.dtype)
    return dict(zip((one.name for one in session.get_outputs()), session.run(None, feeds), strict=True))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """The source's outputs to request['outputs']; how far they move when the inputs move by NUDGE."""
    found = _outputs(request)
    np.savez(request["outputs"], **found)
    moved = difference(found, _outputs(request, NUDGE))
    return {"sensitivity": moved if np.isfinite(moved) else 1.0}


def _compare(request: dict[str, Any]) -> dict[str, Any]:
    expected = np.load(request["outputs"])
    apart = difference({name: expected[name] for name in expected.files}, _outputs(request))
    return {"difference": apart if np.isfinite(apart) else 1e30}


class _Quiet:
    def send(self, **message: Any) -> None: ...

    def at_node(self, node: str) -> None: ...


def _layers(request: dict[str, Any]) -> dict[str, Any]:
    """Layers of the parsed network, Constant layers left out; with request['engine'] the engine's bytes, too."""
    import tensorrt_rtx

    from graphopt.backends.native import Native
    from graphopt.backends.protocol import BuildOptions
    from graphopt.backends.tensorrt import FLAVORS
    from graphopt.config import Shapes

    native = Native(tensorrt_rtx, FLAVORS["tensorrt_rtx"], BuildOptions(), _Quiet())
    info = native.parse(request["model"])
    found: dict[str, Any] = {"layers": info.layers, "layer_types": dict(info.layer_types)}
    if request.get("engine"):
        feeds = np.load(request["feeds"])
        given = {name: tuple(feeds[name].shape) for name in feeds.files if name in info.inputs}
        native.build(Shapes(opt=given), request["engine"])
        found["engine_bytes"] = os.path.getsize(request["engine"])
    return found
