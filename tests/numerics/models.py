"""Small models for the tests, and where the real ones lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

FLOAT = onnx.TensorProto.FLOAT


def parse(text: str, opset: int = 17, imports: str = "") -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{imports}]>\n{text}')
    onnx.checker.check_model(model)
    return model


def ocr(name: str) -> Path:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return next((Path(spec.origin).parent / "models").glob(f"*{name}*.onnx"))


def scaled(model: onnx.ModelProto, factor: float, which: int = 0) -> onnx.ModelProto:
    """A copy in which the weight of one Conv is multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {t.name: t for t in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "Constant":
            weights[node.output[0]] = node.attribute[0].t
    conv = [node for node in copy.graph.node if node.op_type == "Conv"][which]
    weight = weights[conv.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    return copy
