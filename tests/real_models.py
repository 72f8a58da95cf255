"""Real networks: three trained OCR networks, and the nine architectures that the onnx package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT_NAMES = tuple(sorted(path.stem for path in LIGHT.glob("light_*.onnx")))
LARGE = ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512")
"""More than 200 MB of weights each."""


def ocr(name: str) -> Path:
    """A trained network of rapidocr-onnxruntime 1.4.4: 'rec', 'det' or 'cls'. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pip install --no-deps rapidocr-onnxruntime==1.4.4")
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    return next(path for path in folder.glob("*.onnx") if f"_{name}_" in path.name)


OCR_SHAPES = {"rec": (1, 3, 48, 320), "det": (1, 3, 320, 320), "cls": (1, 3, 48, 192)}


def text_page(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A light page with rows of dark strokes, normalized as the OCR networks want it: noise would find no text."""
    rng = np.random.default_rng(seed)
    _, _, height, width = shape
    image = np.full((height, width), 0.95, np.float32)
    for top in range(12, height - 12, 28):
        left = 8
        while left < width - 20:
            stroke = int(rng.integers(3, 9))
            rows = image[top : top + 14, left : left + stroke]
            rows[...] = rng.random(rows.shape) * 0.3
            left += stroke + int(rng.integers(2, 8))
    return np.broadcast_to((image - 0.5) / 0.5, shape).astype(np.float32).copy()


def light(name: str, seed: int = 0) -> onnx.ModelProto:
    """A light_* architecture with random weights: as shipped its weights are ConstantOfShape, its outputs constant.

    Weights are normal, scaled so that activations neither vanish nor explode; BatchNormalization gets scales and
    variances around one. What goes into the last Softmax is an output too: with random weights the Softmax is often
    one-hot, and would hide any error.
    """
    model = onnx.load(LIGHT / f"{name}.onnx")
    rng = np.random.default_rng(seed)
    graph = model.graph
    shapes = {t.name: tuple(numpy_helper.to_array(t)) for t in graph.initializer if t.data_type == t.INT64}
    role = {name: (node.op_type, slot) for node in graph.node for slot, name in enumerate(node.input) if slot and name}
    made: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes:
            made[node.output[0]] = _values(shapes[node.input[0]], role.get(node.output[0]), rng)
    for tensor in graph.initializer:
        if tensor.data_type == tensor.FLOAT and len(tensor.dims) == 1:
            made[tensor.name] = _values(tuple(tensor.dims), role.get(tensor.name), rng)
    keep = [node for node in graph.node if not (node.op_type == "ConstantOfShape" and node.output[0] in made)]
    del graph.node[:]
    graph.node.extend(keep)
    old = [tensor for tensor in graph.initializer if tensor.name not in made]
    del graph.initializer[:]
    graph.initializer.extend([*old, *(numpy_helper.from_array(value, name) for name, value in made.items())])
    listed = {info.name for info in graph.input}
    for name, value in made.items():
        if name not in listed:
            graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape))
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    return model


def _values(shape: tuple[int, ...], role: tuple[str, int] | None, rng: np.random.Generator) -> np.ndarray:
    if role in (("BatchNormalization", 1), ("BatchNormalization", 4)):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else max(shape)
        return (rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)).astype(np.float32)
    return rng.normal(0, 0.2, shape).astype(np.float32)
