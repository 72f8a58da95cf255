"""A dimension that is reduced, dropped and added again is kept."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.reductions import KeepDimOfPlace, KeepReducedDims

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
