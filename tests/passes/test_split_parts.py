"""Parts of width one, and sequences of known length."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from graphopt_passes.recurrent import drop_zero_states
from graphopt_passes.reshaped_transposes import transpose_without_reshapes
from graphopt_passes.split_parts import gather_instead_of_squeezed_split, split_instead_of_sequence

from graphopt.config import Target
from graphopt.testing import apply, assert_unchanged, check_rule, model

C = {
    "ones": np.array([1, 1, 1]),
    "wide": np.array([2, 1]),
    "a2": np.array([2]),
    "i0": np.int64(0),
    "i1": np.int64(1),
    "last": np.int64(-1),
    "far": np.int64(5),
    "two": np.int64(2),
}


def text(
    body: str,
    head: str = "float[B,S,3,4] x",
    result: str = "float[B,S,4] y, float[B,S,4] z",
    opset: int = 17,
    **more: object,
):
    weights = {name: value for name, value in {**C, **more}.items() if name in body}
    return model(f"g ({head}) => ({result}) {{ {body} }}", weights=weights, opset=opset)


class TestSqueezedSplit:
    def test_parts_are_gathered(self):
        check_rule(
            gather_instead_of_squeezed_split,
            text("p, q, r = Split<axis=2>(x, ones) y = Squeeze(p, a2) z = Squeeze(r, a2)"),
            text("y = Gather<axis=2>(x, i0) z = Gather<axis=2>(x, two)"),
        )

    def test_at_opset_11(self):
        check_rule(
            gather_instead_of_squeezed_split,
            text(
                "p, q, r = Split<axis=-2, split=[1,1,1]>(x) y = Squeeze<axes=[-2]>(p) z = Squeeze<axes=[2]>(q)",
                opset=11,
            ),
            text("y = Gather<axis=2>(x, i0) z = Gather<axis=2>(x, i1)", opset=11),
        )

    @pytest.mark.parametrize(
        ("body", "result"),
        [
            ("p, q = Split<axis=2>(x, wide) z = Squeeze(q, a2) y = Relu(p)", "float[B,S,2,4] y, float[B,S,4] z"),
            ("p, q, r = Split<axis=2>(x, ones) y = Relu(p) z = Squeeze(q, a2)", "float[B,S,1,4] y, float[B,S,4] z"),
            ("y, q, r = Split<axis=2>(x, ones) z = Squeeze(q, a2)", "float[B,S,1,4] y, float[B,S,4] z"),
        ],
    )
    def test_a_part_is_wide_or_read_as_it_is(self, body: str, result: str):
        assert_unchanged(gather_instead_of_squeezed_split, text(body, result=result))


class TestSequences:
    HEAD, RESULT = "float[B,6] x", "float[B,2] y, float[B,2] z"

    def test_parts_of_equal_size(self):
        check_rule(
            split_instead_of_sequence,
            text(
                "s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, i0) z = SequenceAt(s, last)",
                self.HEAD,
                self.RESULT,
            ),
            text("y, u, z = Split<axis=1>(x, sizes)", self.HEAD, self.RESULT, sizes=np.array([2, 2, 2])),
        )

    def test_parts_without_their_axis(self):
        check_rule(
            split_instead_of_sequence,
            text("s = SplitToSequence<axis=1, keepdims=0>(x) y = SequenceAt(s, i1)", "float[B,3] x", "float[B] y"),
        )

    @pytest.mark.parametrize(
        ("body", "head", "result"),
        [
            ("s = SplitToSequence<axis=0>(x, two) y = SequenceAt(s, i0)", "float[B,6] x", "float[P,6] y"),
            (
                "s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, i0) z = SequenceLength(s)",
                "float[B,6] x",
                "float[B,2] y, int64 z",
            ),
            ("s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, k)", "float[B,6] x, int64 k", "float[B,2] y"),
            ("s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, far)", "float[B,6] x", "float[B,2] y"),
        ],
    )
    def test_the_parts_are_not_known(self, body: str, head: str, result: str):
        """An unknown size; the sequence is read as such; an unknown place; a place that does not exist."""
        assert_unchanged(split_instead_of_sequence, text(body, head, result))


class TestReshapedTransposes:
    def test_leading_axes_that_are_joined_and_parted(self):
        check_rule(
            transpose_without_reshapes,
            text(
                "a = Reshape(x, flat) p = Transpose<perm=[0,2,1]>(a) y = Reshape(p, parted)",
                "float[B,4,7,5] x",
                "float[B,4,5,7] y",
                flat=np.array([-1, 7, 5]),
                parted=np.array([-1, 4, 5, 7]),
            ),
            text("y = Transpose<perm=[0,1,3,2]>(x)", "float[B,4,7,5] x", "float[B,4,5,7] y"),
        )

    @pytest.mark.parametrize(
        ("perm", "parted"), [([0, 2, 1], [2, 8, 5, 7]), ([1, 0, 2], [7, 8, 2, 5]), ([0, 2, 1], [4, 4, 7, 5])]
    )
    def test_other_sizes_than_were_joined(self, perm: list[int], parted: list[int]):
        dims = ",".join(map(str, parted))
        assert_unchanged(
            transpose_without_reshapes,
            text(
                f"a = Reshape(x, flat) p = Transpose<perm={perm}>(a) y = Reshape(p, parted)",
                "float[4,4,7,5] x",
                f"float[{dims}] y",
                flat=np.array([16, 7, 5]),
                parted=np.array(parted),
            ),
        )

    @pytest.mark.parametrize("perm", [[0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0]])
    def test_any_order_is_the_same_numbers(self, perm: list[int]):
        sizes = {0: [2, 3], 1: [7], 2: [5]}
        parted = [dim for axis in perm for dim in sizes[axis]]
        check_rule(
            transpose_without_reshapes,
            text(
                f"a = Reshape(x, flat) p = Transpose<perm={perm}>(a) y = Reshape(p, parted)",
                "float[2,3,7,5] x",
                f"float[{','.join(map(str, parted))}] y",
                flat=np.array([6, 7, 5]),
                parted=np.array(parted),
            ),
        )


class TestZeroStates:
    W: ClassVar[dict[str, Any]] = {
        "w": (2, 16, 3),
        "r": (2, 16, 4),
        "zero": np.zeros((2, 1, 4), np.float32),
        "one": np.ones((2, 1, 4), np.float32),
    }
    HEAD, RESULT = "float[T,1,3] x", "float[T,2,1,4] y"

    def lstm(self, state: str, before: str = ""):
        body = f'{before} y = LSTM<hidden_size=4, direction="bidirectional">(x, w, r, , , {state})'
        return text(body, self.HEAD, self.RESULT, **self.W, shape=np.array([4, 1, 4]), halves=np.array([2, 2]))

    ANYWHERE = Target(backend="onnxruntime")

    def test_constants(self):
        check_rule(
            drop_zero_states,
            self.lstm("zero, zero"),
            self.lstm("").graph
            and text('y = LSTM<hidden_size=4, direction="bidirectional">(x, w, r)', self.HEAD, self.RESULT, **self.W),
            target=self.ANYWHERE,
        )

    def test_for_tensorrt_a_constant_of_a_known_batch_is_best(self):
        assert_unchanged(drop_zero_states, self.lstm("zero, zero"))
        made = check_rule(
            drop_zero_states, self.lstm("h, c", "z = ConstantOfShape(shape) h, c = Split<axis=0>(z, halves)")
        )
        assert [node.op_type for node in made.graph.node] == ["LSTM"]
        assert len(made.graph.node[0].input) == 7

    def test_for_tensorrt_states_of_an_unknown_batch_go(self):
        body = 'y = LSTM<hidden_size=4, direction="bidirectional">(x, w, r, , , h, h)'
        source = text(
            f"h = ConstantOfShape(shape) {body}", "float[T,B,3] x, int64[3] shape", "float[T,2,B,4] y", **self.W
        )
        made, counts = apply(source, drop_zero_states)
        assert counts["drop-zero-states"] == 2
        assert len(made.graph.node[0].input) == 3

    def test_zeros_of_a_computed_shape_moved_about(self):
        check_rule(
            drop_zero_states, self.lstm("h, c", "z = ConstantOfShape(shape) h, c = Split<axis=0>(z, halves)"), fires=2
        )

    def test_one_of_two(self):
        check_rule(drop_zero_states, self.lstm("zero, one"), fires=1, target=self.ANYWHERE)
        check_rule(drop_zero_states, self.lstm("one, zero"), fires=1, target=self.ANYWHERE)

    def test_other_states_stay(self):
        assert_unchanged(drop_zero_states, self.lstm("one, one"))
