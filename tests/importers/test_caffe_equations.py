"""Layers of Caffe's forks, against their equations in float64: the Caffe that was recorded has not these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .caffe_cases import Case, one, positive, wave
from .test_caffe_cases import imported


def computed(tmp_path: Path, case: Case, **words: Any) -> Any:
    found = imported(case, tmp_path, **words)
    return next(iter(found.values())) if len(found) == 1 else found


def assert_close(found: Any, wanted: Any) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


def bilinear(x: Any, height: int, width: int) -> Any:
    """Corners on corners: row i is at i * (h - 1) / (height - 1)."""
    x = x.astype(np.float64)
    for axis, size in ((2, height), (3, width)):
        length = x.shape[axis]
        at = np.arange(size) * ((length - 1) / (size - 1) if size > 1 else 0.0)
        low = np.clip(np.floor(at + 1e-9).astype(int), 0, length - 1)
        high = np.minimum(low + 1, length - 1)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


X = wave(2, 3, 5, 7)


@pytest.mark.parametrize(
    ("words", "height", "width", "cut"),
    [
        ("height: 9 width: 13", 9, 13, slice(None)),
        ("zoom_factor: 2", 9, 13, slice(None)),
        ("shrink_factor: 2", 3, 4, slice(None)),
        ("shrink_factor: 2 zoom_factor: 3", 7, 10, slice(None)),
        ("height: 6 width: 6 pad_beg: -1 pad_end: -1", 6, 6, slice(1, -1)),
    ],
)
def test_interp(words: str, height: int, width: int, cut: slice, tmp_path: Path) -> None:
    found = computed(tmp_path, one("interp", "Interp", f"interp_param {{ {words} }}", X))
    assert_close(found, bilinear(X[:, :, cut, cut], height, width))


def test_interp_to_the_size_of_a_second_bottom(tmp_path: Path) -> None:
    case = one("interp", "Interp", "", X, wave(1, 1, 10, 4))
    assert_close(computed(tmp_path, case), bilinear(X, 10, 4))


def test_axpy(tmp_path: Path) -> None:
    a, y = wave(2, 3, seed=1), wave(2, 3, 5, 7, seed=2)
    assert_close(computed(tmp_path, one("axpy", "Axpy", "", a, X, y)), a[:, :, None, None].astype(float) * X + y)


def test_axpy_of_a_scale_with_four_dimensions(tmp_path: Path) -> None:
    a, y = wave(2, 3, 1, 1, seed=1), wave(2, 3, 5, 7, seed=2)
    assert_close(computed(tmp_path, one("axpy", "Axpy", "", a, X, y)), a.astype(float) * X + y)


def test_shuffle_channel(tmp_path: Path) -> None:
    """Channel j * groups + i is channel i * (channels / groups) + j of the bottom."""
    x = wave(2, 6, 2, 3)
    found = computed(tmp_path, one("shuffle", "ShuffleChannel", "shuffle_channel_param { group: 2 }", x))
    assert_close(found, x[:, [0, 3, 1, 4, 2, 5]])


def test_reverse(tmp_path: Path) -> None:
    found = computed(tmp_path, one("reverse", "Reverse", "reverse_param { axis: 2 }", X))
    assert_close(found, X[:, :, ::-1])


def test_clip_and_swish(tmp_path: Path) -> None:
    assert_close(computed(tmp_path / "a", one("c", "Clip", "clip_param { min: -0.5 max: 1 }", X)), np.clip(X, -0.5, 1))
    found = computed(tmp_path / "b", one("s", "Swish", "swish_param { beta: 2 }", X))
    assert_close(found, X / (1 + np.exp(-2.0 * X.astype(float))))


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
def test_depthwise_convolution(kind: str, tmp_path: Path) -> None:
    w, b = wave(3, 1, 3, 3, seed=1), wave(3, seed=2)
    words = "convolution_param { num_output: 3 kernel_size: 3 pad: 1 stride: 2 }"
    padded = np.pad(X.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)])
    wanted = np.zeros((2, 3, 3, 4))
    for i in range(3):
        for j in range(4):
            part = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            wanted[:, :, i, j] = (part * w[:, 0]).sum((2, 3)) + b
    assert_close(computed(tmp_path, one("dw", kind, words, X, blobs=[w, b])), wanted)


def test_bn_of_pspnet_and_of_segnet(tmp_path: Path) -> None:
    scale, bias, mean, variance = wave(3, seed=1), wave(3, seed=2), wave(3, seed=3), positive(3, seed=4)
    c = (slice(None), None, None)
    x = X.astype(float)
    wanted = scale[c] * (x - mean[c]) / np.sqrt(variance[c].astype(float) + 1e-3) + bias[c]
    case = one("bn", "BN", "bn_param { eps: 0.001 }", X, blobs=[scale, bias, mean, variance])
    assert_close(computed(tmp_path / "a", case), wanted)
    case = one("bn", "BN", "bn_param { bn_mode: INFERENCE }", X, blobs=[scale, bias])
    assert_close(computed(tmp_path / "b", case), scale[c] * x + bias[c])


def test_batch_norm_of_nvidia_has_scale_and_bias(tmp_path: Path) -> None:
    mean, variance, scale, bias = wave(3), positive(3), wave(3, seed=1), wave(3, seed=2)
    blobs = [mean, variance, np.float32([2]), scale, bias]
    c = (slice(None), None, None)
    wanted = scale[c] * (X.astype(float) - mean[c] / 2) / np.sqrt(variance[c] / 2 + 1e-5) + bias[c]
    case = one("bn", "BatchNorm", "batch_norm_param { scale_bias: true }", X, blobs=blobs)
    assert_close(computed(tmp_path, case), wanted)


def test_upsampling_with_a_mask_puts_numbers_where_pooling_found_them(tmp_path: Path) -> None:
    """SegNet."""
    x = wave(1, 2, 4, 6)
    text = (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } } '
        'layer { name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "u" upsample_param { scale: 2 } }'
    )
    wanted = np.zeros_like(x)
    for i in range(0, 4, 2):
        for j in range(0, 6, 2):
            part = x[:, :, i : i + 2, j : j + 2]
            wanted[:, :, i : i + 2, j : j + 2] = np.where(part == part.max((2, 3), keepdims=True), part, 0)
    assert_close(computed(tmp_path, Case("u", text, {"x": x})), wanted)


REGIONS = np.array([[0, 1, 2, 30, 40], [0, 0, 0, 47, 47], [0, 10.4, 10.6, 12, 12], [0, 60, 60, 70, 70]], np.float32)


def half_up(x: float) -> int:
    return int(np.floor(x + 0.5))


def test_roi_pooling(tmp_path: Path) -> None:
    """The largest of part i, j of a region: rows floor(i * h / n) to ceil((i + 1) * h / n); 0 if there is none."""
    x, scale, n = wave(1, 2, 12, 12), 0.25, 3
    wanted = np.zeros((len(REGIONS), 2, n, n))
    for r, (_, x1, y1, x2, y2) in enumerate(REGIONS):
        left, top, right, bottom = (half_up(v * scale) for v in (x1, y1, x2, y2))
        high, wide = max(bottom - top + 1, 1) / n, max(right - left + 1, 1) / n
        for i in range(n):
            for j in range(n):
                rows = np.clip([int(np.floor(i * high)) + top, int(np.ceil((i + 1) * high)) + top], 0, 12)
                columns = np.clip([int(np.floor(j * wide)) + left, int(np.ceil((j + 1) * wide)) + left], 0, 12)
                part = x[0, :, rows[0] : rows[1], columns[0] : columns[1]]
                wanted[r, :, i, j] = part.max((1, 2)) if part.size else 0
    words = f"roi_pooling_param {{ pooled_h: {n} pooled_w: {n} spatial_scale: {scale} }}"
    assert_close(computed(tmp_path, one("roi", "ROIPooling", words, x, REGIONS)), wanted)


def test_psroi_pooling(tmp_path: Path) -> None:
    """The mean of part i, j of a region, in channel (c * n + i) * n + j; 0 if that is empty."""
    n, outputs, scale = 3, 2, 0.25
    x = wave(1, outputs * n * n, 12, 12)
    wanted = np.zeros((len(REGIONS), outputs, n, n))
    for r, (_, x1, y1, x2, y2) in enumerate(REGIONS):
        left, top = half_up(x1) * scale, half_up(y1) * scale
        right, bottom = (half_up(x2) + 1.0) * scale, (half_up(y2) + 1.0) * scale
        high, wide = max(bottom - top, 0.1) / n, max(right - left, 0.1) / n
        for c in range(outputs):
            for i in range(n):
                for j in range(n):
                    rows = np.clip([int(np.floor(i * high + top)), int(np.ceil((i + 1) * high + top))], 0, 12)
                    columns = np.clip([int(np.floor(j * wide + left)), int(np.ceil((j + 1) * wide + left))], 0, 12)
                    part = x[0, (c * n + i) * n + j, rows[0] : rows[1], columns[0] : columns[1]].astype(float)
                    wanted[r, c, i, j] = part.mean() if part.size else 0
    words = f"psroi_pooling_param {{ output_dim: {outputs} group_size: {n} spatial_scale: {scale} }}"
    assert_close(computed(tmp_path, one("psroi", "PSROIPooling", words, x, REGIONS)), wanted)


def lstm(x: Any, blobs: Sequence[Any]) -> Any:
    """One sequence from a zero state."""
    w, b, r = (np.asarray(blob, np.float64) for blob in blobs)
    hidden = r.shape[1]
    h = c = np.zeros((x.shape[1], hidden))
    found = []
    for step in x.astype(np.float64):
        i, f, o, g = np.split(step @ w.T + b + h @ r.T, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        found.append(h)
    return np.stack(found)


LSTM_BLOBS = [wave(16, 3), wave(16, seed=1), wave(16, 4, seed=2)]


def test_a_sequence_that_is_whole_by_construction_is_one_operator(tmp_path: Path) -> None:
    text = (
        'layer { name: "m" type: "ContinuationIndicator" top: "m" '
        "continuation_indicator_param { time_step: 5 batch_size: 2 } } "
        'layer { name: "l" type: "LSTM" bottom: "x" bottom: "m" top: "t" recurrent_param { num_output: 4 } }'
    )
    x = wave(5, 2, 3)
    assert_close(computed(tmp_path, Case("l", text, {"x": x}, {"l": LSTM_BLOBS})), lstm(x, LSTM_BLOBS))


def test_a_sequence_that_the_user_calls_whole_needs_no_marks(tmp_path: Path) -> None:
    x = wave(5, 2, 3)
    case = one("l", "LSTM", "recurrent_param { num_output: 4 }", x, np.ones((5, 2), np.float32), blobs=LSTM_BLOBS)
    assert_close(computed(tmp_path, case, options={"sequences": "whole"}), lstm(x, LSTM_BLOBS))


@pytest.mark.parametrize("options", [{}, {"nms": "operator"}, {"detections": "fixed"}])
def test_detections_are_the_same_in_every_form(options: Mapping[str, str], tmp_path: Path) -> None:
    """Two boxes of one class, of which the worse one overlaps the better one; a third one alone; image 1 has none."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])
    table = np.stack([boxes.ravel(), np.full(12, 0.1)])[None].astype(np.float32)
    scores = np.zeros((2, 3, 2), np.float32)
    scores[0, :, 1] = [0.7, 0.8, 0.6]
    words = (
        "detection_output_param { num_classes: 2 keep_top_k: 5 confidence_threshold: 0.5 code_type: CORNER "
        "nms_param { nms_threshold: 0.45 top_k: 3 } }"
    )
    case = one("d", "DetectionOutput", words, np.zeros((2, 12), np.float32), scores.reshape(2, 6), table)
    wanted = np.array([[0, 1, 0.8, *boxes[1]], [0, 1, 0.6, *boxes[2]]])
    if "detections" in options:
        wanted = np.concatenate([wanted, np.full((4, 7), -1)])
    assert_close(computed(tmp_path, case, options=options), wanted[None, None])
