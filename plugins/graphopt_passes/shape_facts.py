"""What is known of sizes and of small integer vectors, worked out node by node in the order of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.infer import SAME
from graphopt.rewrite.spelling import is_standard, moved
from graphopt.rewrite.value import Value, constant_of

from .elementwise import BINARY, REDUCTIONS, UNARY, VARIADIC
from .intervals import END
from .partly_known import Element, Numbers, Unknown
from .shape_operators import SIZES

MOST = 64
"""Vectors of more elements are not followed."""
WHOLE = frozenset(np.dtype(kind) for kind in ("int64", "int32", "bool"))
_LIKE_FIRST = (
    SAME
    | UNARY
    | frozenset(
        "Dropout BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization "
        "CumSum QuantizeLinear DequantizeLinear Trilu ScatterND ScatterElements Hardmax LpNormalization "
        "RotaryEmbedding RandomUniformLike RandomNormalLike Bernoulli".split()
    )
)


class Vector(NamedTuple):
    """The elements of an integer scalar or vector."""

    elements: tuple[Element, ...]
    is_scalar: bool


class Facts:
    """Sizes and small integers of one model."""

    def __init__(self, claims: Iterable[gs.Tensor] = ()) -> None:
        """claims: tensors whose declared shapes are not believed: some exporters declare any for a model's outputs."""
        self.numbers = Numbers()
        self._claims = {id(tensor): tensor for tensor in claims}
        self._dims: dict[int, tuple[Element, ...]] = {}
        self._vectors: dict[int, Vector | None] = {}
        self._held: dict[int, gs.Tensor] = {}

    def _id(self, tensor: gs.Tensor) -> int:
        """An identity that nothing else can have: the tensor is held, so that its address is not used again."""
        self._held[id(tensor)] = tensor
        return id(tensor)

    def dims(self, tensor: gs.Tensor) -> tuple[Element, ...] | None:
        """The sizes of a tensor; None for an unknown rank."""
        known = self._dims.get(id(tensor))
        if known is None:
            shape = self._declared(tensor)
            if shape is None:
                return None
            known = shape if shapes.is_static(shape) else tuple(
                self.numbers.dim(tensor, axis, dim) for axis, dim in enumerate(shape)
            )  # fmt: skip
            self._dims[self._id(tensor)] = known
        return known

    def _declared(self, tensor: gs.Tensor) -> shapes.Shape:
        return None if id(tensor) in self._claims else shapes.of(tensor)

    def vector(self, tensor: gs.Tensor) -> Vector | None:
        """The elements of a small integer vector or scalar; None if nothing is known of them."""
        mark = id(tensor)
        if mark not in self._vectors:
            self._vectors[self._id(tensor)] = _read(tensor)
        return self._vectors[mark]

    def integers(self, tensor: gs.Tensor | None) -> list[int] | None:
        """The elements where all are known."""
        found = self.vector(tensor) if tensor is not None and tensor.name else None
        if found is None or any(isinstance(element, Unknown) for element in found.elements):
            return None
        return list(found.elements)

    def learn(self, node: gs.Node, opset: int) -> None:
        """Work out what a node's outputs are; its inputs are known by then."""
        if not is_standard(node) or not node.outputs:
            return
        self._learn_dims(node, opset)
        output = node.outputs[0]
        if node.op in _VECTORS and len(node.outputs) == 1:
            dtype = dtypes.of(output)
            found = _VECTORS[node.op](self, node, opset) if dtype is None or dtype in WHOLE else None
            if found is not None and len(found.elements) <= MOST and _fits(found, dtype):
                self._vectors[self._id(output)] = found

    def _learn_dims(self, node: gs.Node, opset: int) -> None:
        for number, output in enumerate(node.outputs):
            shape = self._declared(output)
            if shape is not None and None not in shape and not any(map(shapes.is_placeholder, shape)):
                continue  # what is declared as a number or by name stays, whatever the operator tells
            try:
                found = self._infer(node, number, opset)
            except (IndexError, StopIteration, TypeError, ZeroDivisionError):
                continue  # operands that do not fit their operator; who runs the model will say so
            if found is None or (shape is not None and len(found) != len(shape)):
                continue
            declared = self.dims(output) or (None,) * len(found)
            # what is declared as a number or by name stays: it is as true, and others know it by that name
            self._dims[self._id(output)] = tuple(
                new
                if new is not None and (old is None or (isinstance(old, Unknown) and old.symbol is None))
                else old
                if old is not None
                else self.numbers.of(("dim", self._id(output), axis), is_size=True)
                for axis, (new, old) in enumerate(zip(found, declared, strict=True))
            )

    def _infer(self, node: gs.Node, number: int, opset: int) -> Sequence[Element | None] | None:
        op = node.op
        first = self.dims(node.inputs[0]) if node.inputs and node.inputs[0].name else None
        if op in ("ConstantOfShape", "Expand", "Reshape"):
            return self._from_target(node, first)
        if op in BINARY or op in VARIADIC:
            return self._broadcast([self.dims(tensor) for tensor in node.inputs])
        if op == "MatMul":
            return self._matmul(first, self.dims(node.inputs[1]))
        if op == "Range":
            return self._counted(node)
        if first is None:
            return None
        if op in _LIKE_FIRST:
            return first if number == 0 else None
        if op == "Transpose":
            return [first[axis] for axis in node.attrs.get("perm") or range(len(first))[::-1]]
        if op in ("Squeeze", "Unsqueeze"):
            return self._squeezed(node, first, opset)
        if op == "Gather":
            picked, axis = self.dims(node.inputs[1]), node.attrs.get("axis", 0) % max(len(first), 1)
            return None if picked is None else [*first[:axis], *picked, *first[axis + 1 :]]
        if op in REDUCTIONS:
            return self._reduced(node, first, opset)
        if op == "Concat":
            return self._joined(node, first)
        if op in ("GatherElements", "GatherND", "Gemm", "Tile"):
            return self._picked(node, first)
        if op in ("Split", "Slice", "Pad", "Conv", "MaxPool", "AveragePool", "Resize"):
            return self._kept(node, number, first)
        return SIZES[op](self, node, number, first) if op in SIZES else None

    def _from_target(self, node: gs.Node, first: tuple[Element, ...] | None) -> Sequence[Element | None] | None:
        target = self.vector(node.inputs[0 if node.op == "ConstantOfShape" else 1])
        if target is None:
            return None
        wanted = [item if isinstance(item, int) or item.is_size else None for item in target.elements]
        if node.op == "ConstantOfShape":
            return wanted
        if node.op == "Expand":
            return None if first is None else self._broadcast([first, tuple(wanted)])
        if not node.attrs.get("allowzero"):
            copied = [i for i, item in enumerate(wanted) if isinstance(item, int) and item == 0]
            for axis in copied:
                wanted[axis] = first[axis] if first is not None and axis < len(first) else None
        if wanted.count(-1) == 1:
            rest = [item for item in wanted if not (isinstance(item, int) and item == -1)]
            at = next(i for i, item in enumerate(wanted) if isinstance(item, int) and item == -1)
            wanted[at] = None
            if first is not None and all(item is not None for item in rest):
                wanted[at] = self.numbers.quotient(first, rest)
        return wanted

    def _broadcast(self, all_dims: Sequence[Sequence[Element | None] | None]) -> Sequence[Element | None] | None:
        known = [dims for dims in all_dims if dims is not None]
        if len(known) != len(all_dims):
            return None
        rank = max((len(dims) for dims in known), default=0)
        columns = [[dims[axis - rank] for dims in known if len(dims) >= rank - axis] for axis in range(rank)]
        return [None if None in column else self.numbers.broadcast(column) for column in columns]

    def _matmul(self, a: tuple[Element, ...] | None, b: tuple[Element, ...] | None) -> Sequence[Element | None] | None:
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            return None
        batch = self._broadcast([a[:-2], b[:-2]])
        return None if batch is None else [*batch, a[-2], b[-1]]

    def axes(self, node: gs.Node, opset: int) -> list[int] | None:
        """The axes of a Squeeze, Unsqueeze or reduction; None if they are not known, [] if there are none."""
        if moved(node.op, opset):
            return list(node.attrs.get("axes", ()))
        return self.integers(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else []

    def _squeezed(self, node: gs.Node, first: tuple[Element, ...], opset: int) -> Sequence[Element] | None:
        axes = self.axes(node, opset)
        if not axes:
            return None
        if node.op == "Squeeze" and first:
            gone = {axis % len(first) for axis in axes}
            return [dim for axis, dim in enumerate(first) if axis not in gone]
        rank = len(first) + len(axes)
        new, old = {axis % rank for axis in axes}, iter(first)
        return [1 if axis in new else next(old) for axis in range(rank)]

    def _reduced(self, node: gs.Node, first: tuple[Element, ...], opset: int) -> Sequence[Element] | None:
        axes = self.axes(node, opset)
        if not axes or not first:
            return None
        gone = {axis % len(first) for axis in axes}
        if node.attrs.get("keepdims", 1):
            return [1 if axis in gone else dim for axis, dim in enumerate(first)]
        return [dim for axis, dim in enumerate(first) if axis not in gone]

    def _joined(self, node: gs.Node, first: tuple[Element, ...]) -> Sequence[Element | None] | None:
        parts = [self.dims(tensor) for tensor in node.inputs]
        axis = node.attrs.get("axis", 0)
        if not -len(first) <= axis < len(first):
            return None
        total: Element | None = 0
        for part in parts:
            if part is None or len(part) != len(first):
                return None
            total = None if total is None else self.numbers.compute("Add", total, part[axis])
        result: list[Element | None] = list(first)
        result[axis] = total
        return result

    def _kept(self, node: gs.Node, number: int, first: tuple[Element, ...]) -> Sequence[Element | None] | None:
        """Of operators that may resize some axes: the sizes of those that they leave."""
        shape = shapes.of(node.outputs[number])
        if shape is None or len(shape) != len(first):
            return None
        kept: list[Element | None] = [None] * len(first)
        if node.op in ("Conv", "MaxPool", "AveragePool") and number == 0:
            kept[0] = first[0]
            kernel = node.attrs.get("kernel_shape") or (shapes.of(node.inputs[1]) or ())[2:]
            for axis in range(2, len(first)):
                kept[axis] = self._window(node, axis - 2, len(first) - 2, kernel, first[axis])
        elif not first:
            return None
        elif node.op == "Split":
            axis = node.attrs.get("axis", 0) % len(first)
            kept = [None if i == axis else dim for i, dim in enumerate(first)]
        elif node.op == "Slice" and len(node.inputs) > 3 and (axes := self.integers(node.inputs[3])) is not None:
            cut = {axis % len(first) for axis in axes}
            kept = [None if i in cut else dim for i, dim in enumerate(first)]
            for place, axis in enumerate(axes):
                kept[axis % len(first)] = self._cut(node, place, first[axis])
        return kept

    def _cut(self, node: gs.Node, place: int, dim: Element) -> Element | None:
        """The size of an axis of which a Slice takes the first `end`: min(dim, end), where end is not negative."""
        starts, ends = self.integers(node.inputs[1]), self.vector(node.inputs[2])
        steps = self.integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4].name else [1] * MOST
        if starts is None or ends is None or steps is None or starts[place] != 0 or steps[place] != 1:
            return None
        end = ends.elements[place]
        from_front = end >= 0 if isinstance(end, int) else end.is_size
        if isinstance(end, int) and end >= END:
            return dim
        return self.numbers.compute("Min", dim, end) if from_front else None

    def _counted(self, node: gs.Node) -> Sequence[Element | None] | None:
        """Range(start, start + n, 1) has n elements."""
        vectors = [self.vector(tensor) for tensor in node.inputs]
        if any(vector is None or len(vector.elements) != 1 for vector in vectors):
            return None
        start, limit, step = (vector.elements[0] for vector in vectors if vector is not None)
        if isinstance(step, Unknown) or step != 1:
            return None
        count = self.numbers.compute("Sub", limit, start)
        return [count] if isinstance(count, Unknown) and count.is_size else None

    def _picked(self, node: gs.Node, first: tuple[Element, ...]) -> Sequence[Element | None] | None:
        other = self.dims(node.inputs[1])
        if other is None:
            return None
        if node.op == "GatherElements":
            return other
        if node.op == "Gemm" and len(first) == len(other) == 2:
            return [first[1 if node.attrs.get("transA") else 0], other[0 if node.attrs.get("transB") else 1]]
        if node.op == "Tile":
            times = self.vector(node.inputs[1])
            if times is None or len(times.elements) != len(first):
                return None
            return [self.numbers.compute("Mul", dim, n) for dim, n in zip(first, times.elements, strict=True)]
        if node.op == "GatherND" and other and not node.attrs.get("batch_dims") and isinstance(other[-1], int):
            return [*other[:-1], *first[other[-1] :]]
        return None

    def _window(self, node: gs.Node, i: int, count: int, kernel: Any, dim: Element) -> Element | None:
        """The size of an axis after a window; unknown but the same wherever the same window meets the same size."""
        if len(kernel) != count or not isinstance(kernel[i], int):
            return None
        stride = (node.attrs.get("strides") or [1] * count)[i]
        dilation = (node.attrs.get("dilations") or [1] * count)[i]
        pads = node.attrs.get("pads") or [0] * (2 * count)
        auto = node.attrs.get("auto_pad", "NOTSET")
        padding, span = pads[i] + pads[i + count], dilation * (kernel[i] - 1)
        if stride == 1 and (auto in ("SAME_UPPER", "SAME_LOWER") or (auto == "NOTSET" and padding == span)):
            return dim
        key = ("window", dim, auto, stride, padding - span, node.attrs.get("ceil_mode", 0))
        return self.numbers.of(key, is_size=True)


def _read(tensor: gs.Tensor) -> Vector | None:
    constant = constant_of(tensor)
    if constant is None:
        return None
    shape = shapes.of(constant)
    if shape is None or len(shape) > 1 or (shapes.volume(shape) or 0) > MOST or dtypes.of(constant) not in WHOLE:
        return None
    array = Value(constant).const
    return None if array is None else Vector(tuple(int(number) for number in array.ravel()), array.ndim == 0)


def _fits(vector: Vector, dtype: Any) -> bool:
    if dtype is None or dtype == np.bool_:
        return True
    bounds = np.iinfo(dtype)
    return all(isinstance(item, Unknown) or bounds.min <= item <= bounds.max for item in vector.elements)


Handler = Callable[[Facts, gs.Node, int], Vector | None]
_VECTORS: dict[str, Handler] = {}


def vectors_of(*ops: str) -> Callable[[Handler], Handler]:
    """Register what works out the elements of these operators' outputs."""

    def register(handler: Handler) -> Handler:
        _VECTORS.update(dict.fromkeys(ops, handler))
        return handler

    return register
