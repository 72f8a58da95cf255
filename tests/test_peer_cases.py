"""What other optimizers' suites expect, rebuilt from its meaning: unchanged numbers, and at most as many nodes.

`most` is the number of nodes that onnxoptimizer's pass or onnxslim's pattern of that name is meant to leave.
Where more stay on purpose, `why` says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from graphopt.testing import model

from .properties.draw import ENTRIES
from .properties.families import with_types
from .properties.judge import differences, optimized


class Case(NamedTuple):
    name: str
    text: str
    most: int
    weights: dict[str, Any] = {}
    opset: int = 17
    why: str = ""


BN = {name: np.array(values, np.float32) for name, values in
      {"s": [1, 2, 3], "b": [0, 1, -1], "m": [0.5, 0, 1], "v": [1, 0.5, 2]}.items()}  # fmt: skip
CASES = (
    Case("eliminate_identity", "g (float[2,3] x) => (z) { a = Identity(x) z = Relu(a) }", 1),
    Case("eliminate_nop_cast", "g (float[2,3] x) => (z) { a = Cast <to = 1> (x) z = Relu(a) }", 1),
    Case("eliminate_nop_dropout", "g (float[2,3] x) => (z) { a = Dropout(x) z = Relu(a) }", 1),
    Case("eliminate_nop_flatten", "g (float[2,3] x) => (z) { a = Flatten(x) z = Relu(a) }", 1),
    Case("eliminate_nop_transpose", "g (float[2,3] x) => (z) { a = Transpose <perm = [0,1]> (x) z = Relu(a) }", 1),
    Case("eliminate_nop_concat", "g (float[2,3] x) => (z) { a = Concat <axis = 0> (x) z = Relu(a) }", 1),
    Case("eliminate_nop_split", "g (float[2,3] x) => (z) { a = Split <axis = 0> (x, n) z = Relu(a) }", 1, {"n": np.array([2])}),
    Case("eliminate_nop_expand", "g (float[2,3] x) => (z) { a = Expand(x, n) z = Relu(a) }", 1, {"n": np.array([1, 3])}),
    Case("eliminate_nop_pad", "g (float[2,3] x) => (z) { a = Pad(x, n) z = Relu(a) }", 1, {"n": np.zeros(4, np.int64)}),
    Case("eliminate_nop_reshape", "g (float[2,3] x) => (z) { a = Reshape(x, n) z = Relu(a) }", 1, {"n": np.array([2, -1])}),
    Case("eliminate_nop_with_unit (Mul)", "g (float[2,3] x) => (z) { a = Mul(x, n) z = Relu(a) }", 1, {"n": 1.0}),
    Case("eliminate_nop_with_unit (Add)", "g (float[2,3] x) => (z) { a = Add(n, x) z = Relu(a) }", 1, {"n": 0.0}),
    Case("eliminate_consecutive_idempotent_ops", "g (float[2,3] x) => (z) { a = Ceil(x) b = Ceil(a) z = Neg(b) }", 2),
    Case("eliminate_common_subexpression", "g (float[2,3] x) => (z) { a = Sin(x) b = Sin(x) z = Sub(a, b) }", 2),
    Case("eliminate_deadend", "g (float[2,3] x) => (z) { a = Sin(x) b = Cos(x) z = Neg(a) }", 2),
    Case("eliminate_shape_op", "g (float[2,3] x) => (z) { s = Shape(x) z = Cast <to = 1> (s) }", 0),
    Case("eliminate_shape_gather", "g (float[2,3] x) => (z) { s = Shape(x) d = Gather(s, n) z = Cast <to = 1> (d) }", 0, {"n": np.array(1)}),
    Case("eliminate_slice_after_shape", "g (float[2,3] x) => (z) { s = Shape(x) d = Slice(s, n, e) z = Cast <to = 1> (d) }", 0, {"n": np.array([0]), "e": np.array([1])}),
    Case("eliminate_if_with_const_cond", "g (float[2] x) => (float[2] z) { z = If (c) <then_branch = a () => (float[2] p) { p = Neg(x) }, else_branch = b () => (float[2] q) { q = Abs(x) }> }", 1, {"c": np.array(True)}),
    Case("extract_constant_to_initializer", "g (float[2,3] x) => (z) { c = Constant <value = float[1] {2.0}> () z = Add(x, c) }", 1),
    Case("fuse_add_bias_into_conv", "g (float[1,2,5,5] x) => (z) { a = Conv(x, w) z = Add(a, c) }", 1, {"w": (3, 2, 3, 3), "c": (3, 1, 1)}),
    Case("fuse_bn_into_conv", "g (float[1,2,5,5] x) => (z) { a = Conv(x, w) z = BatchNormalization(a, s, b, m, v) }", 1, {"w": (3, 2, 3, 3), **BN}),
    Case("fuse_pad_into_conv", "g (float[1,2,5,5] x) => (z) { a = Pad(x, n) z = Conv(a, w) }", 1, {"w": (3, 2, 3, 3), "n": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    Case("fuse_pad_into_pool", "g (float[1,2,5,5] x) => (z) { a = Pad(x, n) z = AveragePool <kernel_shape = [2,2], count_include_pad = 1> (a) }", 1, {"n": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    Case("fuse_consecutive_concats", "g (float[2,3] x, float[2,3] y) => (z) { a = Concat <axis = 1> (x, y) z = Concat <axis = 1> (a, x) }", 1),
    Case("fuse_consecutive_reduce_unsqueeze", "g (float[2,3] x) => (z) { a = ReduceSum <keepdims = 0> (x, n) z = Unsqueeze(a, n) }", 2, {"n": np.array([1])}, why="a Reduce with keepdims=1 would be one node fewer: a gap that is measured here"),
    Case("fuse_consecutive_squeezes", "g (float[2,1,1,3] x) => (z) { a = Squeeze(x, n) z = Squeeze(a, n) }", 1, {"n": np.array([1])}),
    Case("fuse_consecutive_unsqueezes", "g (float[2,3] x) => (z) { a = Unsqueeze(x, n) z = Unsqueeze(a, n) }", 1, {"n": np.array([1])}),
    Case("fuse_consecutive_slices", "g (float[4,6] x) => (z) { a = Slice(x, n, e, i) z = Slice(a, n, e, k) }", 1, {"n": np.array([1]), "e": np.array([3]), "i": np.array([0]), "k": np.array([1])}),
    Case("fuse_consecutive_transposes", "g (float[2,3,4] x) => (z) { a = Transpose <perm = [1,2,0]> (x) z = Transpose <perm = [1,0,2]> (a) }", 1),
    Case("fuse_transpose_into_gemm", "g (float[3,2] x) => (z) { a = Transpose <perm = [1,0]> (x) z = Gemm(a, w, c) }", 1, {"w": (3, 4), "c": (4,)}),
    Case("fuse_matmul_add_bias_into_gemm", "g (float[2,3] x) => (z) { a = MatMul(x, w) z = Add(a, c) }", 1, {"w": (3, 4), "c": (4,)}),
    Case("replace_einsum_with_matmul", "g (float[2,3] x, float[3,4] y) => (z) { z = Einsum <equation = \"ij,jk->ik\"> (x, y) }", 1),
    Case("onnxslim: ConvAdd after a bias", "g (float[1,2,5,5] x) => (z) { a = Conv(x, w, d) z = Add(c, a) }", 1, {"w": (3, 2, 3, 3), "d": (3,), "c": (1, 3, 1, 1)}),
    Case("onnxslim: ConvMul", "g (float[1,2,5,5] x) => (z) { a = Conv(x, w) z = Mul(a, c) }", 1, {"w": (3, 2, 3, 3), "c": (1, 3, 1, 1)}),
    Case("onnxslim: ConvTransposeBatchNormalization", "g (float[1,2,5,5] x) => (z) { a = ConvTranspose(x, w) z = BatchNormalization(a, s, b, m, v) }", 1, {"w": (2, 3, 3, 3), **BN}),
    Case("onnxslim: GELU", "g (float[2,3] x) => (z) { d = Div(x, k) e = Erf(d) p = Add(e, o) m = Mul(x, p) z = Mul(m, h) }", 1, {"k": 2**0.5, "o": 1.0, "h": 0.5}, 20),
    Case("onnxslim: Reduce", "g (float[2,3] x) => (z) { a = ReduceMean <axes = [1], keepdims = 1> (x) z = Relu(a) }", 2),
    Case("onnxslim: SlicePattern, full", "g (float[4,6] x) => (z) { a = Slice(x, n, e, i) z = Relu(a) }", 1, {"n": np.array([0]), "e": np.array([2**31]), "i": np.array([0])}),
    Case("onnxslim: ReshapeReshape", "g (float[4,6] x) => (z) { a = Reshape(x, n) z = Reshape(a, e) }", 1, {"n": np.array([2, 12]), "e": np.array([3, 8])}),
    Case("onnxslim: UnsqueezeUnsqueeze", "g (float[4] x) => (z) { a = Unsqueeze(x, n) z = Unsqueeze(a, e) }", 1, {"n": np.array([0]), "e": np.array([-1])}),
    Case("onnxslim: dead and tied weights", "g (float[2,3] x) => (z) { a = Add(x, p) z = Mul(a, q) }", 2, {"p": np.ones(3, np.float32) * 2, "q": np.ones(3, np.float32) * 2}),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_few_nodes_as_the_peer_leaves(case: Case) -> None:
    used = {name: value for name, value in case.weights.items()}
    source = with_types(model(case.text, weights=used, opset=case.opset))
    result, _ = optimized(source, ENTRIES.values())
    assert not differences(source, result, 0, special=False)
    left = [node.op_type for node in result.graph.node if node.op_type != "Constant"]
    identities = left.count("Identity") if case.most == 0 else 0
    assert len(left) - identities <= case.most, left
