"""GroupNormalization, spelled over InstanceNormalization."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes import group_norm

from graphopt.testing import apply, assert_unchanged, check_rule, model

RNG = np.random.default_rng(0)


def spelled(x="N,6,4,5", first=(0, 3, -1), last=(-1, 6, 4, 5), opset=21, tail="y = Identity(r)", dtype="float", **more):
    text = f"""g ({dtype}[{x}] x) => ({dtype}[{",".join("?" * len(x.split(",")))}] y) {{
        a = Reshape(x, first) i = InstanceNormalization<epsilon = 0.01>(a, s, b) r = Reshape(i, last) {tail} }}"""
    kind = np.dtype(np.float64 if dtype == "double" else np.float32)
    weights = {"first": np.array(first), "s": RNG.uniform(0.5, 1.5, 3).astype(kind), "b": np.ones(3, kind)}
    if last is not None:
        weights["last"] = np.array(last)
    return model(text, weights={**weights, **more}, opset=opset)


SCALED = """g (float[N,6,4,5] x) => (float[N,6,4,5] y) {
    r = GroupNormalization<num_groups = 3>(x, s, b) y = Mul(r, c) }"""


class TestFound:
    @pytest.mark.parametrize(
        "source",
        [
            spelled(),
            spelled("2,6,4,5", (2, 3, 40), (2, 6, 4, 5)),
            spelled("2,6,7", (0, 3, -1), (0, -1, 7)),
            spelled("N,6,4,5", (0, 3, 2, 4, 5), (0, 6, 4, 5)),
        ],
    )
    def test_it_is_one_operator(self, source):
        check_rule(group_norm.FuseGroupNorm(), source, fires=1)

    def test_back_to_the_shape_that_was_asked_of_x(self):
        text = """g (float[N,6,H,W] x) => (float[N,6,H,W] y) {
            last = Shape(x) a = Reshape(x, first) i = InstanceNormalization(a, s, b) y = Reshape(i, last) }"""
        weights = {"first": np.array([0, 2, -1]), "s": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}
        check_rule(group_norm.FuseGroupNorm(), model(text, weights=weights, opset=21), fires=1)

    def test_with_its_scale_and_bias_behind_it(self):
        channels = {"c": RNG.uniform(0.5, 1.5, (6, 1, 1)).astype("f"), "d": RNG.normal(size=(6, 1, 1)).astype("f")}
        rules = [group_norm.FuseGroupNorm(), group_norm.FoldGroupNormMul(), group_norm.FoldGroupNormAdd()]
        source = spelled(tail="m = Mul(r, c) y = Add(m, d)", **channels)
        result, fired = apply(source, *rules)
        assert [node.op_type for node in result.graph.node] == ["GroupNormalization"]
        assert set(fired.values()) == {1}
        text = SCALED
        given = {"s": RNG.normal(size=6).astype("f"), "b": RNG.normal(size=6).astype("f"), "c": channels["c"]}
        check_rule(rules[1], model(text, weights=given, opset=21), fires=1)
        check_rule(rules[2], model(text.replace("Mul", "Add"), weights=given, opset=21), fires=1)

    def test_with_a_batch_norm_behind_it(self):
        text = """g (float[N,6,4,5] x) => (float[N,6,4,5] y) {
            r = GroupNormalization<num_groups = 3>(x, s, b) y = BatchNormalization(r, c, d, m, v) }"""
        weights = {name: RNG.uniform(0.5, 1.5, 6).astype("f") for name in "sbcdmv"}
        check_rule(group_norm.FoldGroupNormBn(), model(text, weights=weights, opset=21), fires=1)


class TestLeftAlone:
    @pytest.mark.parametrize(
        "source",
        [
            pytest.param(spelled(opset=20), id="deprecated before opset 21"),
            pytest.param(spelled(dtype="double"), id="float64"),
            pytest.param(spelled("2,6,4,5", (4, 3, 20), (2, 6, 4, 5)), id="groups across the batch"),
            pytest.param(spelled("N,6,4,5", (-1, 3, 40), (-1, 6, 20)), id="another shape than before"),
            pytest.param(spelled("N,4,3,5", (0, 3, -1), (0, 4, 3, 5)), id="groups that cut a channel"),
            pytest.param(spelled("N,6,H,W", (0, 3, -1), (-1, 6, 4, 2)), id="a shape that is not proved"),
        ],
    )
    def test_unchanged(self, source):
        assert_unchanged(group_norm.FuseGroupNorm(), source)

    def test_a_constant_that_is_not_one_per_channel(self):
        text = SCALED
        given = {"s": np.ones(6, np.float32), "b": np.ones(6, np.float32), "c": RNG.normal(size=5).astype("f")}
        assert_unchanged(group_norm.FoldGroupNormMul(), model(text, weights=given, opset=21))
