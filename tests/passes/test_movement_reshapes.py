"""Reshape, Squeeze, Unsqueeze and Flatten in a row."""

from __future__ import annotations

import math

import pytest
from graphopt_passes import reshapes
from graphopt_passes.reshapes import target_for
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.testing import apply, assert_unchanged, check_rule, model


class TestReshapeOfReshape:
    def test_only_the_last_counts(self):
        check_rule(
            reshapes.MergeReshapeIntoReshape(),
            """g (float[N,12] x) => (float[N,4,3] y) <int64[3] a = {0, 3, 4}, int64[3] b = {-1, 4, 3}> {
                t = Reshape(x, a) y = Reshape(t, b) }""",
            "g (float[N,12] x) => (float[N,4,3] y) <int64[3] b = {-1, 4, 3}> { y = Reshape(x, b) }",
        )

    def test_a_0_stays_where_x_has_the_same_dimension(self):
        check_rule(
            reshapes.MergeReshapeIntoReshape(),
            """g (float[N,12] x) => (float[N,4,3] y) <int64[3] a = {0, 3, 4}, int64[3] b = {0, 4, 3}> {
                t = Reshape(x, a) y = Reshape(t, b) }""",
            "g (float[N,12] x) => (float[N,4,3] y) <int64[3] b = {0, 4, 3}> { y = Reshape(x, b) }",
        )

    def test_a_0_becomes_the_number_that_it_stands_for(self):
        check_rule(
            reshapes.MergeReshapeIntoReshape(),
            """g (float[N,12] x) => (float[3,M] y) <int64[2] a = {3, -1}, int64[2] b = {0, -1}> {
                t = Reshape(x, a) y = Reshape(t, b) }""",
            "g (float[N,12] x) => (float[3,M] y) <int64[2] b = {3, -1}> { y = Reshape(x, b) }",
        )

    def test_a_0_for_an_unknown_size_of_the_inner_shape_stays(self):
        text = """g (float[N,12] x) => (int64 y) <int64[2] a = {-1, 3}, int64[3] b = {0, 1, 3}> {
            t = Reshape(x, a) u = Reshape(t, b) y = Size(u) }"""
        assert_unchanged(reshapes.MergeReshapeIntoReshape(), text)

    def test_allowzero_makes_a_0_a_size_of_0(self):
        text = """g (float[0,12] x) => (float[0,3] y) <int64[2] a = {12, 0}, int64[2] b = {0, 3}> {
            t = Reshape<allowzero=1>(x, a) y = Reshape<allowzero=1>(t, b) }"""
        assert_unchanged(reshapes.MergeReshapeIntoReshape(), text)

    def test_a_computed_shape_stays(self):
        text = """g (float[N,12] x, int64[2] s) => (int64 y) <int64[2] a = {-1, 3}> {
            t = Reshape(x, a) u = Reshape(t, s) y = Size(u) }"""
        assert_unchanged(reshapes.MergeReshapeIntoReshape(), text)

    @pytest.mark.parametrize("inner", ["Squeeze<axes=[1]>(x)", "Unsqueeze<axes=[0]>(x)", "Flatten(x)"])
    def test_over_the_rest_of_the_family(self, inner):
        text = f"g (float[N,1,6] x) => (float[M,2,3] y) <int64[3] b={{-1,2,3}}> {{ t = {inner} y = Reshape(t, b) }}"
        after = "g (float[N,1,6] x) => (float[M,2,3] y) <int64[3] b={-1,2,3}> { y = Reshape(x, b) }"
        check_rule(reshapes.MergeReshapeIntoReshape(), model(text, opset=11), model(after, opset=11))

    def test_an_inner_value_that_is_an_output_is_passed_by(self):
        check_rule(
            reshapes.MergeReshapeIntoReshape(),
            """g (float[N,12] x) => (float[N,3,4] t, float[N,4,3] y) <int64[3] a = {-1,3,4}, int64[3] b = {-1,4,3}> {
                t = Reshape(x, a) y = Reshape(t, b) }""",
            """g (float[N,12] x) => (float[N,3,4] t, float[N,4,3] y) <int64[3] a = {-1,3,4}, int64[3] b = {-1,4,3}> {
                t = Reshape(x, a) y = Reshape(x, b) }""",
        )

    @settings(max_examples=80)
    @given(st.data())
    def test_any_two_targets(self, data):
        """Targets with numbers, 0 and -1 over a shape of which some dimensions have no number in the model."""
        dims = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4))
        names = [data.draw(st.sampled_from([str(dim), f"D{i}"])) for i, dim in enumerate(dims)]
        first = data.draw(targets(dims))
        between = resolved(first, dims)
        second = data.draw(targets(between))
        rank = ",".join("?" * len(second))
        text = f"""g (float[{",".join(names)}] x) => (float[{rank}] y)
            <int64[{len(first)}] a = {{{str(first)[1:-1]}}}, int64[{len(second)}] b = {{{str(second)[1:-1]}}}> {{
            t = Reshape(x, a) y = Reshape(t, b) }}"""
        if apply(text, reshapes.MergeReshapeIntoReshape())[1]["merge-reshape-into-reshape"]:
            check_rule(reshapes.MergeReshapeIntoReshape(), text, shapes={"x": tuple(dims)}, seeds=1)


@st.composite
def targets(draw, dims):
    """A target that Reshape accepts for a tensor of these dims."""
    total = math.prod(dims)
    result, left = [], total
    for axis in range(draw(st.integers(0, 3))):
        options = [d for d in range(1, left + 1) if left % d == 0]
        if axis < len(dims) and left % dims[axis] == 0 and draw(st.booleans()):
            result.append(0)
            left //= dims[axis]
        else:
            result.append(draw(st.sampled_from(options)))
            left //= result[-1]
    result.append(left)
    if draw(st.booleans()):
        result[draw(st.integers(0, len(result) - 1))] = -1
    assume(all(want != 0 or axis < len(dims) for axis, want in enumerate(result)))
    return result


def resolved(target, dims):
    known = [dims[axis] if want == 0 else want for axis, want in enumerate(target)]
    return [math.prod(dims) // -math.prod(known) if want == -1 else want for want in known]


class TestTargetFor:
    @pytest.mark.parametrize(
        ("source", "result", "target"),
        [
            ((2, 6), (3, 4), [3, 4]),
            (("N", 6), ("N", 2, 3), [-1, 2, 3]),
            (("N", "M", 6), ("N", "M", 2, 3), [0, 0, 2, 3]),
            (("N", "M", 6), ("N", None, 2), [0, -1, 2]),
            (("N", "M"), ("M", "N"), None),
            (("N", None), (None, "N"), None),
            ((None, None), (None, None), None),
            ((0, 3), (3, 0), None),
            (None, (3, 4), None),
        ],
    )
    def test_numbers_copies_and_one_unknown(self, source, result, target):
        assert target_for(source, result) == target


class TestSqueezeAndUnsqueeze:
    @pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
    def test_unsqueeze_then_squeeze_cancel(self, opset):
        spell = "{}<axes=[{}]>({})" if opset < 13 else "{0}({2}, a)"
        unsqueeze, squeeze = spell.format("Unsqueeze", 1, "r"), spell.format("Squeeze", 1, "t")
        constants = "" if opset < 13 else "<int64[1] a = {1}>"
        text = (
            f"g (float[A,B] x) => (float[A,B] y) {constants} {{ r = Relu(x) t = {unsqueeze} u = {squeeze} y = Neg(u) }}"
        )
        after = model("g (float[A,B] x) => (float[A,B] y) { r = Relu(x) y = Neg(r) }", opset=opset)
        check_rule(reshapes.CancelUnsqueeze(), model(text, opset=opset), after)

    def test_unsqueeze_by_more_axes_stays_though_the_last_counts_as_the_first_in_the_operand(self):
        text = """g (float[1] x) => (float[1,1] y) <int64[1] a = {0}, int64[2] b = {0, -1}> {
            t = Squeeze(x, a) y = Unsqueeze(t, b) }"""
        assert_unchanged(reshapes.CancelSqueeze(), text)

    def test_squeeze_then_unsqueeze_cancel_whatever_way_the_axes_are_written(self):
        check_rule(
            reshapes.CancelSqueeze(),
            """g (float[A,1,B] x) => (float[A,1,B] y) <int64[1] a = {1}, int64[1] b = {-2}> {
                t = Squeeze(x, a) u = Unsqueeze(t, b) y = Neg(u) }""",
            "g (float[A,1,B] x) => (float[A,1,B] y) { y = Neg(x) }",
        )

    def test_other_axes_stay_if_two_sizes_are_unknown(self):
        text = """g (float[A,1,B] x) => (int64 y) <int64[1] a = {1}, int64[2] b = {0, 1}> {
            t = Squeeze(x, a) u = Unsqueeze(t, b) y = Size(u) }"""
        assert_unchanged(reshapes.CancelSqueeze(), text)
        assert_unchanged(reshapes.MergeUnsqueeze(), text)

    def test_other_axes_are_one_reshape(self):
        check_rule(
            reshapes.MergeUnsqueeze(),
            """g (float[A,1,4] x) => (float[1,A,4] y) <int64[1] a = {1}, int64[1] b = {0}> {
                t = Squeeze(x, a) y = Unsqueeze(t, b) }""",
            "g (float[A,1,4] x) => (float[1,A,4] y) <int64[3] s = {1, -1, 4}> { y = Reshape(x, s) }",
        )
        check_rule(
            reshapes.MergeSqueeze(),
            """g (float[A,4] x) => (float[A,2,2] y) <int64[4] s = {-1, 2, 1, 2}, int64[1] a = {2}> {
                t = Reshape(x, s) y = Squeeze(t, a) }""",
            "g (float[A,4] x) => (float[A,2,2] y) <int64[3] s = {-1, 2, 2}> { y = Reshape(x, s) }",
        )

    def test_flatten_of_unsqueeze(self):
        check_rule(
            reshapes.MergeFlatten(),
            """g (float[A,4] x) => (float[A,4] y) <int64[2] a = {2, 3}> {
                t = Unsqueeze(x, a) u = Flatten(t) y = Neg(u) }""",
            "g (float[A,4] x) => (float[A,4] y) { y = Neg(x) }",
        )

    def test_an_empty_tensor_stays(self):
        text = """g (float[0,1,4] x) => (int64 y) <int64[1] a = {1}, int64[1] b = {0}> {
            t = Squeeze(x, a) u = Unsqueeze(t, b) y = Size(u) }"""
        assert_unchanged(reshapes.MergeUnsqueeze(), text)

    @settings(max_examples=60)
    @given(st.data())
    def test_any_chain(self, data):
        dims = data.draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=4))
        nodes, now, constants = [], list(dims), []
        for i in range(data.draw(st.integers(2, 4))):
            ones = [axis for axis, dim in enumerate(now) if dim == 1]
            if ones and data.draw(st.booleans()):
                axes = data.draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
                now = [dim for axis, dim in enumerate(now) if axis not in axes]
                kind = "Squeeze"
            else:
                size = data.draw(st.integers(1, 2))
                axes = data.draw(
                    st.lists(st.integers(0, len(now) + size - 1), min_size=size, max_size=size, unique=True)
                )
                old = iter(now)
                now = [1 if axis in axes else next(old) for axis in range(len(now) + size)]
                kind = "Unsqueeze"
            constants.append(f"int64[{len(axes)}] a{i} = {{{', '.join(map(str, axes))}}}")
            nodes.append(f"t{i + 1} = {kind}(t{i}, a{i})")
        names = ",".join(
            "1" if dim == 1 else data.draw(st.sampled_from([str(dim), f"D{i}"])) for i, dim in enumerate(dims)
        )
        rank = f"[{','.join('?' * len(now))}]" if now else ""
        text = f"""g (float[{names}] x) => (float{rank} y) <{", ".join(constants)}> {{
            t0 = Relu(x) {" ".join(nodes)} y = Neg(t{len(nodes)}) }}"""
        for rule in reshapes.graphopt_passes():
            if apply(text, rule)[1][rule.name]:
                check_rule(rule, text, shapes={"x": tuple(dims)}, seeds=1)
