"""What NumPy folds is, bit by bit, what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphopt_passes.numpy_operators import calculate
from onnx import TensorProto, helper

from graphopt.ir import dtypes
from graphopt.ir.load import load
from tests.ir.operator_models import cases


def run(proto: onnx.ModelProto, feeds: dict) -> np.ndarray | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)[0]
    except Exception:
        return None


def test_operator_models_agree():
    """Every single-node operator model that NumPy answers, on the suite's own inputs."""
    answered = set()
    for case in cases():
        proto = case.model()
        kinds = {value.type.WhichOneof("value") for value in (*proto.graph.input, *proto.graph.output)}
        if kinds != {"tensor_type"} or len(proto.graph.node) != 1 or proto.graph.node[0].domain:
            continue
        node = load(proto).nodes[0]
        opset = next(entry.version for entry in proto.opset_import if not entry.domain)
        for inputs, _ in case.data():
            named = dict(zip([value.name for value in proto.graph.input], inputs, strict=False))
            if not all(isinstance(one, np.ndarray) for one in named.values()):
                continue
            got = calculate(node, [named.get(name) for name in proto.graph.node[0].input], opset)
            want = run(proto, named) if got is not None else None
            if got is None or want is None:
                continue
            answered.add(node.op)
            assert got.dtype == want.dtype, case.name
            assert got.shape == want.shape, case.name
            assert got.tobytes() == want.tobytes(), case.name
    assert len(answered) >= 20, sorted(answered)


EDGES = {
    "float32": np.array([0.0, -0.0, 1.5, -2.5, 1e38, 1e-42, np.inf, -np.inf, np.nan, 3e9], np.float32),
    "float64": np.array([0.0, -0.0, 0.1, -7.9, 1e308, np.inf, np.nan, 2.0**53 + 1, 5e-324, -1.0]),
    "int64": np.array([0, 1, -1, 2**62, -(2**63), 2**63 - 1, 5, -5, 7, 2**31]),
    "int32": np.array([0, 1, -1, 2**30, -(2**31), 2**31 - 1, 5, -5, 7, 3], np.int32),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Equal", "Less", "GreaterOrEqual", "Sqrt", "Neg"])
def test_edge_values(op: str, name: str):
    """Zeros of both signs, subnormals, infinities, NaN, the ends of the integers."""
    x = EDGES[name]
    operands = [x] if op in ("Sqrt", "Neg") else [x, x[::-1].copy()]
    check(op, operands, {})


@pytest.mark.parametrize("to", ["float16", "float32", "float64", "int32", "int64", "bool", "uint8"])
@pytest.mark.parametrize("name", EDGES)
def test_casts(name: str, to: str):
    """Also what does not fit the target, where NumPy must leave it to onnxruntime or agree."""
    for part in (EDGES[name], EDGES[name][:3], np.zeros(0, name)):
        check("Cast", [part], {"to": dtypes.to_onnx(np.dtype(to))})


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [(0, 3, 1), (-2, 2**62, 1), (4, -(2**62), -1), (-1, 0, -2), (3, 1, 1), (9, -9, -3), (-9, 9, 2), (-9, -9, -1)],
)
def test_slices(starts: int, ends: int, steps: int):
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    check("Slice", [x, *(np.array([one]) for one in (starts, ends, 1, steps))], {})


def check(op: str, operands: list[np.ndarray], attrs: dict) -> None:
    names = [f"i{n}" for n in range(len(operands))]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
        for name, one in zip(names, operands, strict=True)
    ]
    node = helper.make_node(op, names, ["y"], **attrs)
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    got = calculate(load(onnx.shape_inference.infer_shapes(proto)).nodes[0], operands, 18)
    want = run(proto, dict(zip(names, operands, strict=True)))
    if got is None or want is None:
        assert op in ("Cast", "Div", "Sqrt", "Neg"), op
        return
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    kept = ~np.isnan(got) if got.dtype.kind == "f" else np.ones(got.shape, bool)
    assert got[kept].tobytes() == want[kept].tobytes()  # the sign of zero, too
    assert TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(got.dtype))
