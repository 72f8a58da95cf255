"""The opset that a precision needs, as what it writes, or what it computes well, cannot be said before."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import scopes
from graphopt.ir.weights import read

LEAST_OPSET = {"bf16": 13, "int8": 19, "fp8": 19, "int4": 21, "auto": 19}
"""From here on ONNX can say the dtype: Cast to bfloat16, QuantizeLinear of float16, float8, int4. A model of an older
opset is converted, which the report says."""
HARD_SWISH = 14
"""From here on it is one operator, which is rounded once; spelled out in float16 it is rounded three or four times."""


def least_opset(graph: gs.Graph, precision: str) -> int:
    """The opset that a model is brought to for this precision; 0 where its own is good enough."""
    needed = LEAST_OPSET.get(precision, 0)
    if precision == "fp16" and int(graph.opset) < HARD_SWISH and _spells_hard_swish(graph):
        needed = HARD_SWISH
    return needed


def _spells_hard_swish(graph: gs.Graph) -> bool:
    """Whether x * HardSigmoid(x, 1/6, 1/2) or x * Clip(x + 3, 0, 6) / 6 is anywhere."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if node.op == "HardSigmoid" and abs(float(node.attrs.get("alpha", 0.2)) - 1 / 6) < 1e-3:
                x = node.inputs[0]
            elif node.op == "Clip" and node.inputs[0].inputs and node.inputs[0].inputs[0].op == "Add":
                add = node.inputs[0].inputs[0]
                x = next((one for one in add.inputs if not _is(one, 3.0)), None)
                if x is None or not any(_is(one, 3.0) for one in add.inputs):
                    continue
            else:
                continue
            if any(after.op == "Mul" and any(one is x for one in after.inputs) for after in node.outputs[0].outputs):
                return True
    return False


def _is(tensor: gs.Tensor, number: float) -> bool:
    """Whether a tensor is a constant of one element, which is this number."""
    if not isinstance(tensor, gs.Constant):
        maker = tensor.inputs[0] if tensor.inputs else None
        value = maker.attrs.get("value") if maker is not None and maker.op == "Constant" else None
        tensor = value if isinstance(value, gs.Constant) else None
    if tensor is None or int(np.prod(tensor._values.shape)) != 1:
        return False
    return float(np.asarray(read(tensor)).reshape(())) == number
