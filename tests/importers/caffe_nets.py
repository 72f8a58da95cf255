"""Published networks as Caffe's files: the architecture written out layer by layer, weights random of a seed.

`python -m tests.importers.caffe_nets FOLDER [NAME ...]` writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import caffe_files


class Net:
    """A .prototxt and its weights as they grow; methods return the name of the blob that they add."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.text = [f'name: "{name}"']
        self.blobs: dict[str, list[Any]] = {}
        self.channels: dict[str, int] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.random = np.random.default_rng(seed)

    def input(self, name: str, *shape: int) -> str:
        dims = " ".join(f"dim: {dim}" for dim in shape)
        self.text.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
        self.inputs[name] = shape
        self.channels[name] = shape[1] if len(shape) > 1 else 1
        return name

    def add(self, name: str, kind: str, bottoms: str | Sequence[str], words: str = "", top: str = "") -> str:
        """A layer of one top; of its own name, or `top`, which may be the bottom."""
        bottoms = [bottoms] if isinstance(bottoms, str) else bottoms
        top = top or name
        fed = " ".join(f'bottom: "{one}"' for one in bottoms)
        self.text.append(f'layer {{ name: "{name}" type: "{kind}" {fed} top: "{top}" {words} }}')
        self.channels.setdefault(top, self.channels.get(bottoms[0], 0) if bottoms else 0)
        return top

    def normal(self, *shape: int, fan: int) -> Any:
        return (self.random.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32)

    def conv(
        self,
        x: str,
        name: str,
        out: int,
        k: int,
        s: int = 1,
        p: int = 0,
        relu: bool = True,
        bias: bool = True,
        group: int = 1,
    ) -> str:
        """Convolution, and an in-place ReLU."""
        fan = self.channels[x] // group
        words = f"num_output: {out} kernel_size: {k} stride: {s} pad: {p} bias_term: {str(bias).lower()} "
        words += f"group: {group}"
        self.add(name, "Convolution", x, f"convolution_param {{ {words} }}")
        self.channels[name] = out
        self.blobs[name] = [self.normal(out, fan, k, k, fan=fan * k * k)]
        if bias:
            self.blobs[name].append((self.random.standard_normal(out) * 0.05).astype(np.float32))
        return self.add(f"{name}/relu", "ReLU", name, top=name) if relu else name

    def norm(self, x: str, name: str) -> str:
        """BatchNorm and Scale, in place, as Caffe's networks have them."""
        c = self.channels[x]
        self.add(f"bn{name}", "BatchNorm", x, "batch_norm_param { use_global_stats: true }", top=x)
        self.add(f"scale{name}", "Scale", x, "scale_param { bias_term: true }", top=x)
        mean, variance = self.random.standard_normal(c) * 0.1, self.random.uniform(0.5, 1.5, c)
        self.blobs[f"bn{name}"] = [mean * 999, variance * 999, np.array([999.0])]
        self.blobs[f"scale{name}"] = [self.random.uniform(0.5, 1.0, c), self.random.standard_normal(c) * 0.1]
        return x

    def pool(self, x: str, name: str, k: int, s: int = 1, p: int = 0, kind: str = "MAX") -> str:
        return self.add(name, "Pooling", x, f"pooling_param {{ pool: {kind} kernel_size: {k} stride: {s} pad: {p} }}")

    def dense(self, x: str, name: str, inputs: int, out: int, axis: int = 1) -> str:
        self.add(name, "InnerProduct", x, f"inner_product_param {{ num_output: {out} axis: {axis} }}")
        self.blobs[name] = [self.normal(out, inputs, fan=inputs), self.random.standard_normal(out) * 0.05]
        self.channels[name] = out
        return name

    def lstm(self, x: str, name: str, marks: str, inputs: int, hidden: int, static: str = "", size: int = 0) -> str:
        fed = [x, marks, *([static] if static else [])]
        self.add(name, "LSTM", fed, f"recurrent_param {{ num_output: {hidden} }}")
        self.blobs[name] = [
            self.normal(4 * hidden, inputs, fan=2 * inputs),
            self.random.standard_normal(4 * hidden) * 0.1,
            *([self.normal(4 * hidden, size, fan=2 * size)] if static else []),
            self.normal(4 * hidden, hidden, fan=2 * hidden),
        ]
        return name

    def write(self, folder: Path) -> Path:
        return caffe_files.write(folder, "\n".join(self.text), self.blobs)


def squeezenet(size: int = 227) -> Net:
    """SqueezeNet v1.1 (Iandola et al., 2016)."""
    net = Net("squeezenet")
    x = net.conv(net.input("data", 1, 3, size, size), "conv1", 64, 3, 2)
    x = net.pool(x, "pool1", 3, 2)
    for number, (squeeze, expand) in enumerate(
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)], 2
    ):
        fire = f"fire{number}"
        s = net.conv(x, f"{fire}/squeeze1x1", squeeze, 1)
        parts = [net.conv(s, f"{fire}/expand1x1", expand, 1), net.conv(s, f"{fire}/expand3x3", expand, 3, 1, 1)]
        x = net.add(f"{fire}/concat", "Concat", parts)
        net.channels[x] = 2 * expand
        if number in (3, 5):
            x = net.pool(x, f"pool{number}", 3, 2)
    x = net.add("drop9", "Dropout", x, "dropout_param { dropout_ratio: 0.5 }", top=x)
    x = net.conv(x, "conv10", 1000, 1)
    x = net.add("pool10", "Pooling", x, "pooling_param { pool: AVE global_pooling: true }")
    net.add("prob", "Softmax", x)
    return net


def resnet50(size: int = 224, width: int = 64) -> Net:
    """ResNet-50 (He et al., 2015), as its authors' deploy.prototxt: strides in a block's first 1x1, norms in place."""
    net = Net("ResNet-50")
    x = net.conv(net.input("data", 1, 3, size, size), "conv1", width, 7, 2, 3, relu=False)
    x = net.add("conv1_relu", "ReLU", net.norm(x, "_conv1"), top=x)
    x = net.pool(x, "pool1", 3, 2)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        c = width * 2**stage
        for block in range(blocks):
            name, stride = f"{stage + 2}{'abcdef'[block]}", 2 if stage and not block else 1
            short = x
            if not block:
                short = net.conv(x, f"res{name}_branch1", 4 * c, 1, stride, relu=False, bias=False)
                net.norm(short, f"{name}_branch1")
            y = x
            for part, (out, k, s, p) in zip("abc", [(c, 1, stride, 0), (c, 3, 1, 1), (4 * c, 1, 1, 0)], strict=True):
                branch = f"{name}_branch2{part}"
                y = net.norm(net.conv(y, f"res{branch}", out, k, s, p, relu=False, bias=False), branch)
                if part != "c":
                    net.add(f"res{branch}_relu", "ReLU", y, top=y)
            x = net.add(f"res{name}", "Eltwise", [short, y])
            net.channels[x] = 4 * c
            net.add(f"res{name}_relu", "ReLU", x, top=x)
    x = net.add("pool5", "Pooling", x, "pooling_param { pool: AVE global_pooling: true }")
    net.dense(x, "fc1000", 32 * width, 1000)
    net.add("prob", "Softmax", "fc1000")
    return net


def mobilenet_ssd(size: int = 300, classes: int = 21, width: int = 32) -> Net:
    """MobileNet-SSD: MobileNet v1 (Howard et al., 2017) with SSD's heads (Liu et al., 2016), six feature maps."""
    net = Net("MobileNet-SSD")
    x = net.conv(net.input("data", 1, 3, size, size), "conv0", width, 3, 2, 1)
    maps = []
    plan = [
        (2, 1),
        (4, 2),
        (4, 1),
        (8, 2),
        (8, 1),
        (16, 2),
        (16, 1),
        (16, 1),
        (16, 1),
        (16, 1),
        (16, 1),
        (32, 2),
        (32, 1),
    ]
    for number, (factor, stride) in enumerate(plan, 1):
        c = net.channels[x]
        x = net.conv(x, f"conv{number}/dw", c, 3, stride, 1, group=c)
        x = net.conv(x, f"conv{number}", factor * width, 1)
        if number in (11, 13):
            maps.append(x)
    for number, (narrow, wide) in enumerate([(8, 16), (4, 8), (4, 8), (2, 4)], 14):
        x = net.conv(x, f"conv{number}_1", narrow * width, 1)
        x = net.conv(x, f"conv{number}_2", wide * width, 3, 2, 1)
        maps.append(x)
    heads: dict[str, list[str]] = {"loc": [], "conf": [], "priorbox": []}
    limits = [(60, 0), (105, 150), (150, 195), (195, 240), (240, 285), (285, 300)]
    for x, (least, most) in zip(maps, limits, strict=True):
        ratios = [2] if not most else [2, 3]
        boxes = 1 + 2 * len(ratios) + (1 if most else 0)
        for kind, out in (("loc", 4 * boxes), ("conf", classes * boxes)):
            y = net.conv(x, f"{x}_mbox_{kind}", out, 1, relu=False)
            y = net.add(f"{y}_perm", "Permute", y, "permute_param { order: 0 order: 2 order: 3 order: 1 }")
            heads[kind].append(net.add(f"{x}_mbox_{kind}_flat", "Flatten", y, "flatten_param { axis: 1 }"))
        words = f"min_size: {least} " + (f"max_size: {most} " if most else "")
        words += " ".join(f"aspect_ratio: {r}" for r in ratios)
        words += " flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5"
        heads["priorbox"].append(
            net.add(f"{x}_mbox_priorbox", "PriorBox", [x, "data"], f"prior_box_param {{ {words} }}")
        )
    for kind, parts in heads.items():
        axis = 2 if kind == "priorbox" else 1
        net.add(f"mbox_{kind}", "Concat", parts, f"concat_param {{ axis: {axis} }}")
    shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {classes} }} }}"
    x = net.add("mbox_conf_reshape", "Reshape", "mbox_conf", shape)
    x = net.add("mbox_conf_softmax", "Softmax", x, "softmax_param { axis: 2 }")
    x = net.add("mbox_conf_flatten", "Flatten", x, "flatten_param { axis: 1 }")
    net.add(
        "detection_out",
        "DetectionOutput",
        ["mbox_loc", x, "mbox_priorbox"],
        f"detection_output_param {{ num_classes: {classes} share_location: true background_label_id: 0 "
        "nms_param { nms_threshold: 0.45 top_k: 100 } code_type: CENTER_SIZE keep_top_k: 100 "
        "confidence_threshold: 0.25 } "
        "include { phase: TEST }",
    )
    return net


def fcn8s(size: int = 224, width: int = 64, dense: int = 4096, classes: int = 21) -> Net:
    """FCN-8s (Long et al., 2015) over VGG-16: padding by 100, upsampled scores, crops and sums."""
    net = Net("FCN-8s")
    x = net.input("data", 1, 3, size, size)
    pools = {}
    for stage, (convs, factor) in enumerate([(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)], 1):
        for number in range(1, convs + 1):
            pad = 100 if (stage, number) == (1, 1) else 1
            x = net.conv(x, f"conv{stage}_{number}", factor * width, 3, 1, pad)
        x = pools[stage] = net.pool(x, f"pool{stage}", 2, 2)
    x = net.conv(x, "fc6", dense, 7)
    x = net.add("drop6", "Dropout", x, "dropout_param { dropout_ratio: 0.5 }", top=x)
    x = net.conv(x, "fc7", dense, 1)
    x = net.conv(x, "score_fr", classes, 1, relu=False)
    for pool, offset, up, k, s in ((4, 5, "upscore2", 4, 2), (3, 9, "upscore_pool4", 4, 2)):
        words = f"num_output: {classes} kernel_size: {k} stride: {s} bias_term: false"
        x = net.add(up, "Deconvolution", x, f"convolution_param {{ {words} }}")
        net.blobs[up] = [net.normal(classes, classes, k, k, fan=classes * 4)]
        score = net.conv(pools[pool], f"score_pool{pool}", classes, 1, relu=False)
        cut = net.add(f"score_pool{pool}c", "Crop", [score, x], f"crop_param {{ axis: 2 offset: {offset} }}")
        x = net.add(f"fuse_pool{pool}", "Eltwise", [x, cut], "eltwise_param { operation: SUM }")
    words = f"num_output: {classes} kernel_size: 16 stride: 8 bias_term: false"
    x = net.add("upscore8", "Deconvolution", x, f"convolution_param {{ {words} }}")
    net.blobs["upscore8"] = [net.normal(classes, classes, 16, 16, fan=classes * 4)]
    net.add("score", "Crop", [x, "data"], "crop_param { axis: 2 offset: 31 }")
    return net


def crnn(width: int = 100, channels: int = 64, hidden: int = 256, letters: int = 37) -> Net:
    """A text recognizer after CRNN (Shi et al., 2015): convolutions, columns as steps, two LSTM layers."""
    net = Net("CRNN")
    x = net.input("data", 1, 1, 32, width)
    x = net.pool(net.conv(x, "conv1", channels, 3, 1, 1), "pool1", 2, 2)
    x = net.pool(net.conv(x, "conv2", 2 * channels, 3, 1, 1), "pool2", 2, 2)
    x = net.conv(x, "conv3", 4 * channels, 3, 1, 1)
    x = net.conv(x, "conv4", 4 * channels, 3, 1, 1)
    tall = "pooling_param { pool: MAX kernel_h: 2 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1 }"
    x = net.add("pool3", "Pooling", x, tall)
    x = net.norm(net.conv(x, "conv5", 8 * channels, 3, 1, 1), "5")
    x = net.norm(net.conv(x, "conv6", 8 * channels, 3, 1, 1), "6")
    x = net.add("pool4", "Pooling", x, tall)
    x = net.conv(x, "conv7", 8 * channels, 2)
    x = net.add("columns", "Permute", x, "permute_param { order: 3 order: 0 order: 1 order: 2 }")
    steps = (width // 2 + width % 2) // 2 + ((width // 2 + width % 2) % 2) + 1
    marks = net.input("cont", steps, 1)
    x = net.lstm(x, "lstm1", marks, 8 * channels, hidden)
    x = net.lstm(x, "lstm2", marks, hidden, hidden)
    x = net.dense(x, "letters", hidden, letters, axis=2)
    net.add("prob", "Softmax", x, "softmax_param { axis: 2 }")
    return net


def lrcn(steps: int = 20, vocabulary: int = 8801, hidden: int = 1000, features: int = 1000) -> Net:
    """The captioner of LRCN (Donahue et al., 2015), for which Caffe's LSTM was written."""
    net = Net("LRCN")
    marks, words = net.input("cont_sentence", steps, 1), net.input("input_sentence", steps, 1)
    image = net.input("image_features", 1, features)
    p = f"embed_param {{ bias_term: false input_dim: {vocabulary} num_output: {hidden} }}"
    x = net.add("embedding", "Embed", words, p)
    net.blobs["embedding"] = [net.normal(vocabulary, hidden, fan=2)]
    x = net.lstm(x, "lstm1", marks, hidden, hidden)
    x = net.lstm(x, "lstm2", marks, hidden, hidden, static=image, size=features)
    x = net.dense(x, "predict", hidden, vocabulary, axis=2)
    net.add("probs", "Softmax", x, "softmax_param { axis: 2 }")
    return net


NETS: dict[str, Callable[[], Net]] = {
    "squeezenet": squeezenet,
    "resnet50": resnet50,
    "mobilenet_ssd": mobilenet_ssd,
    "fcn8s": lambda: fcn8s(width=16, dense=256),
    "crnn": crnn,
    "lrcn": lrcn,
}
SMALL: dict[str, Callable[[], Net]] = {
    "squeezenet": lambda: squeezenet(115),
    "resnet50": lambda: resnet50(97, 8),
    "mobilenet_ssd": lambda: mobilenet_ssd(160, 6, 8),
    "fcn8s": lambda: fcn8s(64, 4, 16, 5),
    "crnn": lambda: crnn(60, 8, 16),
    "lrcn": lambda: lrcn(6, 50, 24, 20),
}
"""The same networks with fewer channels and pixels."""


def feeds(name: str) -> dict[str, Any]:
    """What the small network of this name is asked with."""
    net = SMALL[name]()
    found = {}
    for number, (blob, shape) in enumerate(net.inputs.items()):
        if blob.startswith("cont"):
            found[blob] = np.array([float(step % 4 > 0) for step in range(shape[0])], np.float32).reshape(shape)
        elif blob == "input_sentence":
            found[blob] = (np.arange(shape[0]) * 7 % 50).astype(np.float32).reshape(shape)
        else:
            found[blob] = np.random.default_rng(number).standard_normal(shape).astype(np.float32)
    return found


if __name__ == "__main__":
    for chosen in sys.argv[2:] or NETS:
        NETS[chosen]().write(Path(sys.argv[1]) / chosen)
