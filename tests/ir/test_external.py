"""Weights in files beside the model: found without leaving the folder, copied without being held in memory."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir.load import load
from graphopt.ir.save import write
from graphopt.ir.weights import digest, read

from .models import body, model, node, run, save, tensor, value

ROWS = 40
W = np.arange(ROWS * 10, dtype=np.float32).reshape(10, ROWS) / 100


def outside(name: str = "w", **entries: Any) -> TensorProto:
    """A float tensor of 10 x ROWS in w.bin, or as the entries say."""
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[10, ROWS], data_location=TensorProto.EXTERNAL)
    for key, item in ({"location": "w.bin"} | entries).items():
        made.external_data.add(key=key, value=str(item))
    return made


def matmul(weight: TensorProto) -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", weight.name], ["y"])],
        [value("x", (2, 10))],
        [value("y", (2, ROWS))],
        [weight],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.bin").write_bytes(bytes(64) + W.tobytes())
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    return tmp_path / "in"


# -- finding them -------------------------------------------------------------------------------------------------


def test_values_are_read_from_their_range(folder: Path) -> None:
    graph = load(save(matmul(outside(offset=64, length=W.nbytes)), folder / "m.onnx"))
    np.testing.assert_array_equal(read(graph.nodes[0].inputs[1]), W)


def test_without_a_length_the_shape_tells(folder: Path) -> None:
    graph = load(save(matmul(outside(offset=64)), folder / "m.onnx"))
    np.testing.assert_array_equal(read(graph.nodes[0].inputs[1]), W)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": ""}, "names no file"),
        ({"location": "none.bin"}, r"'none.bin' does not exist\n  put it beside the model"),
        ({"location": "/etc/passwd"}, "leaves the model's folder"),
        ({"location": "../secret.bin"}, "leaves the model's folder"),
        ({"location": "sub/../../secret.bin"}, "leaves the model's folder"),
        ({"location": "..\\secret.bin"}, "leaves the model's folder"),
        ({"location": "w.bin\0"}, "leaves the model's folder"),
        ({"location": "link.bin"}, "leads out of the model's folder"),
        ({"location": "linked/secret.bin"}, "leads out of the model's folder"),
        ({"location": "loop.bin"}, "cannot be looked up|does not exist"),
        ({"location": "."}, "leads out|does not exist"),
        ({"location": "sub"}, "does not exist"),
        ({"location": "pipe"}, "does not exist"),
        ({"location": "n" * 5000}, "cannot be looked up|does not exist"),
        ({"offset": 65}, "lie outside w.bin"),
        ({"offset": 10**30}, "lie outside w.bin"),
        ({"offset": -1}, "lie outside w.bin"),
        ({"offset": "many"}, "no number"),
        ({"length": 100}, "it has 100 bytes, its shape needs 1600"),
        ({"length": -1}, "it has -1 bytes"),
        ({"length": "1e3"}, "no number"),
    ],
    ids=lambda item: str(item)[:40],
)
def test_ranges_and_paths_outside_are_refused(folder: Path, entries: dict[str, Any], said: str) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    path = save(matmul(outside(**entries)), folder / "m.onnx")
    with pytest.raises(ModelError, match=said) as caught:
        load(path)
    assert "external data of 'w'" in str(caught.value)


def test_dims_are_checked_against_the_file(folder: Path) -> None:
    for dims in ([-1, 3], [2**62], [2**31, 2**31]):
        weight = outside()
        weight.dims[:] = dims
        with pytest.raises(ModelError, match=r"negative|too large|lie outside"):
            load(save(matmul(weight), folder / "m.onnx"))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "v.bin").symlink_to("w.bin")
    load(save(matmul(outside(location="v.bin", offset=64)), folder / "m.onnx"))


def test_bytes_alone_cannot_have_external_data() -> None:
    with pytest.raises(ModelError, match=r"cannot be found from bytes alone\n  give the file's path"):
        load(matmul(outside()).SerializeToString())


def test_sparse_and_listed_tensors_cannot_be_read_from_elsewhere(folder: Path) -> None:
    """onnx's own reader would open the path of an external tensor inside a sparse one, wherever it leads."""
    sparse = onnx.SparseTensorProto(dims=[10, ROWS])
    sparse.values.CopyFrom(outside("w", location="../secret.bin"))
    sparse.values.dims[:] = [3]
    sparse.indices.CopyFrom(tensor("", np.array([1, 2, 3])))
    whole = matmul(tensor("w", W))
    del whole.graph.initializer[:]
    whole.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelError, match="leaves the model's folder"):
        load(save(whole, folder / "m.onnx"))
    sparse.values.external_data[0].value = "w.bin"
    whole.graph.sparse_initializer[0].CopyFrom(sparse)
    graph = load(save(whole, folder / "m.onnx"))
    shutil.rmtree(folder)
    assert read(graph.nodes[0].inputs[1]).shape == (10, ROWS)


def test_a_file_that_shrinks_while_it_is_used_is_named(folder: Path) -> None:
    graph = load(save(matmul(outside(offset=64)), folder / "m.onnx"))
    os.truncate(folder / "w.bin", 100)
    with pytest.raises(ModelError, match=r"ends .* bytes early"):
        read(graph.nodes[0].inputs[1])
    (folder / "w.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        write(graph, folder / "out.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx"]


# -- writing them -------------------------------------------------------------------------------------------------


def expected() -> Any:
    return np.ones((2, 10), np.float32) @ W


def source(folder: Path, name: str = "m.onnx") -> Path:
    return save(matmul(outside(offset=64)), folder / name)


def test_the_result_has_its_own_file_named_by_its_contents(folder: Path) -> None:
    files = write(load(source(folder)), folder.parent / "o.onnx")
    assert files[0].name == "o.onnx"
    assert re.fullmatch(r"o\.onnx\.[0-9a-f]{8}\.data", files[1].name)
    shutil.rmtree(folder)
    np.testing.assert_allclose(run(files[0])[0], expected(), rtol=1e-5)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(onnx.load(files[0]).graph.initializer[0]), W)


def test_equal_weights_give_equal_names_and_others_do_not(folder: Path) -> None:
    first = write(load(source(folder)), folder / "a.onnx")[1].name
    assert write(load(source(folder)), folder / "a.onnx")[1].name == first
    (folder / "w.bin").write_bytes(bytes(64) + (W + 1).tobytes())
    assert write(load(source(folder)), folder / "a.onnx")[1].name != first


def test_where_the_bytes_lie_is_part_of_the_name(tmp_path: Path) -> None:
    """Two tensors of 1 and 2 pages, or of 2 and 1, hold the same bytes but not at the same offsets."""
    names = set()
    for left in (5000, 9000):
        parts = np.zeros(14_000, np.uint8)
        whole = model(
            [node("Concat", ["a", "b"], ["y"], axis=0)],
            [],
            [value("y", (14_000,), TensorProto.UINT8)],
            [tensor("a", parts[:left]), tensor("b", parts[left:])],
        )
        names.add(write(load(whole), tmp_path / "m.onnx", external=True)[1].name)
    assert len(names) == 2


def test_stale_data_of_an_older_result_is_removed(folder: Path) -> None:
    old = write(load(source(folder)), folder / "o.onnx")[1]
    (folder / "w.bin").write_bytes(bytes(64) + (W + 1).tobytes())
    mine = folder / "o.onnx.backup.data"
    mine.write_bytes(b"not graphopt's")
    new = write(load(source(folder)), folder / "o.onnx")[1]
    assert not old.exists()
    assert new.exists()
    assert mine.exists()
    inline = write(load(source(folder)), folder / "o.onnx", external=False)
    assert inline == [folder / "o.onnx"]
    assert not new.exists()


def test_data_that_a_renamed_result_still_uses_is_kept(folder: Path) -> None:
    old = write(load(source(folder)), folder / "o.onnx")[1]
    (folder / "o.onnx").rename(folder / "kept.onnx")
    (folder / "w.bin").write_bytes(bytes(64) + (W + 1).tobytes())
    write(load(source(folder)), folder / "o.onnx")
    assert old.exists()
    np.testing.assert_allclose(run(folder / "kept.onnx")[0], expected(), rtol=1e-5)


def test_writing_over_the_model_itself(folder: Path) -> None:
    """A result is loaded, changed and written over itself: data that the graph still reads stays, for now."""
    whole = matmul(outside(offset=64))
    whole.graph.node.append(node("Add", ["y", "v"], ["z"]))
    whole.graph.initializer.append(tensor("v", np.ones((300, 2, ROWS), np.float32)))
    whole.graph.output[0].CopyFrom(value("z", (300, 2, ROWS)))
    first = write(load(save(whole, folder / "m.onnx")), folder / "o.onnx")
    graph = load(first[0])
    added = graph.nodes[1].inputs[1]
    graph.nodes[1].inputs[1] = type(added)("u", read(added) * 2)
    second = write(graph, first[0])
    assert second[1] != first[1]
    np.testing.assert_allclose(run(second[0])[0][7], expected() + 2, rtol=1e-5)
    np.testing.assert_array_equal(read(graph.nodes[0].inputs[1]), W)
    write(load(second[0]), second[0])
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".data", ".onnx", ".onnx"]


def test_the_model_cannot_be_written_over_the_sources_data(folder: Path) -> None:
    graph = load(source(folder))
    before = (folder / "w.bin").read_bytes()
    for path in (folder / "w.bin", folder / "sub" / ".." / "w.bin"):
        (folder / "sub").mkdir(exist_ok=True)
        with pytest.raises(GraphoptError, match="source's weights are in this file"):
            write(graph, path)
    assert (folder / "w.bin").read_bytes() == before


def test_models_that_share_a_data_file(folder: Path) -> None:
    sources = [source(folder, "a.onnx"), source(folder, "b.onnx")]
    before = hashlib.sha256((folder / "w.bin").read_bytes()).digest()
    for path in sources:
        write(load(path), folder / f"o-{path.name}")
    assert hashlib.sha256((folder / "w.bin").read_bytes()).digest() == before
    for path in [*sources, folder / "o-a.onnx", folder / "o-b.onnx"]:
        np.testing.assert_allclose(run(path)[0], expected(), rtol=1e-5)


def test_one_range_under_two_names_is_written_once(folder: Path) -> None:
    whole = model(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["x", "v"], ["k"]), node("Add", ["h", "k"], ["y"])],
        [value("x", (2, 10))],
        [value("y", (2, ROWS))],
        [outside("w", offset=64), outside("v", offset=64)],
    )
    files = write(load(save(whole, folder / "m.onnx")), folder / "o.onnx")
    assert files[1].stat().st_size == W.nbytes
    np.testing.assert_allclose(run(files[0])[0], expected() * 2, rtol=1e-5)


def test_external_tensors_in_attributes_bodies_and_functions(folder: Path) -> None:
    function = helper.make_function(
        "local",
        "Fetch",
        ["a"],
        ["b"],
        [node("Constant", [], ["w"], value=outside("", offset=64)), node("MatMul", ["a", "w"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    then = body([node("Constant", [], ["k"], value=outside("", offset=64)), node("MatMul", ["x", "k"], ["t"])], ["t"])
    other = body([node("MatMul", ["x", "v"], ["e"])], ["e"], [outside("v", offset=64)])
    whole = model(
        [
            node("If", ["c"], ["i"], then_branch=then, else_branch=other),
            node("Constant", [], ["m"], value=outside("", offset=64)),
            node("MatMul", ["x", "m"], ["j"]),
            node("Fetch", ["x"], ["k"], domain="local"),
            node("Sum", ["i", "j", "k"], ["y"]),
        ],
        [value("x", (2, 10)), value("c", (), TensorProto.BOOL)],
        [value("y", (2, ROWS))],
        functions=[function],
        domains={"local": 1},
    )
    graph = load(save(whole, folder / "m.onnx"))
    files = write(graph, folder.parent / "o.onnx")
    assert files[1].stat().st_size == W.nbytes, "one range, written once"
    inline = write(graph, folder.parent / "i.onnx", external=False)
    shutil.rmtree(folder)
    for condition in (True, False):
        feeds = {"x": np.ones((2, 10), np.float32), "c": np.array(condition)}
        np.testing.assert_allclose(run(inline[0], feeds)[0], expected() * 3, rtol=1e-5)
        np.testing.assert_allclose(run(onnx.load(files[0]), feeds)[0], expected() * 3, rtol=1e-5)
        np.testing.assert_allclose(run(files[0], feeds)[0], expected() * 3, rtol=1e-5)


def test_external_and_inline_weights_have_one_digest(folder: Path) -> None:
    far = load(source(folder)).nodes[0].inputs[1]
    near = load(matmul(tensor("w", W))).nodes[0].inputs[1]
    typed = load(matmul(helper.make_tensor("w", TensorProto.FLOAT, W.shape, W.ravel()))).nodes[0].inputs[1]
    changed = load(matmul(tensor("w", W + 1))).nodes[0].inputs[1]
    assert digest(far) == digest(near) == digest(typed) != digest(changed)


def test_small_weights_stay_in_the_model(folder: Path) -> None:
    whole = matmul(outside(offset=64))
    whole.graph.node.append(node("Add", ["y", "small"], ["z"]))
    whole.graph.initializer.append(tensor("small", np.ones(ROWS, np.float32)))
    whole.graph.output[0].name = "z"
    files = write(load(save(whole, folder / "m.onnx")), folder / "o.onnx")
    proto = onnx.load(files[0], load_external_data=False)
    assert {t.name: t.data_location == TensorProto.EXTERNAL for t in proto.graph.initializer} == {
        "w": True,
        "small": False,
    }
