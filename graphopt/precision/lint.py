"""Casts, QuantizeLinear and DequantizeLinear that lose fusions or accuracy: what, where, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import scopes
from graphopt.ir.weights import read, size

from .capability import quantizable
from .types import know_types

KINDS = ("build", "accuracy", "speed")
_LOW = frozenset({"float16", "bfloat16"})
_FUSED = frozenset("Relu Clip LeakyRelu Sigmoid HardSwish HardSigmoid Add Mul Gelu Tanh BatchNormalization".split())
_PRODUCTS = frozenset("Conv ConvTranspose MatMul Gemm".split())
_OLD = frozenset(
    "QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear QLinearAdd QLinearMul QGemm "
    "QLinearGlobalAveragePool QLinearAveragePool QLinearConcat QLinearSigmoid QLinearLeakyRelu MatMulIntegerToFloat "
    "DynamicQuantizeMatMul DynamicQuantizeLSTM".split()
)
_CHEAP_ISLAND = 3
_FEW = 4096


@dataclass(frozen=True)
class Finding:
    """kind: 'build' (TensorRT refuses or aborts), 'accuracy', 'speed'."""

    rule: str
    kind: str
    node: str
    op: str
    reason: str
    fix: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def lint(graph: gs.Graph, backend: str = "tensorrt_rtx", version: str = "") -> list[Finding]:
    """Every finding, in the order of the nodes."""
    know_types(graph)
    found: list[Finding] = []
    for scope in scopes(graph):
        for node in scope.nodes:
            for check in CHECKS:
                for rule, kind, reason, fix in check(node, backend, version):
                    name = node.name or next((t.name for t in node.outputs), "")
                    found.append(Finding(rule, kind, name, node.op, reason, fix))
    return found


Told = Iterator[tuple[str, str, str, str]]
"""(rule, kind, reason, fix)"""


def _maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    node = tensor.inputs[0] if tensor.inputs else None
    return node if node is not None and node.op == op else None


def _kind(tensor: gs.Tensor) -> str:
    return dtypes.name(dtypes.of(tensor))


def old_forms(node: gs.Node, backend: str, version: str) -> Told:
    """Operators of onnxruntime's own quantized forms."""
    if node.op in _OLD:
        yield (
            "old-quantized-form", "build", f"TensorRT has no {node.op}",
            "optimize the model: graphopt brings it to QuantizeLinear and DequantizeLinear",
        )  # fmt: skip


def casts(node: gs.Node, backend: str, version: str) -> Told:
    """Casts there and back, and twice the same."""
    if node.op != "Cast" or not node.inputs:
        return
    source, target = node.inputs[0], node.outputs[0]
    if not (dtypes.is_float(dtypes.of(source)) and dtypes.is_float(dtypes.of(target))):
        return
    first = next(user for user in source.outputs if user.op == "Cast" and user.attrs.get("to") == node.attrs.get("to"))
    if first is not node:
        yield (
            "cast-twice",
            "speed",
            f"{source.name!r} is cast to {_kind(target)} by {first.name!r} already",
            "read that one",
        )
    before = _maker(source, "Cast")
    if before is not None and _kind(before.inputs[0]) == _kind(target):
        what = "float32 adds nothing between the two" if _kind(target) in _LOW else "the digits are gone"
        kind = "speed" if _kind(target) in _LOW else "accuracy"
        yield "cast-there-and-back", kind, f"{_kind(target)} to {_kind(source)} and back: {what}", "drop both casts"
    elif _kind(source) in _LOW and _kind(target) == "float32":
        island = _island(target)
        if island:
            names = ", ".join(one.op for one in island)
            yield ("cast-island", "speed", f"only {names} in float32, between casts that move as many bytes",
                   "compute them in " + _kind(source))  # fmt: skip


def _island(tensor: gs.Tensor) -> list[gs.Node]:
    """The few cheap nodes through which a value goes before it is cast low again; empty where it is otherwise."""
    found: list[gs.Node] = []
    while len(tensor.outputs) == 1 and len(found) <= _CHEAP_ISLAND:
        user = tensor.outputs[0]
        if user.op == "Cast":
            return found if _kind(user.outputs[0]) in _LOW and found else []
        if user.op in ("Relu", "Add", "Mul", "Sub", "Reshape", "Transpose", "Clip", "Sigmoid", "Tanh", "Neg", "Concat"):
            found.append(user)
            tensor = user.outputs[0]
        else:
            return []
    return []


def quantize(node: gs.Node, backend: str, version: str) -> Told:
    """What a QuantizeLinear or DequantizeLinear must be for TensorRT."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 2:
        return
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero.name:
        kind = _kind(zero)
        if kind in ("uint8", "uint16", "uint4", "int16"):
            yield "unsigned", "build", f"it quantizes to {kind}", "quantize to int8 without a zero point"
        elif isinstance(zero, gs.Constant) and size(zero) <= _FEW and np.any(read(zero) != 0):
            yield "zero-point", "build", "its zero point is not zero", "use symmetric scales: max|x| / 127"
    scale = node.inputs[1]
    if isinstance(scale, gs.Constant) and size(scale) <= _FEW:
        values = read(scale).astype(np.float32)
        if not np.all(np.isfinite(values)) or np.any(values <= 0):
            yield "scale", "accuracy", "a scale is zero, negative or not finite", "calibrate again"
    if node.op == "QuantizeLinear" and not isinstance(node.inputs[0], gs.Constant):
        if isinstance(scale, gs.Constant) and size(scale) > 1:
            yield ("activation-per-channel", "build", f"an activation with {size(scale)} scales",
                   "one scale for an activation; per channel is for weights")  # fmt: skip
        yield from _after_product(node)
        first = next(user for user in node.inputs[0].outputs if user.op == "QuantizeLinear")
        if first is not node and first.inputs[1] is not node.inputs[1]:
            yield ("two-scales", "accuracy", f"{first.name!r} quantizes the same value with another scale",
                   "one scale for all readers")  # fmt: skip


def _after_product(node: gs.Node) -> Told:
    product = next((node.inputs[0].inputs[0] for _ in (0,) if node.inputs[0].inputs), None)
    if product is None or product.op not in _PRODUCTS:
        return
    for out in node.outputs[0].outputs:
        users = out.outputs[0].outputs if out.op == "DequantizeLinear" else []
        for user in users:
            if user.op in _FUSED and user.op != "Add":
                yield ("quantized-before-activation", "speed",
                       f"between {product.op} and {user.op}: the two are no longer fused",
                       f"quantize the result of {user.op}")  # fmt: skip
                return


def products(node: gs.Node, backend: str, version: str) -> Told:
    """Operands of products: both or none, biases never, weights per channel."""
    if node.op not in _PRODUCTS or node.domain or len(node.inputs) < 2:
        return
    left, right = (_maker(node.inputs[i], "DequantizeLinear") for i in (0, 1))
    if len(node.inputs) > 2 and _maker(node.inputs[2], "DequantizeLinear") is not None:
        yield "quantized-bias", "accuracy", "its bias is quantized", "keep the bias in float: it is added after the sum"
    if left is not None and right is None and isinstance(node.inputs[1], gs.Constant):
        yield ("half-quantized", "speed", "its activation is quantized, its weight is not: it runs in float",
               "quantize the weight per output channel, too")  # fmt: skip
    if right is not None and left is None and node.op in ("Conv", "ConvTranspose"):
        yield ("half-quantized", "speed", "its weight is quantized, its activation is not: it runs in float",
               "quantize the activation, too, or neither")  # fmt: skip
    if left is None or right is None:
        return
    what = _kind(left.inputs[0])
    if what in ("int8", "float8e4m3fn") and node.op not in quantizable(backend, version, what):
        yield ("does-not-build", "build", f"{what} {node.op} does not build on {backend} {version}".rstrip(),
               "keep it in float16 (graphopt --precision does), or use a newer version")  # fmt: skip
    weight = _constant(right.inputs[0])
    if weight is not None and size(right.inputs[1]) == 1 and node.op == "Conv" and weight._values.shape[0] > 1:
        yield ("weight-per-tensor", "accuracy", "its weight has one scale for all output channels",
               "one scale per output channel costs nothing")  # fmt: skip
    yield from _residual(node)


def _constant(tensor: gs.Tensor) -> gs.Constant | None:
    """A weight, before or after its QuantizeLinear."""
    maker = _maker(tensor, "QuantizeLinear")
    tensor = maker.inputs[0] if maker is not None else tensor
    return tensor if isinstance(tensor, gs.Constant) else None


def _residual(node: gs.Node) -> Told:
    users = node.outputs[0].outputs
    if node.op != "Conv" or len(users) != 1 or users[0].op != "Add":
        return
    a, b = users[0].inputs
    other = b if a is node.outputs[0] else a
    if isinstance(other, gs.Constant) or not shapes.same(shapes.of(other), shapes.of(node.outputs[0])):
        return
    both = other.inputs and other.inputs[0].op == "Conv"
    if not both and _maker(other, "DequantizeLinear") is None:
        yield ("residual-in-float", "speed",
               f"the other operand of {users[0].name!r} is in float: the sum is not fused in 8 bits",
               "quantize that operand, too")  # fmt: skip


def low_constants(node: gs.Node, backend: str, version: str) -> Told:
    """What conversion has done to constants, and operands of two dtypes."""
    kinds = set()
    for tensor in node.inputs:
        if not tensor.name or _kind(tensor) not in (*_LOW, "float32"):
            continue
        kinds.add(_kind(tensor))
        if isinstance(tensor, gs.Constant) and _kind(tensor) in _LOW and 0 < size(tensor) <= _FEW:
            values = read(tensor).astype(np.float32)
            if np.isnan(values).any():
                yield "constant-nan", "accuracy", f"constant {tensor.name!r} has NaN", "convert the model again"
            elif node.op in ("Add", "Max") and size(tensor) == 1 and values.item() == 0:
                yield ("constant-zero", "accuracy",
                       f"adding {tensor.name!r}, zero in {_kind(tensor)}: an epsilon that vanished?",
                       "keep the node in float32, or use the least positive value")  # fmt: skip
    if len(kinds) > 1 and node.op in ("Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Conv", "LayerNormalization"):
        yield "two-dtypes", "build", f"its operands are {' and '.join(sorted(kinds))}", "cast one of them"


def overflow(node: gs.Node, backend: str, version: str) -> Told:
    """Sums of squares and exponentials that are spelled out in float16."""
    if not node.inputs or _kind(node.inputs[0]) != "float16":
        return
    if node.op in ("ReduceMean", "ReduceSum"):
        maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        square = maker is not None and (
            (maker.op == "Mul" and maker.inputs[0] is maker.inputs[1])
            or (maker.op == "Pow" and isinstance(maker.inputs[1], gs.Constant) and np.all(read(maker.inputs[1]) == 2))
        )
        if square:
            yield ("square-in-float16", "accuracy", "the square of anything above 255 is infinity in float16",
                   "fuse it to a normalization, or keep the square, its mean and the root in float32")  # fmt: skip
    if node.op == "Exp" and any(user.op == "ReduceSum" for user in node.outputs[0].outputs):
        yield ("exp-in-float16", "accuracy", "exp of anything above 11 is infinity in float16",
               "fuse it to Softmax, or take the maximum off first")  # fmt: skip


CHECKS: tuple[Callable[[gs.Node, str, str], Told], ...] = (
    old_forms, casts, quantize, products, low_constants, overflow,
)  # fmt: skip


def counted(found: list[Finding]) -> dict[str, Any]:
    """How many findings there are of each rule."""
    rules: dict[str, int] = {}
    for one in found:
        rules[one.rule] = rules.get(one.rule, 0) + 1
    return rules
