"""A .tflite graph as an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from graphopt.errors import ModelError
from graphopt_importers.signature import Spec

from . import control, detection, elementwise, image, movement, products, recurrent  # noqa: F401  (they register)
from .emit import Builder, Constants, needed
from .reader import File, Graph
from .scope import Scope
from .walk import walk


@dataclass(frozen=True)
class Ends:
    """The graph that is converted. named_inputs, named_outputs: number of a tensor -> its name outside."""

    graph: Graph
    named_inputs: Mapping[int, str]
    named_outputs: Mapping[int, str]
    signature: str | None = None

    @property
    def inputs(self) -> list[Spec]:
        """What the framework declares."""
        return [
            Spec(
                name,
                self.graph.tensors[index].dtype.name,
                tuple(None if d < 0 else d for d in self.graph.tensors[index].dims),
            )
            for index, name in self.named_inputs.items()
        ]


def converted(file: File, ends: Ends, opset: int, source: str) -> tuple[onnx.ModelProto, list[str]]:
    """The ONNX model, and notes. Raises ModelError for what has no counterpart."""
    graph = ends.graph
    constants = Constants()
    build = Builder(constants, opset)
    scope = Scope(file, graph, build, source)
    names = [*ends.named_inputs.values(), *ends.named_outputs.values()]
    if len(set(names)) < len(names):
        raise ModelError(f"two inputs or outputs are named {max(names, key=names.count)!r}", where=source)
    inputs = []
    for name in names:
        constants.free_name(name)
    for index, name in ends.named_inputs.items():
        tensor = graph.tensors[index]
        if tensor.dtype == object:
            raise ModelError(f"input {name!r} is of type {tensor.type}, which ONNX has not", where=source)
        scope.bind(index, name)
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), None))
    walk(scope, list(ends.named_outputs))
    outputs = []
    for index, name in ends.named_outputs.items():
        tensor = graph.tensors[index]
        value = scope.stored(index)
        build.nodes.append(helper.make_node("Identity", [value], [name], constants.free_name(f"{name}/output")))
        dims = [None if d < 0 else d for d in tensor.dims]
        outputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), dims))
    nodes = needed(build.nodes, list(ends.named_outputs.values()))
    used = {name for node in _all(nodes) for name in node.input}
    weights = [tensor for tensor in constants.tensors if tensor.name in used]
    made = helper.make_graph(nodes, graph.name or "main", inputs, outputs, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], producer_name="graphopt")
    model.ir_version = 10 if opset > 20 else 9
    return model, constants.notes


def _all(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found = list(nodes)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.extend(_all(attribute.g.node))
    return found
