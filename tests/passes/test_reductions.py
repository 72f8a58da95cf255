"""A dimension that is reduced, dropped and added again is kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphopt_passes.reductions import KeepDimOfPlace, KeepReducedDims, graphopt_passes

from graphopt.testing import assert_unchanged, check_rule, model


def reduced(op, axes, added, *, opset=18, how="keepdims = 0", x="float[N,3,4] x"):
    if axes is None or (opset < 18 and op != "ReduceSum"):
        listed = "" if axes is None else f", axes = [{', '.join(map(str, axes))}]"
        reduction, weights = f"{op}<{how}{listed}>(x)", {}
    else:
        reduction, weights = f"{op}<{how}>(x, a)", {"a": np.array(axes)}
    text = f"g ({x}) => (float y) {{ r = {reduction} y = Unsqueeze(r, n) }}"
    return model(text, weights=weights | {"n": np.array(added)}, opset=opset)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("opset", [13, 18])
def test_the_same_axes(op, opset):
    made = check_rule(KeepReducedDims(), reduced(op, [1], [1], opset=opset), fires=1)
    assert [node.op_type for node in made.graph.node] == [op]


@pytest.mark.parametrize(("axes", "added"), [([-1], [2]), ([0, 2], [2, 0]), ([1, -1], [-1, -2]), (None, [0, 1, 2])])
def test_however_they_are_counted(axes, added):
    check_rule(KeepReducedDims(), reduced("ReduceMax", axes, added), fires=1)


@pytest.mark.parametrize(
    "source",
    [
        reduced("ReduceMean", [1], [2]),
        reduced("ReduceMean", [1, 2], [1]),
        reduced("ReduceMean", [1], [1, 3]),
        reduced("ReduceMean", [1], [1], how="keepdims = 1"),
        reduced("ReduceMean", [], [0], how="keepdims = 0, noop_with_empty_axes = 1"),
        reduced("ReduceMean", [-1], [-1], x="float x"),
    ],
)
def test_others_stay(source):
    assert_unchanged(KeepReducedDims(), source)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places(op):
    text = f"g (float[N,3,4] x) => (int64 y) {{ p = {op}<axis = -1, keepdims = 0>(x) y = Unsqueeze(p, n) }}"
    made = check_rule(KeepDimOfPlace(), model(text, weights={"n": np.array([2])}), fires=1)
    assert [node.op_type for node in made.graph.node] == [op]
    assert_unchanged(KeepDimOfPlace(), model(text, weights={"n": np.array([1])}))
    assert_unchanged(KeepDimOfPlace(), model(text, weights={"n": np.array([1, 3])}))


MERGE = {rule.name: rule for rule in graphopt_passes() if rule.name.startswith("merge-")}


def nested(op, inner, outer, a, b, *, kind="float", rank="N,3,4,5", opset=18):
    """op(op(x, a, keepdims=inner), b, keepdims=outer)."""
    if opset < 18 and op != "ReduceSum":
        r, y = f"{op}<keepdims={inner}, axes={a}>(x)", f"{op}<keepdims={outer}, axes={b}>(r)"
        return model(f"g ({kind}[{rank}] x) => ({kind} y) {{ r = {r} y = {y} }}", opset=opset)
    text = f"g ({kind}[{rank}] x) => ({kind} y) {{ r = {op}<keepdims={inner}>(x, a) y = {op}<keepdims={outer}>(r, b) }}"
    return model(text, weights={"a": np.array(a), "b": np.array(b)}, opset=opset)


class TestNested:
    @pytest.mark.parametrize("name", MERGE)
    @pytest.mark.parametrize("opset", [13, 18])
    def test_two_are_one(self, name, opset):
        op = (
            "Reduce"
            + {"maxs": "Max", "mins": "Min", "sums": "Sum", "means": "Mean", "prods": "Prod", "l1s": "L1"}[
                name.rsplit("-", 1)[1]
            ]
        )
        for inner, outer, a, b, axes in (
            (0, 0, [-1], [-1], [2, 3]),
            (0, 0, [1], [0, 2], [0, 1, 3]),
            (1, 1, [3], [-2, 3], [2, 3]),
            (1, 0, [-1], [2, 3], [2, 3]),
        ):
            made = check_rule(MERGE[name], nested(op, inner, outer, a, b, opset=opset), fires=1)
            (node,) = made.graph.node
            found = [list(at.ints) for at in node.attribute if at.name == "axes"]
            found += [onnx.numpy_helper.to_array(w).tolist() for w in made.graph.initializer]
            assert found == [axes]

    @pytest.mark.parametrize(
        "source",
        [
            pytest.param(nested("ReduceMax", 1, 0, [3], [2]), id="one keeps its dimension"),
            pytest.param(nested("ReduceMax", 0, 1, [3], [2]), id="the other keeps its dimension"),
            pytest.param(nested("ReduceMean", 0, 0, [3], [2], kind="int32"), id="means of integers"),
            pytest.param(
                model(
                    """g (float[N,3,4] x) => (float y, float[N,3] r) <int64[1] a = {2}> {
                    r = ReduceMax<keepdims=0>(x, a) y = ReduceMax<keepdims=0>(r) }""",
                    opset=18,
                ),
                id="over all, and read by others",
            ),
            pytest.param(
                model(
                    """g (float[N,3,4] x) => (float y) <int64[1] a = {2}, int64[1] b = {1}> {
                    r = ReduceMax<keepdims=0>(x, a) y = ReduceMin<keepdims=0>(r, b) }""",
                    opset=18,
                ),
                id="of two kinds",
            ),
        ],
    )
    def test_left_alone(self, source):
        for rule in MERGE.values():
            assert_unchanged(rule, source)
