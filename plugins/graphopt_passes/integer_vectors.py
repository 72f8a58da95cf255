"""How operators compute small integer vectors of which some elements are unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.rewrite.value import Value

from .partly_known import Element, compare
from .shape_facts import MOST, Facts, Vector, vectors_of


@vectors_of("Shape")
def shape(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    dims = facts.dims(node.inputs[0])
    if dims is None:
        return None
    return Vector(tuple(dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]), False)


@vectors_of("Size")
def size(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    dims = facts.dims(node.inputs[0])
    return None if dims is None else _scalar(facts.numbers.product(dims))


@vectors_of("Identity")
def identity(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    return facts.vector(node.inputs[0])


@vectors_of("Cast")
def cast(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    """Between int32 and int64 sizes keep their values: no dimension reaches 2 ** 31."""
    to = dtypes.from_onnx(dtypes.to_onnx(node.attrs["to"]))
    return facts.vector(node.inputs[0]) if to in (np.dtype("int32"), np.dtype("int64")) else None


@vectors_of("CastLike")
def cast_like(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    whole = dtypes.of(node.inputs[1]) in (np.dtype("int32"), np.dtype("int64"))
    return facts.vector(node.inputs[0]) if whole else None


@vectors_of("Gather")
def gather(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    data, picked = facts.vector(node.inputs[0]), facts.vector(node.inputs[1])
    indices = facts.integers(node.inputs[1])
    if data is None or data.is_scalar or picked is None or indices is None:
        return None
    count = len(data.elements)
    if not all(-count <= index < count for index in indices):
        return None
    return Vector(tuple(data.elements[index] for index in indices), picked.is_scalar)


@vectors_of("Slice")
def cut(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    data = facts.vector(node.inputs[0])
    if data is None or data.is_scalar:
        return None
    if opset < 10:
        starts, ends, steps = node.attrs.get("starts"), node.attrs.get("ends"), [1]
    else:
        starts, ends = facts.integers(node.inputs[1]), facts.integers(node.inputs[2])
        has_steps = len(node.inputs) > 4 and node.inputs[4].name
        steps = (facts.integers(node.inputs[4]) or []) if has_steps else [1]
    if not starts or not ends or len(starts) != 1 or len(steps) != 1 or steps[0] == 0:
        return None
    start, end, step = starts[0], ends[0], steps[0]
    if step < 0:
        count = len(data.elements)
        if start < -count:
            start = 0  # Python would begin before the first element
        low = None if end < -count else end
        return Vector(data.elements[start:low:step], False)
    return Vector(data.elements[start:end:step], False)


@vectors_of("Concat")
def join(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    elements: list[Element] = []
    for tensor in node.inputs:
        part = facts.vector(tensor)
        if part is None:
            known = shapes.of(tensor)
            if known is None or len(known) != 1 or not isinstance(known[0], int) or known[0] > MOST:
                return None
            elements.extend(facts.numbers.of(("element", id(tensor), i), is_size=False) for i in range(known[0]))
        else:
            elements.extend(part.elements)
    return Vector(tuple(elements), False)


@vectors_of("Unsqueeze", "Squeeze", "Reshape", "Flatten")
def reshape(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    data, result = facts.vector(node.inputs[0]), shapes.of(node.outputs[0])
    return None if data is None or result is None or len(result) > 1 else Vector(data.elements, len(result) == 0)


@vectors_of("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
def arithmetic(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    if node.attrs.get("fmod"):
        return None
    return _pairwise(facts, node.inputs, lambda a, b: facts.numbers.compute(node.op, a, b))


@vectors_of("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
def comparison(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    return _pairwise(facts, node.inputs, lambda a, b: compare(node.op, a, b))


@vectors_of("Not")
def negation(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    values = facts.integers(node.inputs[0])
    data = facts.vector(node.inputs[0])
    return None if values is None or data is None else Vector(tuple(1 - value for value in values), data.is_scalar)


@vectors_of("Where")
def choose(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    condition, a, b = (facts.vector(tensor) for tensor in node.inputs)
    if condition is None or a is None or b is None or not all(isinstance(c, int) for c in condition.elements):
        return None
    vectors = (condition, a, b)
    count = max(len(vector.elements) for vector in vectors)
    if any(len(vector.elements) not in (1, count) for vector in vectors):
        return None
    wide = [vector.elements * count if len(vector.elements) == 1 else vector.elements for vector in vectors]
    picked = tuple(x if c else y for c, x, y in zip(*wide, strict=True))
    return Vector(picked, all(vector.is_scalar for vector in vectors))


@vectors_of("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def reduction(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    data = facts.vector(node.inputs[0])
    axes = facts.axes(node, opset)
    if data is None or data.is_scalar or axes is None or (not axes and node.attrs.get("noop_with_empty_axes")):
        return None
    op = {"ReduceProd": "Mul", "ReduceSum": "Add", "ReduceMax": "Max", "ReduceMin": "Min"}[node.op]
    if not data.elements:
        return None
    total: Element | None = data.elements[0]
    for element in data.elements[1:]:
        total = None if total is None else facts.numbers.compute(op, total, element)
    return None if total is None else Vector((total,), not node.attrs.get("keepdims", 1))


@vectors_of("ConstantOfShape")
def filled(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    wanted = facts.integers(node.inputs[0])
    value = node.attrs.get("value")
    if wanted is None or len(wanted) > 1 or not isinstance(value, gs.Constant):
        return None
    array = Value(value).const
    if array is None or array.size != 1 or array.dtype.kind not in "iub" or (wanted and not 0 <= wanted[0] <= MOST):
        return None
    return Vector((int(array.ravel()[0]),) * (wanted[0] if wanted else 1), not wanted)


@vectors_of("Range")
def count_up(facts: Facts, node: gs.Node, opset: int) -> Vector | None:
    bounds = [facts.integers(tensor) for tensor in node.inputs]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, limit, step = (bound[0] for bound in bounds if bound is not None)
    numbers = range(start, limit, step) if step else range(0)
    return Vector(tuple(numbers), False) if step and len(numbers) <= MOST else None


def _scalar(element: Element | None) -> Vector | None:
    return None if element is None else Vector((element,), True)


def _pairwise(
    facts: Facts, tensors: Sequence[gs.Tensor], compute: Callable[[Element, Element], Element | None]
) -> Vector | None:
    """Both operands, the shorter one repeated."""
    if len(tensors) != 2:
        return None
    a, b = facts.vector(tensors[0]), facts.vector(tensors[1])
    if a is None or b is None:
        return None
    count = max(len(a.elements), len(b.elements))
    if len(a.elements) not in (1, count) or len(b.elements) not in (1, count):
        return None
    left = a.elements * count if len(a.elements) == 1 else a.elements
    right = b.elements * count if len(b.elements) == 1 else b.elements
    result = tuple(compute(x, y) for x, y in zip(left, right, strict=True))
    return None if any(element is None for element in result) else Vector(result, a.is_scalar and b.is_scalar)
