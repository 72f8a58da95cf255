"""What graphopt works out of operators' outputs itself is what ONNX's own inference says of them, or more."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, shape_inference

from graphopt.ir import dtypes, operator_shapes
from graphopt.ir.graph import new_constant, new_node, new_variable
from graphopt.ir.infer import _from_proto

DIMS = st.one_of(st.integers(1, 6), st.sampled_from(["N", "M", None]))
SHAPES = st.lists(DIMS, min_size=1, max_size=4).map(tuple)
WHOLE = st.lists(st.integers(-7, 7), min_size=1, max_size=4)


def told(op: str, operands: list[Any], outputs: int, opset: int, attrs: dict[str, Any]) -> tuple[Any, Any]:
    """(graphopt's answer, ONNX's); None where it has none. operands: arrays, or (kind, shape)."""
    tensors, types, data = [], {}, {}
    for slot, one in enumerate(operands):
        if isinstance(one, np.ndarray):
            tensors.append(new_constant(f"i{slot}", one))
            data[f"i{slot}"] = numpy_helper.from_array(one)
            kind = (one.dtype, one.shape)
        else:
            kind = (np.dtype(np.int64 if one[0] == "whole" else np.float32), one[1])
            tensors.append(new_variable(f"i{slot}", *kind))
        types[f"i{slot}"] = helper.make_tensor_type_proto(dtypes.to_onnx(kind[0]), kind[1])
    names = [f"o{number}" for number in range(outputs)]
    node = new_node(op, tensors, [new_variable(name) for name in names], attrs)
    ours = operator_shapes.known(node, opset)
    message = helper.make_node(op, [tensor.name for tensor in tensors], names, **attrs)
    imports = [helper.make_opsetid("", opset)]
    try:
        schema = onnx.defs.get_schema(op, opset, "")
        found = shape_inference.infer_node_outputs(schema, message, types, data, opset_imports=imports, ir_version=8)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError):
        return ours, None
    return ours, [_from_proto(found.get(name)) for name in names]


def agree(ours: Any, theirs: Any) -> None:
    """Where ONNX says a thing, we say the same; where it refuses, we say nothing of a shape that it would refuse."""
    if ours is None:
        return
    assert theirs is not None, f"ONNX refuses what we take for {ours}"
    for (dtype, shape), (other, known) in zip(ours, theirs, strict=True):
        assert dtype == other
        if known is not None:
            assert shape is not None
            assert len(shape) == len(known)
            assert all(b is None or a == b for a, b in zip(shape, known, strict=True)), (shape, known)


def whole(values: list[int]) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@settings(max_examples=300)
@given(SHAPES, st.lists(st.integers(-1, 6), min_size=1, max_size=4), st.sampled_from([5, 13, 14, 19]))
def test_reshape_to_a_constant(x, target, opset):
    agree(*told("Reshape", [("x", x), whole(target)], 1, opset, {}))


@settings(max_examples=50)
@given(SHAPES, st.integers(1, 4), st.sampled_from([5, 12, 13, 14, 19]))
def test_reshape_to_what_is_computed(x, rank, opset):
    agree(*told("Reshape", [("x", x), ("whole", (rank,))], 1, opset, {}))


@settings(max_examples=300)
@given(SHAPES, st.data(), st.sampled_from([11, 13]))
def test_slice(x, data, opset):
    count = data.draw(st.integers(1, len(x)))
    some = st.lists(st.integers(-9, 9), min_size=count, max_size=count)
    axes = data.draw(st.permutations(range(len(x))).map(lambda every: every[:count]))
    steps = data.draw(st.lists(st.sampled_from([1, 2, -1, -3]), min_size=count, max_size=count))
    operands = [("x", x), whole(data.draw(some)), whole(data.draw(some)), whole(axes), whole(steps)]
    agree(*told("Slice", operands, 1, opset, {}))


@settings(max_examples=200)
@given(SHAPES, st.data(), st.integers(1, 3), st.sampled_from([11, 13, 18]))
def test_split(x, data, count, opset):
    axis = data.draw(st.integers(-len(x), len(x) - 1))
    sizes = data.draw(st.one_of(st.none(), st.lists(st.integers(1, 3), min_size=count, max_size=count)))
    attrs: dict[str, Any] = {"axis": axis}
    operands: list[Any] = [("x", x)]
    if sizes is not None and opset < 13:
        attrs["split"] = sizes
    elif sizes is not None:
        operands.append(whole(sizes))
    elif opset >= 18:
        attrs["num_outputs"] = count
    agree(*told("Split", operands, count, opset, attrs))


@settings(max_examples=200)
@given(SHAPES, st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_expand(x, target):
    agree(*told("Expand", [("x", x), whole(target)], 1, 13, {}))


@settings(max_examples=100)
@given(st.lists(st.integers(-1, 5), max_size=4))
def test_constant_of_shape(target):
    agree(*told("ConstantOfShape", [whole(target)], 1, 9, {}))


@settings(max_examples=200)
@given(st.lists(SHAPES, min_size=1, max_size=3), st.sampled_from(["Min", "Max"]))
def test_extremes(operands, op):
    agree(*told(op, [("x", shape) for shape in operands], 1, 13, {}))
