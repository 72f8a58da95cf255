"""Files that are wrong: each says what, where, and what to do."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_importers.caffe import Caffe, caffemodel, prototxt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.cli import main
from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.importer import ImportRequest

from . import caffe_files
from .caffe_cases import one, wave
from .test_caffe_files import BLOBS, CONV, FC, STAGED, V1, V2


def failure(folder: Path, text: str, blobs: Any = None, source: str = "", **words: Any) -> str:
    path = caffe_files.write(folder / "in", text, blobs)
    (folder / "out").mkdir(exist_ok=True)
    with pytest.raises(GraphoptError) as caught:
        Caffe().convert(ImportRequest(source or str(path), folder / "out", **words))
    assert not list((folder / "out").iterdir())
    return str(caught.value)


def test_missing_weights_name_the_layer_and_the_file(tmp_path: Path) -> None:
    found = failure(tmp_path, V2)
    assert "net.prototxt:5: layer conv (Convolution): blob 0 (weights) is missing" in found
    assert "net.caffemodel is not there" in found
    assert "--import-option weights=FILE.caffemodel" in found
    found = failure(tmp_path, V2, {"conv": CONV})
    assert "layer fc (InnerProduct): blob 0 (weights) is missing" in found
    found = failure(tmp_path, V2, {"conv": CONV[:1], "fc": FC})
    assert "layer conv (Convolution): blob 1 (bias) is missing: it has 1" in found


def test_weights_of_another_network(tmp_path: Path) -> None:
    found = failure(tmp_path, V2, {"conv": [wave(4, 3, 5, 5), CONV[1]], "fc": FC})
    assert "blob 0 (weights) is 4x3x5x5 in the .caffemodel, and 4x3x3x3 by the .prototxt" in found


def test_every_unsupported_layer_is_named_at_once(tmp_path: Path) -> None:
    text = """
    input: "x" input_shape { dim: 1 }
    layer { name: "a" type: "Convolutio" bottom: "x" top: "a" exotic_param { depth: 3 } }
    layer { name: "b" type: "Python" bottom: "a" top: "b" python_param { module: "m" layer: "L" } }
    """
    found = failure(tmp_path, text)
    assert (
        "net.prototxt:3: layer a (Convolutio): layers of type Convolutio have no counterpart; nor have b (Python)"
        in found
    )
    assert "did you mean Convolution" in found
    assert "docs/importers_caffe.md" in found


def test_a_parameter_that_is_not_known_is_not_passed_over(tmp_path: Path) -> None:
    text = V2.replace("kernel_size: 3 ", "kernel_size: 3 width_group: 2 ")
    assert "layer conv (Convolution): convolution_param.width_group is not supported" in failure(tmp_path, text, BLOBS)


CASES = [
    ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", "stochastic pooling draws at random"),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 3 }", "the last window of 2 with stride 3 lies outside of 6"),
    ("Pooling", "pooling_param { kernel_size: 9 }", "a window of 9 does not fit into 6"),
    ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", "the padding is not smaller than the window"),
    ("Pooling", "pooling_param { kernel_size: 0 }", "kernel_size is 0x0"),
    ("Pooling", "pooling_param { kernel_size: 2 stride: -1 }", "stride is -1x-1"),
    ("Pooling", "pooling_param { kernel_size: 99999999999999999999 }", "kernel_size is 99999999999999999999, not"),
    ("Pooling", "pooling_param { kernel_size: 2 round_mode: UP }", "round_mode is 'UP', not CEIL or FLOOR"),
    ("Pooling", "pooling_param { kernel_size: [2, 2, 2] }", "3 times kernel_size, where there are 2"),
    ("Pooling", "", "kernel_size is missing"),
    ("Convolution", "convolution_param { kernel_size: 3 }", "num_output is missing"),
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }", "do not fall into 2 groups"),
    ("Convolution", "convolution_param { num_output: -4 kernel_size: 3 }", "num_output -4"),
    ("InnerProduct", "inner_product_param { num_output: 4 axis: 7 }", "axis 7 of 4 dimensions"),
    ("Slice", "slice_param { slice_point: 9 }", "slice_point"),
    ("Reshape", "reshape_param { shape { dim: 7 } }", "1x3x6x6 cannot become 7"),
    ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", "one -1 at most"),
    ("Reshape", "reshape_param { shape { dim: -1 dim: 5 } }", "108 numbers do not fall into groups of 5"),
    ("Flatten", "flatten_param { axis: 3 end_axis: 1 }", "end_axis 1 is before axis 3"),
    ("Permute", "permute_param { order: 0 order: 0 }", "order [0, 0, 1, 2, 3] of 4 dimensions"),
    ("LRN", "lrn_param { local_size: 4 }", "local_size is 4: it must be odd"),
    ("Exp", "exp_param { base: 0 }", "base is 0.0"),
    ("Eltwise", "", "it has one bottom"),
    ("Crop", "", "1 bottoms, where such a layer has 2"),
    ("Tile", "tile_param { tiles: 99999999 }", "tiles is 99999999"),
    ("ReLU", 'relu_param { negative_slope: "a" }', "negative_slope is 'a', not a number"),
    ("ReLU", "relu_param: 3", "relu_param is 3, not a message"),
    ("Power", 'top: "more"', "2 tops, where such a layer has 1"),
    ("Interp", "interp_param { height: 0 width: 3 }", "the size would be 0x3"),
    ("ArgMax", "argmax_param { axis: 1 top_k: 9 }", "top_k 9 of 3"),
    ("DummyData", "", "1 bottoms, where such a layer has 0"),
    ("LSTM", "recurrent_param { num_output: 4 }", "1 bottoms, where such a layer has at least 2"),
]


@pytest.mark.parametrize(("kind", "words", "what"), CASES)
def test_a_parameter_that_does_not_fit(kind: str, words: str, what: str, tmp_path: Path) -> None:
    found = failure(tmp_path, one("n", kind, words, wave(1, 3, 6, 6)).prototxt())
    assert what in found
    assert f"layer l ({kind})" in found


DEFINITIONS = [
    ("", "there is no layer for phase TEST"),
    ("net: 'x.prototxt' base_lr: 0.1", "a solver's .prototxt names its network"),
    ("layer { name: 'a' type: 'ReLU' bottom: 'y' top: 'z' }", "bottom y is written by no layer above"),
    (
        "layer { name: 'a' type: 'ReLU' bottom: 'z' top: 'y' } layer { name: 'b' type: 'ReLU' bottom: 'y' top: 'z' }",
        "layer a (ReLU): bottom z is written by no layer above",
    ),
    (STAGED + "layer { name: 'e' type: 'ReLU' bottom: 'y' top: 'z' }", "layer e (ReLU): top z is written twice"),
    ("layer { type: 'ReLU' ", "a field's name was expected, not the end of the file"),
    ("layer { type 'ReLU' }", "a colon or { was expected"),
    ("layer { type: }", "a value was expected, not }"),
    ("layer { type: 'ReLU }", "cannot read"),
    ("layer: 3", "layer is 3, not a message"),
    ("layer { name: 'a' }", "type is missing"),
    ("layer { type: ReLU } layers { type: RELU }", "it has `layer` and `layers`"),
    ("layer { type: 'ReLU' include { } exclude { } }", "has include and exclude"),
    ("input: 'x' input_dim: 1 layer { type: 'ReLU' bottom: 'x' top: 'x' }", "1 times input_dim: four an input"),
    ("input: 'x' input_shape { dim: -1 } layer { type: 'ReLU' bottom: 'x' top: 'y' }", "no blob has the shape -1"),
    ("input: 'x' input_shape { dim: 65536 dim: 65536 } layer { type: 'ReLU' bottom: 'x' top: 'y' }", "65536x65536"),
    ("a { " * 60 + "} " * 60, "more than 50 messages inside each other"),
    ("\x00\x01", "cannot read"),
]


@pytest.mark.parametrize(("text", "what"), DEFINITIONS)
def test_a_definition_that_is_wrong(text: str, what: str, tmp_path: Path) -> None:
    found = failure(tmp_path, text)
    assert what in found
    assert "net.prototxt:" in found


def test_shapes_and_inputs_that_do_not_fit(tmp_path: Path) -> None:
    for shapes, what in (
        ({"dat": (1, 3, 6, 6)}, "--shapes dat: no such input\n  did you mean data?"),
        ({"data": (3, 6, 6)}, "--shapes data: 3 dimensions, where the network has 1x3x6x6"),
        ({"data": (0, 3, 6, 6)}, "dimensions are at least 1, not 0"),
    ):
        path = caffe_files.write(tmp_path / "in", V2, BLOBS)
        with pytest.raises(UsageError) as caught:
            Caffe().convert(ImportRequest(str(path), tmp_path, shapes=shapes))
        assert what in str(caught.value)
    found = failure(tmp_path, V2, BLOBS, shapes={"data": (1, 4, 6, 6)})
    assert "blob 0 (weights) is 4x3x3x3 in the .caffemodel, and 4x4x3x3 by the .prototxt" in found
    found = failure(tmp_path, V2, BLOBS, shapes={"data": (1, 3, 9, 9)})
    assert "layer fc (InnerProduct): blob 0 (weights) is 5x36" in found
    found = failure(tmp_path, V2, BLOBS, shapes={"data": (1, 3, "h", 6)})
    assert "must be fixed" in found
    assert "--shapes" in found


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    assert "no such file: absent" in failure(tmp_path, V2, options={"weights": "absent"})
    assert "it takes marked or whole" in failure(tmp_path, V2, BLOBS, options={"sequences": "all"})
    assert "opset 5" in failure(tmp_path, V2, BLOBS, opset=5)
    assert "goes with a .caffemodel" in failure(tmp_path, V2, BLOBS, options={"net": "x"})


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS)
    weights = path.with_suffix(".caffemodel")
    swapped = caffe_files.write(tmp_path / "swapped", V2)
    swapped.write_bytes(weights.read_bytes())
    swapped.with_suffix(".caffemodel").write_text(V2)
    for source, what in (
        (swapped, "it is no text"),
        (tmp_path / "absent.prototxt", "cannot be read: No such file"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(ModelError, match=what):
            Caffe().convert(ImportRequest(str(source), tmp_path))
    for data, what in (
        (b"", "it is empty"),
        (V2.encode(), "it is no .caffemodel, or is cut short"),
        (weights.read_bytes()[:-20], "cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(80), "HDF5"),
    ):
        weights.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            Caffe().convert(ImportRequest(str(path), tmp_path))
        assert what in str(caught.value)
        assert str(weights) in str(caught.value)


def test_a_blob_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS)
    net = caffe_files.messages()["NetParameter"]()
    layer = net.layer.add(name="conv")
    blob = layer.blobs.add()
    blob.shape.dim.extend([2**40, 2**40])
    blob.data.extend([1.0, 2.0])
    path.with_suffix(".caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ModelError, match=r"a blob of layer conv is 1099511627776x1099511627776, with 2 values"):
        Caffe().convert(ImportRequest(str(path), tmp_path))


def test_the_command_line_says_it_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = caffe_files.write(tmp_path, V2)
    for words, code, what in (
        ([str(path)], 1, "blob 0 (weights) is missing"),
        ([str(path), "--import-option", "wights=x"], 2, "wights"),
        ([str(path), "--from", "caff"], 2, "caff"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["optimize", *words, "-o", str(tmp_path / "o.onnx"), "--json"])
        assert left.value.code == code
        assert what in json.dumps(json.loads(capsys.readouterr().out))
    assert not (tmp_path / "o.onnx").exists()


SLOW = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@SLOW
@given(st.randoms(use_true_random=False))
def test_damaged_weights_end_in_a_message(tmp_path_factory: pytest.TempPathFactory, rng: random.Random) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    data = bytearray(caffe_files.weights({"conv": CONV, "fc": FC}))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) if rng.random() < 0.3 else 60)
        if rng.random() < 0.3:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place] = rng.randrange(256)
    (folder / "w.caffemodel").write_bytes(data)
    try:
        found = caffemodel.weights(folder / "w.caffemodel")
    except ModelError:
        return
    assert sum(blob.nbytes for _, blobs in found for blob in blobs) <= len(data)


WORDS = re.findall(r"\S+", V2 + V1)


@SLOW
@given(st.randoms(use_true_random=False))
def test_damaged_definitions_end_in_a_message_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    words = re.findall(r"#.*|\S+", V2)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(words))
        new = rng.choice([*WORDS, "-1", "0", "999999999999", "1e400", "nan", "true", "{", "}", ":", '"x"', "[", "0x7f"])
        words[place : place + rng.randrange(2)] = [new]
    path = caffe_files.write(folder, "\n".join(words), BLOBS)
    try:
        onnx.checker.check_model(str(Caffe().convert(ImportRequest(str(path), folder)).model), full_check=True)
    except GraphoptError:
        return


@SLOW
@given(st.text(alphabet=st.sampled_from("ab:{}<>[],;#\"'\\ \n-.0123456789efx"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        prototxt.parse(text, "net.prototxt")
    except ModelError as error:
        line = int(error.where.removeprefix("net.prototxt:"))
        if not 1 <= line <= text.count("\n") + 1:
            raise


def test_reading_a_long_definition_is_linear() -> None:
    """A line is a layer; ten thousand are read in well under the time that counting lines from the start would take."""
    text = 'layer { name: "a" type: "ReLU" bottom: "x" top: "x" }\n' * 10000
    assert len(prototxt.parse(text, "net.prototxt").messages("layer")) == 10000


def test_values_of_the_text_format() -> None:
    message = prototxt.parse(
        """a: 0x1F b: 017 c: -1.5e3f d: inf e: -inf f: nan g: "a" 'b\\n\\x41\\101' h: [1, 2] h: 3 i: true j: -2
        k { l: 1 } k { m: 2 } n: .5 o: 2. p: 'it\\'s' """,
        "x",
    )
    assert message.integer("a") == 31
    assert message.integer("b") == 15
    assert message.number("c") == -1500
    assert message.number("d") == np.inf
    assert message.number("e") == -np.inf
    assert np.isnan(message.number("f"))
    assert message.text("g") == "ab\nAA"
    assert message.ints("h") == [1, 2, 3]
    assert message.flag("i", False)
    assert message.integer("j") == -2
    assert (message.message("k").integer("l"), message.message("k").integer("m")) == (1, 2)
    assert (message.number("n"), message.number("o")) == (0.5, 2)
    assert message.text("p") == "it's"
