"""Networks made from other networks of the corpus: quantized, in float16, with dims made symbolic."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .store import Feeds, add


def _source(path: Path, name: str) -> tuple[Path, Feeds]:
    source = path.parent / f"{name}.onnx"
    if not source.exists():
        raise FileNotFoundError(f"make {name} first")
    return source, dict(np.load(source.with_suffix(".npz")))


def static(name: str, form: str = "QDQ", **options: Any) -> Callable[[Path], Feeds]:
    """By onnxruntime's static quantization, calibrated on the network's own input; form: QDQ or QOperator."""

    def write(path: Path) -> Feeds:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        source, feeds = _source(path, name)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            left = 2

            def get_next(self) -> Feeds | None:
                self.left -= 1
                return feeds if self.left >= 0 else None

        ready = path.with_suffix(".ready")
        try:
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            quantize_static(ready, path, Reader(), quant_format=QuantFormat[form], **options)
        finally:
            ready.unlink(missing_ok=True)
        return feeds

    return write


def dynamic(name: str) -> Callable[[Path], Feeds]:
    """DynamicQuantizeLinear before integer matrix products."""

    def write(path: Path) -> Feeds:
        from onnxruntime.quantization import quantize_dynamic

        source, feeds = _source(path, name)
        quantize_dynamic(source, path)
        return feeds

    return write


def half(name: str, keep: bool) -> Callable[[Path], Feeds]:
    """float16 by onnxconverter-common; keep: inputs and outputs stay float32 behind Casts."""

    def write(path: Path) -> Feeds:
        from onnxconverter_common.float16 import convert_float_to_float16

        source, feeds = _source(path, name)
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=keep, disable_shape_infer=False), path)
        return feeds if keep else {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in feeds.items()}

    return write


def copied(name: str, change: Callable[[onnx.ModelProto], None]) -> Callable[[Path], Feeds]:
    def write(path: Path) -> Feeds:
        source, feeds = _source(path, name)
        shutil.copyfile(source, path)
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
        return feeds

    return write


def _weights_as_inputs(model: onnx.ModelProto) -> None:
    """As before IR version 4: every initializer is listed as an input."""
    for one in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims))


def _weights_as_constants(model: onnx.ModelProto) -> None:
    """Every initializer as a Constant node."""
    nodes = [onnx.helper.make_node("Constant", [], [one.name], value=one) for one in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([*nodes, *rest])


def _nameless(model: onnx.ModelProto) -> None:
    """No names of nodes, no value_info."""
    for node in model.graph.node:
        node.name = ""
    del model.graph.value_info[:]


QDQ, CAST = "onnxruntime quantization", "onnxconverter-common"
add("resnet18-qdq", "CNN, QDQ", QDQ, static("resnet18-ts13-dyn"))
add("regnety-qdq-channel", "CNN, QDQ", QDQ, static("regnety-ts17-dyn", per_channel=True))
add("rapidocr-cls-qdq", "OCR, QDQ", QDQ, static("rapidocr-cls"))
for source in (
    "mobilenetv2-ts11-dyn",
    "mobilenetv3-ts17-dyn",
    "light-squeezenet",
    "unet-resize-ts17-dyn",
    "vit-ts17-dyn",
):
    name = source.removesuffix("-dyn").rsplit("-ts", 1)[0]
    per_channel = name.startswith("mobilenet")
    add(f"{name}-qop", "quantized, operators of onnxruntime", QDQ, static(source, "QOperator", per_channel=per_channel))
add("vit-qdq", "ViT, QDQ", QDQ, static("vit-ts17-dyn", op_types_to_quantize=["MatMul", "Gemm", "Conv"]))
add("bert-qdq", "BERT, QDQ", QDQ, static("bert-ts17-dyn", op_types_to_quantize=["MatMul", "Gemm"]))
add("bert-dynamic-int8", "BERT, dynamic int8", QDQ, dynamic("bert-ts13-dyn"))
add("crnn-dynamic-int8", "OCR, dynamic int8", QDQ, dynamic("crnn-lstm-ts17-dyn"))
add("gpt2-dynamic-int8", "GPT-2, dynamic int8", QDQ, dynamic("gpt2-ts17-dyn"))
add("resnet50d-fp16-io", "CNN, fp16", CAST, half("resnet50d-ts17-dyn", True))
add("vit-fp16", "ViT, fp16", CAST, half("vit-ts17-dyn", False))
add("bert-fp16", "BERT, fp16", CAST, half("bert-ts17-dyn", False))
add("convnext-fp16-io", "CNN, fp16", CAST, half("convnext-ts17-dyn", True))
add("unet-fp16", "segmentation, fp16", CAST, half("unet-resize-ts17-dyn", False))
add(
    "efficientnet-weights-as-inputs",
    "CNN, weights as inputs",
    "IR version 3 style",
    copied("efficientnet-ts13", _weights_as_inputs),
)
add(
    "vit-weights-as-constants",
    "ViT, Constant nodes",
    "initializers as nodes",
    copied("vit-ts17-dyn", _weights_as_constants),
)
add("bert-nameless", "BERT, nameless", "names stripped", copied("bert-ts13-dyn", _nameless))
