"""Rounding after every operator: what hardware computes in float16, bfloat16 and float8, and onnxruntime does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.numerics import execute, verify
from graphopt.numerics.difference import compare
from graphopt.numerics.execute import as_file
from graphopt.numerics.randomness import random_outputs
from graphopt.numerics.rounding import NoRounding, execute_rounded, low_types, rounded, rounded_copy
from graphopt.numerics.worker import OnnxRuntime
from tests.ir.operator_models import cases

from .models import ocr, parse

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ANY = st.floats(width=16, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def narrow(model: onnx.ModelProto, kind: int, source: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The model with every value of type source declared as another type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _narrow(copy.graph, kind, source)
    return copy


def _narrow(graph: onnx.GraphProto, kind: int, source: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == source:
            value.type.tensor_type.elem_type = kind
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.HasField("t") else []
            if attribute.name == "to" and attribute.i == source:
                attribute.i = kind
            if attribute.HasField("g"):
                _narrow(attribute.g, kind, source)
    for tensor in tensors:
        if tensor.data_type == source:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))


def holding(text: str, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """The model of a text with these initializers; ONNX text knows no float16 numbers."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, Any]:
    return execute_rounded(model.SerializeToString(), [feeds]).outputs[0]


def in_process(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    with as_file(model.SerializeToString()) as path:
        return OnnxRuntime(str(path), 1).run(feeds)


CHAIN = """g ({0}[n] x, {0}[n] w) => ({0}[n] y) {{
    a = Mul(x, w)
    b = Add(a, x)
    c = Sub(b, a)
    y = Div(c, w)
}}"""


@pytest.fixture(scope="module")
def chains() -> dict[str, ort.InferenceSession]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return {
        name: ort.InferenceSession(
            rounded(parse(CHAIN.format(name))).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name in ("float16",)
    }


@settings(max_examples=200, deadline=None)
@given(arrays(np.float16, 8, elements=ANY), arrays(np.float16, 8, elements=ANY))
def test_a_chain_is_what_numpy_computes_step_by_step(chains: Any, x: Any, w: Any) -> None:
    """numpy computes one float16 operator in float32 and rounds: the same definition, an independent program."""
    with np.errstate(all="ignore"):
        a = x * w
        expected = (a + x - a) / w
    found = chains["float16"].run(None, {"x": x, "w": w})[0]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chain_in_each_type(dtype: str) -> None:
    rng = np.random.default_rng(0)
    spread = 10.0 ** rng.uniform(-9, 9, 4000)
    x, w = (np.asarray(rng.normal(size=4000) * spread).astype(DTYPES[dtype]) for _ in "xw")
    wide = [x.astype(np.float32), w.astype(np.float32)]

    def r(value: Any) -> Any:
        return value.astype(DTYPES[dtype]).astype(np.float32)

    with np.errstate(all="ignore"):
        a = r(wide[0] * wide[1])
        expected = r(r(r(a + wide[0]) - a) / wide[1])
    found = run(parse(CHAIN.format(dtype), 17), x=x, w=w)["y"]
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_the_norm_that_onnxruntime_calls_fine_overflows() -> None:
    """y = (x - mean) / sqrt(mean((x - mean)^2)): a square beyond 65504 is infinite, its quotient zero."""
    model = parse(
        """g (float16[16, 64] x) => (float16[16, 64] y) {
            mean = ReduceMean <axes = [-1]> (x)
            d = Sub(x, mean)
            q = Mul(d, d)
            v = ReduceMean <axes = [-1]> (q)
            s = Sqrt(v)
            z = Div(q, s)
            y = Div(z, s)
        }"""
    )
    x = (np.random.default_rng(0).normal(size=(16, 64)) * 900).astype(np.float16)
    plain = execute(model.SerializeToString(), [{"x": x}]).outputs[0]["y"]
    assert np.isfinite(plain).all(), "this is what onnxruntime makes of it, and why there is a rounding reference"
    found = run(model, x=x)["y"]
    assert np.count_nonzero(~np.isfinite(found)) > 900 // 2
    with np.errstate(all="ignore"):
        reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(reference))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float"])
def test_the_casts_survive_in_onnxruntime(dtype: str, tmp_path: Path) -> None:
    """If a release took them out, this would say so: it is all that the reference rests on."""
    model = rounded(parse(CHAIN.format(dtype)), compute="float64" if dtype == "float" else "float32")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "session.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "session.onnx").graph
    readers = {name: node for node in graph.node for name in node.input}
    steps = [node for node in graph.node if node.op_type != "Cast"]
    assert [node.op_type for node in steps] == ["Mul", "Add", "Sub", "Div"]
    low, wide = (
        TensorProto.DataType.Value(name.upper()) for name in (dtype, "double" if dtype == "float" else "float")
    )
    for step in steps:
        cast = readers[step.output[0]]
        assert cast.attribute[0].i == low
        assert step is steps[-1] or readers[cast.output[0]].attribute[0].i == wide


def test_float32_from_float64() -> None:
    model = parse(CHAIN.format("float"))
    x, w = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    found = execute_rounded(model.SerializeToString(), [{"x": x, "w": w}], compute="float64").outputs[0]["y"]
    a = x * w
    np.testing.assert_array_equal(found, (a + x - a) / w)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_one_operator_is_its_float32_result_rounded(kind: int) -> None:
    """Of each one-node model of ONNX's suite, declared in the low type: y = round(op(x)), to the last bit."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    ran, wrong = 0, []
    for case in cases()[:: 4 if kind == TensorProto.BFLOAT16 else 2]:
        model = case.model()
        ports = (*model.graph.input, *model.graph.output)
        if (
            len(model.graph.node) != 1
            or (kind == TensorProto.BFLOAT16 and model.opset_import[0].version < 13)  # none casts to it
            or model.functions
            or any(not p.type.HasField("tensor_type") for p in ports)
            or all(p.type.tensor_type.elem_type != TensorProto.FLOAT for p in ports)
            or any(a.name == "dtype" for a in model.graph.node[0].attribute)
        ):
            continue
        random = random_outputs(model)
        try:
            declared = narrow(model, kind)
            onnx.shape_inference.infer_shapes(declared, check_type=True, strict_mode=True)
            copy, wide = rounded(declared), narrow(declared, TensorProto.FLOAT, kind)
        except onnx.shape_inference.InferenceError:
            continue  # the operator has no such type
        for inputs, _ in case.data():
            with np.errstate(all="ignore"):
                low = {
                    p.name: v.astype(dtype) if v.dtype == np.float32 else v
                    for p, v in zip(model.graph.input, inputs, strict=False)
                    if isinstance(v, np.ndarray)
                }
            try:
                expected = in_process(
                    wide, {n: v.astype(np.float32) if v.dtype == dtype else v for n, v in low.items()}
                )
            except Exception:
                continue
            try:
                found = in_process(copy, low)
            except Exception as error:
                wrong.append(f"{case.name}: {error}")
                continue
            ran += 1
            for name in expected.keys() - random:
                with np.errstate(all="ignore"):
                    want, got = (np.asarray(v).astype(dtype).astype(np.float32) if v.dtype in (np.float32, dtype) else v
                                 for v in (expected[name], found[name]))  # fmt: skip
                if not np.array_equal(want, got, equal_nan=want.dtype.kind == "f"):
                    wrong.append(f"{case.name}: {name}")
    assert not wrong, f"{len(wrong)} wrong: {wrong[:5]}"
    assert ran >= (100 if kind == TensorProto.BFLOAT16 else 200)


def test_the_low_precision_models_of_the_suite() -> None:
    """Also those for which onnxruntime has no kernel: within the tolerance of the data that ONNX ships."""
    ran, wrong = 0, []
    for case in cases():
        model = case.model()
        ports = (*model.graph.input, *model.graph.output)
        kinds = {p.type.tensor_type.elem_type for p in ports}
        if TensorProto.FLOAT16 not in kinds or kinds & {TensorProto.BFLOAT16, *range(17, 30)}:
            continue
        random = random_outputs(model)
        for inputs, outputs in case.data():
            feeds = {p.name: v for p, v in zip(model.graph.input, inputs, strict=False) if v is not None}
            try:
                found = in_process(rounded(model), feeds)
            except Exception:
                continue
            ran += 1
            for port, want in zip(model.graph.output, outputs, strict=True):
                if port.name not in random and not (difference := compare(want, found[port.name])).ok:
                    wrong.append(f"{case.name}: {port.name}: {difference.reason}")
    assert not wrong, f"{len(wrong)} wrong: {wrong[:5]}"
    assert ran >= 20


def test_float8_goes_beyond_its_range_as_the_format_says() -> None:
    text = """g (float16[n] x) => (float16[n] y, float16[n] saturated) {{
        a = Cast <to = {0}, saturate = 0> (x)
        y = Cast <to = 10> (a)
        b = Cast <to = {0}> (x)
        saturated = Cast <to = 10> (b)
    }}"""
    x = np.array([1.06, -449, 500, 6e4, 2.0**-9, 2.0**-11, np.inf, np.nan, -0.0], dtype=np.float16)
    for kind, dtype in ((17, ml_dtypes.float8_e4m3fn), (19, ml_dtypes.float8_e5m2)):
        model = parse(text.format(kind), 19)
        model.ir_version = 9
        assert low_types_of(model) == {"float16", np.dtype(dtype).name}
        found = run(model, x=x)
        np.testing.assert_array_equal(found["y"], x.astype(dtype).astype(np.float16))
        top = float(ml_dtypes.finfo(dtype).max)
        assert found["saturated"][3] == top


def low_types_of(model: onnx.ModelProto) -> set[str]:
    with as_file(model.SerializeToString()) as path:
        return low_types(path)


def test_quantized_weights_keep_their_operators() -> None:
    model = holding(
        """g (float16[2, 3] x) => (float16[2, 3] y) {
            q = QuantizeLinear(x, s, z)
            t = Transpose(q)
            u = Transpose(t)
            y = DequantizeLinear(u, s)
        }""",
        19,
        s=np.float16(0.5),
        z=np.zeros((), ml_dtypes.float8_e4m3fn),
    )
    x = np.array([[0.3, 1, -7], [1000, 0, 0.13]], dtype=np.float16)
    expected = np.clip(x.astype(np.float32) / 0.5, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.5
    np.testing.assert_array_equal(run(model, x=x)["y"], expected.astype(np.float16))


def test_subgraphs_captures_functions_and_ports() -> None:
    model = holding(
        """g (float16[2] x, bool c, float16[2] d, float16[2] p)
            => (float16[2] y, float16[2] x2, float16[2] k, float16[2] p) {
            x2 = Mul(x, x)
            y = If (c) <
                then_branch = a () => (float16[2] t) { s = Add(x2, d) t = Sub(s, x2) },
                else_branch = b () => (float16[2] e) { s = Cast <to = 1> (x) r = Exp(s) e = Cast <to = 10> (r) }
            >
        }""",
        d=np.float16([3, 4]),
        k=np.float16([0.1, 0.2]),
    )
    x, p = np.array([200, 300], dtype=np.float16), np.array([7, 8], np.float16)
    for flag, expected in (
        (True, (x * x + np.float16([3, 4])) - x * x),
        (False, np.exp(x.astype(np.float32)).astype(np.float16)),
    ):
        with np.errstate(all="ignore"):
            found = run(model, x=x, c=np.array(flag), p=p)
        np.testing.assert_array_equal(found["y"], expected)
        np.testing.assert_array_equal(found["x2"], x * x)
        np.testing.assert_array_equal(found["k"], np.array([0.1, 0.2], np.float16))
        np.testing.assert_array_equal(found["p"], p)
    given_ = run(model, x=x, c=np.array(True), p=p, d=np.array([0, 1], np.float16))["y"]
    np.testing.assert_array_equal(given_, (x * x + np.float16([0, 1])) - x * x)


def test_functions_round_inside() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float16[2] x) => (float16[2] y) { y = f.Norm(x) }
        <domain: "f", opset_import: ["" : 17]> Norm (a) => (b) { q = Mul(a, a) r = Sqrt(q) b = Div(a, r) }"""
    )
    assert run(model, x=np.array([10, 300], np.float16))["y"].tolist() == [1, 0]


def test_a_loop_carries_rounded_values() -> None:
    model = parse(
        """g (float16 x) => (float16 y) <int64 n = {12}> {
            yes = Constant<value = bool {1}>()
            y = Loop(n, yes, x) <body = b (int64 i, bool c, float16 a) => (bool d, float16 e) {
                d = Identity(c)
                e = Add(a, a)
            }>
        }"""
    )
    assert run(model, x=np.float16(15))["y"] == 15 * 2**12
    assert run(model, x=np.float16(16))["y"] == np.inf


def test_what_cannot_be_copied_says_so(tmp_path: Path) -> None:
    foreign = parse("g (float16[2] x) => (float16[2] y) { y = com.x.Foo(x) }", 17, ', "com.x" : 1')
    with pytest.raises(NoRounding, match=r"Foo of domain 'com.x' is unknown"):
        rounded(foreign)
    path = tmp_path / "m.onnx"
    onnx.save(foreign, path)
    with pytest.raises(NoRounding, match="Foo"):
        rounded_copy(path)
    with pytest.raises(ValueError, match="float32 or float64"):
        rounded(foreign, compute="float16")


def test_a_network_in_float16_costs_little_more() -> None:
    """The recognition network of rapidocr, 11 MB: within float16's tolerance, and finite."""
    model = onnx.load(ocr("rec"))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, 160)).astype(np.float32)
    name = model.graph.input[0].name
    exact = execute(model.SerializeToString(), [{name: x}]).outputs[0]
    low = narrow(model, TensorProto.FLOAT16)
    found = run(low, **{name: x.astype(np.float16)})
    for key, want in exact.items():
        got = found[key].astype(np.float32)
        assert 1e-5 < np.linalg.norm(got - want) / np.linalg.norm(want) < 5e-2


# -- what verification makes of it --------------------------------------------------------------------------------

NORM = "g (float16[4, 256] x) => (float16[4, 1] y) { y = ReduceL2 <axes = [1]> (x) }"
SPELLED = """g (float16[4, 256] x) => (float16[4, 1] y) {
    q = Mul(x, x)
    s = ReduceSum(q, axes)
    y = Sqrt(s)
}"""


def given_x(scale: float) -> dict[str, Any]:
    return {"x": (np.random.default_rng(0).normal(size=(4, 256)) * scale).astype(np.float16)}


def judged(source: onnx.ModelProto, result: onnx.ModelProto, scale: float) -> Any:
    return verify(source.SerializeToString(), result.SerializeToString(), inputs=given_x(scale))


def spelled() -> onnx.ModelProto:
    return parse(SPELLED.replace("(float16[4, 1] y)", "(float16[4, 1] y) <int64[1] axes = {1}>"))


def test_a_rewrite_that_overflows_is_a_breach() -> None:
    """In onnxruntime the two agree."""
    assert judged(parse(NORM), spelled(), 1).passed
    found = judged(parse(NORM), spelled(), 400)
    assert found.status == "failed"
    assert "rounded to float16 after every operator: 4 of 4 elements are not finite" in found.outputs[0].reason


def test_a_source_that_overflows_itself_is_told() -> None:
    for result in (spelled(), parse(NORM)):
        found = judged(spelled(), result, 400)
        assert found.passed
    found = judged(spelled(), spelled(), 400)
    assert any("4 of 4 elements of the source itself are not finite" in note for note in found.notes)


def test_half_as_exact_is_a_breach() -> None:
    """(x + 512) - 512 loses the last bits of x; the source's own error is far smaller."""
    plain = parse("g (float16[4, 256] x) => (float16[4, 256] y) { y = Identity(x) }")
    lossy = holding("g (float16[4, 256] x) => (float16[4, 256] y) { a = Add(x, k) y = Sub(a, k) }", k=np.float16(512))
    found = judged(plain, lossy, 1)
    assert found.status == "failed"
    assert "the source's own error is 0" in found.outputs[0].reason
    assert judged(lossy, plain, 1).passed


def test_float32_graphs_are_left_alone() -> None:
    model = parse(CHAIN.format("float"))
    found = verify(model.SerializeToString(), model.SerializeToString())
    assert found.passed
    assert not any("round" in note for note in found.notes)
