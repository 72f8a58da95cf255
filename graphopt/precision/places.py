"""Where QuantizeLinear and DequantizeLinear go, so that TensorRT fuses as it does without them.

Operands of products and convolutions are quantized: activations per tensor, weights per output channel. Nothing is put
after them, so that bias, activation and the next operator's quantization fuse into them; biases stay as they are. A
residual sum after a convolution gets its other operand quantized, too, so that it is fused into the convolution with
8 bits in and out. Scales of values that a Concat or pooling passes on need not be made equal: there is one scale at
the reader, which TensorRT moves up through both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphopt.ir import shapes

from .flow import is_single
from .plan import Entry, Plan

LEAST = 32
"""Products with fewer columns or rows than this stay as they are: they gain nothing."""
BLOCKS = (64, 32)
"""Block sizes of int4, the largest that divides the rows is taken."""

ACTIVATIONS = frozenset("Relu LeakyRelu Clip Sigmoid Tanh Elu Gelu HardSwish HardSigmoid Swish Mish Softplus".split())
_WIDE = "TensorRT-RTX makes the sum of 8-bit products the result's dtype before it scales it: float16 overflows"


@dataclass(frozen=True)
class Place:
    """A node whose operands are quantized."""

    node: gs.Node
    activation: gs.Tensor
    weight: gs.Constant
    axis: int
    """Of the weight's output channels."""
    rows: int
    """How many products one output element sums up."""

    @property
    def name(self) -> str:
        return self.node.name or str(self.node.outputs[0].name)


def places(graph: gs.Graph, allowed: frozenset[str]) -> tuple[list[Place], dict[str, int]]:
    """The nodes of the main graph to quantize, and operator -> how many are left alone as it does not build."""
    found: list[Place] = []
    missing: dict[str, int] = {}
    for node in graph.nodes:
        place = _place(node)
        if place is None:
            continue
        if node.op in allowed:
            found.append(place)
        else:
            missing[node.op] = missing.get(node.op, 0) + 1
    return found, missing


def _place(node: gs.Node) -> Place | None:
    if node.domain not in (None, "") or len(node.inputs) < 2 or not is_single(node.outputs[0]):
        return None
    x, weight = node.inputs[0], node.inputs[1]
    if not isinstance(weight, gs.Constant) or isinstance(x, gs.Constant) or not (is_single(x) and is_single(weight)):
        return None
    dims = tuple(weight._values.shape)
    if node.op == "Conv" and len(dims) >= 3:
        rows = 1
        for dim in dims[1:]:
            rows *= dim
        # A depthwise convolution, or one on three channels, has too few products to gain anything.
        if int(node.attrs.get("group", 1)) != 1 or dims[1] < 8 or dims[0] < LEAST // 2 or rows < LEAST:
            return None
        return Place(node, x, weight, 0, rows)
    if node.op == "MatMul" and len(dims) == 2:
        return Place(node, x, weight, 1, dims[0]) if min(dims) >= LEAST else None
    if node.op == "Gemm" and len(dims) == 2 and not node.attrs.get("transA", 0):
        axis = 0 if node.attrs.get("transB", 0) else 1
        return Place(node, x, weight, axis, dims[1 - axis]) if min(dims) >= LEAST else None
    return None


def residuals(found: Sequence[Place]) -> dict[str, tuple[gs.Tensor, gs.Node]]:
    """sum[name] = (the operand to be quantized, the Add): of Add(convolution, shortcut), the shortcut."""
    convolutions = {id(place.node): place for place in found if place.node.op == "Conv"}
    if not convolutions:
        return {}
    depth: dict[int, int] = {}
    result: dict[str, tuple[gs.Tensor, gs.Node]] = {}
    for place in found:
        node = place.node
        out = node.outputs[0]
        if id(node) not in convolutions or len(out.outputs) != 1 or out.outputs[0].op != "Add":
            continue
        add = out.outputs[0]
        a, b = add.inputs
        if isinstance(a, gs.Constant) or isinstance(b, gs.Constant) or not shapes.same(shapes.of(a), shapes.of(b)):
            continue
        other = b if a is out else a
        maker = other.inputs[0] if other.inputs else None
        if maker is not None and id(maker) in convolutions and len(other.outputs) == 1:
            # Both are convolutions: the shallower one is the shortcut, which is computed first.
            other = min((a, b), key=lambda t: _depth(t, depth))
        result[add.name or add.outputs[0].name] = (other, add)
    return result


def _depth(tensor: gs.Tensor, known: dict[int, int]) -> int:
    """Nodes on the longest way from an input, found without recursion."""
    if not tensor.inputs:
        return 0
    pending = [tensor.inputs[0]]
    while pending:
        node = pending[-1]
        if id(node) in known:
            pending.pop()
            continue
        before = [t.inputs[0] for t in node.inputs if t.inputs]
        missing = [one for one in before if id(one) not in known]
        if missing:
            pending.extend(missing)
        else:
            known[id(node)] = 1 + max((known[id(one)] for one in before), default=0)
            pending.pop()
    return known[id(tensor.inputs[0])]


def _epilogue(node: gs.Node, sums: set[int]) -> list[str]:
    """The result of a product, and what TensorRT computes in the same kernel: bias, residual sum, activation."""
    tensor = node.outputs[0]
    found = [tensor.name]
    while len(tensor.outputs) == 1:
        after = tensor.outputs[0]
        biased = after.op == "Add" and any(isinstance(one, gs.Constant) for one in after.inputs)
        if after.domain not in (None, "") or not (after.op in ACTIVATIONS or biased or id(after) in sums):
            break
        tensor = after.outputs[0]
        found.append(tensor.name)
    return found


def quantize_plan(
    plan: Plan,
    found: Sequence[Place],
    quantized: str,
    scales: Mapping[str, float],
    *,
    weights_only: bool = False,
    wide: bool = False,
) -> None:
    """Put the quantized operands of these nodes into the plan. scales: by name of the activation.

    wide: results of products of 8 bits that would be float16 are float32.
    """
    readers: dict[str, list[str]] = {}
    for place in found:
        name, rows = place.weight.name, place.rows
        block = None
        axis: int | None = place.axis
        if quantized == "int4":
            block = next((size for size in BLOCKS if rows % size == 0), None)
            if block is None:
                continue
            axis = 1 - place.axis
        old = plan.tensors.get(name)
        if old is not None and old.quantized and old.axis != axis:
            continue  # shared with a product that reads it the other way round
        mine = (old.readers if old is not None and old.quantized else ()) + (place.name,)
        plan.tensors[name] = Entry("float32", quantized, None, axis, block, mine, "weight of " + place.node.op)
        if not weights_only:
            readers.setdefault(place.activation.name, []).append(place.name)
    if weights_only:
        return
    sums = residuals(found)
    for place in found if wide else ():
        if place.activation.name in scales:
            for name in _epilogue(place.node, {id(add) for _, add in sums.values()}):
                if plan.tensors.get(name, Entry()).dtype == "float16":
                    plan.set(name, dtype="float32", why=_WIDE)
    for add, (tensor, _) in sums.items():
        if tensor.name in scales:
            readers.setdefault(tensor.name, []).append(add)
    for name, names in readers.items():
        if name in plan.tensors and name in scales:
            plan.set(name, quantized=quantized, scale=scales[name], readers=tuple(names))
