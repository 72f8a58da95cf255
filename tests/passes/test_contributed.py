"""onnxruntime's quantized operators: bit by bit what onnxruntime computes, in operators that TensorRT takes."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from graphopt_passes.affine import exact
from graphopt_passes.convolution import FoldConvMul
from graphopt_passes.dense import FoldMatmulMul

import graphopt
from graphopt.rewrite.value import Value
from graphopt.testing import assert_unchanged, check_rule, model

RNG = np.random.default_rng(0)
SA, SB, SY = (np.float32(scale) for scale in (0.021, 0.034, 0.047))


def number(dtype, value):
    return np.array(value, dtype)


def outputs(proto, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def optimized(proto):
    return graphopt.to_proto(graphopt.optimize(proto, verify="none").graph)


def same_bits(proto, feeds):
    result = optimized(proto)
    assert not any(node.domain or "QL" in node.op_type or "QGemm" in node.op_type for node in result.graph.node)
    for before, after in zip(outputs(proto, feeds), outputs(result, feeds), strict=True):
        np.testing.assert_array_equal(before, after)
    return result


def graph(node, inputs, result, weights, dtype="uint8", opset=17):
    """Float in, quantized by 1, through the operator, and dequantized by 1."""
    names = [name for name in inputs if name]
    head = " ".join(f"q{name} = QuantizeLinear({name}, one, z)" for name in names)
    ports = ", ".join(f"float[{inputs[name]}] {name}" for name in names)
    text = f"g ({ports}) => (float[{result}] y) {{ {head} r = {node} y = DequantizeLinear(r, one, z) }}"
    known = {"one": np.float32(1), "z": number(dtype, 0), "sa": SA, "sb": SB, "sy": SY, **weights}
    proto = model(text, weights=known, opset=opset, **{"com.microsoft": 1})
    for node_ in proto.graph.node:
        if node_.op_type.startswith("QLinear") and node_.op_type not in ("QLinearConv", "QLinearMatMul"):
            node_.domain = "com.microsoft"
        if node_.op_type == "QGemm":
            node_.domain = "com.microsoft"
    feeds = {
        name: RNG.integers(*((0, 256) if dtype == "uint8" else (-128, 128)), [int(n) for n in inputs[name].split(",")])
        for name in names
    }
    return proto, {name: value.astype(np.float32) for name, value in feeds.items()}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
class TestElementwise:
    @pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
    def test_two_operands(self, op, dtype):
        weights = {"za": number(dtype, 3), "zb": number(dtype, 100), "zy": number(dtype, 7)}
        node = f"{op}(qa, sa, za, qb, sb, zb, sy, zy)"
        same_bits(*graph(node, {"a": "2,3,50", "b": "1,3,50"}, "2,3,50", weights, dtype))

    @pytest.mark.parametrize(
        "node",
        [
            "QLinearSigmoid(qa, sa, za, sy, zy)",
            "QLinearLeakyRelu<alpha = 0.1>(qa, sa, za, sy, zy)",
            "QLinearGlobalAveragePool(qa, sa, za, sy, zy)",
            "QLinearSoftmax<axis = -1, opset = 13>(qa, sa, za, sy, zy)",
        ],
    )
    def test_one_operand(self, node, dtype):
        weights = {"za": number(dtype, 3), "zy": number(dtype, 7), "sy": np.float32(1 / 250)}
        last = "1,1" if "Pool" in node else "4,5"
        proto, feeds = graph(node, {"a": "2,3,4,5"}, f"2,3,{last}", weights, dtype)
        result = optimized(proto)
        assert not any(one.domain for one in result.graph.node)
        (before,), (after,) = outputs(proto, feeds), outputs(result, feeds)
        assert np.abs(before - after).max() <= 1  # its own exp and sigmoid are approximations
        assert (before != after).mean() < (0.3 if "Softmax" in node else 0.02)

    def test_concat(self, dtype):
        weights = {"za": number(dtype, 3), "zb": number(dtype, 100), "zy": number(dtype, 7)}
        node = "QLinearConcat<axis = 1>(sy, zy, qa, sa, za, qb, sb, zb)"
        same_bits(*graph(node, {"a": "2,3,5", "b": "2,4,5"}, "2,7,5", weights, dtype))

    @pytest.mark.parametrize("opset", [11, 17])
    @pytest.mark.parametrize("columns", [(), (6,)])
    @pytest.mark.parametrize("turned", [0, 1])
    def test_gemm(self, dtype, columns, turned, opset):
        shape = (6, 40) if turned else (40, 6)
        weights = {
            "b": RNG.integers(-128, 128, shape).astype("int8"),
            "sb": RNG.uniform(0.01, 0.02, columns).astype("float32"),
            "zb": np.zeros(columns, "int8"),
            "c": RNG.integers(-5000, 5000, 6).astype("int32"),
            "za": number(dtype, 3),
            "zy": number(dtype, 7),
            "sy": np.float32(0.5),
        }
        node = f"QGemm<transB = {turned}>(qa, sa, za, b, sb, zb, c, sy, zy)"
        same_bits(*graph(node, {"a": "5,40"}, "5,6", weights, dtype, opset))


class TestProducts:
    @pytest.mark.parametrize("channels", [3, 700])
    @pytest.mark.parametrize("scales", [(), (4,)])
    def test_a_convolution_with_its_scale_behind_it(self, channels, scales):
        """Of 700 channels the sum goes beyond 2**24 and is taken in parts."""
        weights = {
            "w": RNG.integers(-128, 128, (4, channels, 3, 3)).astype("int8"),
            "sb": RNG.uniform(0.01, 0.02, scales).astype("float32"),
            "zb": np.zeros(scales, "int8"),
            "c": RNG.integers(-5000, 5000, 4).astype("int32"),
            "za": number("uint8", 3),
            "zy": number("uint8", 120),
            "sy": np.float32(channels * 0.01),
        }
        node = "QLinearConv<pads = [1, 1, 1, 1]>(qa, sa, za, w, sb, zb, sy, zy, c)"
        result = same_bits(*graph(node, {"a": f"2,{channels},6,6"}, "2,4,6,6", weights))
        convs = [one for one in result.graph.node if one.op_type == "Conv"]
        assert (len(convs) > 1) == (channels == 700)

    def test_a_product_of_two_activations(self):
        weights = {"za": number("uint8", 3), "zb": number("uint8", 100), "zy": number("uint8", 7), "sy": np.float32(9)}
        node = "QLinearMatMul(qa, sa, za, qb, sb, zb, sy, zy)"
        same_bits(*graph(node, {"a": "2,5,30", "b": "2,30,7"}, "2,5,7", weights))


class TestExactSums:
    ROUNDED = "g (float[N,2,4,4] x) => (float[N,3,4,4] y) { a = Conv(x, w) b = Mul(a, c) y = Round(b) }"
    WHOLE = {"w": np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1), "c": np.float32(0.3)}

    def test_a_scale_that_is_rounded_behind_whole_weights_stays(self):
        assert_unchanged(FoldConvMul(), model(self.ROUNDED, weights=self.WHOLE))
        text = "g (float[N,4,3] x) => (float[N,4,2] y) { a = MatMul(x, w) b = Mul(a, c) y = Round(b) }"
        weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "c": np.float32(0.3)}
        assert_unchanged(FoldMatmulMul(), model(text, weights=weights))
        assert [node.op_type for node in optimized(model(text, weights=weights)).graph.node] == [
            "MatMul",
            "Mul",
            "Round",
        ]

    def test_one_that_is_not_rounded_or_behind_other_weights_goes(self):
        text = self.ROUNDED.replace("Round", "Relu")
        check_rule(FoldConvMul(), model(text, weights=self.WHOLE), fires=1)
        result, count = graphopt.testing.apply(
            model(self.ROUNDED, weights={**self.WHOLE, "w": self.WHOLE["w"] + np.float32(0.5)}), FoldConvMul()
        )
        assert count == {"fold-conv-mul": 1}
        assert len(result.graph.node) == 2

    def test_without_readers_there_is_no_veto(self):
        assert exact(Value(None, np.ones(3, np.float32)), Value(None, np.ones(3, np.float32))) is None


class TestLeftAlone:
    @pytest.mark.parametrize(
        "node",
        [
            pytest.param("QLinearGlobalAveragePool<channels_last = 1>(qa, sa, za, sy, zy)", id="channels last"),
            pytest.param("QLinearSoftmax<axis = 1, opset = 11>(qa, sa, za, sy, zy)", id="over several axes"),
        ],
    )
    def test_what_has_another_meaning(self, node):
        weights = {"za": number("uint8", 3), "zy": number("uint8", 7)}
        proto, _ = graph(node, {"a": "2,3,4,5"}, "?,?,?,?", weights)
        assert any(one.domain for one in optimized(proto).graph.node)
