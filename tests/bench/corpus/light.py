"""The light_* architectures of the onnx package, with random weights."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.real_models import LARGE, LIGHT_NAMES, light

from .store import Feeds, Writer, add, image


def _writer(name: str) -> Writer:
    def write(path: Path) -> Feeds:
        model = light(name)
        onnx.save(model, path)
        weights = {one.name for one in model.graph.initializer}
        port = next(one for one in model.graph.input if one.name not in weights)
        dims = [one.dim_value or 1 for one in port.type.tensor_type.shape.dim]
        return {port.name: image(*dims)}

    return write


for _name in LIGHT_NAMES:
    if _name not in LARGE:
        add(_name.replace("_", "-"), "CNN, from Caffe2", "onnx package, random weights", _writer(_name))
