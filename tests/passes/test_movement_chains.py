"""Reshape, Transpose, Squeeze, Unsqueeze and Flatten in a row."""

from __future__ import annotations

import math

import pytest
from graphopt_passes.chains import Chain, Stuck
from graphopt_passes.movement_chains import shorten_movements
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.testing import apply, assert_unchanged, check_rule, model


class TestRows:
    def test_an_unsqueeze_between_two_transposes_is_a_reshape(self):
        check_rule(
            shorten_movements,
            """g (float[2,64,9] x) => (float[2,1,64,9] y) <int64[1] a = {1}> {
                t = Transpose<perm=[0,2,1]>(x) u = Unsqueeze(t, a) y = Transpose<perm=[0,1,3,2]>(u) }""",
            "g (float[2,64,9] x) => (float[2,1,64,9] y) <int64[4] s = {2,1,64,9}> { y = Reshape(x, s) }",
        )

    def test_heads_that_are_joined_and_then_turned_are_turned_and_then_joined(self):
        check_rule(
            shorten_movements,
            """g (float[2,4,36,64] x) => (float[2,256,6,6] y) <int64[4] s = {2,6,6,256}> {
                t = Transpose<perm=[0,2,1,3]>(x) u = Reshape(t, s) y = Transpose<perm=[0,3,1,2]>(u) }""",
            """g (float[2,4,36,64] x) => (float[2,256,6,6] y) <int64[4] s = {2,256,6,6}> {
                t = Transpose<perm=[0,1,3,2]>(x) y = Reshape(t, s) }""",
        )

    def test_windows_of_a_picture(self):
        check_rule(
            shorten_movements,
            """g (float[N,8,8,3] x) => (float[M,16,3] y)
                <int64[6] s = {-1,2,4,2,4,3}, int64[4] r = {-1,4,4,3}, int64[3] q = {-1,16,3}> {
                t = Reshape(x, s) u = Transpose<perm=[0,1,3,2,4,5]>(t) v = Reshape(u, r) y = Reshape(v, q) }""",
            """g (float[N,8,8,3] x) => (float[M,16,3] y) <int64[4] s = {-1,4,2,12}, int64[3] r = {-1,16,3}> {
                t = Reshape(x, s) u = Transpose<perm=[0,2,1,3]>(t) y = Reshape(u, r) }""",
        )

    def test_no_more_axes_than_tensorrt_has(self):
        """Windows of windows of windows in one step would be a Transpose of 10 axes."""
        body, side = "", 16
        for turn, name in enumerate("xuvw"[:3]):
            body += f"""s{turn} = Constant<value_ints = [-1, {side // 2}, 2, {side // 2}, 2, 3]>()
                r{turn} = Reshape({name}, s{turn}) t{turn} = Transpose<perm = [0, 2, 4, 1, 3, 5]>(r{turn})
                q{turn} = Constant<value_ints = [-1, {side // 2}, {side // 2}, 3]>()
                {"uvw"[turn]} = Reshape(t{turn}, q{turn}) """
            side //= 2
        source = model(f"g (float[N,16,16,3] x) => (float[M,2,2,3] y) {{ {body} y = Neg(w) }}")
        assert_unchanged(shorten_movements, source)

    def test_there_and_back_is_nothing(self):
        check_rule(
            shorten_movements,
            """g (float[N,L,12] x) => (float[N,L,12] y) <int64[4] s = {0,0,3,4}, int64[3] r = {0,0,12}> {
                a = Relu(x) b = Reshape(a, s) c = Transpose<perm=[0,2,1,3]>(b) d = Transpose<perm=[0,2,1,3]>(c)
                e = Reshape(d, r) y = Neg(e) }""",
            "g (float[N,L,12] x) => (float[N,L,12] y) { a = Relu(x) y = Neg(a) }",
        )

    def test_an_unsqueeze_where_no_shape_can_say_it(self):
        check_rule(
            shorten_movements,
            """g (float[N,L,K] x) => (float[N,1,K,L] y) <int64[1] a = {1}> {
                t = Transpose<perm=[1,0,2]>(x) u = Transpose<perm=[1,2,0]>(t) y = Unsqueeze(u, a) }""",
            """g (float[N,L,K] x) => (float[N,1,K,L] y) <int64[1] a = {1}> {
                t = Transpose<perm=[0,2,1]>(x) y = Unsqueeze(t, a) }""",
        )

    def test_what_others_read_stays_and_is_passed_by(self):
        check_rule(
            shorten_movements,
            """g (float[2,3,4] x) => (float[2,4,3] t, float[1,2,3,4] y) <int64[1] a = {0}> {
                t = Transpose<perm=[0,2,1]>(x) u = Unsqueeze(t, a) y = Transpose<perm=[0,1,3,2]>(u) }""",
            """g (float[2,3,4] x) => (float[2,4,3] t, float[1,2,3,4] y) <int64[4] s = {1,2,3,4}> {
                t = Transpose<perm=[0,2,1]>(x) y = Reshape(x, s) }""",
        )

    @pytest.mark.parametrize("opset", [9, 11, 13, 21])
    def test_axes_as_the_opset_has_them(self, opset):
        def spell(op, source, axis):
            return f"{op}<axes=[{axis}]>({source})" if opset < 13 else f"{op}({source}, a{axis})"

        constants = "" if opset < 13 else "<int64[1] a1 = {1}, int64[1] a2 = {2}>"
        check_rule(
            shorten_movements,
            model(
                f"""g (float[N,L,K] x, float[N,1,L,K] z) => (float[N,L,1,K] y, float[N,L,K] w) {constants} {{
                t = {spell("Unsqueeze", "x", 1)} y = Transpose<perm=[0,2,1,3]>(t)
                u = Transpose<perm=[0,2,1,3]>(z) w = {spell("Squeeze", "u", 2)} }}""",
                opset=opset,
            ),
            model(
                f"""g (float[N,L,K] x, float[N,1,L,K] z) => (float[N,L,1,K] y, float[N,L,K] w) {constants} {{
                y = {spell("Unsqueeze", "x", 2)} w = {spell("Squeeze", "z", 1)} }}""",
                opset=opset,
            ),
        )


class TestLeftAlone:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(
                """g (float[6,4] x) => (float[8,3] y) <int64[2] s = {4,6}, int64[2] r = {8,3}> {
                t = Reshape(x, s) u = Transpose(t) y = Reshape(u, r) }""",
                id="a Reshape across factors",
            ),
            pytest.param(
                """g (float[2,6,4] x, int64[3] s) => (float[?,?,?] y) {
                t = Transpose<perm=[0,2,1]>(x) u = Reshape(t, s) y = Transpose<perm=[0,2,1]>(u) }""",
                id="a computed shape",
            ),
            pytest.param(
                """g (float[0,6,4] x) => (float[0,1,6,4] y) <int64[1] a = {1}> {
                t = Transpose<perm=[0,2,1]>(x) u = Unsqueeze(t, a) y = Transpose<perm=[0,1,3,2]>(u) }""",
                id="an empty tensor",
            ),
            pytest.param(
                """g (float[N,K,4] x) => (float[?,?,?] y) <int64[1] a = {0}> {
                t = Transpose<perm=[1,0,2]>(x) y = Squeeze(t, a) }""",
                id="a Squeeze of what may not be 1",
            ),
            pytest.param(
                """g (float[N,4,6] x) => (float[?,?,?,?] y) <int64[4] s = {5,-1,2,2}> {
                t = Transpose<perm=[0,2,1]>(x) u = Transpose<perm=[2,1,0]>(t) v = Reshape(u, s) y = Neg(v) }""",
                id="a split of an unknown beside others",
            ),
            pytest.param(
                """g (float[2,3,4] x) => (float[2,3,4] y) <int64[3] s = {0,2,6}, int64[3] r = {0,3,4}> {
                t = Reshape(x, s) u = Transpose<perm=[0,2,1]>(t) y = Reshape(u, r) }""",
                id="as short as it gets",
            ),
        ],
    )
    def test_unchanged(self, text):
        assert_unchanged(shorten_movements, text)

    def test_an_inner_value_that_is_a_result(self):
        text = """g (float[2,3,4,5] x) => (float[3,2,4,5] t, float[3,2,20] u, float[20,2,3] y) <int64[3] s = {3,2,20}> {
            t = Transpose<perm=[1,0,2,3]>(x) u = Reshape(t, s) y = Transpose<perm=[2,1,0]>(u) }"""
        assert_unchanged(shorten_movements, text)


@st.composite
def rows(draw):
    """(the sizes at run time, the sizes that the model tells, nodes, constants) of a row that runs."""
    dims = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    named = [draw(st.sampled_from([str(dim), str(dim), f"D{i}"])) for i, dim in enumerate(dims)]
    now, nodes, constants = list(dims), [], []
    for i in range(draw(st.integers(2, 6))):
        source, result = (f"v{i}" if i else "x"), f"v{i + 1}"
        kind = draw(
            st.sampled_from(["Transpose", "Transpose", "Reshape", "Reshape", "Unsqueeze", "Squeeze", "Flatten"])
        )
        ones = [axis for axis, dim in enumerate(now) if dim == 1]
        if now and (kind == "Transpose" or (kind == "Squeeze" and not ones) or (kind == "Unsqueeze" and len(now) > 5)):
            perm = draw(st.permutations(range(len(now))))
            now = [now[axis] for axis in perm]
            nodes.append(f"{result} = Transpose<perm={list(perm)}>({source})")
            continue
        if kind == "Flatten" or (kind == "Squeeze" and not ones):
            axis = draw(st.integers(0, len(now)))
            now = [math.prod(now[:axis]), math.prod(now[axis:])]
            nodes.append(f"{result} = Flatten<axis={axis}>({source})")
            continue
        if kind == "Reshape" or (kind == "Transpose" and not now):
            kind = "Reshape"
            numbers, left = [], math.prod(now)
            for axis in range(draw(st.integers(0, 3))):
                whole = [dim for dim in range(1, left + 1) if left % dim == 0]
                if axis < len(now) and left % now[axis] == 0 and draw(st.booleans()):
                    numbers.append(0)
                    left //= now[axis]
                else:
                    numbers.append(draw(st.sampled_from(whole)))
                    left //= numbers[-1]
            numbers.append(left)
            new = [now[axis] if want == 0 else want for axis, want in enumerate(numbers)]
            if draw(st.booleans()):
                numbers[draw(st.integers(0, len(numbers) - 1))] = -1
            now = new
        elif kind == "Squeeze":
            numbers = draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
            now = [dim for axis, dim in enumerate(now) if axis not in numbers]
        else:
            rank = len(now) + draw(st.integers(1, 2))
            numbers = draw(st.permutations(range(rank)))[: rank - len(now)]
            old = iter(now)
            now = [1 if axis in numbers else next(old) for axis in range(rank)]
        constants.append(f"int64[{len(numbers)}] c{i} = {{{', '.join(map(str, numbers))}}}")
        nodes.append(f"{result} = {kind}({source}, c{i})")
    shared = draw(st.integers(1, len(nodes)))
    results = f"float[{','.join('?' * len(now))}] y"
    if draw(st.booleans()):
        nodes.append(f"z = Size(v{shared})")
        results += ", int64 z"
    nodes.append(f"y = Neg(v{len(nodes) - ('z' in results)})")
    text = f"g (float[{','.join(named)}] x) => ({results}) <{', '.join(constants) or 'int64[1] unused = {0}'}> {{"
    return tuple(dims), text + " ".join(nodes) + "}"


class TestAnyRow:
    @settings(max_examples=150)
    @given(rows())
    def test_moves_elements_alike_in_fewer_nodes(self, row):
        dims, text = row
        after, fired = apply(text, shorten_movements)
        if fired["shorten-movements"]:
            check_rule(shorten_movements, text, shapes={"x": dims}, seeds=1)
            assert len(after.graph.node) < len(model(text).graph.node)


class TestChain:
    def test_an_empty_tensor_and_one_of_unknown_rank_are_not_followed(self):
        for shape in (None, (2, 0), (0,)):
            with pytest.raises(Stuck):
                Chain(shape)

    def test_a_guessed_dimension_beside_an_unknown_one_is_not_made_where_none_was(self):
        chain = Chain(("N", "L", 4))
        chain.transpose([0, 2, 1])
        chain.unsqueeze([1], 4)
        chain.transpose([0, 1, 3, 2])
        assert chain.shortest(2) == [("Unsqueeze", [1])]
        chain.reshape([0, 0, -1])
        assert chain.shortest(2) == [("Reshape", [0, 1, -1])]
