"""Values of constants: every dtype, every way to store them, hashed by content, not held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import dtypes, weights
from graphopt.ir.load import load
from graphopt.ir.save import to_proto, write

NUMBERS = [
    number
    for number in TensorProto.DataType.values()
    if number != TensorProto.STRING and dtypes.from_onnx(number) is not None
]


def returning(tensor: TensorProto) -> onnx.ModelProto:
    """A model that returns the tensor."""
    tensor.name = "w"
    result = helper.make_tensor_value_info("y", tensor.data_type, list(tensor.dims))
    node = helper.make_node("Identity", ["w"], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [], [result], [tensor]))


def the_constant(model: onnx.ModelProto | Path) -> gs.Constant:
    found = load(model).nodes[0].inputs[0]
    assert isinstance(found, gs.Constant)
    return found


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def example(number: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2, shape)
    return np.asarray(values).astype(dtypes.from_onnx(number))


@pytest.mark.parametrize("number", NUMBERS, ids=TensorProto.DataType.Name)
@settings(max_examples=25, deadline=None)
@example_of(shape=(3, 5), seed=0)
@given(shape=st.lists(st.integers(0, 5), max_size=3).map(tuple), seed=st.integers(0, 9))
def test_raw_values_of_every_dtype_are_read_as_onnx_reads_them(number: int, shape: tuple[int, ...], seed: int) -> None:
    tensor = numpy_helper.from_array(example(number, shape, seed))
    constant = the_constant(returning(tensor))
    assert constant.shape == shape
    assert constant.dtype == dtypes.from_onnx(number)
    assert weights.nbytes(constant) == len(tensor.raw_data)
    assert weights.size(constant) == int(np.prod(shape))
    assert same_bits(weights.read(constant), numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("number", "field", "items", "shape"),
    [
        (TensorProto.FLOAT, "float_data", [1.5, -2.0], (2,)),
        (TensorProto.COMPLEX64, "float_data", [1.0, 2.0, 3.0, 4.0], (2,)),
        (TensorProto.DOUBLE, "double_data", [1.5, -2.0], (2,)),
        (TensorProto.INT32, "int32_data", [1, -2], (2,)),
        (TensorProto.INT8, "int32_data", [1, -2], (2,)),
        (TensorProto.UINT16, "int32_data", [1, 65535], (2,)),
        (TensorProto.BOOL, "int32_data", [1, 0], (2,)),
        (TensorProto.FLOAT16, "int32_data", [0x3C00, 0xC000], (2,)),
        (TensorProto.BFLOAT16, "int32_data", [0x3F80, 0xC000], (2,)),
        (TensorProto.FLOAT8E4M3FN, "int32_data", [0x38, 0xC0], (2,)),
        (TensorProto.INT4, "int32_data", [0x2F, 0x01], (3,)),
        (TensorProto.FLOAT4E2M1, "int32_data", [0x2F, 0x01], (3,)),
        (TensorProto.INT64, "int64_data", [1, -(2**60)], (2,)),
        (TensorProto.UINT64, "uint64_data", [1, 2**63], (2,)),
        (TensorProto.UINT32, "uint64_data", [1, 2**32 - 1], (2,)),
    ],
)
def test_typed_fields_hold_what_raw_data_would(number: int, field: str, items: list[int], shape: tuple[int]) -> None:
    typed = TensorProto(data_type=number, dims=shape)
    getattr(typed, field).extend(items)
    wanted = numpy_helper.to_array(typed)
    constant = the_constant(returning(typed))
    assert same_bits(weights.read(constant), wanted)
    raw = the_constant(returning(numpy_helper.from_array(wanted)))
    assert weights.digest(constant) == weights.digest(raw)
    assert same_bits(numpy_helper.to_array(to_proto(load(returning(typed))).graph.initializer[0]), wanted)


def test_strings_need_not_be_text() -> None:
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=[b"caf\xc3\xa9", b"\xff\xfe"])
    model = returning(tensor)
    assert list(weights.read(the_constant(model))) == ["café", b"\xff\xfe"]
    assert list(to_proto(load(model)).graph.initializer[0].string_data) == [b"caf\xc3\xa9", b"\xff\xfe"]


@pytest.mark.parametrize("number", [TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT2])
def test_the_hash_does_not_depend_on_where_the_values_are(number: int, tmp_path: Path) -> None:
    array = example(number, (9, 1001), 1)
    model = returning(numpy_helper.from_array(array))
    write(load(model), tmp_path / "m.onnx", external=True)
    outside = the_constant(tmp_path / "m.onnx")
    assert isinstance(outside._values, weights.ExternalValues)
    made = gs.Constant("other name", array)
    assert weights.digest(outside) == weights.digest(the_constant(model)) == weights.digest(made)
    assert same_bits(weights.read(outside), array)


def test_the_hash_tells_contents_dtypes_and_shapes_apart() -> None:
    arrays = [
        np.zeros(4, "f"),
        np.zeros((2, 2), "f"),
        np.zeros(4, "i"),
        np.float32([0, 0, 0, 1]),
        np.float32([-0.0] * 4),
    ]
    assert len({weights.digest(gs.Constant("w", array)) for array in arrays}) == len(arrays)


def test_the_hash_follows_an_array_that_is_written_to() -> None:
    constant = gs.Constant("w", np.zeros(4, np.float32))
    before = weights.digest(constant)
    constant.values[0] = 1
    assert weights.digest(constant) != before


def test_large_values_are_not_kept(tmp_path: Path) -> None:
    array = np.zeros(weights.KEEP_BYTES // 4 + 1, np.float32)
    model = returning(numpy_helper.from_array(array))
    write(load(model), tmp_path / "m.onnx", external=True)
    for source in (model, tmp_path / "m.onnx"):
        constant = the_constant(source)
        lazy = constant._values
        assert weights.read(constant) is not weights.read(constant)
        assert constant._values is lazy
        assert not weights.read(constant).flags.writeable


def test_sparse_values_are_kept_sparse_and_read_dense() -> None:
    values = numpy_helper.from_array(np.float32([3, 4]), "w")
    for indices in (np.int64([1, 5]), np.int64([[0, 1], [1, 2]])):
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices), [2, 3])
        model = returning(numpy_helper.from_array(np.zeros((2, 3), np.float32)))
        del model.graph.initializer[:]
        model.graph.sparse_initializer.append(sparse)
        assert weights.read(the_constant(model)).tolist() == [[0, 3, 0], [0, 0, 4]]
        assert to_proto(load(model)).graph.sparse_initializer[0] == sparse
