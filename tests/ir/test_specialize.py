"""--freeze makes dims static, --bind makes inputs constants; what contradicts the model is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from graphopt.errors import UsageError
from graphopt.ir import shapes
from graphopt.ir.infer import infer
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.ir.specialize import bind_inputs, freeze_dims
from graphopt.ir.weights import read

from .models import body, model, node, run, tensor, value


def dynamic() -> gs.Graph:
    """y = a + b, of N x 3; z = relu(c), of N x M; an odd node whose result nothing can infer."""
    return load(
        model(
            [
                node("Add", ["a", "b"], ["y"]),
                node("Relu", ["c"], ["z"]),
                node("Odd", ["a"], ["o"], domain="custom"),
            ],
            [value("a", ("N", 3)), value("b", ("N", 3)), value("c", ("N", "M"))],
            [value("y", ("N", 3)), value("z", ("N", "M")), value("o", ("N", 7))],
            domains={"custom": 1},
        )
    )


def shape(graph: gs.Graph, name: str) -> Any:
    return next(shapes.of(tensor) for tensor in (*graph.inputs, *graph.outputs) if tensor.name == name)


def test_a_symbol_gets_its_number_everywhere() -> None:
    graph = dynamic()
    freeze_dims(graph, {"a": (5, 3)})
    infer(graph)
    assert {name: shape(graph, name) for name in "abcyzo"} == {
        "a": (5, 3), "b": (5, 3), "c": (5, "M"), "y": (5, 3), "z": (5, "M"), "o": (5, 7),
    }  # fmt: skip


def test_nothing_frozen_is_nothing_changed() -> None:
    graph = dynamic()
    freeze_dims(graph, {})
    assert shape(graph, "y") == ("N", 3)


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        ({"q": (1,)}, r"--freeze q: the model has no such input\n  inputs: 'a', 'b', 'c'"),
        ({"a": (5,)}, "of rank 2, not 1"),
        ({"a": (5, 4)}, "dimension 1 of the input is 3, not 4"),
        ({"a": (5, 3), "b": (6, 3)}, "'N' would be both 5 and 6"),
        ({"c": (5, 2), "a": (6, 3)}, "'N' would be both 5 and 6"),
    ],
)
def test_what_cannot_be_frozen(frozen: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        freeze_dims(dynamic(), frozen)
    assert caught.value.exit_code == 2


def test_one_symbol_twice_in_an_input() -> None:
    graph = load(model([node("Relu", ["x"], ["y"])], [value("x", ("N", "N"))], [value("y", ("N", "N"))]))
    with pytest.raises(UsageError, match="'N' would be both 2 and 3"):
        freeze_dims(graph, {"x": (2, 3)})


def typed(number: int, dims: Any = ()) -> gs.Graph:
    return load(
        model(
            [node("Identity", ["s"], ["y"])],
            [value("s", dims, number), value("x")],
            [value("y", dims, number), value("x")],
            ir_version=10,
            opset=23,
        )
    )


@pytest.mark.parametrize(
    ("number", "given"),
    [
        (TensorProto.FLOAT, 0.1),
        (TensorProto.FLOAT, 3),
        (TensorProto.FLOAT, float("inf")),
        (TensorProto.FLOAT16, 0.1),
        (TensorProto.BFLOAT16, 0.1),
        (TensorProto.INT64, 2**62 + 1),
        (TensorProto.INT64, 2.0),
        (TensorProto.UINT8, 255),
        (TensorProto.BOOL, True),
        (TensorProto.BOOL, 1),
        (TensorProto.STRING, "text"),
    ],
)
def test_values_in_the_inputs_dtype(number: int, given: Any) -> None:
    graph = typed(number)
    bind_inputs(graph, {"s": given})
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    bound = graph.nodes[0].inputs[0]
    assert isinstance(bound, gs.Constant)
    want = np.array(given, helper.tensor_dtype_to_np_dtype(number))
    assert read(bound).dtype == want.dtype
    assert read(bound).tolist() == want.tolist()


@pytest.mark.parametrize(
    ("number", "given"),
    [
        (TensorProto.FLOAT, 1e40),
        (TensorProto.FLOAT16, 70000.0),
        (TensorProto.FLOAT, 16777217),
        (TensorProto.INT64, 0.5),
        (TensorProto.INT64, float("nan")),
        (TensorProto.INT64, 2**64),
        (TensorProto.INT8, 128),
        (TensorProto.UINT8, -1),
        (TensorProto.INT4, 8),
        (TensorProto.BOOL, 2),
        (TensorProto.INT32, "many"),
        (TensorProto.FLOAT, [[1], [2, 3]]),
        (TensorProto.FLOAT, {"a": 1}),
    ],
)
def test_values_that_the_dtype_cannot_hold(number: int, given: Any) -> None:
    with pytest.raises(UsageError, match=r"--bind s: .* (cannot be held by|is no) "):
        bind_inputs(typed(number), {"s": given})


def test_shapes_of_bound_values() -> None:
    for dims, given in [((), 4), ((1, 1), 4), ((3,), [1, 2, 3]), (("N",), [1, 2]), (None, [[1]])]:
        graph = typed(TensorProto.INT64, dims)
        bind_inputs(graph, {"s": given})
        rank = len(dims) if dims is not None else np.ndim(given)
        assert read(graph.nodes[0].inputs[0]).ndim == rank
    for dims, given in [((3,), [1, 2]), ((2, 2), [1, 2]), ((2,), 1)]:
        with pytest.raises(UsageError, match=r"--bind s: the input is .*, the value"):
            bind_inputs(typed(TensorProto.INT64, dims), {"s": given})


def test_an_unknown_input_cannot_be_bound() -> None:
    with pytest.raises(UsageError, match=r"--bind q: the model has no such input\n  inputs: 's', 'x'"):
        bind_inputs(typed(TensorProto.FLOAT), {"q": 1})


def test_an_input_that_is_no_tensor_cannot_be_bound() -> None:
    info = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, (2,))
    graph = load(model([node("SequenceLength", ["s"], ["y"])], [info], [value("y", (), TensorProto.INT64)]))
    with pytest.raises(UsageError, match="no tensor"):
        bind_inputs(graph, {"s": [1.0, 2.0]})


def test_a_bound_input_is_gone_from_bodies_and_results_too() -> None:
    then = body([node("Mul", ["x", "s"], ["t"])], ["t"])
    other = body([node("Sub", ["x", "s"], ["e"])], ["e"])
    whole = model(
        [node("If", ["c"], ["h"], then_branch=then, else_branch=other), node("Identity", ["s"], ["k"])],
        [value("x"), value("c", (), TensorProto.BOOL), value("s", ())],
        [value("h"), value("k", ())],
        [tensor("s", np.float32(9))],
    )
    graph = load(whole)
    bind_inputs(graph, {"s": 4.0})
    out = to_proto(graph)
    for condition, want in ((True, 4), (False, -3)):
        feeds = {"x": np.ones((2, 3), np.float32), "c": np.array(condition)}
        result, passed = run(out, feeds)
        assert (result == want).all()
        assert passed == 4


def test_bfloat16_keeps_its_rounding() -> None:
    graph = typed(TensorProto.BFLOAT16)
    bind_inputs(graph, {"s": 1 / 3})
    assert read(graph.nodes[0].inputs[0]) == ml_dtypes.bfloat16(1 / 3)
