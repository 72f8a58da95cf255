"""Which inputs and outputs of a node may change their float dtype together, by the operator's own schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from graphopt.ir.graph import subgraphs
from graphopt.layers.facts import bind
from graphopt.layers.layer import DOMAIN, Layer

_CAST_LIKE = 15

KEPT: Mapping[str, str] = {
    **dict.fromkeys(("Range", "CumSum"), "sums up many steps"),
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"), "a loss"),
    **dict.fromkeys(("NonMaxSuppression", "STFT", "DFT", "MelWeightMatrix", "Det"), "no kernel in low precision"),
    **dict.fromkeys(("Multinomial", "Bernoulli"), "random"),
    **dict.fromkeys(("HammingWindow", "HannWindow", "BlackmanWindow"), "its dtype is an attribute"),
    "BitCast": "the bits of its input",
    **dict.fromkeys(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"), "random"),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"), "quantized"
    ),
}
"""Operator -> why it is never computed in less than float32."""
CONTROL = frozenset({"If", "Loop", "Scan"})
HEAVY = frozenset("Conv ConvTranspose MatMul Gemm Einsum Attention LSTM GRU RNN DeformConv MultiHeadAttention".split())
"""Where low precision pays whatever it costs in casts."""


@dataclass(frozen=True)
class Slots:
    """Numbers of the inputs and outputs whose dtype is the node's own; the other float ones stay float32."""

    inputs: frozenset[int]
    outputs: frozenset[int]


_NONE = Slots(frozenset(), frozenset())


def slots(node: gs.Node, opset: int, low: str, layers: Mapping[str, type[Layer]]) -> Slots:
    """The slots of a node that may be of dtype `low`; none where the operator does not take it, or is unknown."""
    if node.domain in (None, "", "ai.onnx"):
        if node.op in CONTROL or node.op in KEPT or subgraphs(node):
            return _NONE
        return _of_schema(node.op, opset, low, len(node.inputs), len(node.outputs))
    layer = layers.get(node.op.partition("_")[0]) if node.domain == DOMAIN else None
    return _of_layer(layer, node, opset, low) if layer is not None else _NONE


@cache
def _of_schema(op: str, opset: int, low: str, inputs: int, outputs: int) -> Slots:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return _NONE
    # TensorRT takes bfloat16 wherever it takes float16; ONNX followed operator by operator, up to opset 22.
    word = "tensor(float16)" if low in ("float16", "bfloat16") else f"tensor({low})"
    kinds = {
        one.type_param_str: {"tensor(float)", word} <= set(one.allowed_type_strs) for one in schema.type_constraints
    }

    # Of an operator on sequences, one slot may hold what another is made of; Identity only passes on what it gets.
    taken = [kind for one in (*schema.inputs, *schema.outputs) for kind in one.types]
    if op != "Identity" and any("seq(" in kind or "optional(" in kind for kind in taken):
        return _NONE

    def free(formals: Any, count: int) -> frozenset[int]:
        last = len(formals) - 1
        return frozenset(i for i in range(count) if formals and kinds.get(formals[min(i, last)].type_str, False))

    return Slots(free(schema.inputs, inputs), free(schema.outputs, outputs))


def _of_layer(layer: type[Layer], node: gs.Node, opset: int, low: str) -> Slots:
    """The layer's own dtype, where it declares it and its function does not have a dtype written into it."""
    if low not in layer.dtypes or opset < _CAST_LIKE:
        return _NONE
    made, given = bind(layer, node)
    free = frozenset(i for i, name in enumerate(given) if name not in made.types)
    return Slots(free, frozenset(range(len(node.outputs))))
