"""Constant operands as TensorRT's parser takes them: int32 places, constants of the result's rank."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.operand_forms import align_constants, narrow_places, split_evenly

from graphopt.config import Target
from graphopt.testing import assert_unchanged, check_rule, model

F = np.float32
LAST = np.iinfo(np.int64).max


def graph(body, *, ports="(float[N,6,8] x) => (float[N,?,8] y)", opset=17, **weights):
    return model(f"g {ports} {{ {body} }}", weights=weights, opset=opset)


def shapes(proto):
    return {tuple(tensor.dims) for tensor in proto.graph.initializer}


def kinds(proto):
    return {tensor.data_type for tensor in proto.graph.initializer}


def ints(*values):
    return np.array(values, np.int64)


SLICES = {
    "to the end": (ints(2), ints(LAST), ints(1), ints(1)),
    "backwards": (ints(-1), ints(-LAST), ints(1), ints(-1)),
    "every second": (ints(0), ints(6), ints(-2), ints(2)),
}


@pytest.mark.parametrize("places", SLICES.values(), ids=SLICES)
def test_slices_by_int32(places):
    source = graph("y = Slice(x, s, e, a, t)", **dict(zip("seat", places, strict=True)))
    assert kinds(check_rule(narrow_places, source, fires=1)) == {6}


def test_gathers_by_int32():
    source = graph("y = Gather<axis = 1>(x, i)", i=ints(0, -1, 3))
    assert kinds(check_rule(narrow_places, source, fires=1)) == {6}


def test_a_constant_that_both_read_is_narrowed_once():
    ports = "(float[N,6,8] x) => (float[N,2,8] y, float[N,2,8] z)"
    source = graph("y = Gather<axis = 1>(x, i) z = Gather<axis = 1>(y, i)", ports=ports, i=ints(1, 0))
    assert len(check_rule(narrow_places, source, fires=2).graph.initializer) == 1


def test_computed_and_too_large_places_stay():
    ports = "(float[N,6,8] x, int64[1] e) => (float[N,?,8] y)"
    assert_unchanged(narrow_places, graph("y = Slice(x, s, e, a)", ports=ports, s=ints(0), a=ints(1)))
    assert_unchanged(narrow_places, graph("y = Gather<axis = 1>(x, i)", i=ints(2**31)))
    assert_unchanged(narrow_places, graph("y = Slice<starts = [0], ends = [2], axes = [1]>(x)", opset=9))
    assert_unchanged(narrow_places, graph("y = Gather<axis = 1>(x, i)", i=np.int32([1])))


OPERANDS = {
    "y = Mul(x, c)": F(2),
    "y = Add(c, x)": np.arange(8, dtype=F),
    "y = Sub(x, c)": np.ones((6, 1), F),
    "y = Pow(x, c)": F([2]),
    "b = Less(x, c) y = Where(b, x, c)": F(0),
    "y = LayerNormalization(x, c, c)": np.arange(8, dtype=F),
    "y = PRelu(x, c)": np.arange(8, dtype=F),
    "y = Max(x, c)": F(0.25),
}


@pytest.mark.parametrize(("body", "c"), OPERANDS.items(), ids=OPERANDS)
def test_constants_get_the_rank_of_the_result(body, c):
    result = check_rule(align_constants, graph(body, ports="(float[N,6,8] x) => (float[N,6,8] y)", c=c))
    assert shapes(result) == {(1,) * (3 - c.ndim) + c.shape}
    assert_unchanged(align_constants, result)


def test_the_result_is_the_same_bit_by_bit():
    import onnxruntime as ort

    source = graph("y = LayerNormalization(x, c, c)", c=np.linspace(-3, 3, 8, dtype=F))
    result = check_rule(align_constants, source)
    x = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(F)
    want, got = (ort.InferenceSession(p.SerializeToString()).run(None, {"x": x})[0] for p in (source, result))
    np.testing.assert_array_equal(got, want)


def test_a_constant_for_two_ranks_is_there_twice_if_it_is_small():
    ports = "(float[N,6,8] x, float[4,8] z) => (float[N,6,8] y, float[4,8] w)"
    body = "y = Mul(x, c) w = Mul(z, c)"
    assert shapes(check_rule(align_constants, graph(body, ports=ports, c=F([2])))) == {(1, 1, 1), (1, 1)}
    large = np.ones((1, 2000), F)
    ports = ports.replace("8]", "2000]")
    assert_unchanged(align_constants, graph(body, ports=ports, c=large))


def test_not_where_the_rank_is_unknown_or_the_constant_makes_it():
    assert_unchanged(
        align_constants, graph("y = Mul(x, c)", ports="(float[8] x) => (float[6,8] y)", c=np.ones((6, 8), F))
    )
    body = "s = Reshape(x, n) y = Mul(s, c)"
    assert_unchanged(align_constants, graph(body, ports="(float[8] x, int64[k] n) => (float y)", c=F(2)))
    assert_unchanged(
        align_constants, graph("y = MatMul(x, c)", ports="(float[N,6,8] x) => (float y)", c=np.eye(8, dtype=F))
    )


@pytest.mark.parametrize("rule", [align_constants, narrow_places])
def test_other_backends_take_constants_as_they_are(rule):
    source = graph("a = Gather<axis = 1>(x, i) y = Mul(a, c)", c=F(2), i=ints(0))
    assert_unchanged(rule, source, target=Target(backend="onnxruntime"))
    check_rule(rule, source, target=Target(backend="tensorrt"))


@pytest.mark.parametrize("opset", [13, 18])
def test_even_parts_need_no_sizes(opset):
    ports = "(float[N,6,8] x) => (float[N,3,8] y, float[N,3,8] z)"
    source = graph("y, z = Split<axis = 1>(x, n)", ports=ports, opset=opset, n=ints(3, 3))
    (node,) = check_rule(split_evenly, source, fires=1).graph.node
    assert len(node.input) == 1


def test_uneven_parts_and_unknown_dimensions_keep_their_sizes():
    ports = "(float[N,6,8] x) => (float[N,?,8] y, float[N,?,8] z)"
    assert_unchanged(split_evenly, graph("y, z = Split<axis = 1>(x, n)", ports=ports, n=ints(2, 4)))
    ports = ports.replace("N,6,8", "N,K,8")
    assert_unchanged(split_evenly, graph("y, z = Split<axis = 1>(x, n)", ports=ports, n=ints(3, 3)))
