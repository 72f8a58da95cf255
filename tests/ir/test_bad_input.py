"""What is no model gets one clear sentence: what is wrong, where, and what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import ModelError
from graphopt.ir.load import load
from graphopt.ir.save import to_proto, write

from .models import body, model, node, relu, rich, run, save, tensor, value


def test_the_whole_models_load() -> None:
    load(relu())
    load(rich())


# -- what is no model at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"hello, world\n", "a text file"),
        (b'{"nodes": []}', "a text file"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"ptrt" + bytes(100), "TensorRT engine"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\x9e", "no ONNX model"),
        (bytes(64), "no ONNX model"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_other_files_are_named(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in [
        (tmp_path / "none.onnx", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "loop", "cannot be read"),
        (Path("/dev/zero"), "no regular file"),
        (Path("a\0b"), "cannot be read"),
        (tmp_path / ("n" * 300), "cannot be read"),
        (tmp_path / "none.onnx" / "x", "no such file|cannot be read"),
    ]:
        with pytest.raises(ModelError, match=said):
            load(path)


def test_a_file_beyond_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(5 << 30)
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"5\.4 GB.*\n.*external data"):
        load(path)
    assert time.perf_counter() - start < 1


# -- what is a message but no model -------------------------------------------------------------------------------


def _no_opset(m: onnx.ModelProto) -> None:
    del m.opset_import[:]
    del m.functions[:]


def _standard_opset_missing(m: onnx.ModelProto) -> None:
    del m.opset_import[0]


def _no_graph(m: onnx.ModelProto) -> None:
    m.ClearField("graph")


def _dangling(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[1] = "nowhere"


def _cycle(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "z"


def _own_output(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "h"


def _capture_cycle(m: onnx.ModelProto) -> None:
    m.graph.node[3].attribute[1].g.node[0].input[0] = "z"


def _late_capture_cycle(m: onnx.ModelProto) -> None:
    m.graph.node[3].attribute[1].g.node[0].input[0] = "q"


def _defined_twice(m: onnx.ModelProto) -> None:
    m.graph.node[1].output[0] = "h"


def _output_named_like_input(m: onnx.ModelProto) -> None:
    m.graph.node[0].output[0] = "x"


def _output_named_like_initializer(m: onnx.ModelProto) -> None:
    m.graph.node[0].output[0] = "w"


def _output_of_nothing(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = "nowhere"


def _body_output_of_nothing(m: onnx.ModelProto) -> None:
    m.graph.node[3].attribute[1].g.output[0].name = "nowhere"


def _two_inputs_of_one_name(m: onnx.ModelProto) -> None:
    m.graph.input.append(m.graph.input[0])


def _two_initializers_of_one_name(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def _input_without_name(m: onnx.ModelProto) -> None:
    m.graph.input.append(value(""))


def _input_without_type(m: onnx.ModelProto) -> None:
    m.graph.input[0].ClearField("type")


def _negative_dims(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [-3]


def _huge_dims(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [2**62]


def _raw_too_short(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].raw_data = bytes(11)


def _typed_too_short(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].int64_data[:] = [0]


def _typed_in_the_wrong_field(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].data_type = TensorProto.FLOAT


def _unknown_dtype(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_type = 99


def _unknown_input_dtype(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = 99


def _recursive_function(m: onnx.ModelProto) -> None:
    m.functions[0].node[1].op_type = "Scale"
    m.functions[0].node[1].domain = "local"


def _two_functions_of_one_name(m: onnx.ModelProto) -> None:
    m.functions.append(m.functions[0])


def _function_output_of_nothing(m: onnx.ModelProto) -> None:
    m.functions[0].output[0] = "nowhere"


def _reference_outside_a_function(m: onnx.ModelProto) -> None:
    m.graph.node[2].attribute[0].ref_attr_name = "alpha"


def _attribute_of_another_type(m: onnx.ModelProto) -> None:
    m.graph.node[5].attribute[0].CopyFrom(helper.make_attribute("axis", 1.5))


def _attribute_twice(m: onnx.ModelProto) -> None:
    m.graph.node[5].attribute.append(m.graph.node[5].attribute[0])


def _attribute_missing(m: onnx.ModelProto) -> None:
    m.graph.node[5].ClearField("attribute")


def _operand_missing(m: onnx.ModelProto) -> None:
    m.graph.node[0].input.pop()


def _operand_left_out(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[1] = ""


def _branch_with_two_outputs(m: onnx.ModelProto) -> None:
    m.graph.node[3].attribute[1].g.output.append(m.graph.node[3].attribute[1].g.output[0])


def _text_that_is_no_utf8(m: onnx.ModelProto) -> None:
    raw = m.SerializeToString().replace(b"ReduceSum", b"Reduce\xff\xfeS")
    m.ParseFromString(raw)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_graph, "no ONNX model"),
        (_no_opset, "imports no opset"),
        (_standard_opset_missing, r"\(Mul\): its operator is ONNX's, whose opset is not imported"),
        (_dangling, r"graph, node 'first' \(Mul\): input 'nowhere' is made by nothing"),
        (_cycle, "cycle: first ->"),
        (_own_output, "cycle: first -> first"),
        (_capture_cycle, "cycle: If_0 -> If_0"),
        (_late_capture_cycle, "cycle: (If_0 -> Scale_0|Scale_0 -> If_0)"),
        (_defined_twice, "'h' is defined twice"),
        (_output_named_like_input, "'x' is defined twice"),
        (_output_named_like_initializer, "'w' is defined twice"),
        (_output_of_nothing, "output 'nowhere' is made by no node"),
        (_body_output_of_nothing, "If.*output 'nowhere' is made by no node"),
        (_two_inputs_of_one_name, "input 'x' is declared twice"),
        (_two_initializers_of_one_name, "initializer 'w' is there twice"),
        (_input_without_name, "input has no name"),
        (_input_without_type, "input 'x' has no type"),
        (_negative_dims, "initializer 'w': it has negative dims"),
        (_huge_dims, "initializer 'w'"),
        (_raw_too_short, "initializer 'w': it holds 11 bytes, its shape needs 12"),
        (_typed_too_short, "initializer 'from': it holds 1 numbers in int64_data, its shape needs 2"),
        (_typed_in_the_wrong_field, "0 numbers in float_data"),
        (_unknown_dtype, "unknown dtype 99"),
        (_unknown_input_dtype, "'x' has the unknown dtype 99"),
        (_recursive_function, "circle: Scale"),
        (_two_functions_of_one_name, "'Scale' is defined twice"),
        (_function_output_of_nothing, "function Scale: output 'nowhere'"),
        (_reference_outside_a_function, "outside of one"),
        (_attribute_of_another_type, "'axis' is FLOAT, it must be INT"),
        (_attribute_twice, "'axis' is there twice"),
        (_attribute_missing, r"\(Concat\): it lacks the attribute 'axis'"),
        (_operand_missing, "1 inputs, its operator takes 2"),
        (_operand_left_out, "left out"),
        (_branch_with_two_outputs, "0 inputs and 2 outputs, not 0 and 1"),
        (_text_that_is_no_utf8, "no valid text"),
    ],
)
def test_damaged_models_are_refused(damage: Callable[[onnx.ModelProto], Any], said: str, tmp_path: Path) -> None:
    whole = rich()
    damage(whole)
    path = save(whole, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=said) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "Traceback" not in str(caught.value)


def test_nodes_in_any_order_are_sorted() -> None:
    whole = rich()
    nodes = list(whole.graph.node)[::-1]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    np.testing.assert_array_equal(run(to_proto(load(whole)))[0], run(rich())[0])


def nested(depth: int) -> onnx.ModelProto:
    inner = body([node("Relu", ["x"], ["r"])], ["r"])
    for i in range(depth):
        empty = body([node("Neg", ["x"], [f"n{i}"])], [f"n{i}"])
        inner = body([node("If", ["c"], [f"o{i}"], then_branch=inner, else_branch=empty)], [f"o{i}"])
    made = model([], inputs=[value("x"), value("c", (), TensorProto.BOOL)], outputs=[value(inner.output[0].name)])
    made.graph.node.extend(inner.node)
    return made


def test_nesting_up_to_what_protobuf_can_hold() -> None:
    whole = nested(31)
    raw = whole.SerializeToString()
    assert to_proto(load(raw)).SerializeToString(deterministic=True)
    feeds = {"x": np.full((2, 3), -1, np.float32), "c": np.array(True)}
    assert run(to_proto(load(raw)), feeds)[0].sum() == 0


def test_nesting_beyond_is_named() -> None:
    innermost = body([node("Relu", ["x"], ["r"])], ["r"]).SerializeToString()
    raw = innermost
    for _ in range(60):
        graph_field = b"\x32" + _varint(len(raw)) + raw  # AttributeProto.g
        attribute = b"\x0a\x01b\xa0\x01\x05" + graph_field
        one = b"\x22\x02If\x2a" + _varint(len(attribute)) + attribute
        raw = b"\x0a" + _varint(len(one)) + one
    with pytest.raises(ModelError, match="nested deeper than protobuf can read"):
        load(b"\x08\x08\x3a" + _varint(len(raw)) + raw)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_a_graph_nested_too_deep_cannot_be_written(tmp_path: Path) -> None:
    graph = load(nested(31))
    inner = load(nested(5))
    deepest = graph
    while any(n.op == "If" for n in deepest.nodes):
        deepest = next(n.attrs["then_branch"] for n in deepest.nodes if n.op == "If")
    holder = next(n for n in inner.nodes if n.op == "If")
    deepest.nodes.append(holder)
    with pytest.raises(ModelError):
        write(graph, tmp_path / "deep.onnx")
    assert not list(tmp_path.iterdir())


WEIRD = ["ü⟂", "a b", "__proto__", "__class__", "a/b", "..", "%s{0}", "NaN", "-1", "'\"", "a\0b", "\n", "n" * 1_000_000]


@pytest.mark.parametrize("name", WEIRD, ids=lambda name: repr(name[:9]))
def test_weird_names_are_names(name: str, tmp_path: Path) -> None:
    whole = model(
        [node("Add", ["x", name], [name + "+"], name=name), node("Relu", [name + "+"], ["y"], name=name)],
        initializers=[tensor(name, np.ones(3, np.float32))],
    )
    write(load(save(whole, tmp_path / "m.onnx")), tmp_path / "o.onnx")
    again = onnx.load(tmp_path / "o.onnx")
    assert again.graph.initializer[0].name == name
    assert list(again.graph.node[0].input) == ["x", name]
    assert again.graph.node[0].name == name
    assert len({n.name for n in again.graph.node}) == 2


def test_megabyte_names_do_not_fill_the_message() -> None:
    whole = relu()
    whole.graph.node[0].input[0] = "n" * 1_000_000
    with pytest.raises(ModelError) as caught:
        load(whole)
    assert len(str(caught.value)) < 1500


def test_bytes_and_messages_say_what_they_are() -> None:
    with pytest.raises(ModelError, match=r"the model: .*truncated"):
        load(relu().SerializeToString()[:-3])
