from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.config import Shapes
from graphopt.errors import UsageError
from graphopt.numerics import Input, Runner, Values, make_feeds, read_inputs, sample_shapes

from .models import parse

TYPES = [v for k, v in TensorProto.DataType.items() if k != "UNDEFINED"]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as child:
        yield child


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(["any", "span", "index", "mask", "fixed", "axes", "reshape"]),
    st.integers(0, 5),
)
def test_feeds_have_the_asked_dtype_and_shape_and_repeat(kind: int, dims: list[int], values: str, seed: int) -> None:
    port = Input("x", kind, tuple(dims), values=Values(values, 0, 4))
    one = make_feeds([port], {"x": tuple(dims)}, seed)["x"]
    two = make_feeds([port], {"x": tuple(dims)}, seed)["x"]
    assert one.shape == tuple(dims)
    assert one.dtype == port.dtype
    assert one.tolist() == two.tolist()


def test_an_input_does_not_depend_on_the_others() -> None:
    a, b = (Input(name, TensorProto.FLOAT, (4,)) for name in "ab")
    both = make_feeds([a, b], {"a": (4,), "b": (4,)}, 0)
    alone = make_feeds([b], {"b": (4,)}, 0)
    assert np.array_equal(both["b"], alone["b"])
    assert not np.array_equal(both["a"], both["b"])
    assert not np.array_equal(alone["b"], make_feeds([b], {"b": (4,)}, 1)["b"])


def test_an_embedding_bounds_its_indices_even_through_casts_and_without_weights() -> None:
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[5, 3])
    nodes = [helper.make_node("Cast", ["ids"], ["wide"], to=7), helper.make_node("Gather", ["table", "wide"], ["y"])]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "seq"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [ids], [y], [table]))
    feeds = make_feeds(read_inputs(model), {"ids": (50, 20)}, 0)
    assert set(np.unique(feeds["ids"])) == {0, 1, 2, 3, 4}


def test_an_index_into_an_input_is_bounded_by_its_sampled_size() -> None:
    model = parse("g (float[n, 2] x, int64[k] i) => (float[k, 2] y) { y = Gather<axis = 0>(x, i) }")
    feeds = make_feeds(read_inputs(model), {"x": (7, 2), "i": (500,)}, 0)
    assert feeds["i"].min() == 0
    assert feeds["i"].max() == 6


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 6] x, int64[3] s) => (y) { y = Reshape(x, s) }",
        "g (float[2, 6] x, int64[2] s) => (y) { y = Expand(x, s) }",
        "g (float[2, 6] x, int64[2] s) => (y) { y = Tile(x, s) }",
        "g (float[2, 6] x, int64[1] k) => (y, i) { y, i = TopK(x, k) }",
        "g (float[2, 6] x, int64[2] b, int64[2] e) => (y) { y = Slice(x, b, e) }",
        "g (float[2, 6] x, int64[2] b, int64[2] e, int64[2] a) => (y) { y = Slice(x, b, e, a) }",
        "g (int64 b, int64 e, int64 d) => (y) { y = Range(b, e, d) }",
        "g (int64[2] s) => (y) { y = ConstantOfShape(s) }",
        "g (int64[3] i, int64 d, float[2] v) => (y) { y = OneHot(i, d, v) }",
        "g (float[2, 6] x, int64[4] p) => (y) { y = Pad(x, p) }",
        "g (float[2, 6] x, int64[1] a) => (y) { y = Unsqueeze(x, a) }",
        "g (float[2, 6] x, int64[3, 1] i) => (y) { y = GatherND(x, i) }",
        "g (float[2, 6] x, int64[2, 3] i) => (y) { y = GatherElements<axis = 1>(x, i) }",
        "g (int64[2, 6] x, int64[2, 6] d) => (y) { y = Mod(x, d) }",
        "g (string[2] x) => (string[2] y) { y = Identity(x) }",
    ],
)
def test_what_an_operator_demands_of_its_input_is_met(text: str, runner: Runner, tmp_path: Path) -> None:
    model = parse(
        text.replace("(y)", "(float y)").replace("(y, i)", "(float y, int64 i)") if "string" not in text else text
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    if any(op in text for op in ("Range", "Mod")):
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    inputs = read_inputs(model)
    shapes = {port.name: port.dims for port in inputs}
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    runner.open(path, "reference")
    for seed in range(3):
        assert runner.run(make_feeds(inputs, shapes, seed))


def test_masks_and_positive_inputs() -> None:
    model = parse("g (int64[4, 9] attention_mask, float[9] x) => (float[9] y) { y = Log(x) }")
    feeds = make_feeds(read_inputs(model), {"attention_mask": (4, 9), "x": (9,)}, 3)
    assert (feeds["attention_mask"][:, 0] == 1).all()
    assert set(np.unique(feeds["attention_mask"])) <= {0, 1}
    assert (feeds["x"] > 0).all()


def test_functions_are_looked_into() -> None:
    body = helper.make_function(
        "local",
        "Embed",
        ["t", "i"],
        ["o"],
        [helper.make_node("Gather", ["t", "i"], ["o"])],
        [helper.make_opsetid("", 17)],
    )
    table = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[3, 3], raw_data=bytes(36))
    graph = helper.make_graph(
        [helper.make_node("Embed", ["t", "i"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [table],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, functions=[body], opset_imports=opsets)
    assert make_feeds(read_inputs(model), {"i": (50,)}, 0)["i"].max() == 2


def test_a_default_is_left_alone_and_a_missing_shape_is_said() -> None:
    model = parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    inputs = read_inputs(model)
    assert [port.required for port in inputs] == [True, False]
    assert list(make_feeds(inputs, {"x": (2,)}, 0)) == ["x"]
    with pytest.raises(UsageError, match="'x' has no shape"):
        make_feeds(inputs, {}, 0)


def ports(**dims: tuple[int | str | None, ...] | None) -> list[Input]:
    return [Input(name, TensorProto.FLOAT, d) for name, d in dims.items()]


def test_a_symbol_has_one_size_everywhere() -> None:
    inputs = ports(a=("batch", "n"), b=("n", "batch", 5), c=("past", "n"), d=("past + n", None))
    found = sample_shapes(inputs, Shapes(), 5)
    assert len(found) == 5
    for shapes in found:
        assert shapes["a"] == shapes["b"][1::-1]
        assert shapes["b"][2] == 5
        assert shapes["d"][0] == shapes["c"][0] + shapes["a"][1]


def test_images_get_image_sizes() -> None:
    first = sample_shapes(ports(x=(None, 3, None, None)), Shapes(), 1)[0]["x"]
    assert first == (1, 3, 32, 64)
    assert sample_shapes(ports(x=(None, None, None, 3)), Shapes(), 1)[0]["x"] == (1, 32, 64, 3)


def test_static_shapes_are_given_once() -> None:
    assert sample_shapes(ports(x=(2, 0), s=()), Shapes(), 5) == [{"x": (2, 0), "s": ()}]


def test_a_profile_gives_typical_min_max_and_its_symbols() -> None:
    profile = Shapes(min={"x": (1, 4)}, opt={"x": (2, 4)}, max={"x": (8, 4)})
    found = sample_shapes(ports(x=("n", 4), y=("n", 3)), profile, 3)
    assert [s["x"][0] for s in found] == [2, 1, 8]
    assert [s["y"] for s in found] == [(2, 3), (1, 3), (8, 3)]
    assert sample_shapes(ports(x=(), y=(1,)), Shapes(opt={"x": ()}), 3) == [{"x": (), "y": (1,)}]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (Shapes(opt={"z": (1,)}), "no input 'z'"),
        (Shapes(opt={"x": (1,)}), "rank is 2, not 1"),
        (Shapes(max={"x": (1, 5)}), "dimension 1 is 4, not 5"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(profile: Shapes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sample_shapes(ports(x=("n", 4)), profile, 3)


def test_onnx_is_not_asked_for_weights() -> None:
    model = onnx.ModelProto()
    assert read_inputs(model) == []
