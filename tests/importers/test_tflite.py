"""TensorFlow Lite files by their schema alone, and what is refused. `files/` was written by TensorFlow 2.21."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphopt_importers.tensorflow import Keras, TensorFlow
from graphopt_importers.tflite import OPSET, TFLite, ports
from graphopt_importers.tflite.handlers import HANDLERS
from graphopt_importers.tflite.model import converted
from graphopt_importers.tflite.reader import read

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.importer import Imported, ImportRequest
from graphopt.registry import Registry
from tests.cli.conftest import Cli, cli

__all__ = ["cli"]
FILES = Path(__file__).parent / "files"
EXPECTED = np.load(FILES / "expected.npz")


def imported(source: Path, folder: Path, **about: Any) -> Imported:
    target = folder / "onnx"
    target.mkdir(exist_ok=True)
    return TFLite().convert(ImportRequest(str(source), target, **about))


def run(path: Path, **feeds: Any) -> list[Any]:
    return list(onnxruntime.InferenceSession(path).run(None, feeds))


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_a_network_in_float_computes_what_the_interpreter_did(tmp_path: Path) -> None:
    found = imported(FILES / "net.float.tflite", tmp_path)
    onnx.checker.check_model(onnx.load(found.model), full_check=True)
    (scores,) = run(found.model, image=EXPECTED["float_image"])
    np.testing.assert_allclose(scores, EXPECTED["float_scores"], rtol=1e-5)


def test_names_are_those_of_the_signature_and_sizes_those_of_the_file(tmp_path: Path) -> None:
    graph = onnx.load(imported(FILES / "net.float.tflite", tmp_path).model).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "scores"]
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 12, 12, 3]


def test_only_the_interface_is_transposed(tmp_path: Path) -> None:
    """Convolution, depthwise convolution, sum, pooling, resizing and the mean over the image stay channels first."""
    kinds = operators(imported(FILES / "net.float.tflite", tmp_path).model)
    assert kinds["Transpose"] == 1
    assert kinds["Conv"] == 3


def test_a_quantized_network_is_off_by_a_step_at_most(tmp_path: Path) -> None:
    found = imported(FILES / "net.int8.tflite", tmp_path)
    (scores,) = run(found.model, image=EXPECTED["int8_image"])
    assert scores.dtype == np.int8
    assert np.abs(scores.astype(int) - EXPECTED["int8_scores"]).max() <= 1


def test_quantized_tensors_are_pairs(tmp_path: Path) -> None:
    """Each QuantizeLinear is read by a DequantizeLinear, or is the output; weights are int8, a scale a channel."""
    graph = onnx.load(imported(FILES / "net.int8.tflite", tmp_path).model).graph
    stored = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if stored & set(node.input):
            assert node.op_type in ("DequantizeLinear", "Identity")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    convolved = [node for node in graph.node if node.op_type == "Conv"]
    made_by = {node.output[0]: node for node in graph.node}
    for node in convolved:
        pair = made_by[node.input[1]]
        assert pair.op_type == "DequantizeLinear"
        assert weights[pair.input[0]].data_type == onnx.TensorProto.INT8
        assert list(weights[pair.input[1]].dims) == [weights[pair.input[0]].dims[0]]


def test_an_activation_that_the_range_implies_is_no_node(tmp_path: Path) -> None:
    """clip(round(relu6(x) / s)) = clip(round(x / s)), if the range is within [0, 6]."""
    kinds = operators(imported(FILES / "net.int8.tflite", tmp_path).model)
    assert kinds["Clip"] == kinds["Relu"] == 0


def test_it_may_end_at_other_tensors(tmp_path: Path) -> None:
    whole = read((FILES / "net.float.tflite").read_bytes(), "").graphs[0]
    name = whole.tensors[whole.operators[0].outputs[0]].name
    graph = onnx.load(imported(FILES / "net.float.tflite", tmp_path, options={"outputs": name}).model).graph
    assert [value.name for value in graph.output] == [name]
    assert len(graph.node) < 6


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"shapes": {"image": (1, 12, 12, 4)}}, "dimension 3 of input 'image' is 3, not 4"),
        ({"shapes": {"image": (1, 12)}}, "rank 4, not 2"),
        ({"shapes": {"picture": (1, 12, 12, 3)}}, "no input is named 'picture'"),
        ({"inputs": {"image": np.zeros((2, 12, 12, 3), np.float32)}}, "the example for input 'image' is 2x12x12x3"),
        ({"options": {"outputs": "Relu6"}}, "there is no tensor 'Relu6'"),
        ({"options": {"signature": "train"}}, "no signature is named 'train'"),
        ({"opset": 9}, "opset 9 is not written"),
    ],
)
def test_words_that_do_not_fit(about: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        imported(FILES / "net.float.tflite", tmp_path, **about)


def test_an_operator_without_counterpart_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(HANDLERS, "RESIZE_BILINEAR")
    with pytest.raises(
        ModelError, match=r"RESIZE_BILINEAR \(operator \d+, which makes '[^']+'\): it has no counterpart"
    ):
        imported(FILES / "net.float.tflite", tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"\x1c\0\0\0TFL3", b"PK\x03\x04" + b"\0" * 100, b"\x1c\0\0\0TFL3" + b"\xff" * 64]
)
def test_what_is_no_such_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(data)
    with pytest.raises(ModelError, match=r"net\.tflite: (it is no \.tflite file|it is damaged|there is no graph)"):
        imported(tmp_path / "net.tflite", tmp_path)


@pytest.mark.parametrize("name", ["net.float.tflite", "net.int8.tflite"])
def test_damaged_files_end_in_an_error_that_names_them(name: str, tmp_path: Path) -> None:
    """Cut at every 97th byte, and with bytes changed: refused, or read as another network; never a crash."""
    data = (FILES / name).read_bytes()
    random = np.random.default_rng(0)
    cases = [data[:size] for size in range(0, len(data), 97)]
    for _ in range(150):
        changed = bytearray(data)
        for place in random.integers(8, len(data), random.integers(1, 4)):
            changed[place] = random.integers(256)
        cases.append(bytes(changed))
    refused = []
    for case in cases:
        (tmp_path / "net.tflite").write_bytes(case)
        try:
            only_read(tmp_path / "net.tflite", tmp_path)
        except GraphoptError as error:
            refused.append(str(error))
    assert len(refused) > len(cases) // 4
    assert all("net.tflite" in one for one in refused)


def only_read(source: Path, folder: Path) -> None:
    """The conversion without the interpreter, which is native code."""
    file = read(source.read_bytes(), str(source))
    converted(file, ports(file, ImportRequest(str(source), folder)), OPSET, str(source))


def test_suffixes_and_folders_find_their_importers(tmp_path: Path) -> None:
    found = Registry().importers()
    owner = {suffix: name for name, one in found.items() for suffix in one.suffixes}
    assert {owner[suffix] for suffix in (".keras", ".h5")} == {"keras"}
    assert (owner[".pb"], owner[".tflite"]) == ("tensorflow", "tflite")
    assert not TensorFlow().accepts(str(tmp_path))
    (tmp_path / "saved_model.pb").touch()
    assert TensorFlow().accepts(str(tmp_path))
    (tmp_path / "weights.bin").write_bytes((FILES / "net.float.tflite").read_bytes())
    assert TFLite().accepts(str(tmp_path / "weights.bin"))
    assert not TFLite().accepts(str(tmp_path / "saved_model.pb"))


@pytest.mark.parametrize("kind", [TensorFlow, Keras, TFLite])
def test_a_framework_is_loaded_where_it_is_needed(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").write_bytes((FILES / "net.float.tflite").read_bytes())
    for name in ("tensorflow", "keras", "tflite"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        kind().convert(ImportRequest(str(tmp_path / "net"), tmp_path))


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_missing_framework_is_an_error_that_says_what_to_install(cli: Cli) -> None:
    Path("net.keras").write_bytes(b"PK\x03\x04")
    done = cli("check", "net.keras")
    assert done.code == 1
    assert "pip install 'graphopt[tensorflow]'" in done.err


def test_one_command_builds_an_engine(cli: Cli) -> None:
    done = cli("build", str(FILES / "net.int8.tflite"), "-o", "net.engine", "--json")
    assert done.code == 0
    assert done.json["imported"]["importer"] == "tflite"
    assert Path("net.engine").stat().st_size > 1000
