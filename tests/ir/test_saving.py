"""Saving: all or nothing, weights where they belong, names that stay apart, never a stranger's file touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.errors import GraphoptError, ModelError
from graphopt.ir import save
from graphopt.ir.graph import extras
from graphopt.ir.load import load
from graphopt.ir.save import stage, to_proto, write
from graphopt.ir.weights import ExternalValues, read
from graphopt.testing import model

SIDE = 160  # 100 KiB a weight: streamed


def product(first: float = 1, second: float = 2) -> onnx.ModelProto:
    """y = x @ w @ v, with two large weights."""
    weights = [
        numpy_helper.from_array(np.full((SIDE, SIDE), value, np.float32), name)
        for name, value in (("w", first), ("v", second))
    ]
    weights[0].doc_string = "the first"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIDE]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def result(path: Path) -> float:
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return float(ReferenceEvaluator(model).run(None, {"x": np.ones((1, SIDE), np.float32)})[0][0, 0])


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_streamed_file_is_an_ordinary_model(tmp_path: Path) -> None:
    assert write(load(product()), tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert result(tmp_path / "m.onnx") == 2 * SIDE * SIDE
    found = onnx.load(tmp_path / "m.onnx")
    assert found.graph.initializer[0].doc_string == "the first"
    assert to_proto(load(tmp_path / "m.onnx")) == to_proto(load(product()))


@pytest.mark.parametrize("external", [False, True])
def test_the_same_graph_gives_the_same_bytes(external: bool, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = write(load(product()), tmp_path / name / "m.onnx", external=external)
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_weights_go_to_one_aligned_file(tmp_path: Path) -> None:
    model, data = write(load(product()), tmp_path / "m.onnx", external=True)
    assert data.name.startswith("m.onnx.")
    assert data.suffix == ".data"
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == data.name
        assert int(entries["offset"]) % 4096 == 0
    assert result(model) == 2 * SIDE * SIDE


def test_external_stays_external_and_inline_inline(tmp_path: Path) -> None:
    write(load(product()), tmp_path / "m.onnx", external=True)
    assert len(write(load(tmp_path / "m.onnx"), tmp_path / "again.onnx")) == 2
    assert len(write(load(tmp_path / "m.onnx"), tmp_path / "inline.onnx", external=False)) == 1
    assert result(tmp_path / "again.onnx") == result(tmp_path / "inline.onnx") == 2 * SIDE * SIDE


def test_loading_does_not_read_external_weights(tmp_path: Path) -> None:
    model, data = write(load(product()), tmp_path / "m.onnx", external=True)
    graph = load(model)
    data.write_bytes(data.read_bytes().replace(np.float32(2).tobytes(), np.float32(5).tobytes()))
    assert read(graph.nodes[1].inputs[1])[0, 0] == 5


def test_a_replaced_result_leaves_no_data_behind(tmp_path: Path) -> None:
    write(load(product(1, 2)), tmp_path / "m.onnx", external=True)
    first = listing(tmp_path)
    write(load(product(3, 4)), tmp_path / "m.onnx", external=True)
    assert result(tmp_path / "m.onnx") == 12 * SIDE * SIDE
    assert len(listing(tmp_path)) == 2
    assert listing(tmp_path) != first
    write(load(product(1, 1)), tmp_path / "m.onnx")
    assert listing(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize(
    "name", ["m.onnx.training.data", "m.onnx.data", "m.onnx.12345678.bak", "other.onnx.12345678.data"]
)
def test_files_that_are_not_ours_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    write(load(product()), tmp_path / "m.onnx", external=True)
    write(load(product(3, 4)), tmp_path / "m.onnx")
    assert (tmp_path / name).read_text() == "mine"


def test_a_model_is_replaced_by_itself_and_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write(load(product()), path, external=True)
    graph = load(path)
    graph.nodes[1].inputs[1] = gs.Constant("v", np.full((SIDE, SIDE), 7, np.float32))
    write(graph, path)
    assert result(path) == 7 * SIDE * SIDE
    assert isinstance(graph.nodes[0].inputs[1]._values, ExternalValues)
    assert read(graph.nodes[0].inputs[1])[0, 0] == 1
    write(graph, path)
    assert result(path) == 7 * SIDE * SIDE


def test_nothing_is_there_until_it_is_committed(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("old")
    with stage(load(product()), tmp_path / "m.onnx", external=True) as staged:
        assert (tmp_path / "m.onnx").read_text() == "old"
        assert staged.model_path.name == "m.onnx"
        assert staged.model_path.parent.name.startswith(".graphopt-")
        assert result(staged.model_path) == 2 * SIDE * SIDE
    assert listing(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "old"


def test_a_failure_in_between_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), stage(load(product()), tmp_path / "m.onnx", external=True):
        raise KeyError
    assert listing(tmp_path) == []


def test_a_source_that_vanishes_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    model, data = write(load(product()), tmp_path / "m.onnx", external=True)
    graph = load(model)
    os.truncate(data, 4096)
    with pytest.raises(ModelError, match=r"ends .* early"):
        write(graph, tmp_path / "out" / "m.onnx")
    assert listing(tmp_path / "out") == []


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import resource, signal, sys
from graphopt.errors import GraphoptError
from graphopt.ir.load import load
from graphopt.ir.save import write
graph = load(sys.argv[1])
signal.signal(signal.{signal.SIGXFSZ.name}, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write(graph, sys.argv[2])
except GraphoptError as error:
    print(error)
"""
    write(load(product()), tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "out" / "m.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "it cannot be written: File too large" in done.stdout, done.stderr
    assert listing(tmp_path / "out") == []


def test_a_killed_process_leaves_the_old_model_and_one_recognizable_folder(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from graphopt.ir.load import load
from graphopt.ir.save import stage
with stage(load(sys.argv[1]), sys.argv[2], external=True):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    write(load(product()), tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.onnx").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "out" / "m.onnx")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = listing(tmp_path / "out")
    assert left[1:] == ["m.onnx"]
    assert left[0].startswith(".graphopt-")
    assert (tmp_path / "out" / "m.onnx").read_text() == "old"


@pytest.mark.parametrize(("name", "words"), [("no/m.onnx", "does not exist"), ("folder", "it is a folder")])
def test_places_where_nothing_can_be_written(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(GraphoptError, match=words) as caught:
        write(load(product()), tmp_path / name)
    assert caught.value.hint


def test_too_much_for_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 100_000)
    with pytest.raises(ModelError, match="do not fit into one message"):
        to_proto(load(product()))
    assert not to_proto(load(product()), weights="omit").graph.initializer[0].raw_data


def test_too_much_for_one_file_goes_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 100_000)
    assert len(write(load(product()), tmp_path / "m.onnx")) == 2


BRANCHES = """
<ir_version: 9, opset_import: ["": 17]>
g (float[2] x, bool c) => (float[2] y)
{
    a = Neg(x)
    y = If(c) <
        then_branch = then () => (float[2] t) { t = Add(x, x) },
        else_branch = other () => (float[2] e) { e = Sub(a, x) }
    >
}
"""


def branches() -> tuple[gs.Graph, gs.Graph, gs.Graph]:
    graph = load(onnx.parser.parse_model(BRANCHES))
    attrs = graph.nodes[1].attrs
    return graph, attrs["then_branch"], attrs["else_branch"]


def computed(graph: gs.Graph, condition: bool) -> list[float]:
    model = to_proto(graph)
    onnx.checker.check_model(model, full_check=True)
    feeds = {"x": np.float32([1, 2]), "c": np.bool_(condition)}
    return ReferenceEvaluator(model).run(None, feeds)[0].tolist()


def test_a_constant_lives_in_the_graph_that_uses_it() -> None:
    graph, then, _ = branches()
    then.nodes[0].inputs[1] = gs.Constant("k", np.float32([5, 5]))
    model = to_proto(graph)
    bodies = {attribute.name: attribute.g for attribute in model.graph.node[1].attribute}
    assert not model.graph.initializer
    assert [tensor.name for tensor in bodies["then_branch"].initializer] == ["k"]
    assert computed(graph, True) == [6, 7]


def test_a_constant_of_two_branches_is_written_once_outside() -> None:
    graph, then, other = branches()
    shared = gs.Constant("k", np.float32([5, 5]))
    then.nodes[0].inputs[1] = other.nodes[0].inputs[1] = shared
    assert [tensor.name for tensor in to_proto(graph).graph.initializer] == ["k"]
    assert computed(graph, True) == [6, 7]
    assert computed(graph, False) == [-6, -7]


def test_names_that_would_hide_each_other_are_kept_apart() -> None:
    graph, then, other = branches()
    outer = gs.Variable("t", np.float32, [2])  # the name of the branch's own result
    graph.nodes.insert(0, gs.Node("Abs", "abs", inputs=[graph.inputs[0]], outputs=[outer]))
    then.nodes[0].inputs[0] = outer
    other.nodes[0].inputs[1] = gs.Constant("x", np.float32([9, 9]))  # the name of the model's input
    assert computed(graph, True) == [2, 4]
    assert computed(graph, False) == [-10, -11]
    assert [port.name for port in to_proto(graph).graph.input] == ["x", "c"]
    assert [port.name for port in to_proto(graph).graph.output] == ["y"]


def test_two_values_of_one_name_in_one_graph_are_kept_apart() -> None:
    graph, *_ = branches()
    graph.nodes[0].op = "Add"
    graph.nodes[0].inputs = [gs.Constant("k", np.float32([1, 1])), gs.Constant("k", np.float32([2, 2]))]
    assert computed(graph, False) == [2, 1]


def test_a_constant_can_be_a_result() -> None:
    graph, *_ = branches()
    graph.outputs = [gs.Constant("k", np.float32([1, 2]))]
    assert computed(graph, True) == [1, 2]


def test_constants_of_functions_become_nodes() -> None:
    graph = load(
        onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["": 17, "d": 1]>
g (float[2] x) => (float[2] y) { h = d.F(x)
 y = d.H(h) }
<domain: "d", opset_import: ["": 17]> F (a) => (b) { b = Neg(a) }
<domain: "d", opset_import: ["": 17]> H (a) => (b) { b = Neg(a) }
""")
    )
    shared = gs.Constant("k", np.float32([10, 10]))
    for function in graph.functions:
        function.nodes[0].op = "Add"
        function.nodes[0].inputs.append(shared)
    model = to_proto(graph)
    onnx.checker.check_model(model)
    assert [[node.op_type for node in function.node] for function in model.functions] == [["Constant", "Add"]] * 2
    assert ReferenceEvaluator(model).run(None, {"x": np.float32([1, 2])})[0].tolist() == [21, 22]


@pytest.mark.parametrize(
    ("dtype", "least"),
    [("float8_e4m3fn", 9), ("int4", 10), ("float4_e2m1fn", 11), ("float8_e8m0fnu", 12), ("uint2", 13)],
)
def test_the_ir_version_rises_to_what_a_dtype_needs(dtype: str, least: int) -> None:
    import ml_dtypes

    graph = load(product())
    graph.ir_version = 8
    kind = np.dtype(getattr(ml_dtypes, dtype))
    cast = gs.Variable("cast", np.float32, [2])
    graph.nodes.append(gs.Node("Cast", "cast", {"to": 1}, [gs.Constant("q", np.ones(2).astype(kind))], [cast]))
    graph.outputs.append(cast)
    assert to_proto(graph).ir_version == least


def test_the_ir_version_rises_for_lineage_and_never_falls() -> None:
    graph = load(product())
    assert to_proto(graph).ir_version == 9
    extras(graph.nodes[0]).origin = ("a", ("b", "a"))
    extras(graph.nodes[0]).rules = ("some-rule",)
    model = to_proto(graph)
    assert model.ir_version == 10
    props = {prop.key: prop.value for prop in model.graph.node[0].metadata_props}
    assert props == {"graphopt.origin": '["a", "b"]', "graphopt.rule": '["some-rule"]'}
    graph.ir_version = 12
    assert to_proto(graph).ir_version == 12


OLD = """
<ir_version: 3, opset_import: ["": 8]>
g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {1, 2}> { y = Add(x, k) }
"""


def test_before_ir_4_initializers_are_listed_as_inputs() -> None:
    graph = load(onnx.parser.parse_model(OLD))
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    model = to_proto(graph)
    onnx.checker.check_model(model)
    assert model.ir_version == 3
    assert [port.name for port in model.graph.input] == ["x", "k"]


def test_a_new_constant_in_an_old_model_gives_a_valid_one() -> None:
    graph = load(onnx.parser.parse_model(OLD))
    graph.nodes[0].inputs[1] = gs.Constant("new", np.float32([1, 1]))
    onnx.checker.check_model(to_proto(graph))


def test_an_old_model_that_gets_lineage_lists_nothing_that_could_be_overridden() -> None:
    graph = load(onnx.parser.parse_model(OLD))
    extras(graph.nodes[0]).rules = ("some-rule",)
    model = to_proto(graph)
    assert model.ir_version == 10
    assert [port.name for port in model.graph.input] == ["x"]


def test_a_domain_that_a_pass_brings_is_imported() -> None:
    graph = load(product())
    graph.nodes[0].domain = "com.example"
    assert {(o.domain, o.version) for o in to_proto(graph).opset_import} == {("", 17), ("com.example", 1)}


def test_writing_leaves_the_graph_as_it_is() -> None:
    graph, then, _ = branches()
    then.nodes[0].inputs[1] = gs.Constant("a", np.float32([5, 5]))
    before = [(node.name, [t.name for t in node.inputs], [t.name for t in node.outputs]) for node in then.nodes]
    to_proto(graph)
    assert before == [(n.name, [t.name for t in n.inputs], [t.name for t in n.outputs]) for n in then.nodes]


def test_types_of_inner_values_are_written_where_the_source_declares_any() -> None:
    bare = model("g (float[2] x) => (float[2] y) { h = Relu(x) k = Cast<to=10>(h) y = CastLike(k, h) }")
    declared = onnx.shape_inference.infer_shapes(bare)

    def inner(source: onnx.ModelProto) -> set[str]:
        result = graphopt.to_proto(graphopt.optimize(source, pipeline="none", verify="none").graph)
        return {info.name for info in result.graph.value_info}

    assert inner(declared) == {"h", "k"}
    assert inner(bare) <= {"k"}  # of 16 bits
