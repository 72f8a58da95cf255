import pytest

from graphopt.backends.profiles import example, placeholders, profile
from graphopt.backends.protocol import TensorInfo
from graphopt.config import Shapes, parse_dims
from graphopt.errors import UsageError

IMAGE = TensorInfo("float32", (-1, 3, -1, -1), ("N", "", "H", "W"))
TOKENS = TensorInfo("int64", (-1, -1), ("N", "S"))
STATIC = TensorInfo("float32", (2, 4), ("", ""))
SIZES = TensorInfo("int64", (2,), ("",), is_shape=True)


def test_bounds_of_a_dynamic_input():
    shapes = Shapes(min={"x": (1, 3, 8, 8)}, opt={"x": (2, 3, 8, 8)}, max={"x": (4, 3, 16, 8)})
    assert profile({"x": IMAGE, "s": STATIC}, shapes) == {"x": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 8))}


def test_a_shape_tensor_takes_values():
    assert profile({"s": SIZES}, Shapes(opt={"s": (7, 9)})) == {"s": ((7, 9), (7, 9), (7, 9))}


@pytest.mark.parametrize(
    ("inputs", "shapes", "words"),
    [
        ({"x": IMAGE}, Shapes(), "--shapes x=1x3x224x224"),
        ({"a": TOKENS, "b": TOKENS}, Shapes(), "--shapes a=1x128 --shapes b=1x128"),
        ({"s": SIZES}, Shapes(), "--shapes s=1x1"),
        ({"x": IMAGE}, Shapes(opt={"z": (1,)}), r"no input 'z'\n  its inputs: x\[N, 3, H, W\]"),
        ({"x": IMAGE}, Shapes(opt={"x": (1, 3)}), r"--shapes x=1x3 has 2 dimensions"),
        ({"x": IMAGE}, Shapes(max={"x": (1, 4, 8, 8)}), r"--max-shapes x=1x4x8x8 contradicts .* x\[N, 3, H, W\]"),
        ({"x": STATIC}, Shapes(opt={"x": (2, 5)}), r"--shapes x=2x5 contradicts"),
        ({"s": SIZES}, Shapes(opt={"s": (1, 2, 3)}), r"gives 3 values, but s\[2\] holds 2"),
        (
            {"a": TOKENS, "b": TOKENS},
            Shapes(opt={"a": (1, 8), "b": (2, 8)}),
            "dimension 'N' is 1 in input 'a' and 2 in",
        ),
    ],
)
def test_what_cannot_be_built_says_what_to_type(inputs, shapes, words):
    with pytest.raises(UsageError, match=words):
        profile(inputs, shapes)


def test_the_suggested_words_are_accepted():
    inputs = {"x": IMAGE, "t": TOKENS, "s": SIZES, "f": STATIC}
    words = example(inputs, ["x", "t", "s"]).removeprefix("--shapes ").split(" --shapes ")
    assert set(profile(inputs, Shapes(opt=dict(map(parse_dims, words))))) == {"x", "t", "s"}


def test_a_placeholder_is_no_symbol():
    unknown = TensorInfo("float32", (-1, 3, -1, -1), ("", "", "?", "?"))
    assert placeholders({"x": unknown, "y": unknown}) == [("x", 3), ("y", 2), ("y", 3)]
    assert placeholders({"x": IMAGE, "y": IMAGE}) == []
    assert profile({"x": unknown}, Shapes(opt={"x": (1, 3, 48, 192)}))
