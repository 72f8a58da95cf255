"""What a model holds beside its nodes comes through: every dtype, attribute, input, function and note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir import dtypes
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.graph import extras
from graphopt.ir.load import load
from graphopt.ir.save import to_proto, write
from graphopt.ir.weights import nbytes, read

from .models import FLOAT, body, model, node, rich, run, save, tensor, value

NUMBERS = [number for name, number in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")]


def identity(weight: TensorProto) -> onnx.ModelProto:
    shape = tuple(weight.dims)
    return model(
        [node("Identity", ["w"], ["y"])], [], [value("y", shape, weight.data_type)], [weight], opset=25, ir_version=13
    )


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# -- dtypes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("count", [0, 1, 5, 300_001])
def test_every_dtype_raw_and_typed(number: int, count: int, tmp_path: Path) -> None:
    dtype = dtypes.from_onnx(number)
    values = np.arange(count).astype(np.float32).__mod__(2).astype(dtype)
    raw = numpy_helper.from_array(values, "w")
    ways = [raw]
    if number != TensorProto.FLOAT8E8M0 and count < 1000:  # onnx 1.23 writes this one wrong into typed fields
        typed = helper.make_tensor("w", number, [count], values)
        assert not typed.HasField("raw_data")
        ways.append(typed)
    for weight in ways:
        graph = load(identity(weight))
        constant = graph.nodes[0].inputs[0]
        assert same(read(constant), values)
        assert nbytes(constant) == len(raw.raw_data)
        assert same(numpy_helper.to_array(to_proto(graph).graph.initializer[0]), values)
        for external in (False, True):
            written = onnx.load(write(graph, tmp_path / "o.onnx", external=external)[0])
            assert same(numpy_helper.to_array(written.graph.initializer[0]), values)
            graph.nodes[0].inputs[0]._values = read(constant)
            assert same(numpy_helper.to_array(to_proto(graph).graph.initializer[0]), values)


def test_bits_that_are_no_number_come_through() -> None:
    bits = np.array([0x7FC00001, 0xFF800001, 0x80000000, 1], np.uint32).view(np.float32)
    for weight in (tensor("w", bits),):
        out = to_proto(load(identity(weight))).graph.initializer[0]
        assert numpy_helper.to_array(out).tobytes() == bits.tobytes()


def test_strings_are_bytes() -> None:
    items = ["", "ü", "a\0b"]
    weight = helper.make_tensor("w", TensorProto.STRING, [3], items)
    graph = load(identity(weight))
    assert read(graph.nodes[0].inputs[0]).tolist() == items
    weight.string_data[0] = b"\xff\xfe"
    out = to_proto(load(identity(weight))).graph.initializer[0]
    assert list(out.string_data) == [b"\xff\xfe", "ü".encode(), b"a\0b"]
    assert read(load(identity(weight)).nodes[0].inputs[0]).tolist()[0] == b"\xff\xfe"


@pytest.mark.parametrize(
    ("number", "least"), [(FLOAT, 8), (TensorProto.DOUBLE, 8), (TensorProto.FLOAT8E5M2, 9), (TensorProto.INT4, 10)]
)
def test_the_ir_version_is_the_least_that_holds_the_dtypes(number: int, least: int) -> None:
    weight = numpy_helper.from_array(np.ones(2, dtypes.from_onnx(number)), "w")
    whole = identity(weight)
    whole.ir_version = 8
    assert to_proto(load(whole)).ir_version == least


# -- inputs -------------------------------------------------------------------------------------------------------


def overridable(ir_version: int) -> onnx.ModelProto:
    return model(
        [node("Mul", ["x", "k"], ["h"]), node("Add", ["h", "b"], ["y"])],
        [value("x"), value("k", (3,)), value("b", (3,))],
        [value("y")],
        [tensor("k", np.full(3, 2, np.float32)), tensor("b", np.ones(3, np.float32))],
        ir_version=ir_version,
        opset=8,
    )


def test_a_default_that_a_caller_may_override_is_no_constant() -> None:
    graph = load(overridable(4))
    assert [tensor.name for tensor in graph.inputs] == ["x", "k", "b"]
    assert type(graph.nodes[0].inputs[1]).__name__ == "Variable"
    out = to_proto(graph)
    assert out.ir_version == 4
    x = np.ones((2, 3), np.float32)
    assert (run(out, {"x": x})[0] == 3).all()
    assert (run(out, {"x": x, "k": np.full(3, 7, np.float32)})[0] == 8).all()


def test_before_ir_4_a_listed_initializer_is_a_constant_and_is_listed_again() -> None:
    graph = load(overridable(3))
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert type(graph.nodes[0].inputs[1]).__name__ == "Constant"
    out = to_proto(graph)
    assert out.ir_version == 3
    assert {info.name for info in out.graph.input} == {"x", "k", "b"}
    onnx.checker.check_model(out, full_check=True)


def test_before_ir_4_new_constants_are_listed_too() -> None:
    graph = load(overridable(3))
    old = graph.nodes[0].inputs[1]
    graph.nodes[0].inputs[1] = type(old)("fresh", np.full(3, 5, np.float32))
    out = to_proto(graph)
    onnx.checker.check_model(out, full_check=True)
    assert {info.name for info in out.graph.input} == {"x", "fresh", "b"}


def test_where_the_ir_version_rises_constants_are_no_longer_listed() -> None:
    """From IR 4 on a listed initializer could be overridden."""
    graph = load(overridable(3))
    extras(graph.nodes[0]).metadata["note"] = "IR 10 has these"
    out = to_proto(graph)
    assert out.ir_version == 10
    assert [info.name for info in out.graph.input] == ["x"]


def test_a_large_default_is_streamed_as_well(tmp_path: Path) -> None:
    whole = model(
        [node("Add", ["x", "k"], ["y"])],
        [value("x", (1,)), value("k", (50_000,))],
        [value("y", (50_000,))],
        [tensor("k", np.ones(50_000, np.float32))],
    )
    for external in (False, True):
        path = write(load(whole), tmp_path / "o.onnx", external=external)[0]
        assert (run(path, {"x": np.ones(1, np.float32)})[0] == 2).all()


# -- sparse initializers ------------------------------------------------------------------------------------------


def sparse(indices: Any, dims: Any = (2, 3), dtype: Any = np.int64) -> onnx.ModelProto:
    made = onnx.SparseTensorProto(dims=dims)
    made.values.CopyFrom(tensor("w", np.array([5, 7], np.float32)))
    made.indices.CopyFrom(tensor("", np.array(indices, dtype)))
    whole = model([node("Add", ["x", "w"], ["y"])])
    whole.graph.sparse_initializer.append(made)
    return whole


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_weights_stay_sparse(indices: Any, tmp_path: Path) -> None:
    graph = load(sparse(indices))
    dense = np.zeros((2, 3), np.float32)
    dense[0, 1], dense[1, 2] = 5, 7
    np.testing.assert_array_equal(read(graph.nodes[0].inputs[1]), dense)
    assert to_proto(graph).graph.sparse_initializer[0] == sparse(indices).graph.sparse_initializer[0]
    for external in (False, True):
        path = write(graph, tmp_path / "o.onnx", external=external)[0]
        assert len(onnx.load(path).graph.sparse_initializer) == 1


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (sparse([1, 6]), "outside"),
        (sparse([-1, 5]), "outside"),
        (sparse([[0, 1], [2, 0]]), "outside"),
        (sparse([1]), "indices are"),
        (sparse([1, 5], dtype=np.int32), "indices are int32"),
        (sparse([1, 5], dims=(2**40, 2**40)), "too large"),
        (sparse([1, 5], dims=(-2, 3)), "negative"),
    ],
)
def test_sparse_weights_that_are_none(whole: onnx.ModelProto, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load(whole)


def test_a_sparse_weight_too_large_to_be_dense_is_only_refused_when_read() -> None:
    graph = load(sparse([1, 5], dims=(2**20, 2**20)))
    to_proto(graph)
    with pytest.raises(ModelError, match="when dense"):
        read(graph.nodes[0].inputs[1])


# -- attributes ---------------------------------------------------------------------------------------------------


def attribute(name: str, kind: int, **fields: Any) -> AttributeProto:
    made = AttributeProto(name=name, type=kind)  # type: ignore[arg-type]
    for field, content in fields.items():
        if isinstance(content, list):
            getattr(made, field).extend(content)
        elif hasattr(content, "CopyFrom"):
            getattr(made, field).CopyFrom(content)
        else:
            setattr(made, field, content)
    return made


ATTRIBUTES = [
    attribute("i", AttributeProto.INT, i=-(2**63)),
    attribute("f", AttributeProto.FLOAT, f=0.1),
    attribute("inf", AttributeProto.FLOAT, f=float("-inf")),
    attribute("s", AttributeProto.STRING, s="ü".encode()),
    attribute("bytes", AttributeProto.STRING, s=b"\xff\xfe\0"),
    attribute("none", AttributeProto.STRING, s=b""),
    attribute("ints", AttributeProto.INTS, ints=[2**63 - 1, 0]),
    attribute("floats", AttributeProto.FLOATS, floats=[0.1, 1e30]),
    attribute("whole_floats", AttributeProto.FLOATS, floats=[1.0, 2.0]),
    attribute("strings", AttributeProto.STRINGS, strings=[b"a", b"\xff", b""]),
    attribute("no_ints", AttributeProto.INTS),
    attribute("no_floats", AttributeProto.FLOATS),
    attribute("no_strings", AttributeProto.STRINGS),
    attribute("t", AttributeProto.TENSOR, t=tensor("inner", np.ones(2, np.float16))),
    attribute("tensors", AttributeProto.TENSORS, tensors=[tensor("a", np.ones(2)), tensor("b", np.ones(3))]),
    attribute("tp", AttributeProto.TYPE_PROTO, tp=helper.make_sequence_type_proto(value("q").type)),
    attribute("tps", AttributeProto.TYPE_PROTOS, type_protos=[value("q").type]),
    attribute("sp", AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse([1, 5]).graph.sparse_initializer[0]),
    attribute("sps", AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse([1, 5]).graph.sparse_initializer[0]]),
    attribute("g", AttributeProto.GRAPH, g=body([node("Neg", ["x"], ["n"], name="neg")], ["n"])),
    attribute(
        "gs", AttributeProto.GRAPHS, graphs=[body([node("Neg", ["x"], [name], name=name)], [name]) for name in "ab"]
    ),
]


@pytest.mark.parametrize("given", ATTRIBUTES, ids=lambda given: given.name)
def test_every_kind_of_attribute(given: AttributeProto) -> None:
    whole = model([node("Odd", ["x"], ["y"], domain="custom")], domains={"custom": 3})
    whole.graph.node[0].attribute.append(given)
    out = to_proto(load(whole)).graph.node[0].attribute[0]
    assert out == given


def test_an_attribute_that_onnx_cannot_hold_names_its_node() -> None:
    for foul in ({"a": 1}, object(), [1, "a"], 2**63, None):
        graph = load(model([node("Odd", ["x"], ["y"], name="odd", domain="custom")]))
        graph.nodes[0].attrs["foul"] = foul
        with pytest.raises(ModelError, match="node 'odd': attribute 'foul' cannot be written"):
            to_proto(graph)


def test_python_values_become_attributes() -> None:
    graph = load(model([node("Odd", ["x"], ["y"], domain="custom")]))
    given = {"b": True, "n": np.int64(3), "f": np.float32(2), "t": (1, 2), "e": [], "d": np.float16}
    graph.nodes[0].attrs.update(given)
    out = {a.name: helper.get_attribute_value(a) for a in to_proto(graph).graph.node[0].attribute}
    assert out == {"b": 1, "n": 3, "f": 2.0, "t": [1, 2], "e": [], "d": TensorProto.FLOAT16}


# -- functions ----------------------------------------------------------------------------------------------------


def functions() -> onnx.ModelProto:
    """Two overloads of one function, an attribute with and one without a default, each referred to."""
    made = []
    for overload, op in (("", "Add"), ("other", "Sub")):
        function = helper.make_function(
            "local",
            "F",
            ["a"],
            ["b"],
            [
                node("Constant", [], ["k"]),
                node("LeakyRelu", ["a"], ["r"]),
                node(op, ["r", "k"], ["b"]),
            ],
            [helper.make_opsetid("", 18)],
            ["slope"],
            [helper.make_attribute("shift", 3.0)],
        )
        for inner, name, to in ((0, "value_float", "shift"), (1, "alpha", "slope")):
            function.node[inner].attribute.append(attribute(name, AttributeProto.FLOAT, ref_attr_name=to))
        if overload:
            function.overload = overload
        function.doc_string = "a function"
        function.metadata_props.add(key="author", value="nobody")
        function.value_info.append(value("r", None))
        made.append(function)
    calls = [
        node("F", ["x"], ["h"], name="first", domain="local", slope=0.5),
        node("F", ["h"], ["y"], name="second", domain="local", slope=0.5, shift=1.0),
    ]
    calls[1].overload = "other"
    return model(calls, functions=made, domains={"local": 1})


def test_functions_with_references_defaults_and_overloads() -> None:
    before, after = functions(), to_proto(load(functions()))
    for function in after.functions:
        for inner in function.node:
            inner.ClearField("name")
    assert list(after.functions) == list(before.functions)
    assert after.graph.node == before.graph.node
    assert (run(after)[0] == 3).all()


def test_a_fingerprint_tells_defaults_and_overloads_apart() -> None:
    marks = {fingerprint(load(functions()))}
    for change in range(3):
        whole = functions()
        if change == 0:
            whole.functions[0].attribute_proto[0].f = 4.0
        elif change == 1:
            whole.graph.node[1].overload = ""
        else:
            whole.functions[1].node[2].op_type = "Mul"
        marks.add(fingerprint(load(whole)))
    assert len(marks) == 4
    default = overridable(4)
    changed = overridable(4)
    changed.graph.initializer[0].CopyFrom(tensor("k", np.full(3, 9, np.float32)))
    assert fingerprint(load(default)) != fingerprint(load(changed))


# -- notes --------------------------------------------------------------------------------------------------------


def noted() -> onnx.ModelProto:
    whole = rich()
    whole.domain, whole.model_version, whole.doc_string = "org.example", 7, "a model"
    whole.producer_name, whole.producer_version = "tests", "1"
    whole.graph.doc_string = "a graph"
    whole.graph.metadata_props.add(key="graph", value="g")
    whole.graph.node[0].metadata_props.add(key="node", value="n")
    whole.graph.input[0].doc_string = "an input"
    whole.graph.input[0].metadata_props.add(key="input", value="i")
    whole.graph.input[0].type.denotation = "IMAGE"
    whole.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    whole.graph.value_info[0].doc_string = "a value"
    whole.graph.initializer[0].doc_string = "a weight"
    whole.graph.initializer[0].metadata_props.add(key="weight", value="w")
    then = next(a.g for a in whole.graph.node[3].attribute if a.name == "then_branch")
    then.metadata_props.add(key="branch", value="t")
    for graph in (whole.graph, then):
        note = graph.quantization_annotation.add(tensor_name="h")
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return whole


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_notes_come_through(tmp_path: Path, external: bool, large: bool) -> None:
    whole = noted()
    if large:  # a weight that is streamed
        weight = whole.graph.initializer[0]
        weight.CopyFrom(tensor("w", np.ones((20_000, 3), np.float32)))
        weight.doc_string = "a weight"
        weight.metadata_props.add(key="weight", value="w")
    source = save(whole, tmp_path / "m.onnx")
    out = onnx.load(write(load(source), tmp_path / "o.onnx", external=external)[0])
    for field in ("domain", "model_version", "doc_string", "producer_name", "producer_version", "metadata_props"):
        assert getattr(out, field) == getattr(whole, field), field
    for field in ("doc_string", "metadata_props", "quantization_annotation", "input", "output"):
        assert getattr(out.graph, field) == getattr(whole.graph, field), field
    assert out.graph.node[0].doc_string == "doubles"
    assert out.graph.node[0].metadata_props == whole.graph.node[0].metadata_props
    assert {info.name: info.doc_string for info in out.graph.value_info}["h"] == "a value"
    weight = next(t for t in out.graph.initializer if t.name == "w")
    assert (weight.doc_string, weight.metadata_props) == ("a weight", whole.graph.initializer[0].metadata_props)
    for branch in ("metadata_props", "quantization_annotation"):
        held = [next(a.g for a in m.graph.node[3].attribute if a.name == "then_branch") for m in (out, whole)]
        assert getattr(held[0], branch) == getattr(held[1], branch)


def test_opset_domains() -> None:
    whole = model([node("Odd", ["x"], ["y"], domain="custom")], domains={"custom": 3, "unused": 2, "ai.onnx.ml": 3})
    out = to_proto(load(whole))
    assert {i.domain: i.version for i in out.opset_import} == {"": 18, "custom": 3, "unused": 2, "ai.onnx.ml": 3}
    graph = load(whole)
    graph.nodes[0].domain = "new"
    assert {i.domain: i.version for i in to_proto(graph).opset_import}["new"] == 1


def test_values_that_are_no_tensors() -> None:
    kind = helper.make_optional_type_proto(helper.make_sequence_type_proto(value("q").type))
    info = helper.make_value_info("x", kind)
    whole = model([node("OptionalGetElement", ["x"], ["s"]), node("SequenceAt", ["s", "i"], ["y"])], [info])
    whole.graph.initializer.append(tensor("i", np.int64(0)))
    assert to_proto(load(whole)).graph.input[0] == info


def test_shapes_as_plugins_write_them() -> None:
    graph = load(model([node("Relu", ["x"], ["y"])]))
    graph.inputs[0].shape = [np.int64(2), "n", None, -1]
    dims = to_proto(graph).graph.input[0].type.tensor_type.shape.dim
    assert [(d.dim_value, d.dim_param) for d in dims] == [(2, ""), (0, "n"), (0, ""), (0, "")]
    assert [d.WhichOneof("value") for d in dims] == ["dim_value", "dim_param", None, None]
