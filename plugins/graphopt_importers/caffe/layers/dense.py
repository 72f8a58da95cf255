"""InnerProduct and Embed."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.errors import ModelError
from graphopt_importers.caffe.emit import Graph, Value, count, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message


@layer("InnerProduct", param="inner_product_param")
def inner_product(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = w x + b over axis and all that follow; transpose: the weights are stored input by output."""
    outputs, axis = p.integer("num_output"), p.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis < x.rank or outputs < 1:
        raise ModelError(f"axis {axis} of {x.rank} dimensions, num_output {outputs}")
    inputs = count([fixed(x, i) for i in range(axis, x.rank)])
    across = p.flag("transpose", False)
    weights = one.blob(0, (inputs, outputs) if across else (outputs, inputs), "weights")
    bias = one.blob(1, (outputs,), "bias") if p.flag("bias_term", True) else None
    flat = x
    if axis == 0:
        flat = g.reshape(x, [1, inputs])
    elif axis != x.rank - 1:
        flat = g.op("Flatten", x) if axis == 1 else g.reshape(x, [*x.shape[:axis], inputs])
    if flat.rank == 2:
        y = g.op("Gemm", flat, g.const(weights), None if bias is None else g.const(bias), transB=int(not across))
        return g.reshape(y, [outputs]) if axis == 0 else y
    y = g.op("MatMul", flat, g.const(weights if across else weights.T))
    return y if bias is None else g.op("Add", y, g.const(bias))


@layer("Embed", param="embed_param")
def embed(g: Graph, one: Layer, p: Message, x: Value) -> Value:
    """y = w[x] + b; x holds indices, as numbers."""
    rows, columns = p.integer("input_dim"), p.integer("num_output")
    weights = one.blob(0, (rows, columns), "weights")
    if p.flag("bias_term", True):
        weights = weights + one.blob(1, (columns,), "bias")
    return g.op("Gather", g.const(np.ascontiguousarray(weights)), g.cast(x, TensorProto.INT64), axis=0)
