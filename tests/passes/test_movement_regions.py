"""Transposes around operators that don't care about the order of axes, as exports from NHWC have them."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.transpose_regions import cancel_transposes
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.testing import apply, assert_unchanged, check_rule, model


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def transposes(proto) -> int:
    return sum(node.op_type == "Transpose" for node in proto.graph.node)


def nhwc(body: str, opset: int = 17, **weights):
    """x (NCHW) -> NHWC -> body makes u of t -> NCHW."""
    text = f"""g (float[N,3,4,5] x) => (float[N,3,4,5] y) {{
        r = Neg(x) t = Transpose<perm=[0,2,3,1]>(r) {body} v = Transpose<perm=[0,3,1,2]>(u) y = Neg(v) }}"""
    return model(text, opset=opset, weights=weights)


def plain(body: str, opset: int = 17, **weights):
    text = f"g (float[N,3,4,5] x) => (float[N,3,4,5] y) {{ t = Neg(x) {body} y = Neg(u) }}"
    return model(text, opset=opset, weights=weights)


CASES = {
    "unary": ("u = Sigmoid(t)", "u = Sigmoid(t)", {}, {}),
    "bounds": ("u = Clip(t, c)", "u = Clip(t, c)", {"c": np.float32(0)}, {"c": np.float32(0)}),
    "softmax": ("u = Softmax<axis=-1>(t)", "u = Softmax<axis=1>(t)", {}, {}),
    "per channel": ("u = Add(t, c)", "u = Add(t, c)", {"c": numbers(1, 2, 3).astype(np.float32)},
                    {"c": numbers(1, 2, 3).astype(np.float32).reshape(1, 3, 1, 1)}),
    "scalar": ("u = Mul(c, t)", "u = Mul(c, t)", {"c": np.float32(3)}, {"c": np.float32(3)}),
    "twins": ("a = Relu(t) u = Mul(a, t)", "a = Relu(t) u = Mul(a, t)", {}, {}),
    "pad": ("p = Pad(t, k) u = Slice(p, s, e, a)", "p = Pad(t, k) u = Slice(p, s, e, a)",
            {"k": numbers(0, 1, 0, 0, 0, 0, 0, 2), "s": numbers(1, 0), "e": numbers(5, 3), "a": numbers(1, 3)},
            {"k": numbers(0, 0, 1, 0, 0, 2, 0, 0), "s": numbers(1, 0), "e": numbers(5, 3), "a": numbers(2, 1)}),
    "reduce": ("m = ReduceMean<axes=[1,2]>(t) u = Sub(t, m)", "m = ReduceMean<axes=[2,3]>(t) u = Sub(t, m)", {}, {}),
    "split": ("a, b = Split<axis=3>(t, s) u = Concat<axis=-1>(b, a)",
              "a, b = Split<axis=1>(t, s) u = Concat<axis=1>(b, a)",
              {"s": numbers(1, 2)}, {"s": numbers(1, 2)}),
}  # fmt: skip


@pytest.mark.parametrize(("inside", "outside", "weights", "turned"), CASES.values(), ids=CASES.keys())
def test_a_region_between_two_transposes(inside, outside, weights, turned):
    check_rule(cancel_transposes, nhwc(inside, **weights), plain(outside, **turned))


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
def test_at_every_opset(opset):
    axes = {"a": numbers(-1)} if opset >= 18 else {}
    turned = {"a": numbers(1)} if opset >= 18 else {}
    reduce = "m = ReduceMax(t, a)" if opset >= 18 else "m = ReduceMax<axes=[{}]>(t)"
    inside, outside = reduce.replace("{}", "-1"), reduce.replace("{}", "1")
    check_rule(
        cancel_transposes,
        nhwc(f"{inside} u = Sub(t, m)", opset, **axes),
        plain(f"{outside} u = Sub(t, m)", opset, **turned),
    )


def test_a_residual_block_keeps_its_order():
    """Two convolutions in NHWC with a sum around them: six transposes, none left."""
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) b = Transpose<perm=[0,2,3,1]>(a) c = Add(b, k) d = Relu(c)
        e = Transpose<perm=[0,3,1,2]>(d) f = Conv<pads=[1,1,1,1]>(e, w) g = Transpose<perm=[0,2,3,1]>(f)
        h = Add(g, d) i = Relu(h) j = Transpose<perm=[0,3,1,2]>(i) y = Neg(j) }"""
    result = check_rule(cancel_transposes, model(text, weights={"w": (3, 3, 3, 3), "k": (3,)}))
    assert transposes(result) == 0


def test_other_operands_and_readers_get_transposes_of_their_own_if_fewer_remain():
    text = """g (float[N,3,4,5] x, float[N,4,5,3] z) => (float[N,3,4,5] y, float[N,3,4,5] w) {
        a = Transpose<perm=[0,2,3,1]>(x) b = Add(a, z) y = Transpose<perm=[0,3,1,2]>(b)
        c = Relu(b) w = Transpose<perm=[0,3,1,2]>(c) }"""
    result = check_rule(cancel_transposes, text)
    assert transposes(result) == 1


def test_a_perm_that_does_not_cancel_is_composed():
    text = """g (float[A,B,C] x) => (float[B,A,C] y) {
        a = Transpose<perm=[1,2,0]>(x) b = Relu(a) y = Transpose<perm=[0,2,1]>(b) }"""
    result = check_rule(cancel_transposes, text)
    assert transposes(result) == 1


STAYS = {
    "one transpose alone": "t = Transpose<perm=[1,0]>(x) y = Relu(t)",
    "the order between is an output": "t = Transpose<perm=[1,0]>(x) y = Relu(t) z = Neg(x) q = Transpose(z)",
    "a running sum": "t = Transpose<perm=[1,0]>(x) u = CumSum(t, k) y = Transpose<perm=[1,0]>(u)",
    "a flattened softmax": "t = Transpose<perm=[1,0]>(x) u = Flatten(t) y = Transpose<perm=[1,0]>(u)",
    "a product": "t = Transpose<perm=[1,0]>(x) u = MatMul(t, x) y = Transpose<perm=[1,0]>(u)",
}


@pytest.mark.parametrize("body", STAYS.values(), ids=STAYS.keys())
def test_it_stays(body):
    text = f"g (float[3,3] x) => (float[3,3] y) {{ {body} }}"
    assert_unchanged(cancel_transposes, model(text, weights={"k": np.int64(0)}))


def test_softmax_below_opset_13_flattens_and_stays():
    body = "t = Transpose<perm=[0,2,1]>(x) u = Softmax<axis=1>(t) y = Transpose<perm=[0,2,1]>(u)"
    assert_unchanged(cancel_transposes, model(f"g (float[3,3,3] x) => (float[3,3,3] y) {{ {body} }}", opset=11))


def test_an_operand_of_lower_rank_that_is_computed_stays():
    text = """g (float[4,4] x, float[4] z) => (float[4,4] y) {
        t = Transpose<perm=[1,0]>(x) u = Add(t, z) y = Transpose<perm=[1,0]>(u) }"""
    assert_unchanged(cancel_transposes, text)


def test_what_a_branch_reads_from_outside_keeps_its_order():
    text = """g (bool c, float[2,3] x) => (float[2,3] y, float[3,2] z) {
        t = Transpose<perm=[1,0]>(x) u = Relu(t) v = Transpose<perm=[1,0]>(u) y = Neg(v)
        z = If (c) <then_branch = a () => (float[3,2] p) { p = Neg(u) },
                    else_branch = b () => (float[3,2] q) { q = Abs(u) }> }"""
    result, counts = apply(text, cancel_transposes)
    if counts["cancel-transposes"]:
        check_rule(cancel_transposes, text)
    assert transposes(result) <= 2


@st.composite
def networks(draw):
    """A random chain of unary, binary and reducing operators and transposes over 3 axes."""
    nodes, values, shapes = [], ["x"], {"x": (2, 3, 4)}
    for i in range(draw(st.integers(2, 9))):
        source = values[-1] if draw(st.booleans()) else draw(st.sampled_from(values))
        shape, name = shapes[source], f"v{i}"
        kind = draw(st.sampled_from(["Relu", "Transpose", "Transpose", "Add", "Concat", "ReduceMax", "Bias"]))
        if kind == "Transpose":
            perm = draw(st.permutations(range(3)))
            nodes.append(f"{name} = Transpose<perm={perm}>({source})")
            shape = tuple(shape[axis] for axis in perm)
        elif kind == "Add":
            other = draw(st.sampled_from([v for v in values if shapes[v] == shape]))
            nodes.append(f"{name} = Add({source}, {other})")
        elif kind == "Concat":
            axis = draw(st.integers(-3, 2))
            nodes.append(f"{name} = Concat<axis={axis}>({source}, {source})")
            shape = tuple(dim * 2 if i == axis % 3 else dim for i, dim in enumerate(shape))
        elif kind == "ReduceMax":
            axis = draw(st.integers(0, 2))
            nodes.append(f"{name} = ReduceMax<axes=[{axis}]>({source})")
            shape = tuple(1 if i == axis else dim for i, dim in enumerate(shape))
        elif kind == "Bias" and shape[-1] == 4:
            nodes.append(f"{name} = Mul({source}, k)")
        else:
            nodes.append(f"{name} = Relu({source})")
        values.append(name)
        shapes[name] = shape
    nodes.append(f"y = Neg({values[-1]})")
    shapes["y"] = shapes[values[-1]]
    results = ["y", *draw(st.lists(st.sampled_from(values[1:]), unique=True, max_size=3))]
    outputs = ", ".join(f"float[{','.join(map(str, shapes[name]))}] {name}" for name in results)
    text = f"g (float[2,3,4] x) => ({outputs}) {{ {' '.join(nodes)} }}"
    return model(text, weights={"k": np.arange(1, 5, dtype=np.float32)})


@settings(max_examples=60)
@given(networks())
def test_any_network_computes_the_same_with_fewer_transposes(proto):
    result, counts = apply(proto, cancel_transposes)
    if counts["cancel-transposes"]:
        check_rule(cancel_transposes, proto, seeds=1)
        assert transposes(result) < transposes(proto)


def test_equal_transposes_may_each_be_a_result():
    check_rule(
        cancel_transposes,
        before="""g (float[4,1,3,4] x) => (float[1,4,4,3] y, float[1,4,4,3] z) {
            a = Transpose<perm=[3,0,2,1]>(x) r = Ceil(a) y = Transpose<perm=[3,1,0,2]>(r)
            z = Transpose<perm=[3,1,0,2]>(r) }""",
    )
