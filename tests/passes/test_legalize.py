"""Operators that TensorRT refuses, said by those that it takes: the numbers stay, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graphopt_passes.legalize import (
    bits,
    corners,
    functions,
    linear,
    pooling,
    quantized,
    resizing,
    sampling,
    sequences,
    training,
    wide,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.config import Target
from graphopt.testing import apply, assert_unchanged, check_rule
from graphopt.testing import model as parsed
from tests.properties.families import with_types

INT32 = np.iinfo(np.int32)
ONNXRUNTIME = Target("onnxruntime")


def model(text: str, **more) -> onnx.ModelProto:
    return with_types(parsed(text, **more))


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def both(source: onnx.ModelProto, rule, feeds):
    """Outputs of source and result in the reference evaluator, which knows every dtype."""
    result, fired = apply(source, rule)
    assert fired[rule.name]
    return ReferenceEvaluator(source).run(None, feeds), ReferenceEvaluator(result).run(None, feeds), result


# -- bits ---


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    st.sampled_from(("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32")),
    st.integers(0, 2**32),
)
def test_bitwise_operators_are_sums_of_powers_of_two(op, kind, seed):
    numbers = np.random.default_rng(seed)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    x, y = (numbers.integers(low, high, size, dtype=kind, endpoint=True) for size in ((3, 4), (4,)))
    x[0], y[0] = [low, high, 0, 1], high
    source = model(f"g ({kind}[3,4] x, {kind}[4] y) => ({kind}[3,4] z) {{ z = {op}(x, y) }}", opset=18)
    expected, actual, result = both(source, bits.spell_bits, {"x": x, "y": y})
    np.testing.assert_array_equal(expected[0], actual[0])
    assert op not in operators(result)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int32"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts_are_products_and_floors(kind, direction):
    info = np.iinfo(kind)
    x = np.array([info.min, info.max, 1, 2, 77, info.max // 3], kind)
    s = np.array([0, 1, np.iinfo(kind).bits - 1, 2, 3, 5], kind)
    opset = 28 if kind.startswith("i") else 18
    source = model(
        f'g ({kind}[6] x, {kind}[6] s) => ({kind}[6] z) {{ z = BitShift <direction = "{direction}"> (x, s) }}',
        opset=opset,
    )
    result, _ = apply(source, bits.spell_bits)
    actual = ReferenceEvaluator(result).run(None, {"x": x, "s": s})[0]
    expected = np.left_shift(x, s) if direction == "LEFT" else np.right_shift(x, s)
    np.testing.assert_array_equal(expected, actual)
    assert actual.dtype == x.dtype


def test_bits_stay_for_onnxruntime():
    assert_unchanged(
        bits.spell_bits,
        model("g (int32[4] x) => (int32[4] y) { y = BitwiseNot(x) }", opset=18),
        target=ONNXRUNTIME,
    )


def test_bits_of_floats_stay():
    source = '<ir_version: 13, opset_import: ["" : 26]> g (float[4] x) => (int32[4] y) { y = BitCast <to = 6> (x) }'
    assert_unchanged(bits.spell_bits, source)


# -- dtypes that are carried ---


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("Add", "Sub", "Mul", "Max", "Min", "Less")),
    st.sampled_from(("int8", "uint8", "int16", "uint16", "uint32")),
    st.integers(0, 2**32),
)
def test_narrow_integers_wrap_around(op, kind, seed):
    numbers = np.random.default_rng(seed)
    info = np.iinfo(kind)
    x, y = (numbers.integers(info.min, info.max, (2, 3), dtype=kind, endpoint=True) for _ in range(2))
    x[0] = [info.min, info.max, 0]
    made = "bool" if op == "Less" else kind
    source = model(f"g ({kind}[2,3] x, {kind}[2,3] y) => ({made}[2,3] z) {{ z = {op}(x, y) }}", opset=14)
    expected, actual, result = both(source, wide.widen_dtypes, {"x": x, "y": y})
    np.testing.assert_array_equal(expected[0], actual[0])
    inner = next(node for node in result.graph.node if node.op_type == op)
    typed = onnx.shape_inference.infer_shapes(result).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input)}
    constants = {one.name: one.data_type for one in typed.initializer}
    assert {(kinds | constants)[name] for name in inner.input} <= {onnx.TensorProto.INT32, onnx.TensorProto.INT64}


@pytest.mark.parametrize("kind", ["float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"])
def test_small_floats_are_rounded_to_even(kind):
    number = getattr(onnx.TensorProto, kind.upper())
    values = np.random.default_rng(0).normal(0, 1, 4000) * np.exp2(np.random.default_rng(1).uniform(-20, 17, 4000))
    special = [0, -0.0, 448, 464, 465, 240, 248, 57344, 61440, 70000, -1e9, np.inf, -np.inf, np.nan, 2.0**-10]
    x = np.concatenate([values, special]).astype(np.float32)
    source = model(
        f"g (float[{len(x)}] x) => (float[{len(x)}] y) {{ a = Cast <to = {number}> (x) y = Cast <to = 1> (a) }}",
        opset=19,
    )
    expected, actual, result = both(source, wide.widen_dtypes, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])
    assert "Round" in operators(result)


def test_plain_dtypes_are_left_alone():
    assert_unchanged(
        wide.widen_dtypes,
        "g (float[2] x, int32[2] i) => (float[2] y, int64[2] j) { y = Add(x, x) j = Cast <to = 7> (i) }",
    )


@pytest.mark.parametrize("kind", ["int16", "uint8"])
def test_a_copy_from_input_to_output_is_left_alone(kind):
    """Widened, it would be a cast there and back, which is a copy: two passes would undo each other for ever."""
    assert_unchanged(wide.widen_dtypes, f"g ({kind}[3] x) => ({kind}[3] y) {{ y = Identity(x) }}")


def test_movement_of_quantized_values_is_left_to_tensorrt():
    assert_unchanged(
        wide.widen_dtypes,
        model(
            "g (float[2,3] x) => (float[3,2] y) { q = QuantizeLinear(x, s, z) t = Transpose(q) "
            "y = DequantizeLinear(t, s, z) }",
            weights={"s": np.float32(0.5), "z": np.int8(0)},
        ),
    )


# -- definitions ---


def test_a_function_operator_is_what_its_schema_says():
    result = check_rule(
        functions.expand_functions,
        model(
            "g (float[5,8] x) => (float l) { l = SoftmaxCrossEntropyLoss(x, t) }",
            weights={"t": np.array([0, 7, 3, 3, 1])},
            opset=13,
        ),
    )
    assert "SoftmaxCrossEntropyLoss" not in operators(result)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_layer_norm_of_one_output_is_taken_as_it_is(opset):
    source = "g (float[2,8] x) => (float[2,8] y) { y = LayerNormalization(x, s) }"
    assert_unchanged(functions.expand_functions, model(source, weights={"s": (8,)}, opset=opset))


def test_a_layer_norm_whose_mean_is_read_is_spelled_out():
    source = "g (float[N,8] x) => (float[N,8] y, float[N,1] m) { y, m = LayerNormalization(x, s) }"
    check_rule(functions.expand_functions, model(source, weights={"s": (8,)}), shapes={"x": (3, 8)})


def test_rms_norm_is_never_spelled_out():
    source = "g (float[2,8] x) => (float[2,8] y) { y = RMSNormalization(x, s) }"
    assert_unchanged(functions.expand_functions, model(source, weights={"s": (8,)}, opset=23))


# -- quantized integers ---


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_quantize_with_a_zero_point_clips_and_rounds_to_even(kind):
    x = np.array([-1e9, -3, -0.5, -0.25, 0.25, 0.5, 0.75, 1.5, 2.5, 70, 1e9], np.float32)
    source = model(
        "g (float[11] x) => (float[11] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        weights={"s": np.float32(0.5), "z": np.array(7, kind)},
        opset=21,
    )
    expected, actual, result = both(source, quantized.spell_quantized, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])
    assert not {"QuantizeLinear", "DequantizeLinear"} & operators(result)


@pytest.mark.parametrize(
    ("kind", "other", "count"), [("uint8", "uint8", 6), ("int8", "int8", 6), ("uint16", "uint16", 6)]
)
def test_a_pair_is_rounded_and_clipped_without_integers(kind, other, count):
    """(clip(round(x / s) + z, a, b) - z) * s = clip(round(x / s), a - z, b - z) * s."""
    x = np.array([np.nan, np.inf, -np.inf, -1e9, -3, -0.75, 0.25, 0.75, 1.25, 70, 1e9, 3e38], np.float32)
    source = model(
        "g (float[12] x) => (float[12] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, w) }",
        weights={"s": np.float32(0.5), "t": np.float32(0.25), "z": np.array(7, kind), "w": np.array(7, other)},
        opset=21,
    )
    result, _ = apply(source, quantized.spell_quantized)
    assert operators(result) == {"Div", "Round", "Greater", "Where", "Min", "Mul"}
    assert len(result.graph.node) == count
    run = [onnxruntime.InferenceSession(one.SerializeToString()).run(None, {"x": x})[0] for one in (source, result)]
    np.testing.assert_array_equal(run[0], run[1])


def test_a_pair_of_two_zero_points_subtracts_the_second():
    x = np.linspace(-200, 200, 101, dtype=np.float32)
    source = model(
        "g (float[101] x) => (float[101] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, w) }",
        weights={"s": np.float32(0.5), "z": np.uint8(7), "w": np.uint8(200)},
        opset=21,
    )
    expected, actual, result = both(source, quantized.spell_quantized, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])
    assert {"Add", "Sub"} <= operators(result)


def test_a_cast_that_cuts_off_a_fraction_is_no_rounding():
    """The integers come from a Cast of what has fractions, so that the float32 before it is another number."""
    x = np.array([0.5, 1.75, 3.25, 200.9], np.float32)
    source = model(
        "g (float[4] x) => (float[4] y) { q = Cast <to = 2> (x) y = DequantizeLinear(q, s, z) }",
        weights={"s": np.float32(0.5), "z": np.uint8(7)},
        opset=21,
    )
    expected, actual, _ = both(source, quantized.spell_quantized, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])


def test_a_product_of_dynamically_quantized_values_has_no_casts_before_it():
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    source = model(
        "g (float[3,16] x) => (int32[3,5] y) { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z, b) }",
        weights={"w": np.arange(80, dtype=np.int8).reshape(16, 5), "b": np.int8(-3)},
    )
    expected, actual, result = both(source, quantized.spell_quantized, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])
    assert [node.op_type for node in result.graph.node].count("Cast") == 2  # of the weight, which folds, and of the sum


def test_symmetric_int8_is_taken_as_it_is():
    assert_unchanged(
        quantized.spell_quantized,
        model(
            "g (float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
            weights={"s": np.float32(0.5), "z": np.int8(0)},
        ),
    )


@pytest.mark.parametrize("opset", [11, 21])
def test_dynamic_quantization(opset):
    source = "g (float[N,5] x) => (uint8[N,5] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"
    check_rule(quantized.spell_quantized, model(source, opset=opset), shapes={"x": (3, 5)})


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantization_of_what_is_no_number_stays_in_range(kind):
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 3e9, -3e9, 0.5] * 3, np.float32)
    source = model(
        "g (float[24] x) => (float[24] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        weights={"s": np.float32(0.01), "z": np.array(6, kind)},
        opset=11,
    )
    result, fired = apply(source, quantized.spell_quantized)
    assert fired["spell-quantized"]
    run = [onnxruntime.InferenceSession(one.SerializeToString()).run(None, {"x": x})[0] for one in (source, result)]
    np.testing.assert_allclose(run[0], run[1], rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "g (float8e4m3fn[4] x, float s) => (float[4] y) { y = DequantizeLinear(x, s) }",
        "g (float[4] x, float s, float8e4m3fn z) => (float8e4m3fn[4] y) { y = QuantizeLinear(x, s, z) }",
    ],
)
def test_ports_that_only_quantization_touches_stay(text):
    """TensorRT builds these, and no Cast from or to such a port."""
    assert_unchanged(quantized.spell_quantized, model(text, opset=19))


def test_integer_products_are_exact():
    x = np.random.default_rng(0).integers(0, 256, (3, 16), dtype=np.uint8)
    w = np.random.default_rng(1).integers(-128, 128, (16, 5), dtype=np.int8)
    source = model(
        "g (uint8[3,16] x) => (int32[3,5] y) { y = MatMulInteger(x, w, a, b) }",
        weights={"w": w, "a": np.uint8(100), "b": np.int8(-3)},
    )
    expected, actual, _ = both(source, quantized.spell_quantized, {"x": x})
    np.testing.assert_array_equal(expected[0], actual[0])


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("length", [258, 259, 1000])
def test_long_integer_sums_are_taken_in_parts(length, constant):
    """All operands at the ends of their ranges: one sum would leave what float32 holds exactly."""
    x, w = np.full((3, length), 255, np.uint8), np.full((length, 5), -128, np.int8)
    x[1, ::3], w[::2, 1] = 0, 127
    text = f"g (uint8[3,{length}] x{'' if constant else f', int8[{length},5] w'}) => (int32[3,5] y)"
    source = model(
        text + " { y = MatMulInteger(x, w, a, b) }",
        weights={"a": np.uint8(0), "b": np.int8(127)} | ({"w": w} if constant else {}),
    )
    feeds = {"x": x} if constant else {"x": x, "w": w}
    expected, actual, result = both(source, quantized.spell_quantized, feeds)
    np.testing.assert_array_equal(expected[0], actual[0])
    assert [node.op_type for node in result.graph.node].count("MatMul") == -(-length // 258)


def test_small_weights_need_no_parts():
    source = model(
        "g (uint8[3,900] x) => (int32[3,5] y) { y = MatMulInteger(x, w) }", weights={"w": np.ones((900, 5), np.int8)}
    )
    result = check_rule(quantized.spell_quantized, source)
    assert [node.op_type for node in result.graph.node].count("MatMul") == 1


def test_long_integer_convolutions_are_taken_in_parts():
    x = np.random.default_rng(0).integers(200, 256, (1, 70, 4, 4), dtype=np.uint8)
    w = np.random.default_rng(1).integers(200, 256, (2, 70, 3, 3), dtype=np.uint8)
    source = model(
        "g (uint8[1,70,4,4] x) => (int32[1,2,4,4] y) { y = ConvInteger <pads = [1,1,1,1]> (x, w, a, b) }",
        weights={"w": w, "a": np.uint8(3), "b": np.uint8(7)},
    )
    result, _ = apply(source, quantized.spell_quantized)
    run = {}
    for name, proto in (("source", source), ("result", result)):
        run[name] = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(run["source"], run["result"])
    assert [node.op_type for node in result.graph.node].count("Conv") == 3


def test_integers_stay_where_an_operator_of_onnxruntime_keeps_the_model_from_an_engine():
    text = """g (float[2,3] x) => (float[2,3] y) {
        q, s, z = DynamicQuantizeLinear(x)
        d = DequantizeLinear(q, s, z)
        y = com.microsoft.DynamicQuantizeLSTM(d)
    }"""
    assert_unchanged(quantized.spell_quantized, model(text, **{"com.microsoft": 1}))
    _, fired = apply(model(text.replace("com.microsoft.DynamicQuantizeLSTM", "Relu")), quantized.spell_quantized)
    assert fired["spell-quantized"] == 2


def test_a_sum_of_dynamic_length_stays():
    assert_unchanged(
        quantized.spell_quantized, "g (uint8[3,K] x, uint8[K,5] w) => (int32[3,5] y) { y = MatMulInteger(x, w) }"
    )


# -- linear maps, pools, resizes ---


@pytest.mark.parametrize("attrs", ["", "inverse = 1,", "onesided = 1,"])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_dft_is_a_matrix_product(attrs, size):
    width = 1 if "onesided" in attrs else 2
    check_rule(
        linear.spell_linear,
        model(f"g (float[N,{size},3,{width}] x) => (y) {{ y = DFT <{attrs} axis = 1> (x) }}", opset=17),
        shapes={"x": (2, size, 3, width)},
    )


def test_dft_of_a_dynamic_length_stays():
    assert_unchanged(linear.spell_linear, model("g (float[2,N,1] x) => (y) { y = DFT <axis = 1> (x) }", opset=17))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("size", [1, 5, 8])
def test_running_products(exclusive, reverse, size):
    source = model(
        f"""<ir_version: 13, opset_import: ["" : 26]> g (float[3,{size}] x) => (float[3,{size}] y)
        <int64 axis = {{1}}> {{ y = CumProd <exclusive = {exclusive}, reverse = {reverse}> (x, axis) }}"""
    )
    x = np.random.default_rng(size).normal(0, 2, (3, size)).astype(np.float32)
    x[0, 0] = 0
    expected, actual, _ = both(source, linear.spell_linear, {"x": x})
    np.testing.assert_allclose(expected[0], actual[0], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_determinants(size):
    check_rule(linear.spell_linear, model(f"g (float[N,{size},{size}] x) => (float[N] y) {{ y = Det(x) }}"))


def test_a_large_determinant_stays():
    assert_unchanged(linear.spell_linear, model("g (float[2,5,5] x) => (float[2] y) { y = Det(x) }"))


def test_plain_products_stay():
    assert_unchanged(linear.spell_linear, "g (float[2,3] x, float[3,4] y) => (float[2,4] z) { z = MatMul(x, y) }")


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", ["0, 0, 0, 0", "1, 0, 1, 1"])
def test_dilated_pools_are_maxima_of_slices(ceil, pads):
    check_rule(
        pooling.spell_pools,
        model(
            f"""g (float[N,2,9,8] x) => (y) {{ y = MaxPool <kernel_shape = [2, 3], dilations = [2, 3], strides = [2, 1],
            pads = [{pads}], ceil_mode = {ceil}> (x) }}"""
        ),
        shapes={"x": (2, 2, 9, 8)},
    )


@pytest.mark.parametrize("include", [0, 1])
def test_dilated_averages_count_what_counts(include):
    check_rule(
        pooling.spell_pools,
        model(
            f"""g (float[1,2,9] x) => (y) {{ y = AveragePool <kernel_shape = [3], dilations = [2], pads = [2, 1],
            count_include_pad = {include}, strides = [2]> (x) }}""",
            opset=19,
        ),
    )


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_plain_pools_stay(op):
    assert_unchanged(pooling.spell_pools, f"g (float[1,2,9,H] x) => (y) {{ y = {op} <kernel_shape = [2, 2]> (x) }}")


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", [(1, 1, 0.6, 0.5), (1, 1, 1.7, 3), (1, 1, 0.3, 2)])
def test_antialiased_resizes_are_matrix_products(mode, scales):
    source = model(
        f'g (float[1,2,7,6] x) => (y) {{ y = Resize <antialias = 1, mode = "{mode}"> (x, , s) }}',
        weights={"s": np.array(scales, np.float32)},
        opset=18,
    )
    x = np.random.default_rng(0).normal(0, 1, (1, 2, 7, 6)).astype(np.float32)
    expected, actual, _ = both(source, resizing.spell_resizes, {"x": x})
    np.testing.assert_allclose(expected[0], actual[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_resizes_that_tensorrt_has_stay(mode):
    assert_unchanged(
        resizing.spell_resizes,
        model(
            f"""g (float[1,2,7,W] x) => (y) {{
            y = Resize <mode = "linear", coordinate_transformation_mode = "{mode}"> (x, , s) }}""",
            weights={"s": np.array([1, 1, 2, 2], np.float32)},
        ),
    )


# -- the rest ---


def test_float_mod_has_the_sign_of_the_divisor():
    x = np.array([5.5, -5.5, 5.5, -5.5, 0, 6, -6], np.float32)
    y = np.array([3, 3, -3, -3, 2, 3, 3], np.float32)
    source = model("g (float[7] x, float[7] y) => (float[7] z) { z = Mod(x, y) }")
    result, _ = apply(source, corners.mend_corners)
    np.testing.assert_array_equal(np.mod(x, y), ReferenceEvaluator(result).run(None, {"x": x, "y": y})[0])


def test_the_largest_truth_value():
    source = model(
        "g (bool[3,4] x) => (bool[3] y) { y = ReduceMax <keepdims = 0> (x, a) }", weights={"a": [1]}, opset=20
    )
    check_rule(corners.mend_corners, source)


def test_sequences_of_known_structure_are_their_tensors():
    source = """g (float[2,6] x) => (float[2,2] y, int64 n, float[2,6] z) {
        s = SplitToSequence <axis = 1> (x, k) y = SequenceAt(s, p) n = SequenceLength(s)
        t = SequenceErase(s, p) u = SequenceInsert(t, y, p) z = ConcatFromSequence <axis = 1> (u) }"""
    result = check_rule(
        sequences.resolve_sequences, model(source, weights={"k": np.int64(2), "p": np.int64(-2)}), fires=3
    )
    assert not any("Sequence" in op for op in operators(result))


def test_a_position_that_is_computed_stays():
    source = "g (float[2] x, float[2] y, int64 i) => (float[2] z) { s = SequenceConstruct(x, y) z = SequenceAt(s, i) }"
    assert_unchanged(sequences.resolve_sequences, source)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_reducing_scatters_with_repeated_places(reduction):
    check_rule(
        sampling.spell_sampling,
        model(
            f"g (float[3,4] x, float[3,3] u) => (float[3,4] y) {{ y = ScatterElements <axis = 1, "
            f'reduction = "{reduction}"> (x, i, u) }}',
            weights={"i": np.array([[0, 0, -1], [2, 2, 2], [3, 1, -3]])},
            opset=18,
        ),
    )


@pytest.mark.parametrize("dims", ["[4,3] x, int64[7,2] i, float[7,2]", "[N,3] x, int64[E,2] i, float[E,2]"])
def test_scatters_of_more_indices_than_places_get_room(dims):
    """Of distinct places: with repeated ones, ONNX does not say which update stays."""
    numbers = np.random.default_rng(0)
    x, u = numbers.normal(size=(4, 3)).astype(np.float32), numbers.normal(size=(7, 2)).astype(np.float32)
    i = np.array([[0, 1], [1, 3], [-1, 0], [0, 1], [1, 2], [3, -1], [0, 0]])
    for column in range(2):  # equal places get equal updates
        places = i[:, column] % 4
        u[:, column] = u[places, column]
    source = model(f"g (float{dims} u) => (float[?,3] y) {{ y = ScatterElements <axis = 0> (x, i, u) }}", opset=18)
    result, fired = apply(source, corners.mend_corners)
    assert fired["mend-corners"] == 1
    expected = x.copy()
    for column in range(2):
        expected[i[:, column] % 4, column] = u[:, column]
    for proto in (source, result):
        actual = ReferenceEvaluator(proto).run(None, {"x": x, "i": i, "u": u})[0]
        np.testing.assert_array_equal(expected, actual)


@pytest.mark.parametrize("dims", ["[4,3] x, int64[4,3] i, float[4,3]", "[N,3] x, int64[N,3] i, float[N,3]",
                                  "[N,3] x, int64[1,3] i, float[1,3]"])  # fmt: skip
def test_scatters_with_room_stay(dims):
    assert_unchanged(
        corners.mend_corners,
        model(f"g (float{dims} u) => (float[?,3] y) {{ y = ScatterElements <axis = 0> (x, i, u) }}", opset=18),
    )


def test_plain_scatters_stay():
    assert_unchanged(
        sampling.spell_sampling,
        "g (float[3] x, int64[2] i, float[2] u) => (float[3] y) { y = ScatterElements(x, i, u) }",
    )


def test_batch_statistics():
    source = "g (float[4,3,5] x) => (y, m, v) { y, m, v = BatchNormalization <training_mode = 1> (x, s, b, a, c) }"
    weights = {
        name: np.abs(np.random.default_rng(i).normal(1, 1, 3)).astype(np.float32) for i, name in enumerate("sbac")
    }
    check_rule(training.spell_training, model(source, weights=weights))


def test_batch_norm_in_inference_stays():
    source = "g (float[4,3,5] x) => (float[4,3,5] y) { y = BatchNormalization(x, s, b, a, c) }"
    assert_unchanged(training.spell_training, model(source, weights={name: (3,) for name in "sbac"}))


# -- nodes that are not as their operator's definition has them ---


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (training.spell_training, "g (float r, int64 t, float[2] x) => (float[2] y) { y = Momentum(r, t, x) }"),
        (functions.expand_functions, "g (int64[2,3] n) => (float[10] y) { y = BlackmanWindow(n) }"),
        (
            functions.expand_functions,
            """g (float[2,9,4,8] q, float[2,3,6,8] k, float[2,3,6,8] v, bool[2,3,4,6] m) => (float[2,9,4,8] y) {
            y = Attention(q, k, v, m) }""",
        ),
        (bits.spell_bits, 'g (int8[3] x, int8[7] s) => (int8[3] y) { y = BitShift <direction = "LEFT"> (x, s) }'),
        (
            quantized.spell_quantized,
            "g (uint8[5] x, float s, uint8[1,1] z) => (float[5] y) { y = DequantizeLinear <axis = 0> (x, s, z) }",
        ),
    ],
)
def test_what_contradicts_its_operator_is_left_to_the_parser(rule, text):
    assert_unchanged(rule, model(text, opset=28 if "int8[7]" in text else 23))


def test_a_function_that_came_with_a_layer_is_no_business_of_these_rules():
    source = model(
        "g (float[3,2] x, bool[2] c) => (float[3,?] y, float[3,2] z) { y = Compress <axis = 1> (x, c) z = Relu(x) }",
        opset=18,
    )
    report = graphopt.optimize(source, verify="none").report
    assert not report.warnings
