"""Recurrent layers of Keras 3 become recurrent operators, whatever their options, and compute the same."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'graphopt[tensorflow]'")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install 'graphopt[tensorflow]'")
keras = pytest.importorskip("keras")

from graphopt_importers.tensorflow import Keras  # noqa: E402

from graphopt.importer import ImportRequest  # noqa: E402

pytestmark = pytest.mark.heavy


def converted(model: Any, folder: Path, **shapes: tuple[int | str, ...]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The ONNX model; and of each output what it computes, with what Keras does, at a size of its own."""
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.path)).normal(0, 0.4, weight.shape))
    model.save(folder / "net.keras")
    (folder / "onnx").mkdir()
    made = onnx.load(Keras().convert(ImportRequest(str(folder / "net.keras"), folder / "onnx", shapes)).model)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    sizes = {"batch": 3, "steps": 7}
    feeds = {
        one.name: np.random.default_rng(0)
        .normal(0, 1, [sizes.get(str(d), d) if not isinstance(d, int) else d for d in one.shape])
        .astype(np.float32)
        for one in session.get_inputs()
    }
    names = [one.name for one in session.get_outputs()]
    expected = model(dict(feeds), training=False)
    return made, {
        name: (got, expected[name].numpy()) for name, got in zip(names, session.run(None, feeds), strict=True)
    }


def test_every_option_of_gru_and_simple_rnn(tmp_path: Path) -> None:
    x = keras.Input((None, 5), name="x")
    state = keras.Input((4,), name="state")
    gru, rnn = keras.layers.GRU, keras.layers.SimpleRNN
    layers = {
        "plain": gru(4), "sequence": gru(4, return_sequences=True), "before": gru(4, reset_after=False),
        "bare": gru(4, use_bias=False), "bare_before": gru(4, use_bias=False, reset_after=False),
        "back": gru(4, go_backwards=True, return_sequences=True),
        "both": keras.layers.Bidirectional(gru(4, return_sequences=True)),
        "stack": keras.Sequential([gru(4, return_sequences=True), gru(3)]),
        "simple": rnn(4), "simple_relu": rnn(4, activation="relu", return_sequences=True, use_bias=False),
    }  # fmt: skip
    outputs = {name: layer(x) for name, layer in layers.items()}
    outputs["given"] = gru(4)(x, initial_state=state)
    outputs["states"], outputs["last"] = gru(4, return_sequences=True, return_state=True)(x)
    model = keras.Model({"x": x, "state": state}, outputs)
    made, compared = converted(model, tmp_path, x=("batch", "steps", 5), state=("batch", 4))
    kinds = Counter(node.op_type for node in made.graph.node)
    assert (kinds["GRU"], kinds["RNN"], kinds["Loop"]) == (12, 2, 0)
    assert set(compared) == set(outputs)
    for name, (got, expected) in compared.items():
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_what_the_operators_cannot_say_stays_a_loop(tmp_path: Path) -> None:
    x = keras.Input((6, 5), name="x")
    masked = keras.layers.Masking()(x)
    outputs = {
        "masked": keras.layers.GRU(4)(masked),
        "other": keras.layers.GRU(4, recurrent_activation="hard_sigmoid")(x),
        "rnn": keras.layers.SimpleRNN(4, activation="elu")(x),
    }
    made, compared = converted(keras.Model({"x": x}, outputs), tmp_path, x=("batch", 6, 5))
    assert not {"GRU", "RNN"} & {node.op_type for node in made.graph.node}
    for name, (got, expected) in compared.items():
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6, err_msg=name)
