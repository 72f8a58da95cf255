"""The dtype of every value, also of those that calls of functions make."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import ModelError
from graphopt.ir import dtypes
from graphopt.ir.infer import Custom, Inference
from graphopt.ir.save import to_proto


def know_types(graph: gs.Graph, custom: Custom | None = None) -> None:
    """Fill in types and shapes; what calls of model-local functions make comes from onnx's own inference."""
    inference = Inference(graph, custom)
    inference.run()
    unknown = {t.name: t for node in graph.nodes for t in node.outputs if t.name and t.dtype is None}
    if not unknown or not graph.functions:
        return
    try:
        found = onnx.shape_inference.infer_shapes(to_proto(graph, weights="omit")).graph
    except (onnx.shape_inference.InferenceError, ModelError, ValueError, RuntimeError):
        return
    for value in (*found.value_info, *found.output):
        tensor = unknown.get(value.name)
        kind = dtypes.from_onnx(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else None
        if tensor is not None and kind is not None and getattr(tensor, "type", "tensor_type") == "tensor_type":
            tensor.dtype = np.dtype(kind)
    inference.run()
