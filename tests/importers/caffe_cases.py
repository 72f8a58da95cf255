"""Small networks of every layer, and what Caffe itself computes of them (caffe_outputs.npz).

`python -m tests.importers.caffe_cases`, where pycaffe is installed, writes that file anew.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import caffe_files, caffe_nets

OUTPUTS = Path(__file__).with_name("caffe_outputs.npz")


@dataclass(frozen=True)
class Case:
    """text: layers after the inputs. inputs: name -> array. blobs: layer -> arrays."""

    name: str
    text: str
    inputs: Mapping[str, Any]
    blobs: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def prototxt(self) -> str:
        heads = []
        for name, array in self.inputs.items():
            dims = " ".join(f"dim: {dim}" for dim in array.shape)
            heads.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
        return "\n".join([f'name: "{self.name}"', *heads, self.text])


def wave(*shape: int, seed: float = 0.0, scale: float = 1.0, shift: float = 0.0) -> Any:
    """Numbers that look random, and are the same everywhere; about normal, of no two alike."""
    places = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = 1.3 * np.sin(places * 1.7 + seed * 0.917 + 0.3) + 0.7 * np.cos(places * places * 0.37 + 2.3 * seed)
    return (shift + scale * values).reshape(shape).astype(np.float32)


def positive(*shape: int, seed: float = 0.0) -> Any:
    return (np.abs(wave(*shape, seed=seed)) + 0.5).astype(np.float32)


def one(name: str, kind: str, words: str, *inputs: Any, blobs: Sequence[Any] = (), tops: int = 1) -> Case:
    """A network of one layer."""
    names = "xyzuvw"[: len(inputs)]
    bottoms = " ".join(f'bottom: "{x}"' for x in names)
    outs = " ".join(f'top: "t{i}"' for i in range(tops))
    text = f'layer {{ name: "l" type: "{kind}" {bottoms} {outs} {words} }}'
    return Case(name, text, dict(zip(names, inputs, strict=True)), {"l": blobs} if blobs else {})


def _elementwise() -> list[Case]:
    x = wave(2, 3, 4, 5)
    plain = [
        ("relu", "ReLU", ""),
        ("relu-leaky", "ReLU", "relu_param { negative_slope: 0.1 }"),
        ("elu", "ELU", "elu_param { alpha: 0.7 }"),
        ("sigmoid", "Sigmoid", ""),
        ("tanh", "TanH", ""),
        ("absval", "AbsVal", ""),
        ("bnll", "BNLL", ""),
        ("power-2", "Power", "power_param { power: 2 scale: 0.5 shift: -1 }"),
        ("power-3", "Power", "power_param { power: 3 scale: 2 shift: 0.25 }"),
        ("power-0", "Power", "power_param { power: 0 scale: 2 shift: 0.25 }"),
        ("power-scale-0", "Power", "power_param { power: 2 scale: 0 shift: 3 }"),
        ("power-linear", "Power", "power_param { scale: -0.1 shift: 3 }"),
        ("exp", "Exp", ""),
        ("exp-2", "Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
        ("log", "Log", "log_param { shift: 4 }"),
        ("log-10", "Log", "log_param { base: 10 scale: 0.5 shift: 4 }"),
        ("threshold", "Threshold", "threshold_param { threshold: 0.2 }"),
        ("softmax", "Softmax", ""),
        ("softmax-axis", "Softmax", "softmax_param { axis: -1 }"),
        ("argmax", "ArgMax", ""),
        ("argmax-3", "ArgMax", "argmax_param { top_k: 3 }"),
        ("argmax-values", "ArgMax", "argmax_param { top_k: 3 out_max_val: true }"),
        ("argmax-axis", "ArgMax", "argmax_param { axis: 1 }"),
        ("argmax-axis-values", "ArgMax", "argmax_param { axis: -1 top_k: 2 out_max_val: true }"),
        ("reduction-sum", "Reduction", ""),
        ("reduction-asum", "Reduction", "reduction_param { operation: ASUM axis: 1 coeff: 0.5 }"),
        ("reduction-sumsq", "Reduction", "reduction_param { operation: SUMSQ axis: -1 }"),
        ("reduction-mean", "Reduction", "reduction_param { operation: MEAN axis: 2 coeff: 3 }"),
        ("mvn", "MVN", ""),
        ("mvn-across", "MVN", "mvn_param { across_channels: true }"),
        ("mvn-mean", "MVN", "mvn_param { normalize_variance: false }"),
        ("lrn", "LRN", "lrn_param { local_size: 3 alpha: 0.8 beta: 0.6 k: 2 }"),
        ("lrn-within", "LRN", "lrn_param { local_size: 3 alpha: 0.8 beta: 0.6 norm_region: WITHIN_CHANNEL }"),
        ("flatten", "Flatten", ""),
        ("flatten-part", "Flatten", "flatten_param { axis: 2 end_axis: -1 }"),
        ("flatten-end", "Flatten", "flatten_param { axis: 0 end_axis: 1 }"),
        ("reshape", "Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"),
        ("reshape-axis", "Reshape", "reshape_param { shape { dim: 1 dim: -1 } axis: -1 num_axes: 0 }"),
        ("reshape-part", "Reshape", "reshape_param { shape { dim: -1 dim: 1 dim: 6 } axis: 1 num_axes: 2 }"),
        ("permute", "Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        ("permute-rest", "Permute", "permute_param { order: 2 }"),
        ("tile", "Tile", "tile_param { axis: 2 tiles: 3 }"),
        ("dropout", "Dropout", "dropout_param { dropout_ratio: 0.4 }"),
    ]
    cases = [one(name, kind, words, x) for name, kind, words in plain]
    y, z = wave(2, 3, 4, 5, seed=1), wave(2, 3, 4, 5, seed=2)
    cases += [
        one("eltwise-sum", "Eltwise", "", x, y, z),
        one("eltwise-coeff", "Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }", x, y),
        one("eltwise-coeffs", "Eltwise", "eltwise_param { coeff: 0.5 coeff: 2 coeff: -1 }", x, y, z),
        one("eltwise-prod", "Eltwise", "eltwise_param { operation: PROD }", x, y, z),
        one("eltwise-max", "Eltwise", "eltwise_param { operation: MAX }", x, y, z),
        one("prelu", "PReLU", "", x, blobs=[wave(3, seed=3)]),
        one("prelu-shared", "PReLU", "prelu_param { channel_shared: true }", x, blobs=[np.float32(0.3)]),
        one("prelu-flat", "PReLU", "", wave(4, 6), blobs=[wave(6, seed=3)]),
        one("concat", "Concat", "", x, wave(2, 2, 4, 5, seed=4)),
        one("concat-axis", "Concat", "concat_param { axis: -1 }", x, y),
        one("concat-dim", "Concat", "concat_param { concat_dim: 2 }", x, y),
        one("slice", "Slice", "slice_param { axis: 1 slice_point: 1 }", x, tops=2),
        one("slice-equal", "Slice", "slice_param { slice_dim: 2 }", x, tops=2),
        one("split", "Split", "", x, tops=3),
        one("crop", "Crop", "crop_param { axis: 2 offset: 1 offset: 2 }", x, wave(1, 1, 2, 3)),
        one("crop-one", "Crop", "crop_param { axis: 1 offset: 1 }", wave(2, 4, 5, 6), wave(1, 2, 3, 4)),
        one("relu6", "ReLU6", "", wave(2, 3, 4, 5, scale=5)),
        one("hard-sigmoid", "HardSigmoid", "", wave(2, 3, 4, 5, scale=3)),
        one("hard-swish", "HardSwish", "", wave(2, 3, 4, 5, scale=4)),
        one("upsample", "Upsample", "upsample_param { scale: 3 }", x),
        one("pad", "Pad", "pad_param { pad_u: 1 pad_l: 2 pad_value: 0.5 }", x),
        one("pad-edge", "Pad", "pad_param { pad_type: REPLICATE pad_u: 1 pad_d: 2 pad_l: 1 pad_r: 3 }", x),
        one("pad-mirror", "Pad", "pad_param { pad_type: REFLECT pad_u: 2 pad_d: 1 pad_l: 3 pad_r: 1 }", x),
        one("bilinear", "BilinearInterpolate", "bilinear_interpolate_param { dst_h: 7 dst_w: 9 }", x),
        one("bilinear-down", "BilinearInterpolate", "bilinear_interpolate_param { dst_h: 3 dst_w: 2 }", x),
        one("pixel-shuffle", "PixelShuffle", "pixelshuffle_param { upscale_factor: 2 }", wave(1, 8, 3, 2)),
    ]
    return cases


def _weighted() -> list[Case]:
    x = wave(2, 4, 6, 7)
    conv = "convolution_param {{ num_output: {} {} }}".format
    cases = [
        one("conv", "Convolution", conv(5, "kernel_size: 3 pad: 1"), x, blobs=[wave(5, 4, 3, 3), wave(5)]),
        one("conv-stride", "Convolution", conv(5, "kernel_size: 3 stride: 2"), x, blobs=[wave(5, 4, 3, 3), wave(5)]),
        one(
            "conv-h-w",
            "Convolution",
            conv(3, "kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 1 stride_h: 1 stride_w: 2 bias_term: false"),
            x,
            blobs=[wave(3, 4, 3, 2)],
        ),
        one(
            "conv-group",
            "Convolution",
            conv(6, "kernel_size: 3 group: 2 dilation: 2 pad: 2"),
            x,
            blobs=[wave(6, 2, 3, 3), wave(6)],
        ),
        one("conv-1x1", "Convolution", conv(2, "kernel_size: 1"), x, blobs=[wave(2, 4, 1, 1), wave(2)]),
        one("conv-two", "Convolution", conv(2, "kernel_size: 1"), x, x + 1, blobs=[wave(2, 4, 1, 1), wave(2)], tops=2),
        one(
            "conv-3d",
            "Convolution",
            conv(2, "kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 0 pad: 1 pad: 1 stride: 1 stride: 1 stride: 2"),
            wave(1, 3, 3, 4, 5),
            blobs=[wave(2, 3, 2, 3, 2), wave(2)],
        ),
        one(
            "deconv", "Deconvolution", conv(3, "kernel_size: 3 stride: 2 pad: 1"), x, blobs=[wave(4, 3, 3, 3), wave(3)]
        ),
        one(
            "deconv-group",
            "Deconvolution",
            conv(4, "kernel_size: 4 stride: 2 group: 4 bias_term: false"),
            x,
            blobs=[wave(4, 1, 4, 4)],
        ),
        one(
            "deconv-dilated",
            "Deconvolution",
            conv(2, "kernel_size: 3 dilation: 2"),
            x,
            blobs=[wave(4, 2, 3, 3), wave(2)],
        ),
        one(
            "deconv-bilinear",
            "Deconvolution",
            conv(4, 'kernel_size: 4 stride: 2 group: 4 bias_term: false weight_filler { type: "bilinear" }'),
            x,
        ),
        one(
            "deconv-bilinear-odd",
            "Deconvolution",
            conv(4, 'kernel_size: 5 stride: 3 group: 4 bias_term: false weight_filler { type: "bilinear" }'),
            x,
        ),
        one("ip", "InnerProduct", "inner_product_param { num_output: 5 }", x, blobs=[wave(5, 168), wave(5)]),
        one(
            "ip-transposed",
            "InnerProduct",
            "inner_product_param { num_output: 5 transpose: true bias_term: false }",
            x,
            blobs=[wave(168, 5)],
        ),
        one(
            "ip-axis", "InnerProduct", "inner_product_param { num_output: 5 axis: 2 }", x, blobs=[wave(5, 42), wave(5)]
        ),
        one(
            "ip-last",
            "InnerProduct",
            "inner_product_param { num_output: 5 axis: -1 transpose: true }",
            x,
            blobs=[wave(7, 5), wave(5)],
        ),
        one(
            "embed",
            "Embed",
            "embed_param { input_dim: 6 num_output: 3 }",
            np.array([[0, 5, 2], [3, 3, 1]], np.float32),
            blobs=[wave(6, 3), wave(3, seed=1)],
        ),
        one("bn", "BatchNorm", "", x, blobs=[wave(4), positive(4), np.float32([2.5])]),
        one("bn-zero", "BatchNorm", "batch_norm_param { eps: 0.1 }", x, blobs=[wave(4), positive(4), np.float32([0])]),
        one(
            "bn-batch",
            "BatchNorm",
            "batch_norm_param { use_global_stats: false eps: 0.01 }",
            x,
            blobs=[wave(4), positive(4), np.float32([1])],
        ),
        one("bn-flat", "BatchNorm", "", wave(5, 4), blobs=[wave(4), positive(4), np.float32([1])]),
        one("scale", "Scale", "scale_param { bias_term: true }", x, blobs=[wave(4), wave(4, seed=1)]),
        one("scale-axes", "Scale", "scale_param { axis: 2 num_axes: 2 }", x, blobs=[wave(6, 7)]),
        one("scale-all", "Scale", "scale_param { axis: 0 num_axes: -1 }", x, blobs=[wave(2, 4, 6, 7, seed=1)]),
        one("scale-one", "Scale", "scale_param { num_axes: 0 }", x, blobs=[np.float32(1.5)]),
        one("scale-two", "Scale", "scale_param { axis: 0 }", x, wave(2, 4, seed=5)),
        one(
            "scale-two-bias",
            "Scale",
            "scale_param { axis: 1 bias_term: true }",
            x,
            wave(4, 6),
            blobs=[wave(4, 6, seed=2)],
        ),
        one("bias", "Bias", "", x, blobs=[wave(4)]),
        one("bias-two", "Bias", "bias_param { axis: 2 }", x, wave(6, seed=2)),
        one("normalize", "Normalize", "norm_param { across_spatial: false channel_shared: false }", x, blobs=[wave(4)]),
        one("normalize-all", "Normalize", "", x, blobs=[np.float32(3)]),
    ]
    return cases


def _pooling() -> list[Case]:
    cases = []
    for height, width in ((5, 5), (6, 7), (7, 8)):
        x = wave(1, 2, height, width, seed=height)
        for kernel, stride, pad in (
            (2, 2, 0),
            (3, 2, 0),
            (3, 2, 1),
            (3, 1, 1),
            (3, 3, 1),
            (2, 3, 0),
            (4, 3, 2),
            (2, 2, 1),
        ):
            if (width, kernel, stride) == (7, 2, 3):
                continue  # a window outside of the image, which Caffe gives no value
            for pool in ("MAX", "AVE"):
                words = f"pooling_param {{ pool: {pool} kernel_size: {kernel} stride: {stride} pad: {pad} }}"
                cases.append(one(f"pool-{pool}-{height}x{width}-{kernel}-{stride}-{pad}", "Pooling", words, x))
    x = wave(2, 3, 5, 7)
    uneven = "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0"
    cases += [
        one("pool-floor", "Pooling", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }", wave(1, 2, 5, 5)),
        one("pool-max-global", "Pooling", "pooling_param { global_pooling: true }", x),
        one("pool-ave-global", "Pooling", "pooling_param { pool: AVE global_pooling: true }", x),
        one("pool-uneven", "Pooling", f"pooling_param {{ {uneven} }}", x),
        one("pool-ave-uneven", "Pooling", f"pooling_param {{ pool: AVE {uneven} }}", x),
        one("pool-mask", "Pooling", "pooling_param { kernel_size: 2 stride: 2 }", x, tops=2),
    ]
    unpool = (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } } '
        'layer { name: "u" type: "MaxUnPool" bottom: "p" bottom: "m" top: "u" max_unpool_param { dst_h: 6 dst_w: 4 } }'
    )
    cases.append(Case("unpool", unpool, {"x": wave(2, 3, 6, 4)}))
    return cases


def _sequences() -> list[Case]:
    steps, batch, width, hidden = 5, 2, 3, 4
    x = wave(steps, batch, width)
    marks = np.array([[0, 1], [1, 1], [1, 0], [0, 1], [1, 1]], np.float32)
    lstm = [wave(16, width), wave(16, seed=1), wave(16, hidden, seed=2)]
    static = [*lstm[:2], wave(16, 2, seed=4), lstm[2]]
    rnn = [wave(hidden, width), wave(4), wave(4, 4, seed=2), wave(4, 4, seed=3), wave(4, seed=4)]
    words = "recurrent_param {{ num_output: 4 {} }}".format
    h, c = wave(1, batch, hidden, seed=6), wave(1, batch, hidden, seed=7)
    whole = (
        'layer { name: "m" type: "DummyData" top: "m" dummy_data_param { shape { dim: 5 dim: 2 } '
        'data_filler { type: "constant" value: 1 } } } layer { name: "l" type: "LSTM" bottom: "x" bottom: "m" top: "t" '
        "recurrent_param { num_output: 4 } }"
    )
    return [
        one("lstm", "LSTM", words(""), x, marks, blobs=lstm),
        one("lstm-static", "LSTM", words(""), x, marks, wave(batch, 2, seed=5), blobs=static),
        one("lstm-state", "LSTM", words("expose_hidden: true"), x, marks, h, c, blobs=lstm, tops=3),
        one("lstm-image", "LSTM", words(""), wave(5, 2, 3, 1, 1), marks, blobs=lstm),
        one("rnn", "RNN", words(""), x, marks, blobs=rnn),
        one("rnn-state", "RNN", words("expose_hidden: true"), x, marks, h, blobs=rnn, tops=2),
        Case("lstm-whole", whole, {"x": x}, {"l": lstm}),
    ]


def _detection() -> list[Case]:
    x, image = wave(1, 2, 3, 4), wave(1, 3, 48, 64)
    box = "prior_box_param {{ min_size: 20.7 {} variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }}".format
    found = [
        one("prior", "PriorBox", box("max_size: 31.5 aspect_ratio: 2 flip: true clip: false"), x, image),
        one("prior-clip", "PriorBox", box("aspect_ratio: 2 aspect_ratio: 3 flip: false clip: true step: 16"), x, image),
        one("prior-size", "PriorBox", box("min_size: 30 img_h: 60 img_w: 70 offset: 0.3 clip: false"), x, image),
        one("prior-one", "PriorBox", "prior_box_param { min_size: 8 clip: false step_h: 15 step_w: 17 }", x, image),
    ]
    priors, classes = 12, 4
    low = np.abs(wave(priors, 2, seed=3)) * 0.3
    boxes = np.concatenate([low, low + 0.1 + np.abs(wave(priors, 2, seed=4)) * 0.2], 1)
    table = np.stack([boxes.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], priors)])[None].astype(np.float32)
    scores = np.exp(wave(2, priors, classes, seed=5))
    scores = (scores / scores.sum(-1, keepdims=True)).reshape(2, -1).astype(np.float32)
    loc = wave(2, priors * 4, seed=6, scale=0.5)
    words = (
        "detection_output_param {{ num_classes: 4 share_location: {} code_type: {} keep_top_k: {} "
        "nms_param {{ nms_threshold: {} top_k: {} }} confidence_threshold: {} {} }}"
    ).format
    apart = wave(2, priors * 4 * classes, seed=7, scale=0.5)
    for name, location, options in (
        ("detect", loc, ("true", "CENTER_SIZE", 200, 0.3, 400, 0.01, "")),
        ("detect-few", loc, ("true", "CENTER_SIZE", 5, 0.3, 6, 0.2, "")),
        ("detect-all", loc, ("true", "CENTER_SIZE", -1, 0.45, -1, 0.1, "")),
        ("detect-none", loc, ("true", "CENTER_SIZE", 5, 0.3, 6, 0.999, "")),
        ("detect-corner", loc, ("true", "CORNER", 7, 0.5, 10, 0.1, "")),
        ("detect-corner-size", loc, ("true", "CORNER_SIZE", 7, 0.5, 10, 0.1, "")),
        ("detect-apart", apart, ("false", "CENTER_SIZE", 9, 0.4, 8, 0.1, "")),
        ("detect-encoded", loc, ("true", "CENTER_SIZE", 9, 0.4, 8, 0.1, "variance_encoded_in_target: true")),
        ("detect-background", loc, ("true", "CENTER_SIZE", 9, 0.4, 8, 0.1, "background_label_id: 2")),
    ):
        found.append(one(name, "DetectionOutput", words(*options), location, scores, table))
    rpn = "proposal_param {{ ratio: 0.5 ratio: 1 ratio: 2 scale: 2 scale: 3 base_size: 16 min_size: {} {} }}".format
    shares = 1 / (1 + np.exp(-wave(1, 12, 4, 5, seed=8)))
    deltas = wave(1, 24, 4, 5, seed=9, scale=0.3)
    size = np.array([[64, 80, 1]], np.float32)
    found.append(one("proposal", "Proposal", rpn(1, "nms_thresh: 0.6"), shares, deltas, size, tops=2))
    few = "pre_nms_topn: 40 post_nms_topn: 7 nms_thresh: 0.5"
    found.append(one("proposal-few", "Proposal", rpn(20, few), shares, deltas, size, tops=2))
    return found


def cases() -> list[Case]:
    return [*_elementwise(), *_weighted(), *_pooling(), *_sequences(), *_detection()]


def with_caffe(case: Case, folder: Path) -> dict[str, Any]:
    """output -> what Caffe computes."""
    return _outputs(caffe_files.write(folder, case.prototxt(), case.blobs), case.inputs)


def _outputs(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    import caffe

    caffe.set_mode_cpu()
    net = caffe.Net(str(path), caffe.TEST, weights=str(path.with_suffix(".caffemodel")))
    for name, array in inputs.items():
        net.blobs[name].data[...] = array
    net.forward()
    return {name: np.array(net.blobs[name].data) for name in net.outputs}


def _write_all() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")
    found = {}
    for case in cases():
        print(case.name, flush=True)  # noqa: T201
        with tempfile.TemporaryDirectory() as folder:
            for name, array in with_caffe(case, Path(folder)).items():
                found[f"{case.name}/{name}"] = array
    for name, make in caffe_nets.SMALL.items():
        print(name, flush=True)  # noqa: T201
        with tempfile.TemporaryDirectory() as folder:
            path = make().write(Path(folder))
            for top, array in _outputs(path, caffe_nets.feeds(name)).items():
                found[f"{name}/{top}"] = array
    np.savez_compressed(OUTPUTS, **found)


if __name__ == "__main__":
    sys.exit(_write_all())
