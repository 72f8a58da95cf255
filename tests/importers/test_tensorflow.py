"""From files of TensorFlow, Keras and TensorFlow Lite to engines, by one command each.

`pytest -m heavy -n 0 tests/importers/test_tensorflow.py`, where 'graphopt[tensorflow,tflite,rtx]' is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'graphopt[tensorflow]'")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install 'graphopt[tensorflow]'")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'graphopt[tflite]'")
keras = pytest.importorskip("keras")

from tests.importers import keras_nets, tf_nets  # noqa: E402  (they need TensorFlow)

pytestmark = pytest.mark.heavy
LIMIT = 1e-5


def graphopt(*words: str) -> tuple[int, dict[str, Any]]:
    quiet = [] if words[0] == "check" else ["-q"]
    command = [sys.executable, "-m", "graphopt", *words, "--json", *quiet]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def engine_of(source: str, *words: str, optimized: str = "small.onnx") -> dict[str, Any]:
    """The report of `graphopt build`, which compared its import with the framework, and its result with the import."""
    code, report = graphopt("build", source, "-o", "net.engine", "--save-onnx", optimized, *words)
    assert code == 0, report
    assert report["imported"]["status"] == "ok"
    assert Path("net.engine").stat().st_size > 1000
    return report


def differences(report: dict[str, Any]) -> list[float]:
    return [one["relative_l2"] for one in report["imported"]["compared"]]


def transposes(path: str) -> int:
    return Counter(node.op_type for node in onnx.load(path).graph.node)["Transpose"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("net", "dims"),
    [
        ("mobilenet_v2", "1x96x96x3"),
        ("resnet50", "1x64x64x3"),
        ("efficientnet_b0", "1x64x64x3"),
        ("unet", "2x64x64x3"),
        ("deeplab", "1x64x64x3"),
        ("ssd", "1x64x64x3"),
        ("lstm", "1x20x8"),
        ("gru", "1x20x8"),
        ("transformer", "2x16"),
        ("temporal", "1x64x4"),
    ],
)
def test_keras(net: str, dims: str) -> None:
    model = keras_nets.scaled(getattr(keras_nets, net))
    model.save("net.keras")
    np.savez("inputs.npz", **{model.inputs[0].name: keras_nets.samples(model, int(dims[0]))})
    report = engine_of("net.keras", "--shapes", f"{model.inputs[0].name}={dims}", "--inputs", "inputs.npz")
    assert max(differences(report)) < LIMIT
    names = sorted(one["name"] for one in report["imported"]["compared"])
    assert names == sorted(model.output if isinstance(model.output, dict) else model.output_names)
    assert [value.name for value in onnx.load("small.onnx").graph.input] == [model.inputs[0].name]


def test_keras_h5() -> None:
    keras_nets.scaled(keras_nets.unet).save("net.h5")
    assert max(differences(engine_of("net.h5", "--shapes", "image=1x64x64x3"))) < LIMIT


@pytest.mark.parametrize("net", ["Residual", "Segmenter", "Encoder", "Recurrent"])
def test_saved_model(net: str) -> None:
    kind = getattr(tf_nets, net)
    tf_nets.saved(kind, "net")
    fixed = [
        f"{name}={'x'.join(str(d or 2 * n + 1) for n, d in enumerate(s.shape))}" for name, s in kind.inputs.items()
    ]
    report = engine_of("net", *(word for one in fixed for word in ("--shapes", one)))
    assert max(differences(report)) < LIMIT
    assert {value.name for value in onnx.load("small.onnx").graph.input} == set(kind.inputs)


def test_a_size_that_is_left_open_stays_open() -> None:
    tf_nets.saved(tf_nets.Encoder, "net")
    code, report = graphopt(
        "convert", "net", "-o", "net.onnx", "--shapes", "ids=batchxlength", "--shapes", "mask=batchxlength"
    )
    assert code == 0, report
    assert report["imported"]["samples"] == 2  # also at other sizes
    for value in onnx.load("net.onnx").graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "length"]


@pytest.mark.parametrize(
    ("net", "outputs"), [("Residual", "logits,probabilities"), ("Segmenter", "mask"), ("Encoder", "states,pooled")]
)
def test_frozen_graph(net: str, outputs: str) -> None:
    kind = getattr(tf_nets, net)
    tf_nets.frozen(kind, "net.pb")
    fixed = [
        f"{name}={'x'.join(str(d or 2 * n + 1) for n, d in enumerate(s.shape))}" for name, s in kind.inputs.items()
    ]
    words = [word for one in fixed for word in ("--shapes", one)]
    report = engine_of("net.pb", *words, "--import-option", f"outputs={outputs}")
    assert max(differences(report)) < LIMIT
    assert [value.name for value in onnx.load("small.onnx").graph.output] == outputs.split(",")


def lite(model: Any, kind: str = "float") -> None:
    """The network as net.tflite, for one sample: float, fp16, dynamic (weights in 8 bits), int8."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = [tf.TensorSpec((1, *port.shape[1:]), port.dtype, port.name) for port in model.inputs]
    traced = tf.function(lambda x: model(x, training=False), input_signature=spec).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: ([keras_nets.samples(model, 1, seed)] for seed in range(8))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_output_type = tf.int8
        if "int" not in model.inputs[0].dtype:
            converter.inference_input_type = tf.int8
    Path("net.tflite").write_bytes(converter.convert())
    np.savez("inputs.npz", **{spec[0].name: keras_nets.samples(model, 1)})


SMALL = ("unet", "deeplab", "ssd", "lstm", "gru", "transformer", "temporal")
LARGE = ("mobilenet_v2", "mobilenet_v3", "resnet50", "efficientnet_b0")


@pytest.mark.parametrize("net", SMALL + LARGE)
def test_tflite(net: str) -> None:
    lite(keras_nets.scaled(getattr(keras_nets, net)))
    assert max(differences(engine_of("net.tflite", "--inputs", "inputs.npz"))) < LIMIT


@pytest.mark.parametrize("net", ["mobilenet_v2", "unet", "ssd", "lstm", "transformer"])
@pytest.mark.parametrize("kind", ["fp16", "dynamic"])
def test_tflite_with_small_weights(net: str, kind: str) -> None:
    lite(keras_nets.scaled(getattr(keras_nets, net)), kind)
    report = engine_of("net.tflite", "--inputs", "inputs.npz")
    assert max(differences(report)) < LIMIT
    assert any("dynamic range" in note for note in report["imported"]["notes"]) == (kind == "dynamic")


@pytest.mark.parametrize(
    ("net", "steps"),
    [("unet", 4), ("deeplab", 4), ("ssd", 2), ("transformer", 2), ("temporal", 3), ("mobilenet_v2", 12)],
)
def test_tflite_in_int8(net: str, steps: int) -> None:
    """Off by few steps of the output, as TensorFlow Lite's own kernels are from each other."""
    lite(keras_nets.scaled(getattr(keras_nets, net)), "int8")
    code, report = graphopt("convert", "net.tflite", "-o", "net.onnx")
    assert code == 0, report
    kinds = Counter(node.op_type for node in onnx.load("net.onnx").graph.node)
    assert kinds["QuantizeLinear"] > 5
    assert kinds["DequantizeLinear"] > kinds["QuantizeLinear"]
    assert all(one["dtype"] == "int8" and one["max_abs"] <= steps for one in report["imported"]["compared"])
    engine_of("net.tflite")


def test_a_loop_of_a_network_in_float_needs_no_transposes() -> None:
    """Channels last leaves only what the network's own interface needs."""
    model = keras_nets.scaled(keras_nets.unet)
    lite(model)
    engine_of("net.tflite")
    assert transposes("small.onnx") <= 2
    model.save("net.keras")
    engine_of("net.keras", "--shapes", "image=1x64x64x3")
    assert transposes("small.onnx") <= 2


def refused(*words: str) -> str:
    code, report = graphopt(*words)
    assert code in (1, 2)
    assert report["status"] == "failed"
    return f"{report['error']['what']} {report['error']['hint']}"


class Doubled(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2


def dense(*layers: Any) -> Any:
    return keras.Sequential([keras.Input((4,), name="x"), *layers, keras.layers.Dense(2)])


def test_code_in_a_keras_file_is_not_run() -> None:
    dense(keras.layers.Lambda(lambda x: x * 2)).save("lambda.keras")
    assert "is a Lambda" in refused("check", "lambda.keras")
    dense(Doubled(name="twice")).save("custom.keras")
    said = refused("check", "custom.keras")
    assert "layer 'twice' is a custom Doubled" in said
    assert "--import-option modules=" in said


def test_custom_layers_come_from_modules_that_the_user_names(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import keras\n@keras.saving.register_keras_serializable()\n"
        "class Twice(keras.layers.Layer):\n    def call(self, x):\n        return x * 2\n"
    )
    Path("my_layers.py").write_text(code)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    from importlib import import_module

    dense(import_module("my_layers").Twice()).save("net.keras")
    assert engine_of("net.keras", "--shapes", "x=1x4", "--import-option", "modules=my_layers")


def test_files_that_are_not_whole() -> None:
    model = dense()
    model.save_weights("only.weights.h5")
    assert "weights only" in refused("check", "only.weights.h5")
    for name in ("net.keras", "net.h5"):
        model.save(name)
        Path(name).write_bytes(Path(name).read_bytes()[:-2000])
        assert "damaged" in refused("check", name) or "cannot load" in refused("check", name)
    model.save("zip.keras")
    Path("zip.keras").rename("zip.h5")
    assert "rename it: zip.keras" in refused("check", "zip.h5")
    tf_nets.saved(tf_nets.Recurrent, "saved")
    for piece in Path("saved/variables").iterdir():
        piece.unlink()
    assert "is it whole?" in refused("check", "saved")
    Path("saved/saved_model.pb").write_bytes(b"\xff\xff\xff")
    assert "saved_model.pb is damaged" in refused("check", "saved")
    Path("net.pb").write_bytes(b"\x0a\xff\xff")
    assert "damaged" in refused("check", "net.pb")


def test_words_that_do_not_fit() -> None:
    tf_nets.saved(tf_nets.Residual, "saved")
    assert "signature" in refused("check", "saved", "--import-option", "signature=train")
    assert "it has: serve" in refused("check", "saved", "--import-option", "tag=gpu")
    assert "dimension 3 of input 'image' is 3, not 4" in refused(
        "convert", "saved", "-o", "x.onnx", "--shapes", "image=1x48x48x4"
    )
    assert "rank 4, not 2" in refused("convert", "saved", "-o", "x.onnx", "--shapes", "image=1x48")
    assert "no input is named" in refused("convert", "saved", "-o", "x.onnx", "--shapes", "picture=1x48x48x3")
    tf_nets.frozen(tf_nets.Residual, "net.pb")
    said = refused("check", "net.pb")
    assert "does not say which its outputs are" in said
    assert "Identity (Identity)" in said
    assert "did you mean logits" in refused("check", "net.pb", "--import-option", "outputs=logit")


def test_an_operator_without_counterpart_is_named() -> None:
    net = tf.Module()
    function = tf.function(lambda x: {"y": tf.math.bessel_i0e(tf.nn.relu(x), name="bessel")}, autograph=False)
    tf.saved_model.save(
        net, "saved", signatures=function.get_concrete_function(x=tf.TensorSpec((2, 3), tf.float32, "x"))
    )
    said = refused("convert", "saved", "-o", "x.onnx")
    assert "BesselI0e (node" in said
    assert "bessel" in said
