"""Keras networks with random weights, converted by tf2onnx: NHWC, padding apart from Conv, einsum, loops of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx

from .store import Feeds, add, image, normal, tokens

K = tf.keras
L = K.layers


def _lively(net: Any) -> Any:
    """With statistics of norms that are not the neutral ones."""
    random = np.random.default_rng(0)
    for weight in net.weights:
        low = {"moving_mean": -0.3, "moving_variance": 0.5, "gamma": 0.7, "beta": -0.2}.get(weight.name)
        if low is not None:
            weight.assign(random.uniform(low, low + 0.5, weight.shape).astype(np.float32))
    return net


def _write(
    build: Callable[[], Any], feeds: Callable[[], Feeds], opset: int, batch: int | None
) -> Callable[[Path], Feeds]:
    def write(path: Path) -> Feeds:
        K.utils.set_random_seed(0)
        net, given = _lively(build()), feeds()
        kinds = tuple(tf.TensorSpec((batch, *value.shape[1:]), value.dtype, name=name) for name, value in given.items())
        call = tf.function(lambda *inputs: net(inputs[0] if len(inputs) == 1 else list(inputs), training=False))
        tf2onnx.convert.from_function(call, kinds, opset=opset, output_path=str(path))
        return given

    return write


def _application(name: str, side: int, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(K.applications, name)(
        weights=None, input_shape=(side, side, 3), include_top=False, pooling="avg", **options
    )


def _picture(side: int) -> Callable[[], Feeds]:
    return lambda: {"image": np.ascontiguousarray(image(2, 3, side, side).transpose(0, 2, 3, 1))}


def _attention() -> Any:
    words = L.Input((16,), dtype="int32")
    x = L.Embedding(500, 48)(words)
    for _ in range(2):
        h = L.MultiHeadAttention(4, 12)(L.LayerNormalization(epsilon=1e-6)(x), L.LayerNormalization(epsilon=1e-6)(x))
        x = x + h
        h = L.Dense(96, activation="gelu")(L.LayerNormalization()(x))
        x = x + L.Dense(48)(h)
    return K.Model(words, L.Dense(5, activation="softmax")(L.GlobalAveragePooling1D()(x)))


def _recurrent(kind: Any) -> Any:
    x = given = L.Input((12, 20))
    x = L.Conv1D(24, 3, padding="same", activation="relu")(x)
    x = L.Bidirectional(kind(16, return_sequences=True))(x)
    x = kind(24)(x)
    return K.Model(given, L.Dense(4, activation="softmax")(x))


def _unet() -> Any:
    x = given = L.Input((64, 64, 3))
    skips = []
    for width in (16, 32, 48):
        x = L.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = L.LeakyReLU(negative_slope=0.1)(L.BatchNormalization()(x))
        skips.append(x)
        x = L.MaxPooling2D()(x)
    for width in (48, 32, 16):
        x = L.UpSampling2D(interpolation="bilinear")(x) if width != 32 else L.Conv2DTranspose(32, 3, 2, "same")(x)
        x = L.Concatenate()([x, skips.pop()])
        x = L.SeparableConv2D(width, 3, padding="same")(x)
        x = L.Activation("swish")(L.GroupNormalization(4)(x))
    return K.Model(given, L.Conv2D(2, 1, activation="sigmoid")(x))


def _enlarge() -> Any:
    x = given = L.Input((24, 24, 3))
    for _ in range(3):
        h = L.PReLU(shared_axes=[1, 2])(L.Conv2D(12, 3, padding="same")(x))
        x = L.Concatenate()([x, h]) if _ % 2 else h
    x = L.Lambda(lambda v: tf.nn.depth_to_space(v, 2))(L.Conv2D(12, 3, padding="same")(x))
    low = L.Lambda(lambda v: tf.image.resize(v, (48, 48), method="bicubic"))(given)
    return K.Model(given, L.ReLU(max_value=1.0)(x + low))


def _tabular() -> Any:
    a, b = L.Input((6,)), L.Input((3,), dtype="int32")
    wide = [L.Normalization(mean=np.arange(6.0), variance=np.arange(1.0, 7.0))(a), L.Flatten()(L.Embedding(40, 8)(b))]
    x = L.Concatenate()(wide)
    for width in (32, 16):
        x = L.Dropout(0.1)(L.BatchNormalization()(L.Dense(width, activation="selu")(x)))
    return K.Model([a, b], L.Dense(1)(x))


NETS: list[tuple[str, str, Callable[[], Any], Callable[[], Feeds]]] = [
    ("mobilenetv3", "CNN, HardSwish, SE", _application("MobileNetV3Small", 96), _picture(96)),
    ("mobilenetv2", "CNN, ReLU6", _application("MobileNetV2", 96, alpha=0.35), _picture(96)),
    ("mobilenet", "CNN, ReLU6", _application("MobileNet", 64, alpha=0.25), _picture(64)),
    ("efficientnetb0", "CNN, SiLU, SE", _application("EfficientNetB0", 64), _picture(64)),
    ("efficientnetv2", "CNN, SiLU, SE", _application("EfficientNetV2B0", 64), _picture(64)),
    ("densenet", "CNN, Concat", _application("DenseNet121", 64), _picture(64)),
    ("nasnet", "CNN, cells", _application("NASNetMobile", 96), _picture(96)),
    ("resnet50v2", "CNN, pre-activation", _application("ResNet50V2", 64), _picture(64)),
    ("xception", "CNN, separable", _application("Xception", 96), _picture(96)),
    ("attention", "encoder", _attention, lambda: {"words": tokens(2, 16, vocabulary=500).astype(np.int32)}),
    ("lstm", "recurrent", lambda: _recurrent(L.LSTM), lambda: {"sound": normal(2, 12, 20)}),
    ("gru", "recurrent", lambda: _recurrent(L.GRU), lambda: {"sound": normal(2, 12, 20)}),
    ("unet", "segmentation, GroupNorm", _unet, _picture(64)),
    ("enlarge", "super-resolution", _enlarge, _picture(24)),
    ("tabular", "tabular", _tabular, lambda: {"a": normal(4, 6), "b": tokens(4, 3, vocabulary=40).astype(np.int32)}),
]
for name, family, build, feeds in NETS:
    for opset, batch in (
        ((13, None), (17, 2)) if name in ("attention", "lstm", "unet", "mobilenetv2") else ((17, None),)
    ):
        free = "-dyn" if batch is None else ""
        write = _write(build, feeds, opset, batch)
        add(f"keras-{name}-{opset}{free}", family, f"tf2onnx {opset}{free}", write)
