"""Runs the parts of a partition in onnxruntime, kernels by their layers' bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from graphopt.ir.infer import Inference
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.layers.facts import inference
from graphopt.layers.layer import Layer
from graphopt.runtime.partition import EnginePart, Partition, Refuses, partition


def cut(source: onnx.ModelProto, layers: Mapping[str, type[Layer]], refuses: Refuses = lambda *_: None) -> Partition:
    graph = load(source)
    Inference(graph, inference(layers)).run()
    return partition(graph, layers, refuses)


def run(source: onnx.ModelProto, found: Partition, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs, from the parts in their order; each part sees only what came before."""
    known = dict(feeds)
    assert set(feeds) == set(found.inputs)
    for part in found.parts:
        if isinstance(part, EnginePart):
            proto = to_proto(part.graph)
        else:
            tensors = [tensor for tensor in part.given.values() if not isinstance(tensor, gs.Constant)]
            graph = load(source)
            inner = gs.Graph(
                nodes=[part.node], inputs=tensors, outputs=list(part.node.outputs), opset=graph.opset,
                import_domains=graph.import_domains, functions=graph.functions,
            )  # fmt: skip
            inner.ir_version = graph.ir_version
            proto = to_proto(inner)
        onnx.checker.check_model(proto)
        known.update(once(proto, {name: known[name] for name in part.inputs}))
    return {name: known[name] for name in found.outputs}


def once(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    assert {one.name for one in session.get_inputs()} == set(feeds)
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, dict(feeds)), strict=True))
