"""Nodes that give back what they are given go; those that only look so stay."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes import noop
from graphopt_passes.exact_casts import holds_every

from graphopt.testing import apply, assert_unchanged, check_rule, model


def around(body: str, *, type_of_x: str = "float[N,3,4]", opset: int = 17, constants: str = "") -> object:
    """x -> (body makes t of x) -> y = Relu(t)."""
    initial = f"<{constants}>" if constants else ""
    return model(f"g ({type_of_x} x) => ({type_of_x} y) {initial} {{ {body} y = Relu(t) }}", opset=opset)


RELU = "g (float[N,3,4] x) => (float[N,3,4] y) { y = Relu(x) }"

GOES = {
    "identity": (noop.remove_identities, "t = Identity(x)", ""),
    "dropout": (noop.RemoveDropout(), "t = Dropout(x)", ""),
    "dropout with a ratio": (noop.RemoveDropout(), "t = Dropout(x, r)", "float r = {0.5}"),
    "dropout, training_mode false": (noop.RemoveDropout(), "t = Dropout(x, , m)", "bool m = {0}"),
    "dropout of nothing": (noop.RemoveDropout(), "t = Dropout(x, r, m)", "float r = {0.0}, bool m = {1}"),
    "cast to the same": (noop.RemoveCastToSame(), "t = Cast<to=1>(x)", ""),
    "cast there and back": (noop.RemoveCastDetour(), "w = Cast<to=11>(x) t = Cast<to=1>(w)", ""),
    "reshape, all given": (noop.RemoveReshapeToSame(), "t = Reshape(x, s)", "int64[3] s = {-1, 3, 4}"),
    "reshape, all copied": (noop.RemoveReshapeToSame(), "t = Reshape(x, s)", "int64[3] s = {0, 0, -1}"),
    "transpose": (noop.RemoveTransposeToSame(), "t = Transpose<perm=[0,1,2]>(x)", ""),
    "unsqueeze": (noop.RemoveUnsqueezeOfNothing(), "t = Unsqueeze(x, a)", "int64[0] a = {}"),
    "slice to the end": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a)",
        "int64[2] s = {0, 0}, int64[2] e = {9223372036854775807, 4}, int64[2] a = {0, -1}",
    ),
    "slice from before the start": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a)",
        "int64[1] s = {-4}, int64[1] e = {100}, int64[1] a = {2}",
    ),
    "pad": (noop.RemovePadOfNothing(), "t = Pad(x, p)", "int64[6] p = {0, 0, 0, 0, 0, 0}"),
    "pad by reflection": (
        noop.RemovePadOfNothing(),
        't = Pad<mode="reflect">(x, p)',
        "int64[6] p = {0, 0, 0, 0, 0, 0}",
    ),
    "expand": (noop.RemoveExpandToSame(), "t = Expand(x, s)", "int64[3] s = {1, 3, 4}"),
    "expand of fewer axes": (noop.RemoveExpandToSame(), "t = Expand(x, s)", "int64[1] s = {4}"),
    "tile": (noop.RemoveTileOnce(), "t = Tile(x, r)", "int64[3] r = {1, 1, 1}"),
    "concat": (noop.RemoveConcatOfOne(), "t = Concat<axis=1>(x)", ""),
    "split": (noop.remove_split_into_one, "t = Split<axis=1>(x)", ""),
    "split with a size": (noop.remove_split_into_one, "t = Split<axis=1>(x, s)", "int64[1] s = {3}"),
    "gather": (noop.RemoveGatherOfAll(), "t = Gather<axis=1>(x, i)", "int64[3] i = {0, 1, -1}"),
    "clip": (noop.RemoveClipWithoutBounds(), "t = Clip(x)", ""),
}


@pytest.mark.parametrize(("rule", "body", "constants"), GOES.values(), ids=GOES.keys())
def test_it_goes(rule, body, constants):
    check_rule(rule, around(body, constants=constants), RELU)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
@pytest.mark.parametrize(
    ("rule", "body"), [GOES[n][:2] for n in ("identity", "dropout", "transpose", "cast to the same")]
)
def test_it_goes_at_every_opset(rule, body, opset):
    check_rule(rule, around(body, opset=opset), model(RELU, opset=opset))


def test_what_old_opsets_keep_in_attributes_is_read_there():
    check_rule(noop.RemoveFullSlice(), around("t = Slice<starts=[0], ends=[4], axes=[2]>(x)", opset=9))
    check_rule(noop.RemovePadOfNothing(), around("t = Pad<pads=[0,0,0,0,0,0]>(x)", opset=9))
    check_rule(noop.RemoveDropout(), around("t = Dropout<ratio=0.3>(x)", opset=9))
    check_rule(noop.RemoveClipWithoutBounds(), around("t = Clip(x)", opset=9))
    check_rule(noop.remove_split_into_one, around("t = Split<axis=1, split=[3]>(x)", opset=11))
    assert_unchanged(noop.RemoveFullSlice(), around("u = Slice<starts=[1], ends=[4], axes=[2]>(x) t = Pad<pads=[0,0,1,0,0,0]>(u)", opset=9))  # fmt: skip  # noqa: E501
    assert_unchanged(noop.RemoveClipWithoutBounds(), around("t = Clip<min=0.0>(x)", opset=9))


STAYS = {
    "dropout in training": (noop.RemoveDropout(), "t = Dropout(x, r, m)", "float r = {0.5}, bool m = {1}"),
    "cast to another": (noop.RemoveCastToSame(), "i = Cast<to=10>(x) t = Cast<to=1>(i)", ""),
    "cast through a narrower float": (noop.RemoveCastDetour(), "i = Cast<to=10>(x) t = Cast<to=1>(i)", ""),
    "cast through integers": (noop.RemoveCastDetour(), "i = Cast<to=7>(x) t = Cast<to=1>(i)", ""),
    "reshape to another shape": (noop.RemoveReshapeToSame(), "t = Reshape(x, s)", "int64[3] s = {-1, 4, 3}"),
    "reshape of an unknown size": (noop.RemoveReshapeToSame(), "t = Reshape(x, s)", "int64[3] s = {2, 3, 4}"),
    "transpose": (noop.RemoveTransposeToSame(), "t = Transpose<perm=[0,2,1]>(x)", ""),
    "squeeze where N may be 1": (noop.RemoveSqueezeOfNothing(), "t = Squeeze(x)", ""),
    "slice of a part": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a)",
        "int64[1] s = {1}, int64[1] e = {9223372036854775807}, int64[1] a = {2}",
    ),
    "slice up to a number, the size unknown": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a)",
        "int64[1] s = {0}, int64[1] e = {1000}, int64[1] a = {0}",
    ),
    "slice backwards": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a, b)",
        "int64[1] s = {3}, int64[1] e = {-5}, int64[1] a = {2}, int64[1] b = {-1}",
    ),
    "every second": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a, b)",
        "int64[1] s = {0}, int64[1] e = {9223372036854775807}, int64[1] a = {2}, int64[1] b = {2}",
    ),
    "slice to before the end": (
        noop.RemoveFullSlice(),
        "t = Slice(x, s, e, a)",
        "int64[1] s = {0}, int64[1] e = {-1}, int64[1] a = {2}",
    ),
    "pad": (noop.RemovePadOfNothing(), "t = Pad(x, p)", "int64[6] p = {0, 0, 1, 0, 0, -1}"),
    "expand of a size that may be 1": (noop.RemoveExpandToSame(), "t = Expand(x, s)", "int64[3] s = {2, 3, 4}"),
    "expand to more axes": (
        noop.RemoveExpandToSame(),
        "e = Expand(x, s) t = Squeeze(e, z)",
        "int64[4] s = {1, 1, 3, 4}, int64[1] z = {0}",
    ),
    "tile": (noop.RemoveTileOnce(), "t = Tile(x, r)", "int64[3] r = {2, 1, 1}"),
    "concat of two": (noop.RemoveConcatOfOne(), "t = Concat<axis=0>(x, x)", ""),
    "gather in another order": (noop.RemoveGatherOfAll(), "t = Gather<axis=1>(x, i)", "int64[3] i = {0, 2, 1}"),
    "gather of some": (noop.RemoveGatherOfAll(), "t = Gather<axis=2>(x, i)", "int64[3] i = {0, 1, 2}"),
    "clip": (noop.RemoveClipWithoutBounds(), "t = Clip(x, b)", "float b = {0.0}"),
    "flatten of rank 3": (noop.RemoveFlattenOfMatrix(), "t = Flatten<axis=1>(x)", ""),
}


@pytest.mark.parametrize(("rule", "body", "constants"), STAYS.values(), ids=STAYS.keys())
def test_it_stays(rule, body, constants):
    initial = f"<{constants}>" if constants else ""
    assert_unchanged(rule, f"g (float[N,3,4] x) => (int64 y) {initial} {{ {body} y = Size(t) }}")


def test_dropout_stays_where_its_mask_is_read():
    assert_unchanged(
        noop.RemoveDropout(),
        "g (float[N] x) => (float[N] y, bool[N] m) { t, m = Dropout(x) y = Relu(t) }",
    )


def test_dropout_stays_where_the_mode_is_an_input():
    assert_unchanged(
        noop.RemoveDropout(),
        "g (float[N] x, bool mode) => (float[N] y) <float r = {0.5}> { t = Dropout(x, r, mode) y = Relu(t) }",
    )


def test_flatten_of_a_matrix_goes():
    check_rule(
        noop.RemoveFlattenOfMatrix(),
        "g (float[N,3] x) => (float[N,3] y) { t = Flatten<axis=1>(x) y = Relu(t) }",
        "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }",
    )


@pytest.mark.parametrize("axis", [0, 2])
def test_flatten_of_a_matrix_along_another_axis_stays(axis):
    assert_unchanged(
        noop.RemoveFlattenOfMatrix(),
        f"g (float[2,3] x) => (int64 y) {{ t = Flatten<axis={axis}>(x) y = Size(t) }}",
    )


def test_squeeze_goes_where_no_dimension_is_1():
    check_rule(
        noop.RemoveSqueezeOfNothing(),
        "g (float[2,3] x) => (float[2,3] y) { t = Squeeze(x) y = Relu(t) }",
        "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }",
    )


def test_slice_of_an_empty_tensor_goes():
    check_rule(
        noop.RemoveFullSlice(),
        "g (float[0,3] x) => (float[0,3] y) <int64[1] s={0}, int64[1] e={5}> { t = Slice(x, s, e) y = Relu(t) }",
        "g (float[0,3] x) => (float[0,3] y) { y = Relu(x) }",
    )


class TestGraphOutputs:
    """A graph output keeps its name; where nothing else can make it, an Identity does."""

    def test_an_identity_between_nodes_goes_and_the_output_keeps_its_name(self):
        check_rule(
            noop.remove_identities,
            "g (float[N] x) => (float[N] y) { t = Relu(x) y = Identity(t) }",
            "g (float[N] x) => (float[N] y) { y = Relu(x) }",
        )

    @pytest.mark.parametrize(
        "text",
        [
            "g (float[N] x) => (float[N] y) { y = Identity(x) }",
            "g (float[N] x) => (float[N] x2, float[2] y) <float[2] w = {1, 2}> { x2 = Relu(x) y = Identity(w) }",
            "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }",
        ],
        ids=["of an input", "of an initializer", "of another output"],
    )
    def test_an_identity_that_alone_can_make_an_output_stays(self, text):
        assert_unchanged(noop.remove_identities, text)

    def test_any_other_no_op_there_becomes_an_identity(self):
        check_rule(
            noop.RemoveDropout(),
            "g (float[N] x) => (float[N] y) { y = Dropout(x) }",
            "g (float[N] x) => (float[N] y) { y = Identity(x) }",
        )

    def test_an_identity_of_an_outer_value_in_a_branch_stays(self):
        assert_unchanged(
            noop.remove_identities,
            """g (bool c, float[N] x) => (float[N] y) {
                t = Relu(x)
                y = If (c) <then_branch = a () => (float[N] u) { u = Identity(t) },
                            else_branch = b () => (float[N] v) { v = Neg(t) }>
            }""",
        )


def test_holds_every_agrees_with_the_values_themselves():
    probes = [0, 1, 127, 128, 255, 256, 2049, 32767, 65535, 2**24 + 1, 2**31 - 1, 2**32 - 1, 2**53 + 1, 2**63 - 1]
    kinds = [np.dtype(k) for k in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")]
    floats = [np.dtype(k) for k in ("float16", "float32", "float64")]
    for narrow in kinds:
        numbers = [v for v in probes if v <= np.iinfo(narrow).max]
        numbers += [-v for v in numbers] if narrow.kind == "i" else []
        for wide in kinds + floats:
            if holds_every(wide, narrow):
                with np.errstate(all="ignore"):
                    kept = np.array(numbers, narrow).astype(wide)
                assert [int(number) for number in kept] == numbers, (wide, narrow)


NUMBERS = {2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 1: "float", 11: "double"}


def detour(source: int, wide: int, to: int) -> str:
    return f"g ({NUMBERS[source]}[7] x) => ({NUMBERS[to]}[7] y) {{ w = Cast<to={wide}>(x) y = Cast<to={to}>(w) }}"


@pytest.mark.parametrize("source", NUMBERS)
def test_a_cast_detour_that_goes_keeps_every_number(source):
    """Whatever the rule decides, the numbers stay (those that make_feeds draws are of the whole range)."""
    for wide in NUMBERS:
        for to in NUMBERS:
            if apply(detour(source, wide, to), noop.RemoveCastDetour())[1]["remove-cast-detour"]:
                check_rule(noop.RemoveCastDetour(), detour(source, wide, to), seeds=1)


@pytest.mark.parametrize(
    ("source", "wide", "to"),
    [(6, 7, 6), (1, 11, 1), (2, 6, 3), (9, 1, 9), (6, 11, 1), (1, 11, 9), (6, 7, 1), (3, 1, 7)],
)
def test_a_cast_detour_through_a_dtype_that_holds_all_goes(source, wide, to):
    check_rule(noop.RemoveCastDetour(), detour(source, wide, to), seeds=1)


@pytest.mark.parametrize(
    ("source", "wide", "to"),
    [(7, 6, 7), (11, 1, 11), (1, 7, 1), (6, 1, 6), (7, 11, 7), (3, 2, 3), (1, 9, 1), (1, 11, 6), (6, 11, 3)],
)
def test_a_cast_detour_that_changes_numbers_stays(source, wide, to):
    assert_unchanged(noop.RemoveCastDetour(), detour(source, wide, to))
