"""Real architectures in Keras, with seeded weights and batch statistics that keep activations near unit variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops


def _application(name: str, size: int) -> Any:
    image = keras.Input((size, size, 3), name="image")
    kind = getattr(keras.applications, name)
    return kind(input_tensor=image, weights=None, classes=100, classifier_activation=None)


def mobilenet_v2() -> Any:
    return _application("MobileNetV2", 96)


def mobilenet_v3() -> Any:
    return _application("MobileNetV3Small", 96)


def resnet50() -> Any:
    return _application("ResNet50", 64)


def efficientnet_b0() -> Any:
    return _application("EfficientNetB0", 64)


def unet() -> Any:
    """U-Net (Ronneberger 2015) with transposed convolutions on the one side and resizing on the other."""
    image = keras.Input((64, 64, 3), name="image")
    x, skips = image, []
    for width in (16, 32, 64):
        x = _block(_block(x, width), width)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = _block(x, 128)
    for number, width in enumerate((64, 32, 16)):
        x = L.Conv2DTranspose(width, 2, 2)(x) if number % 2 else L.UpSampling2D(interpolation="bilinear")(x)
        x = _block(L.Concatenate()([x, skips.pop()]), width)
    return keras.Model(image, L.Conv2D(4, 1, name="mask")(x), name="unet")


def deeplab() -> Any:
    """DeepLabV3+ (Chen 2018): atrous spatial pyramid, image pooling, low-level skip."""
    image = keras.Input((64, 64, 3), name="image")
    low = _block(image, 24, strides=2)
    x = _separable(_separable(low, 48, strides=2), 64, strides=2)
    x = _separable(x, 64, dilation=2)
    branches = [_block(x, 32, 1), *(_separable(x, 32, dilation=rate) for rate in (2, 4))]
    pooled = L.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = L.UpSampling2D(8, interpolation="bilinear")(L.Conv2D(32, 1, activation="relu")(pooled))
    x = _block(L.Concatenate()([*branches, pooled]), 32, 1)
    x = L.UpSampling2D(4, interpolation="bilinear")(x)
    x = _block(L.Concatenate()([x, _block(low, 8, 1)]), 32)
    return keras.Model(image, L.Resizing(64, 64)(L.Conv2D(5, 1)(x)), name="deeplab")


def ssd() -> Any:
    """SSD (Liu 2016): boxes and scores of every anchor of three feature maps."""
    image = keras.Input((64, 64, 3), name="image")
    x = _block(_block(image, 16, strides=2), 32, strides=2)
    boxes, scores = [], []
    for width in (48, 64, 64):
        x = _separable(x, width, strides=2)
        boxes.append(L.Reshape((-1, 4))(L.Conv2D(4 * 4, 3, padding="same")(x)))
        scores.append(L.Reshape((-1, 6))(L.Conv2D(4 * 6, 3, padding="same")(x)))
    found = {
        "boxes": L.Concatenate(axis=1, name="all_boxes")(boxes),
        "scores": L.Activation("sigmoid")(L.Concatenate(axis=1)(scores)),
    }
    return keras.Model(image, found, name="ssd")


def lstm() -> Any:
    frames = keras.Input((20, 8), name="frames")
    x = L.LSTM(24, return_sequences=True)(frames)
    x = L.Bidirectional(L.LSTM(16))(x)
    return keras.Model(frames, L.Dense(5, name="logits")(x), name="lstm")


def gru() -> Any:
    frames = keras.Input((20, 8), name="frames")
    x = L.GRU(24, return_sequences=True)(frames)
    x = L.GRU(16, reset_after=False)(x)
    return keras.Model(frames, L.Dense(5, name="logits")(x), name="gru")


def transformer() -> Any:
    """A BERT-like encoder: learned positions, multi-head attention, GELU."""
    tokens = keras.Input((16,), dtype="int32", name="tokens")
    x = L.Embedding(100, 32)(tokens) + L.Embedding(16, 32)(ops.arange(16))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 8)(y, y)
        y = L.Dense(64, activation="gelu")(L.LayerNormalization()(x))
        x = x + L.Dense(32)(y)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(tokens, L.Dense(5, name="logits")(x), name="transformer")


def temporal() -> Any:
    """A temporal convolutional network (Bai 2018): causal dilated convolutions over a signal."""
    signal = keras.Input((64, 4), name="signal")
    x = signal
    for rate in (1, 2, 4):
        y = L.Conv1D(16, 3, padding="causal", dilation_rate=rate)(x)
        x = L.LayerNormalization()(L.LeakyReLU()(y) + L.Conv1D(16, 1)(x))
    x = L.MaxPooling1D(2)(x)
    return keras.Model(signal, L.Dense(3, name="logits")(L.Flatten()(x)), name="temporal")


def scaled(build: Callable[[], Any], seed: int = 0) -> Any:
    """The network with batch statistics of its own activations, and biases that are not zero."""
    keras.utils.set_random_seed(seed)
    model = build()
    random = np.random.default_rng(seed)
    norms = [one for one in model._flatten_layers() if isinstance(one, L.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
        size = layer.gamma.shape
        layer.gamma.assign(random.uniform(0.8, 1.2, size) * (0.2 if _ends_branch(layer) else 1.0))
        layer.beta.assign(random.normal(0.7, 0.3, size))
    for weight in model.trainable_weights:
        if weight.name == "bias":
            weight.assign(random.normal(0, 0.1, weight.shape))
    if norms:
        model(samples(model, 32, seed), training=True)
        for layer in norms:  # a channel that hardly varies would be blown up, and its rounding with it
            spread = layer.moving_variance.numpy()
            layer.moving_variance.assign(np.maximum(spread, spread.mean() / 2))
    return model


def _ends_branch(layer: Any) -> bool:
    """Whether a sum reads it: a deep network of unscaled random branches is chaotic, and amplifies every rounding."""
    is_shortcut = layer.name.endswith("_0_bn")
    return not is_shortcut and any(isinstance(node.operation, L.Add) for node in layer._outbound_nodes)


def samples(model: Any, count: int, seed: int = 0) -> Any:
    """Inputs like those that the network is for: images in [0, 255] where it rescales them itself."""
    random = np.random.default_rng(seed)
    port = model.inputs[0]
    shape = (count, *port.shape[1:])
    if "int" in port.dtype:
        return random.integers(0, 100, shape).astype(port.dtype)
    if any(isinstance(one, L.Rescaling) for one in model._flatten_layers()):
        return random.uniform(0, 255, shape).astype("float32")
    return random.normal(0, 1, shape).astype("float32")


def _block(x: Any, width: int, kernel: int = 3, strides: int = 1) -> Any:
    x = L.Conv2D(width, kernel, strides, padding="same", use_bias=False)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def _separable(x: Any, width: int, strides: int = 1, dilation: int = 1) -> Any:
    x = L.DepthwiseConv2D(3, strides, padding="same", dilation_rate=dilation, use_bias=False)(x)
    x = L.ReLU(6.0)(L.BatchNormalization()(x))
    return _block(x, width, 1)
