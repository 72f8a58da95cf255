"""Slice, Split and Concat."""

from __future__ import annotations

import itertools

import pytest
from graphopt_passes import broadcasts, pieces
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.testing import apply, assert_unchanged, check_rule, model

END = 9223372036854775807


def slices(*cuts: tuple[list[int], list[int], list[int], list[int]], x: str, y: str) -> str:
    """x cut again and again: (starts, ends, axes, steps)."""
    constants, nodes = [], []
    for i, cut in enumerate(cuts):
        for name, numbers in zip("seat", cut, strict=True):
            constants.append(f"int64[{len(numbers)}] {name}{i} = {{{', '.join(map(str, numbers))}}}")
        nodes.append(f"v{i + 1} = Slice(v{i}, s{i}, e{i}, a{i}, t{i})")
    body = f"v0 = Relu(x) {' '.join(nodes)} y = Neg(v{len(cuts)})"
    return f"g (float[{x}] x) => (float[{y}] y) <{', '.join(constants)}> {{ {body} }}"


class TestMergeSlices:
    def test_over_different_axes(self):
        check_rule(
            pieces.MergeSlices(),
            """g (float[A,8,9] x) => (float[A,4,3] y)
               <int64[1] s={1}, int64[1] e={5}, int64[1] a={1}, int64[1] t={6}, int64[1] f={9}, int64[1] z={-1}> {
                v = Slice(x, s, e, a) y = Slice(v, t, f, z) }""",
            """g (float[A,8,9] x) => (float[A,4,3] y) <int64[2] s={1,6}, int64[2] e={5,9}, int64[2] a={1,2}> {
                y = Slice(x, s, e, a) }""",
        )

    def test_over_the_same_axis(self):
        check_rule(
            pieces.MergeSlices(),
            slices(([2], [100], [0], [1]), ([1], [3], [0], [1]), x="9", y="2"),
            """g (float[9] x) => (float[2] y) <int64[1] s={3}, int64[1] e={5}, int64[1] a={0}> {
                v = Relu(x) w = Slice(v, s, e, a) y = Neg(w) }""",
        )

    @pytest.mark.parametrize(
        ("first", "second", "start", "end"), [(2, 9, 0, 2), (5, 1, 0, 1), (END, END, 3, END), (9, END, 3, 9)]
    )
    def test_the_nearer_end_counts_though_the_size_is_unknown(self, first, second, start, end):
        check_rule(
            pieces.MergeSlices(),
            slices(([0], [first], [0], [1]), ([start], [second], [0], [1]), x="N", y="M"),
            f"""g (float[N] x) => (float[M] y) <int64[1] s={{{start}}}, int64[1] e={{{end}}}, int64[1] a={{0}}> {{
                v = Relu(x) w = Slice(v, s, e, a) y = Neg(w) }}""",
        )

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (([-5], [END], [0], [1]), ([1], [3], [0], [1])),
            (([1], [-1], [0], [1]), ([1], [3], [0], [1])),
            (([0], [8], [0], [1]), ([-3], [END], [0], [1])),
        ],
        ids=["start from the end", "end from the end", "last three of eight or fewer"],
    )
    def test_an_unknown_size_that_matters_stays(self, first, second):
        text = slices(first, second, x="N", y="?").replace("float[?] y", "int64 y").replace("Neg(", "Size(")
        assert_unchanged(pieces.MergeSlices(), text)

    def test_steps_over_one_axis_stay(self):
        text = slices(([0], [9], [0], [2]), ([1], [3], [0], [1]), x="9", y="2")
        assert_unchanged(pieces.MergeSlices(), text)

    def test_a_slice_that_others_read_stays(self):
        text = """g (float[9] x) => (float[3] y, float[5] v) <int64[1] s={1}, int64[1] e={6}, int64[1] f={4}> {
            v = Slice(x, s, e) y = Slice(v, s, f) }"""
        assert_unchanged(pieces.MergeSlices(), text)

    @settings(max_examples=100)
    @given(
        st.integers(0, 7),
        st.booleans(),
        *[st.sampled_from([-9, -3, -1, 0, 1, 2, 5, 8, END]) for _ in range(4)],
    )
    def test_any_two_cuts_of_one_axis(self, size, known, start, end, start2, end2):
        text = slices(([start], [end], [0], [1]), ([start2], [end2], [0], [1]), x=str(size) if known else "N", y="M")
        if apply(text, pieces.MergeSlices())[1]["merge-slices"]:
            check_rule(pieces.MergeSlices(), text, shapes={"x": (size,)}, seeds=1)
        else:
            assert not known

    def test_at_opset_9(self):
        text = """g (float[9,9] x) => (float[4,4] y) {
            t = Slice<starts=[1], ends=[5], axes=[0]>(x) y = Slice<starts=[2], ends=[6], axes=[1]>(t) }"""
        after = "g (float[9,9] x) => (float[4,4] y) { y = Slice<axes=[0,1], ends=[5,6], starts=[1,2]>(x) }"
        check_rule(pieces.MergeSlices(), model(text, opset=9), model(after, opset=9))


PARTS = "int64[1] a={0}, int64[1] b={2}, int64[1] c={5}, int64[1] d={9}, int64[1] z={1}"


def test_the_parts_of_a_concat_of_one_value_may_be_results():
    check_rule(
        pieces.split_concat,
        model(
            "g (float[2] x) => (float[2] y, float[2] z) { n = Neg(x) w = Concat<axis=0>(n, n) y, z = Split(w) }",
            opset=11,
        ),
    )


def test_a_scalar_has_no_parts():
    assert_unchanged(
        pieces.TakeFromConcat(),
        """g (float x) => (y) <int64[1] a = {0}, int64[1] b = {1}> {
            c = Concat<axis=0>(x, x) y = Slice(c, a, b) }""",
    )


class TestReassemble:
    def test_all_parts_of_a_split(self):
        check_rule(
            pieces.ReassembleSplit(),
            """g (float[N,6] x) => (float[N,6] y) <int64[3] s={1,2,3}> {
                u, v, w = Split<axis=1>(x, s) t = Concat<axis=-1>(u, v, w) y = Relu(t) }""",
            "g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }",
        )

    @pytest.mark.parametrize(
        "body",
        [
            "u, v = Split<axis=1>(x, s) t = Concat<axis=1>(v, u)",
            "u, v = Split<axis=1>(x, s) t = Concat<axis=0>(u, v)",
            "u, v = Split<axis=1>(x, s) t = Concat<axis=1>(u, u)",
            "u, v = Split<axis=1>(x, s) t = Concat<axis=1>(u, v, v)",
        ],
        ids=["in another order", "along another axis", "one twice", "one more"],
    )
    def test_other_parts_stay(self, body):
        text = f"g (float[2,6] x) => (int64 y) <int64[2] s={{3,3}}> {{ {body} y = Size(t) }}"
        assert_unchanged(pieces.ReassembleSplit(), text)

    @pytest.mark.parametrize(("size", "last"), [("9", "d"), ("N", "f")], ids=["known", "to the end"])
    def test_slices_that_leave_nothing_out(self, size, last):
        check_rule(
            pieces.ReassembleSlices(),
            f"""g (float[3,{size}] x) => (float[3,{size}] y) <{PARTS}, int64[1] f={{{END}}}> {{
                u = Slice(x, a, b, z) v = Slice(x, b, c, z) w = Slice(x, c, {last}, z)
                t = Concat<axis=1>(u, v, w) y = Relu(t) }}""",
            f"g (float[3,{size}] x) => (float[3,{size}] y) {{ y = Relu(x) }}",
        )

    @pytest.mark.parametrize(
        "body",
        [
            "u = Slice(x, a, b, z) v = Slice(x, c, d, z) t = Concat<axis=1>(u, v)",
            "u = Slice(x, a, c, z) v = Slice(x, b, d, z) t = Concat<axis=1>(u, v)",
            "u = Slice(x, a, b, z) v = Slice(x, b, c, z) t = Concat<axis=1>(u, v)",
            "u = Slice(x, b, d, z) v = Slice(x, a, b, z) t = Concat<axis=1>(u, v)",
            "r = Neg(x) u = Slice(x, a, b, z) v = Slice(r, b, d, z) t = Concat<axis=1>(u, v)",
            "u = Slice(x, a, b, z) v = Slice(x, b, d, z) t = Concat<axis=2>(u, v)",
        ],
        ids=["a gap", "an overlap", "not to the end", "in another order", "of two tensors", "along another axis"],
    )
    def test_other_slices_stay(self, body):
        text = f"g (float[3,9,7] x) => (int64 y) <{PARTS}> {{ {body} y = Size(t) }}"
        assert_unchanged(pieces.ReassembleSlices(), text)

    def test_slices_up_to_a_number_over_an_unknown_size_stay(self):
        text = f"""g (float[3,N] x) => (int64 y) <{PARTS}> {{
            u = Slice(x, a, b, z) v = Slice(x, b, d, z) t = Concat<axis=1>(u, v) y = Size(t) }}"""
        assert_unchanged(pieces.ReassembleSlices(), text)

    @settings(max_examples=40)
    @given(st.lists(st.integers(0, 8), min_size=1, max_size=3), st.integers(0, 9))
    def test_any_places_to_cut(self, places, size):
        bounds = [0, *sorted(places), END]
        cuts = list(itertools.pairwise(bounds))
        constants = [f"int64[1] s{i}={{{a}}}, int64[1] e{i}={{{b}}}" for i, (a, b) in enumerate(cuts)]
        nodes = [f"v{i} = Slice(x, s{i}, e{i})" for i in range(len(cuts))]
        names = ", ".join(f"v{i}" for i in range(len(cuts)))
        text = f"""g (float[N] x) => (float[N] y) <{", ".join(constants)}> {{
            {" ".join(nodes)} t = Concat<axis=0>({names}) y = Neg(t) }}"""
        check_rule(pieces.ReassembleSlices(), text, shapes={"x": (size,)}, seeds=1)


class TestConcat:
    def test_of_concat_is_one(self):
        check_rule(
            pieces.merge_concats,
            """g (float[N,1] a, float[N,2] b, float[N,3] c) => (float[N,6] y) {
                t = Concat<axis=1>(a, b) y = Concat<axis=-1>(t, c) }""",
            "g (float[N,1] a, float[N,2] b, float[N,3] c) => (float[N,6] y) { y = Concat<axis=-1>(a, b, c) }",
        )

    def test_that_only_concats_read_goes(self):
        check_rule(
            pieces.merge_concats,
            """g (float[2] a, float[N] b) => (float[P] y, float[Q] z) {
                t = Concat<axis=0>(a, b) y = Concat<axis=0>(t, b, t) z = Concat<axis=-1>(b, t) }""",
            """g (float[2] a, float[N] b) => (float[P] y, float[Q] z) {
                y = Concat<axis=0>(a, b, b, a, b) z = Concat<axis=-1>(b, a, b) }""",
        )

    @pytest.mark.parametrize(
        "body",
        [
            "t = Concat<axis=0>(a, a) y = Concat<axis=1>(t, b)",
            "t = Concat<axis=0>(a, a) u = Concat<axis=0>(t, b) v = Concat<axis=1>(t, b) y = Concat<axis=0>(u, a)",
            "t = Concat<axis=0>(a, a) u = Concat<axis=0>(t, b) v = Neg(t) y = Neg(u)",
        ],
    )
    def test_along_another_axis_or_read_otherwise_stays(self, body):
        text = f"g (float[1,2] a, float[2,2] b) => (int64 z) {{ {body} z = Size(y) }}"
        if "Concat<axis=0>(u" in body:
            check_rule(pieces.merge_concats, text, fires=1)  # u alone goes
        else:
            assert_unchanged(pieces.merge_concats, text)

    def test_does_not_double_with_every_turn(self):
        names = ["a", *(f"t{i}" for i in range(1, 13))]
        body = " ".join(f"{new} = Concat<axis=0>({old}, {old})" for old, new in itertools.pairwise(names))
        result, _ = apply(f"g (float[1] a) => (float[4096] y) {{ {body} y = Neg(t12) }}", pieces.merge_concats)
        assert max(len(node.input) for node in result.graph.node) <= pieces.SHORT

    def test_that_is_an_output_stays(self):
        text = "g (float[2] a) => (float[4] t, float[6] y) { t = Concat<axis=0>(a, a) y = Concat<axis=0>(t, a) }"
        assert_unchanged(pieces.merge_concats, text)

    def test_split_where_it_was_joined_is_undone(self):
        check_rule(
            pieces.split_concat,
            """g (float[N,1] a, float[N,2] b) => (float[N,1] u, float[N,2] v) <int64[2] s={1,2}> {
                t = Concat<axis=1>(a, b) p, q = Split<axis=1>(t, s) u = Relu(p) v = Neg(q) }""",
            "g (float[N,1] a, float[N,2] b) => (float[N,1] u, float[N,2] v) { u = Relu(a) v = Neg(b) }",
        )

    def test_split_elsewhere_stays(self):
        text = """g (float[N,1] a, float[N,2] b) => (float[N,2] u, float[N,1] v) <int64[2] s={2,1}> {
            t = Concat<axis=1>(a, b) p, q = Split<axis=1>(t, s) u = Relu(p) v = Neg(q) }"""
        assert_unchanged(pieces.split_concat, text)

    def test_a_slice_that_takes_one_operand_is_that_operand(self):
        check_rule(
            pieces.TakeFromConcat(),
            """g (float[N,1] a, float[N,2] b, float[N,4] c) => (float[N,2] y, float[N,7] t)
               <int64[1] s={1}, int64[1] e={3}, int64[1] z={-1}> {
                t = Concat<axis=1>(a, b, c) p = Slice(t, s, e, z) y = Relu(p) }""",
            """g (float[N,1] a, float[N,2] b, float[N,4] c) => (float[N,2] y, float[N,7] t) {
                t = Concat<axis=1>(a, b, c) y = Relu(b) }""",
        )

    @pytest.mark.parametrize(("s", "e", "z"), [(1, 4, 1), (0, 2, 1), (1, 3, 0), (-6, -4, 1)])
    def test_a_slice_that_takes_something_else_stays(self, s, e, z):
        text = f"""g (float[9,1] a, float[9,2] b, float[9,4] c) => (int64 y)
            <int64[1] s={{{s}}}, int64[1] e={{{e}}}, int64[1] z={{{z}}}> {{
            t = Concat<axis=1>(a, b, c) p = Slice(t, s, e, z) y = Size(p) }}"""
        assert_unchanged(pieces.TakeFromConcat(), text)


class TestSplitInsteadOfSlices:
    @pytest.mark.parametrize("opset", [11, 13, 18])
    def test_slices_that_tile_an_axis_are_one_split(self, opset):
        text = f"""g (float[N,9] x) => (float[N,2] p, float[N,3] q, float[N,4] r) <{PARTS}> {{
            v = Slice(x, b, c, z) u = Slice(x, a, b, z) w = Slice(x, c, d, z) p = Relu(u) q = Neg(v) r = Abs(w) }}"""
        result = check_rule(pieces.split_instead_of_slices, model(text, opset=opset))
        assert sorted(node.op_type for node in result.graph.node) == ["Abs", "Neg", "Relu", "Split"]

    def test_slices_of_a_slice_are_cut_from_its_part(self):
        check_rule(
            pieces.split_instead_of_slices,
            f"""g (float[N,9] x) => (float[N,2] p, float[N,3] q, float[N,4] r) <{PARTS}> {{
            t = Slice(x, a, c, z) w = Slice(x, c, d, z) u = Slice(t, a, b, z) v = Slice(t, b, c, z)
            p = Relu(u) q = Neg(v) r = Abs(w) }}""",
            fires=2,
        )

    @pytest.mark.parametrize("size", ["N", "10"])
    def test_slices_that_may_leave_a_rest_stay(self, size):
        text = f"""g (float[{size}] x) => (float[2] p, float[3] q) <{PARTS}> {{
            u = Slice(x, a, b) v = Slice(x, b, c) p = Relu(u) q = Neg(v) }}"""
        assert_unchanged(pieces.split_instead_of_slices, text)


class TestGatherInstead:
    def test_one_place_without_its_axis_is_a_gather(self):
        check_rule(
            pieces.GatherInsteadOfSqueezedSlice(),
            """g (float[A,B,3] x) => (float[A,B] y) <int64[1] s={1}, int64[1] e={2}, int64[1] a={2}, int64[1] z={-1}> {
                t = Slice(x, s, e, a) y = Squeeze(t, z) }""",
            "g (float[A,B,3] x) => (float[A,B] y) <int64 i={1}> { y = Gather<axis=2>(x, i) }",
        )

    def test_the_last_place(self):
        check_rule(
            pieces.GatherInsteadOfSqueezedSlice(),
            f"""g (float[A,B] x) => (float[A] y) <int64[1] s={{-1}}, int64[1] e={{{END}}}, int64[1] a={{1}}> {{
                t = Slice(x, s, e, a) y = Squeeze(t, a) }}""",
            "g (float[A,B] x) => (float[A] y) <int64 i={-1}> { y = Gather<axis=1>(x, i) }",
        )

    @pytest.mark.parametrize(
        ("s", "e", "z"), [(0, 2, 1), (1, 2, 0), (-1, 0, 1)], ids=["two places", "another axis", "no place"]
    )
    def test_anything_else_stays(self, s, e, z):
        text = f"""g (float[1,2] x) => (int64 y)
            <int64[1] s={{{s}}}, int64[1] e={{{e}}}, int64[1] a={{1}}, int64[1] z={{{z}}}> {{
            t = Slice(x, s, e, a) u = Squeeze(t, z) y = Size(u) }}"""
        if s == 0:
            text = text.replace("float[1,2] x", "float[1,1] x")
        assert_unchanged(pieces.GatherInsteadOfSqueezedSlice(), text)


class TestSkipExpand:
    def test_before_an_operator_that_broadcasts_anyway(self):
        check_rule(
            broadcasts.skip_expand,
            """g (float[1,C] x, float[N,C] z) => (float[N,C] y) <int64[3] k={1,1,1}, int64[1] a={0}> {
                w = Unsqueeze(z, a) t = Expand(x, k) u = Sub(w, t) y = Squeeze(u, a) }""",
            """g (float[1,C] x, float[N,C] z) => (float[N,C] y) <int64[1] a={0}> {
                w = Unsqueeze(z, a) u = Sub(w, x) y = Squeeze(u, a) }""",
        )

    def test_that_makes_the_shape_of_the_result_stays(self):
        text = "g (float[1,C] x, float[1,C] z) => (float[4,C] y) <int64[2] k={4,1}> { t = Expand(x, k) y = Sub(z, t) }"
        assert_unchanged(broadcasts.skip_expand, text)

    def test_over_sizes_that_are_not_known_to_be_equal_stays(self):
        text = "g (float[1] x, float[N] z) => (int64 y) <int64[1] k={4}> { t = Expand(x, k) u = Sub(z, t) y = Size(u) }"
        assert_unchanged(broadcasts.skip_expand, text)


def test_slices_of_slices_are_splits_of_a_split():
    """Queries of rotary attention: a part of each head is rotated, in halves."""
    cut = "Constant<value_ints=[{}]>()"
    check_rule(
        pieces.split_instead_of_slices,
        "g (float[N,8] x) => (float[N,2] a, float[N,2] b, float[N,4] c) {"
        f" i = {cut.format(0)} j = {cut.format(2)} k = {cut.format(4)} l = {cut.format(8)} one = {cut.format(1)}"
        " front = Slice(x, i, k, one) c = Slice(x, k, l, one)"
        " a = Slice(front, i, j, one) b = Slice(front, j, k, one) }",
        fires=2,
    )
