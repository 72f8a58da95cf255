"""The custom operator that ends the detectors of TensorFlow's own collection, against LiteRT's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'graphopt[tensorflow]'")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'graphopt[tflite]'")

from graphopt_importers.tflite import TFLite  # noqa: E402

from graphopt.errors import ModelError  # noqa: E402
from graphopt.importer import ImportRequest  # noqa: E402

pytestmark = pytest.mark.heavy
ANCHORS, CLASSES = 60, 3


def file(folder: Path, name: str = "TFLite_Detection_PostProcess", **options: Any) -> Path:
    """A network that is the custom operator alone."""
    words = {
        "max_detections": 8, "max_classes_per_detection": 1, "num_classes": CLASSES, "nms_score_threshold": 0.3,
        "nms_iou_threshold": 0.5, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
        "use_regular_nms": False, "detections_per_class": 100, **options,
    }  # fmt: skip
    kinds = {bool: "b", int: "i", float: "f"}
    attributes = " ".join(
        f'attr {{ key: "{key}" value {{ {kinds[type(value)]}: {str(value).lower()} }} }}'
        for key, value in {**words, "tfl_fusable_op": True}.items()
    )
    random = np.random.default_rng(0)
    anchors = tf.constant(random.uniform(0.1, 0.4, (ANCHORS, 4)).astype("float32"))

    @tf.function(experimental_implements=f'name: "{name}" {attributes}')
    def post(boxes: Any, scores: Any, anchors: Any) -> Any:
        most = words["max_detections"]
        return boxes[:, :most] + anchors[:most], scores[:, :most, 0], scores[:, :most, 1], scores[:, 0, 2]

    class Net(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec((1, ANCHORS, 4), name="b"),
                tf.TensorSpec((1, ANCHORS, CLASSES + 1), name="s"),
            ]
        )
        def __call__(self, b: Any, s: Any) -> Any:
            return post(b * 1.0, tf.sigmoid(s), anchors)

    net = Net()
    tf.saved_model.save(net, str(folder / "saved"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.allow_custom_ops = True
    (folder / "net.tflite").write_bytes(converter.convert())
    return folder / "net.tflite"


@pytest.mark.parametrize(
    "options",
    [
        {}, {"nms_score_threshold": 0.8}, {"nms_score_threshold": 1.5},
        {"nms_iou_threshold": 0.1, "max_detections": 20},
        {"use_regular_nms": True, "detections_per_class": 5}, {"use_regular_nms": True, "nms_score_threshold": 0.8},
    ],
)  # fmt: skip
def test_it_computes_what_litert_computes(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "onnx").mkdir()
    found = TFLite().convert(ImportRequest(str(file(tmp_path, **options)), tmp_path / "onnx"))
    session = onnxruntime.InferenceSession(found.model)
    assert found.reference is not None
    for seed in range(4):
        random = np.random.default_rng(seed)
        feeds = {
            "b": random.normal(0, 1, (1, ANCHORS, 4)).astype(np.float32),
            "s": random.normal(0, 2, (1, ANCHORS, CLASSES + 1)).astype(np.float32),
        }
        names = [one.name for one in session.get_outputs()]
        wanted = dict(zip(names, found.reference(feeds), strict=True))
        made = dict(zip(names, session.run(None, feeds), strict=True))
        number = int(wanted["output_3"][0])
        assert made["output_3"].tolist() == [number]
        for name in ("output_0", "output_1", "output_2"):
            assert wanted[name].shape == made[name].shape
            np.testing.assert_allclose(made[name][0, :number], wanted[name][0, :number], rtol=1e-5, atol=1e-6)
            assert not made[name][0, number:].any()


def test_others_are_named_with_what_stands_before_them(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    source = file(tmp_path, "SwirlPool")
    with pytest.raises(ModelError, match=r"custom SwirlPool.*it has no counterpart in ONNX") as caught:
        TFLite().convert(ImportRequest(str(source), tmp_path / "onnx"))
    assert "end before it: --import-option 'outputs=" in caught.value.hint
