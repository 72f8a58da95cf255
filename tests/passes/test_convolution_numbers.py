"""Whatever the rank, groups, dtype and constants: the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from graphopt_passes import batch_norm, conv_inputs, convolution, dense
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.testing import apply

BOUND = {np.float16: 4e-3, np.float32: 2e-6, np.float64: 1e-14}
"""Relative L2 error of outputs that are not close to zero: a few roundings of each dtype."""


def run(model, feeds):
    """In onnxruntime; it convolves no float64, so there in onnx's reference."""
    if feeds["x"].dtype == np.float64:
        return ReferenceEvaluator(model).run(None, feeds)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def build(nodes, x, weights, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), ["d"] * x.ndim)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def affine_nodes(draw, source, target, channels, rank, dtype, rng):
    """A node that maps each channel by itself, and its constants."""
    kind = draw(st.sampled_from(["BatchNormalization", "Mul", "Add", "Sub", "SubFrom", "Div", "Neg"]))
    if kind == "Neg":
        return helper.make_node("Neg", [source], [target]), {}
    if kind == "BatchNormalization":
        names = [f"{target}_{part}" for part in "stmv"]
        values = [rng.uniform(0.5, 2, channels).astype(dtype) for _ in names]
        node = helper.make_node(kind, [source, *names], [target], epsilon=draw(st.sampled_from([1e-5, 0.1])))
        return node, dict(zip(names, values, strict=True))
    per_channel = (channels, *(1,) * (rank - 2))
    shape = draw(st.sampled_from([(), (1,), per_channel, (1, *per_channel)]))
    value = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(dtype)
    operands = [f"{target}_c", source] if kind == "SubFrom" else [source, f"{target}_c"]
    if kind in ("Mul", "Add") and draw(st.booleans()):
        operands.reverse()
    return helper.make_node(kind.replace("From", ""), operands, [target]), {f"{target}_c": value}


def assert_same_numbers(source, result, x):
    (expected,), (actual,) = run(source, {"x": x}), run(result, {"x": x})
    assert expected.shape == actual.shape
    wide = expected.astype(np.float64)
    scale = np.linalg.norm(wide) + np.sqrt(wide.size)
    assert np.linalg.norm(actual.astype(np.float64) - wide) <= BOUND[x.dtype.type] * scale


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_maps_behind_and_before_convolutions(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float64, np.float16]))
    spatial = draw(st.integers(1, 1 if dtype is np.float64 else 3))
    groups = draw(st.integers(1, 3))
    inner, outer = (groups * draw(st.integers(1, 3)) for _ in range(2))
    transposed = draw(st.booleans()) and dtype is not np.float64
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    attrs = {
        "group": groups,
        "strides": [draw(st.integers(1, 2)) for _ in range(spatial)],
        "pads": draw(st.sampled_from([[0] * 2 * spatial, [1] + [0] * (2 * spatial - 1)])),
    }
    x = rng.standard_normal((2, inner, *(draw(st.integers(3, 5)) for _ in range(spatial)))).astype(dtype)
    channels = (inner, outer // groups) if transposed else (outer, inner // groups)
    weights = {"w": rng.standard_normal((*channels, *kernel)).astype(dtype)}
    nodes, value = [], "x"
    for number in range(draw(st.integers(0, 2))):
        node, constants = affine_nodes(draw, value, f"p{number}", inner, spatial + 2, dtype, rng)
        value = f"p{number}"
        nodes.append(node)
        weights |= constants
    inputs = [value, "w"]
    if draw(st.booleans()):
        inputs.append("b")
        weights["b"] = rng.standard_normal(outer).astype(dtype)
    nodes.append(helper.make_node("ConvTranspose" if transposed else "Conv", inputs, ["c"], **attrs))
    value = "c"
    for number in range(draw(st.integers(0, 3))):
        node, constants = affine_nodes(draw, value, f"q{number}", outer, spatial + 2, dtype, rng)
        value = f"q{number}"
        nodes.append(node)
        weights |= constants
    nodes[-1].output[0] = "y"
    source = build(nodes, x, weights)
    behind = len(nodes) - 1 - next(i for i, node in enumerate(nodes) if "Conv" in node.op_type)
    passes = [one for module in (convolution, conv_inputs, batch_norm) for one in module.graphopt_passes()]
    result, counts = apply(source, *passes)
    assert_same_numbers(source, result, x)
    assert result.graph.node[-1].op_type == nodes[-1 - behind].op_type or dtype is np.float16
    assert sum(counts.values()) >= behind or dtype is np.float16


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_maps_behind_matrix_products(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16]))
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    gemm = draw(st.booleans())
    transposed = gemm and draw(st.booleans())
    x = rng.standard_normal((rows, inner)).astype(dtype)
    weights = {"w": rng.standard_normal((columns, inner) if transposed else (inner, columns)).astype(dtype)}
    if gemm:
        attrs = {"transB": int(transposed), "alpha": draw(st.sampled_from([1.0, 0.5])), "beta": draw(st.floats(0, 2))}
        inputs = ["x", "w"]
        if draw(st.booleans()):
            shape = draw(st.sampled_from([(), (1,), (columns,), (1, columns), (rows, 1), (rows, columns)]))
            weights["b"] = rng.standard_normal(shape).astype(dtype)
            inputs.append("b")
        nodes = [helper.make_node("Gemm", inputs, ["c"], **attrs)]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["c"])]
        if draw(st.booleans()):
            shape = draw(st.sampled_from([(), (columns,), (rows, columns)]))
            weights["b"] = rng.standard_normal(shape).astype(dtype)
            nodes.append(helper.make_node("Add", ["b", "c"], ["d"]))
    for number in range(draw(st.integers(1, 3))):
        node, constants = affine_nodes(draw, nodes[-1].output[0], f"q{number}", columns, 2, dtype, rng)
        nodes.append(node)
        weights |= constants
    nodes[-1].output[0] = "y"
    source = build(nodes, x, weights)
    result, _ = apply(source, *dense.graphopt_passes(), *batch_norm.graphopt_passes())
    assert_same_numbers(source, result, x)


def test_bfloat16_weights_round_to_bfloat16():
    kinds = {"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16}
    w = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 1, 1], [1.0, 3.0])
    k = helper.make_tensor("k", TensorProto.BFLOAT16, [2, 1], [3.0, 0.5])
    values = {name: helper.make_tensor_value_info(name, kind, [1, None, 4]) for name, kind in kinds.items()}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "k"], ["y"])]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"]], [w, k])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    result, counts = apply(model, *convolution.graphopt_passes())
    assert counts["fold-conv-mul"] == 1
    assert result.graph.initializer[0].data_type == TensorProto.BFLOAT16
    assert numpy_helper.to_array(result.graph.initializer[0]).astype(np.float32).ravel().tolist() == [3.0, 1.5]
