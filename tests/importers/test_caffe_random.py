"""Random layers, beside Caffe where it is installed: `pytest -m full -n 0 tests/importers/test_caffe_random.py`."""

from __future__ import annotations

import importlib.util
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .caffe_cases import Case, one, wave, with_caffe
from .test_caffe_cases import imported

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(importlib.util.find_spec("caffe") is None, reason="pycaffe is not installed"),
]


def windows(rng: Any, x: Any, kind: str) -> Case | None:
    """A pooling, a convolution or its transpose; None where no window fits."""
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    pad, dilation = rng.integers(0, kernel), 1 if kind == "Pooling" else int(rng.integers(1, 3))
    size, reach = np.array(x.shape[2:]), dilation * (kernel - 1) + 1
    words = " ".join(
        f"{name}_h: {a} {name}_w: {b}" for name, (a, b) in (("kernel", kernel), ("stride", stride), ("pad", pad))
    )
    if kind == "Pooling":
        last = [(ceil((n + 2 * p - k) / s)) * s - p for n, k, s, p in zip(size, kernel, stride, pad, strict=True)]
        if np.any((size + 2 * pad < kernel) | ((pad == 0) & (last >= size))):
            return None
        method, up = rng.choice(["MAX", "AVE"]), rng.choice(["true", "false"])
        return one("r", kind, f"pooling_param {{ pool: {method} ceil_mode: {up} {words} }}", x)
    group, outputs = int(rng.choice([1, 2])), 2 * int(rng.integers(1, 4))
    forward = kind == "Convolution"
    if np.any(size + 2 * pad < reach if forward else stride * (size - 1) + reach - 2 * pad < 1):
        return None
    shape = (outputs, x.shape[1] // group) if forward else (x.shape[1], outputs // group)
    words = f"num_output: {outputs} group: {group} dilation: {dilation} {words}"
    blobs = [wave(*shape, *map(int, kernel)), wave(outputs)]
    return one("r", kind, f"convolution_param {{ {words} }}", x, blobs=blobs)


def shaped(rng: Any, x: Any, kind: str) -> Case:
    """A layer whose parameters are axes."""
    axis = int(rng.integers(0, 4))
    if kind == "LRN":
        region = rng.choice(["WITHIN_CHANNEL", "ACROSS_CHANNELS"])
        words = f"local_size: {rng.choice([1, 3, 5])} alpha: {rng.random():.3f} beta: 0.6 norm_region: {region}"
        return one("r", kind, f"lrn_param {{ {words} }}", x)
    if kind == "Crop":
        like = [int(rng.integers(1, size + 1)) for size in x.shape]
        offsets = [int(rng.integers(0, size - n + 1)) for size, n in zip(x.shape, like, strict=True)]
        words = " ".join(f"offset: {offset}" for offset in offsets[axis:])
        return one("r", kind, f"crop_param {{ axis: {axis} {words} }}", x, np.zeros(like, np.float32))
    if kind == "InnerProduct":
        inputs, across = int(np.prod(x.shape[axis:])), bool(rng.integers(2))
        words = f"num_output: 3 axis: {axis} transpose: {str(across).lower()}"
        blobs = [wave(inputs, 3) if across else wave(3, inputs), wave(3)]
        return one("r", kind, f"inner_product_param {{ {words} }}", x, blobs=blobs)
    if kind == "Reshape":
        number = int(rng.integers(0, 5 - axis))
        words = f"axis: {axis - 5 if rng.random() < 0.5 else axis} num_axes: {number} shape {{ dim: -1 dim: 1 }}"
        return one("r", kind, f"reshape_param {{ {words} }}", x)
    number = int(rng.integers(-1, 5 - axis))
    dims = x.shape[axis:] if number == -1 else x.shape[axis : axis + number]
    words = f"scale_param {{ axis: {axis} num_axes: {number} bias_term: true }}"
    if dims and rng.random() < 0.5:
        return one("r", kind, words, x, wave(*dims, seed=2), blobs=[wave(*dims, seed=4)])
    return one("r", kind, words, x, blobs=[wave(*dims, seed=3), wave(*dims, seed=4)])


def detections(rng: Any) -> Case:
    priors, classes, images = int(rng.integers(1, 60)), int(rng.integers(2, 6)), int(rng.integers(1, 4))
    low = rng.random((priors, 2)) * 0.7
    boxes = np.concatenate([low, low + 0.05 + rng.random((priors, 2)) * 0.4], 1)
    table = np.stack([boxes.ravel(), np.tile(rng.random(4) * 0.3 + 0.05, priors)])[None].astype(np.float32)
    scores = np.exp(rng.standard_normal((images, priors, classes)) * 2)
    scores = (scores / scores.sum(-1, keepdims=True)).reshape(images, -1).astype(np.float32)
    shared = bool(rng.integers(2))
    loc = rng.standard_normal((images, priors * 4 * (1 if shared else classes))) * rng.choice([0.3, 1, 3])
    words = (
        f"num_classes: {classes} share_location: {str(shared).lower()} keep_top_k: {rng.choice([-1, 1, 5, 50])} "
        f"code_type: {rng.choice(['CORNER', 'CENTER_SIZE', 'CORNER_SIZE'])} "
        f"nms_param {{ nms_threshold: {rng.choice([0.1, 0.45, 0.7])} top_k: {rng.choice([-1, 1, 7, 400])} }} "
        f"confidence_threshold: {rng.choice([0.01, 0.3, 0.6, 0.99])} background_label_id: {rng.integers(0, classes)} "
        f"variance_encoded_in_target: {rng.choice(['true', 'false'])}"
    )
    case = f"detection_output_param {{ {words} }}"
    return one("r", "DetectionOutput", case, loc.astype(np.float32), scores, table)


@pytest.mark.parametrize(
    "kind",
    "Pooling Convolution Deconvolution LRN Crop InnerProduct Reshape Scale DetectionOutput".split(),
)
def test_a_random_layer_computes_what_caffe_computes(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(kind))
    compared = 0
    for number in range(60):
        x = wave(int(rng.integers(1, 3)), 2 * int(rng.integers(1, 4)), *map(int, rng.integers(3, 14, 2)), seed=number)
        if kind == "DetectionOutput":
            case: Case | None = detections(rng)
        elif kind in ("Pooling", "Convolution", "Deconvolution"):
            case = windows(rng, x, kind)
        else:
            case = shaped(rng, x, kind)
        if case is None:
            continue
        found, wanted = (run(case, tmp_path / f"{name}{number}") for name, run in (("o", imported), ("c", with_caffe)))
        for name, array in wanted.items():
            assert found[name].shape == array.shape, case.text
            assert np.linalg.norm(found[name] - array) <= 3e-6 * np.linalg.norm(array) + 1e-6, case.text
        compared += 1
    assert compared > 20
