"""Models that others have quantized, brought back to float, with the ranges that their scales say.

Every quantized tensor gets a float twin: what it stood for. QuantizeLinear's twin is its input; DequantizeLinear gives
its operand's twin; QLinearConv and the like become the float operator on twins; a stored weight becomes
scale * (q - zero). DynamicQuantizeLinear with ConvInteger or MatMulInteger and the product with both scales after it is
the float operator on the input. A type that begins at zero clips, and that stays: quantizers drop the Relu before it.
What the rounding to 8 bits did is gone then, and comes back, symmetric and at the places that TensorRT fuses, with the
plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir import dtypes
from graphopt.ir.edits import Editor
from graphopt.ir.graph import new_constant
from graphopt.ir.weights import Array, read, size, stored_bytes

from .dynamic_forms import lstm_weights, scaled, stepped

OPERATORS = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger "
    "QLinearAdd QLinearMul QLinearSigmoid QLinearLeakyRelu QLinearGlobalAveragePool QLinearConcat QGemm "
    "QLinearSoftmax MatMulIntegerToFloat DynamicQuantizeMatMul DynamicQuantizeLSTM".split()
)
_MOVES = frozenset(
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Identity MaxPool Split Expand Concat Tile".split()
)
_POSITIVE = frozenset({"Relu", "Clip", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid"})
_ENDS = {"int8": (-128, 127), "uint8": (0, 255), "float8e4m3fn": (-448, 448)}


@dataclass
class Source:
    """What the source's quantization said: the largest magnitude of each float tensor that it quantized."""

    ranges: dict[str, float] = field(default_factory=dict)
    opset: int = 0
    """The opset that the float form was converted to; 0 where its own would do."""
    nodes: int = 0
    """Quantized operators that were brought to float."""
    left: dict[str, int] = field(default_factory=dict)
    """Quantized operators that could not be."""


class Dequantized(LazyValues):  # type: ignore[misc]
    """scale * (q - zero), made when it is asked for."""

    def __init__(self, source: gs.Constant, scale: Array, zero: Array | None, axis: int, block: int) -> None:
        self.source, self.scale, self.zero, self.axis, self.block = source, scale, zero, axis, block
        self.dtype, self.shape = np.dtype(np.float32), tuple(source._values.shape)
        self.nbytes = stored_bytes(self.dtype, self.shape)

    @property
    def tensor(self) -> Any:
        """graphsurgeon's view of lazy values."""
        from onnx import numpy_helper

        return numpy_helper.from_array(self.load())

    def load(self) -> Array:
        wide = read(self.source).astype(np.float32)
        if self.zero is not None:
            wide = wide - self._along(self.zero.astype(np.float32))
        return np.asarray(wide * self._along(self.scale.astype(np.float32)), np.float32)

    def _along(self, values: Array) -> Array:
        rank = len(self.shape)
        if values.size == 1:
            return values.reshape(())
        axis = self.axis % rank
        if self.block:
            return np.repeat(values, self.block, axis=axis)[tuple(slice(0, dim) for dim in self.shape)]
        return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def is_quantized(graph: gs.Graph) -> bool:
    """Whether the main graph has quantized operators."""
    return any(node.op in OPERATORS for node in graph.nodes)


def unquantize(graph: gs.Graph) -> Source:
    """Bring the main graph back to float, in place. What is not understood stays, and is counted."""
    work = _Twins(graph)
    work.run()
    return work.source


class _Twins:
    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.edit = Editor(graph)
        self.twin: dict[int, gs.Tensor] = {}
        self.dynamic: dict[int, gs.Tensor] = {}
        """id(scale of a DynamicQuantizeLinear) -> what it is the scale of"""
        self.clips: dict[tuple[int, float], gs.Tensor] = {}
        self.source = Source()

    def run(self) -> None:
        handlers: dict[str, Callable[[gs.Node], bool]] = {
            "QuantizeLinear": self._quantize, "DequantizeLinear": self._dequantize, "QLinearConv": self._conv,
            "DynamicQuantizeLinear": self._dynamic, "QLinearMatMul": self._matmul, "ConvInteger": self._integer,
            "MatMulInteger": self._integer, "QLinearAdd": self._binary, "QLinearMul": self._binary,
            "QLinearSigmoid": self._unary, "QLinearLeakyRelu": self._unary, "QLinearGlobalAveragePool": self._unary,
            "QLinearConcat": self._concat, "QGemm": self._gemm, "QLinearSoftmax": self._unary,
            "MatMulIntegerToFloat": self._to_float, "DynamicQuantizeMatMul": self._dynamic_matmul,
            "DynamicQuantizeLSTM": self._lstm,
        }  # fmt: skip
        for node in list(self.graph.nodes):
            if node.op in handlers:
                self.source.nodes += bool(handlers[node.op](node))
            elif node.op in _MOVES and node.inputs and id(node.inputs[0]) in self.twin:
                self._move(node)
        self.edit.sweep()
        for node in self.graph.nodes:
            if node.op in OPERATORS:
                self.source.left[node.op] = self.source.left.get(node.op, 0) + 1

    # -- helpers -----------------------------------------------------------------------------------------------

    def _make(self, op: str, ins: list[gs.Tensor], attrs: dict[str, Any], at: gs.Node) -> gs.Tensor:
        node = self.edit.insert(op, ins, attrs, at=at, name=at.name or op)
        node.outputs[0].dtype = np.dtype(np.float32)
        return node.outputs[0]

    def _bias(self, bias: gs.Constant, scale: Array) -> gs.Tensor:
        return self.edit.constant((read(bias) * scale.reshape(-1)).astype(np.float32), f"{bias.name}_float")

    def _weight(
        self, q: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor | None, axis: int, block: int = 0
    ) -> gs.Tensor | None:
        """The float twin of an operand: a stored weight, or something quantized before."""
        if id(q) in self.twin:
            return self.twin[id(q)]
        q = self._turned(q)
        if not isinstance(q, gs.Constant) or not isinstance(scale, gs.Constant):
            return None
        if zero is not None and zero.name and not isinstance(zero, gs.Constant):
            return None
        offset = read(zero) if isinstance(zero, gs.Constant) else None
        name = self.edit.fresh(f"{q.name}_float")
        return new_constant(name, Dequantized(q, read(scale), offset, axis, block))

    def _result(self, q: gs.Tensor, value: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor | None, at: gs.Node) -> None:
        """`value` is what `q` stands for, between the ends that q can hold.

        Quantizers drop a Relu or Clip before a type whose least value is zero: then the ends are part of the meaning.
        """
        kind = dtypes.name(dtypes.of(q)) if q.dtype is not None else _kind_of(zero)
        known = isinstance(scale, gs.Constant) and size(scale) == 1 and kind in _ENDS
        if known and isinstance(scale, gs.Constant) and not isinstance(value, gs.Constant):
            step = float(read(scale).astype(np.float64).item())
            offset = float(read(zero).astype(np.float64).item()) if isinstance(zero, gs.Constant) else 0.0
            low, high = ((end - offset) * step for end in _ENDS[kind])
            if low == 0 and not (value.inputs and value.inputs[0].op in _POSITIVE):
                value = self._clip(value, high, at)
            peak = max(-low, high) if offset or kind != "int8" else high
            self.source.ranges[value.name] = max(peak, self.source.ranges.get(value.name, 0.0))
        self.twin[id(q)] = value

    def _clip(self, value: gs.Tensor, high: float, at: gs.Node) -> gs.Tensor:
        key = (id(value), high)
        if key not in self.clips:
            ends = (np.float32(0), np.float32(high))
            if int(self.graph.opset) >= 11:
                held = [self.edit.constant(end, "end") for end in ends]
                self.clips[key] = self._make("Clip", [value, *held], {}, at)
            else:
                self.clips[key] = self._make("Clip", [value], {"min": 0.0, "max": high}, at)
        return self.clips[key]

    # -- operators ---------------------------------------------------------------------------------------------

    def _quantize(self, node: gs.Node) -> bool:
        self._result(node.outputs[0], node.inputs[0], node.inputs[1], _at(node, 2), node)
        return True

    def _dequantize(self, node: gs.Node) -> bool:
        axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
        value = self._weight(node.inputs[0], node.inputs[1], _at(node, 2), axis, block) or self._looked_up(node)
        if value is None:
            return False
        out = node.outputs[0]
        name = out.name
        self.edit.replace(out, value, at=node)
        if name in self.source.ranges:
            self.source.ranges.setdefault(value.name, self.source.ranges[name])
        self.twin[id(out)] = value
        return True

    def _turned(self, q: gs.Tensor) -> gs.Tensor:
        """Transpose of a stored weight as a stored weight, which passes leave alone since it is quantized."""
        maker = q.inputs[0] if q.inputs else None
        if maker is None or maker.op != "Transpose" or not isinstance(maker.inputs[0], gs.Constant):
            return q
        return new_constant(f"{q.name}_turned", read(maker.inputs[0]).transpose(maker.attrs.get("perm")))

    def _looked_up(self, node: gs.Node) -> gs.Tensor | None:
        """DequantizeLinear(Gather(table, i), s, z) = Gather(s * (table - z), i), one scale for all."""
        gather = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if gather is None or gather.op != "Gather" or not isinstance(node.inputs[1], gs.Constant):
            return None
        table = gather.inputs[0]
        if size(node.inputs[1]) != 1 or not isinstance(table, gs.Constant):
            return None
        held = self._weight(table, node.inputs[1], _at(node, 2), 0)
        return None if held is None else self._make("Gather", [held, gather.inputs[1]], dict(gather.attrs), node)

    def _dynamic(self, node: gs.Node) -> bool:
        self.twin[id(node.outputs[0])] = node.inputs[0]
        self.dynamic[id(node.outputs[1])] = node.inputs[0]
        return True

    def _conv(self, node: gs.Node) -> bool:
        x, xs, xz, w, ws, wz, ys, yz = node.inputs[:8]
        value, weight = self._weight(x, xs, xz, 0), self._weight(w, ws, wz, 0)
        if value is None or weight is None:
            return False
        ins = [value, weight]
        bias = _at(node, 8)
        if isinstance(bias, gs.Constant):
            if not isinstance(xs, gs.Constant) or not isinstance(ws, gs.Constant):
                return False
            ins.append(
                self.edit.constant((read(bias) * (read(xs) * read(ws))).astype(np.float32), f"{bias.name}_float")
            )
        self._result(node.outputs[0], self._make("Conv", ins, dict(node.attrs), node), ys, yz, node)
        return True

    def _matmul(self, node: gs.Node) -> bool:
        a, as_, az, b, bs, bz, ys, yz = node.inputs[:8]
        left, right = self._weight(a, as_, az, -2), self._weight(b, bs, bz, -1)
        if left is None or right is None:
            return False
        self._result(node.outputs[0], self._make("MatMul", [left, right], {}, node), ys, yz, node)
        return True

    def _gemm(self, node: gs.Node) -> bool:
        a, as_, az, b, bs, bz = node.inputs[:6]
        axis = 0 if node.attrs.get("transB", 0) else 1
        left, right = self._weight(a, as_, az, 0), self._weight(b, bs, bz, axis)
        bias, ys, yz = _at(node, 6), _at(node, 7), _at(node, 8)
        constants = isinstance(as_, gs.Constant) and isinstance(bs, gs.Constant)
        if left is None or right is None or not constants or (bias is not None and not isinstance(bias, gs.Constant)):
            return False
        alpha = float(node.attrs.get("alpha", 1.0))
        ins = [left, right]
        if isinstance(bias, gs.Constant):
            ins.append(
                self.edit.constant(
                    (read(bias) * (alpha * read(as_) * read(bs))).astype(np.float32), f"{bias.name}_float"
                )
            )
        value = self._make("Gemm", ins, dict(node.attrs), node)
        if ys is None:
            self.edit.replace(node.outputs[0], value, at=node)
        else:
            self._result(node.outputs[0], value, ys, yz, node)
        return True

    def _binary(self, node: gs.Node) -> bool:
        a, as_, az, b, bs, bz, ys = node.inputs[:7]
        left, right = self._weight(a, as_, az, 0), self._weight(b, bs, bz, 0)
        if left is None or right is None:
            return False
        value = self._make(node.op.removeprefix("QLinear"), [left, right], {}, node)
        self._result(node.outputs[0], value, ys, _at(node, 7), node)
        return True

    def _unary(self, node: gs.Node) -> bool:
        value = self._weight(node.inputs[0], node.inputs[1], _at(node, 2), 0)
        if value is None or node.attrs.get("channels_last", 0):
            return False
        attrs = {key: item for key, item in node.attrs.items() if key in ("alpha", "axis")}
        made = self._make(node.op.removeprefix("QLinear"), [value], attrs, node)
        self._result(node.outputs[0], made, node.inputs[3], _at(node, 4), node)
        return True

    def _concat(self, node: gs.Node) -> bool:
        ys, yz, *rest = node.inputs
        parts = [self._weight(rest[i], rest[i + 1], rest[i + 2], 0) for i in range(0, len(rest), 3)]
        if any(part is None for part in parts):
            return False
        value = self._make("Concat", [part for part in parts if part is not None], dict(node.attrs), node)
        self._result(node.outputs[0], value, ys, yz, node)
        return True

    def _to_float(self, node: gs.Node) -> bool:
        a, b, _, bs = node.inputs[:4]
        return self._float_product(node, self.twin.get(id(a)), b, bs, _at(node, 5), _at(node, 6))

    def _dynamic_matmul(self, node: gs.Node) -> bool:
        a, b, bs = node.inputs[:3]
        return self._float_product(node, a, b, bs, _at(node, 3), _at(node, 4))

    def _float_product(
        self, node: gs.Node, left: gs.Tensor | None, b: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor | None,
        bias: gs.Tensor | None,
    ) -> bool:  # fmt: skip
        right = self._weight(b, scale, zero, -1)
        if left is None or right is None:
            return False
        value = self._make("MatMul", [left, right], {}, node)
        if bias is not None and bias.name:
            value = self._make("Add", [value, bias], {}, node)
        self.edit.replace(node.outputs[0], value, at=node)
        return True

    def _integer(self, node: gs.Node) -> bool:
        """Mul(Cast(MatMulInteger(q, w, zx, zw)), s) = MatMul(x, sw * (w - zw)), s = sx * sw, (q, sx, zx) of x.

        A ConvInteger may have a bias in steps of s: Mul(Cast(ConvInteger(...) + Floor(b / s)), s) = Conv(x, w', b).
        """
        found = scaled(node)
        value = self.twin.get(id(node.inputs[0]))
        if found is None or value is None:
            return False
        product, scales, steps = found
        weight_scale = next((t for t in scales.inputs if isinstance(t, gs.Constant)), None)
        other = next((t for t in scales.inputs if t is not weight_scale), None)
        if weight_scale is None or other is None or self.dynamic.get(id(other)) is not value:
            return False
        conv = node.op == "ConvInteger"
        factor = gs.Constant(self.edit.fresh("scale"), read(weight_scale).reshape(-1))
        weight = self._weight(node.inputs[1], factor, _at(node, 3), 0 if conv else -1)
        if weight is None:
            return False
        attrs = dict(node.attrs) if conv else {}
        ins = [value, weight]
        if steps is not None:
            bias = stepped(steps, scales.outputs[0], len(node.inputs[1].shape or ()))
            if not conv or bias is None:
                return False
            ins.append(bias)
        made = self._make("Conv" if conv else "MatMul", ins, attrs, product)
        self.edit.replace(product.outputs[0], made, at=product)
        return True

    def _lstm(self, node: gs.Node) -> bool:
        weights = lstm_weights(node)
        if weights is None:
            return False
        held = [self.edit.constant(value, f"{node.inputs[i].name}_float") for i, value in enumerate(weights, 1)]
        ins = [node.inputs[0], *held, *node.inputs[3:8]]
        while not ins[-1].name:
            ins.pop()
        made = self.edit.insert("LSTM", ins, dict(node.attrs), at=node, outputs=len(node.outputs), name=node.name)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if old.name:
                new.dtype = np.dtype(np.float32)
                self.edit.replace(old, new, at=node)
        return True

    def _move(self, node: gs.Node) -> None:
        """The same movement on the twin."""
        twins = [self.twin.get(id(tensor)) for tensor in (node.inputs if node.op == "Concat" else node.inputs[:1])]
        if any(twin is None for twin in twins):
            return
        ins = [*(twin for twin in twins if twin is not None), *node.inputs[len(twins) :]]
        made = self.edit.insert(node.op, ins, dict(node.attrs), at=node, outputs=len(node.outputs), name=node.name)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.dtype = np.dtype(np.float32)
            self.twin[id(old)] = new
        first = next((self.source.ranges[one.name] for one in ins if one.name in self.source.ranges), None)
        if first is not None and len(twins) == 1:
            self.source.ranges.setdefault(made.outputs[0].name, first)


def _at(node: gs.Node, slot: int) -> gs.Tensor | None:
    tensor = node.inputs[slot] if slot < len(node.inputs) else None
    return tensor if tensor is not None and tensor.name else None


def _kind_of(zero: gs.Tensor | None) -> str:
    return dtypes.name(dtypes.of(zero)) if zero is not None else "uint8"
