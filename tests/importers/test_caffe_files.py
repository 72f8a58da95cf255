"""Definitions of three generations, weights in every form, phases, names, and shapes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphopt_importers.caffe import Caffe

from graphopt.errors import ModelError, UsageError
from graphopt.importer import Imported, ImportRequest

from . import caffe_files
from .caffe_cases import wave

X = wave(1, 3, 6, 6)
CONV = [wave(4, 3, 3, 3, seed=1), wave(4, seed=2)]
FC = [wave(5, 36, seed=3), wave(5, seed=4)]
V2 = """
name: "v2"
input: "data"  # a comment
input_shape { dim: 1 dim: 3 dim: 6 dim: 6 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
V1 = """
name: 'v1'
input: "data" input_dim: 1 input_dim: 3 input_dim: 6 input_dim: 6
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
         convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "pool" type: POOLING bottom: "conv" top: "pool" pooling_param < pool: MAX, kernel_size: 2; stride: 1 > }
layers { name: "fc" type: INNER_PRODUCT bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
"""
V0 = """
name: "v0"
input: "data" input_dim: [1, 3, 6, 6]
layers { layer { name: "conv" type: "conv" num_output: 4 kernelsize: 3 weight_filler { type: "gaussian" } }
         bottom: "data" top: "conv" }
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "pool" type: "pool" pool: MAX kernelsize: 2 stride: 1 } bottom: "conv" top: "pool" }
layers { layer { name: "fc" type: "innerproduct" num_output: 5 } bottom: "pool" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
"""
BLOBS = {"conv": CONV, "fc": FC}


def imported(source: Path | str, folder: Path, **words: Any) -> Imported:
    folder.mkdir(parents=True, exist_ok=True)
    found = Caffe().convert(ImportRequest(str(source), folder, **words))
    onnx.checker.check_model(str(found.model), full_check=True)
    return found


def run(source: Path | str, folder: Path, feeds: Mapping[str, Any], **words: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(imported(source, folder, **words).model))
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def network(x: Any) -> Any:
    """What the network above is, in float64."""
    x, w = x.astype(np.float64), CONV[0].astype(np.float64)
    y = np.stack([[(x[:, :, i : i + 3, j : j + 3] * w[c]).sum() for i in range(4) for j in range(4)] for c in range(4)])
    y = np.maximum(y.reshape(4, 4, 4) + CONV[1][:, None, None], 0)
    y = np.max([y[:, i : i + 3, j : j + 3] for i in range(2) for j in range(2)], 0)
    z = np.exp(FC[0].astype(np.float64) @ y.ravel() + FC[1])
    return (z / z.sum())[None]


@pytest.mark.parametrize(("text", "generation"), [(V2, 2), (V1, 1), (V0, 0), (V2, 1), (V1, 2)])
@pytest.mark.parametrize("form", ["float", "double", "legacy"])
def test_every_generation_and_form_of_weights(text: str, generation: int, form: str, tmp_path: Path) -> None:
    """Definition and weights need not be of one generation."""
    path = caffe_files.write(tmp_path / "in", text, BLOBS, generation=generation, form=form)
    found = run(path, tmp_path / "out", {"data": X})
    np.testing.assert_allclose(found["prob"], network(X), rtol=1e-5, atol=1e-6)


def test_half_precision_weights_of_nvidias_caffe(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS, form="half")
    halved = caffe_files.write(
        tmp_path / "half", V2, {name: [b.astype(np.float16) for b in blobs] for name, blobs in BLOBS.items()}
    )
    ours, wanted = (run(p, tmp_path / p.parent.name / "out", {"data": X})["prob"] for p in (path, halved))
    np.testing.assert_array_equal(ours, wanted)


def test_weights_that_are_not_packed(tmp_path: Path) -> None:
    """Some writers spell repeated numbers one by one."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(data)) + data

    def blob(array: Any) -> bytes:
        shape = b"".join(b"\x08" + _varint(dim) for dim in array.shape)
        return field(7, shape) + b"".join(b"\x2d" + struct.pack("<f", v) for v in array.ravel())

    path = caffe_files.write(tmp_path / "in", V2)
    model = b""
    for name, arrays in BLOBS.items():
        body = field(1, name.encode()) + b"".join(field(7, blob(array)) for array in arrays)
        model += _varint(100 << 3 | 2) + _varint(len(body)) + body
    path.with_suffix(".caffemodel").write_bytes(model)
    np.testing.assert_allclose(run(path, tmp_path / "out", {"data": X})["prob"], network(X), rtol=1e-5, atol=1e-6)


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def test_the_weights_are_found_by_name_by_option_or_because_they_are_alone(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS)
    weights = path.with_suffix(".caffemodel")
    assert not imported(path, tmp_path / "a").notes
    other = weights.rename(weights.with_name("iter_1000.caffemodel"))
    assert imported(path, tmp_path / "b").notes == [
        "weights: iter_1000.caffemodel, the only .caffemodel beside net.prototxt"
    ]
    moved = other.rename(tmp_path / "w.bin")
    for given in (str(moved), "../w.bin"):
        imported(path, tmp_path / given.replace("/", "_"), options={"weights": given})
    caffe_files.write(tmp_path / "in", V2, BLOBS)
    assert imported(weights, tmp_path / "c").model.is_file()
    weights.rename(tmp_path / "one.caffemodel")
    imported(tmp_path / "one.caffemodel", tmp_path / "d", options={"net": str(path)})
    weights.with_name("x.caffemodel").touch()
    weights.with_name("y.caffemodel").touch()
    with pytest.raises(ModelError, match=r"none of 2 .caffemodel files .* has its name: x.caffemodel, y.caffemodel"):
        imported(path, tmp_path / "e")


TRAIN = """
name: "train_val"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 64 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { crop_size: 6 mean_value: 104 scale: 0.017 } data_param { batch_size: 1 source: "x" } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" dropout_param { dropout_ratio: 0.5 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" %s }
%s
"""


def test_a_network_for_training_becomes_the_one_that_it_trains(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", TRAIN % ("", ""), BLOBS)
    found = imported(path, tmp_path / "out")
    assert found.reference is None
    assert found.notes[-3:] == [
        "layer accuracy (Accuracy) is left out: it only trains or scores",
        "layer loss (SoftmaxWithLoss) became Softmax: there are no labels",
        "layer data (Data) became an input, without mean_value and scale of transform_param",
    ]
    got = run(path, tmp_path / "run", {"data": X})
    assert list(got) == ["loss"]
    np.testing.assert_allclose(got["loss"], network(X), rtol=1e-5, atol=1e-6)


def test_a_loss_beside_a_softmax_leaves_nothing(tmp_path: Path) -> None:
    prob = 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" include { phase: TEST } }'
    path = caffe_files.write(tmp_path / "in", TRAIN % ("", prob), BLOBS)
    assert list(run(path, tmp_path / "out", {"data": X})) == ["prob"]


def test_what_is_silenced_is_no_output(tmp_path: Path) -> None:
    aux = 'layer { name: "a" type: "Power" bottom: "fc" top: "a" } layer { type: "Silence" bottom: "a" }'
    text = V2 + aux
    path = caffe_files.write(tmp_path / "in", text, BLOBS)
    assert list(run(path, tmp_path / "out", {"data": X})) == ["prob"]


STAGED = """
input: "x" input_shape { dim: 2 }
layer { name: "a" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } include { stage: "double" } }
layer { name: "b" type: "Power" bottom: "x" top: "y" power_param { scale: 3 } exclude { stage: "double" } }
layer { name: "c" type: "Power" bottom: "y" top: "z" power_param { shift: 1 } include { phase: TEST min_level: 0 } }
layer { name: "d" type: "Power" bottom: "y" top: "w" include { phase: TRAIN }
        include { not_stage: "deploy" min_level: 1 } }
"""


def test_stages_choose_layers(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", STAGED)
    x = np.float32([1, 2])
    np.testing.assert_array_equal(run(path, tmp_path / "a", {"x": x})["z"], 3 * x + 1)
    got = run(path, tmp_path / "b", {"x": x}, options={"stages": "deploy,double"})
    assert list(got) == ["z"]
    np.testing.assert_array_equal(got["z"], 2 * x + 1)


def test_layers_in_place_and_names_that_are_written_again(tmp_path: Path) -> None:
    """y reads x before, z after the layer that works in place."""
    text = """
    input: "x" input_shape { dim: 3 }
    layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 10 } }
    layer { name: "in" type: "Power" bottom: "x" top: "x" power_param { shift: 1 } }
    layer { name: "in2" type: "Power" bottom: "x" top: "x" power_param { scale: 2 } }
    layer { name: "z" type: "Eltwise" bottom: "x" bottom: "y" top: "z" }
    layer { name: "out" type: "Power" bottom: "x" top: "x" power_param { power: 2 } }
    """
    x = np.float32([1, 2, 3])
    got = run(caffe_files.write(tmp_path / "in", text), tmp_path / "run", {"x": x})
    np.testing.assert_array_equal(got["z"], 10 * x + 2 * (x + 1))
    np.testing.assert_array_equal(got["x/out"], (2 * (x + 1)) ** 2)


def test_layers_share_blobs_by_name(tmp_path: Path) -> None:
    """The file has the blobs of the first layer only; the model has one copy."""
    shared = 'param { name: "w" } param { name: "b" }'
    text = f"""
    input: "x" input_shape {{ dim: 1 dim: 40 }} input: "y" input_shape {{ dim: 1 dim: 40 }}
    layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {shared} inner_product_param {{ num_output: 40 }} }}
    layer {{ name: "b" type: "InnerProduct" bottom: "y" top: "b" {shared} inner_product_param {{ num_output: 40 }} }}
    """
    w, b = wave(40, 40), wave(40, seed=1)
    path = caffe_files.write(tmp_path / "in", text, {"a": [w, b]})
    x, y = wave(1, 40, seed=2), wave(1, 40, seed=3)
    got = run(path, tmp_path / "out", {"x": x, "y": y})
    np.testing.assert_allclose(got["a"], x.astype(float) @ w.T + b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["b"], y.astype(float) @ w.T + b, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "out/model.onnx").stat().st_size < 1.5 * w.nbytes


def test_layers_that_lead_to_no_output_need_no_counterpart(tmp_path: Path) -> None:
    text = V2 + 'layer { name: "odd" type: "Exotic" bottom: "fc" } layer { name: "s" type: "Silence" bottom: "pool" }'
    imported(caffe_files.write(tmp_path / "in", text, BLOBS), tmp_path / "out")


def test_the_batch_may_be_dynamic(tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS)
    feeds = np.concatenate([X, X + 1, X * 2])
    got = run(path, tmp_path / "out", {"data": feeds}, shapes={"": ("n", 3, 6, 6)})
    for row, x in zip(got["prob"], (X, X + 1, X * 2), strict=True):
        np.testing.assert_allclose(row[None], network(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_other_opsets(opset: int, tmp_path: Path) -> None:
    path = caffe_files.write(tmp_path / "in", V2, BLOBS)
    got = run(path, tmp_path / "out", {"data": X}, opset=opset)
    assert onnx.load(tmp_path / "out/model.onnx").opset_import[0].version == opset
    np.testing.assert_allclose(got["prob"], network(X), rtol=1e-5, atol=1e-6)


def test_other_shapes_than_the_files(tmp_path: Path) -> None:
    text = V2.replace("input_shape { dim: 1 dim: 3 dim: 6 dim: 6 }", "")
    path = caffe_files.write(tmp_path / "in", text, BLOBS)
    with pytest.raises(UsageError, match="input data has no shape in the file\n  give --shapes data="):
        imported(path, tmp_path / "a")
    got = run(path, tmp_path / "b", {"data": np.repeat(X, 2, 0)}, shapes={"data": (2, 3, 6, 6)})
    np.testing.assert_allclose(got["prob"][:1], network(X), rtol=1e-5, atol=1e-6)
    got = run(path, tmp_path / "c", {"data": X}, inputs={"data": X})
    np.testing.assert_allclose(got["prob"], network(X), rtol=1e-5, atol=1e-6)


def test_a_file_without_a_known_ending_is_told_by_how_it_starts(tmp_path: Path) -> None:
    for name, text in (("a.txt", V2), ("b", V1), ("c.pt", "# net\n" + V0)):
        (tmp_path / name).write_text(text)
        assert Caffe().accepts(str(tmp_path / name))
    (tmp_path / "d.txt").write_text("name: this is a list\n- of things\n")
    (tmp_path / "e.txt").write_bytes(b"\x08\x01layer {")
    assert not any(Caffe().accepts(str(tmp_path / name)) for name in ("d.txt", "e.txt", "absent", "."))
