"""Architectures in plain TensorFlow: what SavedModels and frozen graphs hold that no Keras layer made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf


class Weights:
    """Seeded weights, scaled by what they are summed over, as variables of a module."""

    def __init__(self, module: tf.Module) -> None:
        self.random, self.module = np.random.default_rng(0), module
        module.kept = []

    def __call__(self, *shape: int) -> tf.Variable:
        fan = int(np.prod(shape[:-1])) if len(shape) > 1 else 0
        scale = np.sqrt(2 / fan) if fan else 0.1
        variable = tf.Variable(self.random.normal(0, scale, shape).astype("float32"))
        self.module.kept.append(variable)
        return variable


class Residual(tf.Module):  # type: ignore[misc]
    """A residual classifier: batch normalization in its inference form, 'SAME' strides, global mean."""

    inputs: Mapping[str, Any] = {"image": tf.TensorSpec((None, 48, 48, 3), tf.float32)}

    def __init__(self) -> None:
        super().__init__()
        w = Weights(self)
        self.stem = w(7, 7, 3, 16)
        self.blocks = []
        wide = 16
        for out, stride in ((16, 1), (32, 2), (64, 2)):
            shortcut = w(1, 1, wide, out) if stride > 1 else None
            self.blocks.append((w(3, 3, wide, out), w(out), w(3, 3, out, out), shortcut, stride))
            wide = out
        self.head = w(wide, 10)

    def __call__(self, image: Any) -> dict[str, Any]:
        x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(image, self.stem, 2, "SAME")), 3, 2, "SAME")
        for first, bias, second, shortcut, stride in self.blocks:
            y = tf.nn.conv2d(x, first, stride, "SAME")
            y, _, _ = tf.compat.v1.nn.fused_batch_norm(
                y, tf.ones_like(bias), bias, bias * 0, tf.ones_like(bias), is_training=False
            )
            y = tf.nn.conv2d(tf.nn.relu(y), second, 1, "SAME")
            x = tf.nn.relu((x if shortcut is None else tf.nn.conv2d(x, shortcut, stride, "SAME")) + 0.3 * y)
        logits = tf.matmul(tf.reduce_mean(x, [1, 2]), self.head)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}


class Segmenter(tf.Module):  # type: ignore[misc]
    """Atrous convolutions, depthwise ones, transposed ones, resizing to what the input's shape says."""

    inputs: Mapping[str, Any] = {"image": tf.TensorSpec((None, 64, 64, 3), tf.float32)}

    def __init__(self) -> None:
        super().__init__()
        w = Weights(self)
        self.stem, self.depthwise, self.point = w(3, 3, 3, 16), w(3, 3, 16, 1), w(1, 1, 16, 32)
        self.rates = [(rate, w(3, 3, 32, 16)) for rate in (1, 2, 4)]
        self.up, self.head = w(2, 2, 16, 48), w(1, 1, 32, 5)

    def __call__(self, image: Any) -> dict[str, Any]:
        low = tf.nn.relu6(tf.nn.conv2d(image, self.stem, 2, "SAME"))
        x = tf.nn.depthwise_conv2d(low, self.depthwise, [1, 2, 2, 1], "SAME")
        x = tf.nn.leaky_relu(tf.nn.conv2d(x, self.point, 1, "SAME"))
        x = tf.concat([tf.nn.conv2d(x, w, 1, "SAME", dilations=rate) for rate, w in self.rates], -1)
        size = tf.shape(low)
        x = tf.nn.conv2d_transpose(x, self.up, [size[0], size[1], size[2], 16], 2, "SAME")
        x = tf.nn.conv2d(tf.concat([tf.nn.relu(x), low], -1), self.head, 1, "SAME")
        return {"mask": tf.image.resize(x, tf.shape(image)[1:3])}


class Encoder(tf.Module):  # type: ignore[misc]
    """A Transformer encoder of einsums with a padding mask, over token ids of any length."""

    inputs: Mapping[str, Any] = {
        "ids": tf.TensorSpec((None, None), tf.int32),
        "mask": tf.TensorSpec((None, None), tf.int32),
    }

    def __init__(self) -> None:
        super().__init__()
        w = Weights(self)
        self.table, self.places = w(100, 32), w(64, 32)
        self.layers = [[w(32, 4, 8) for _ in range(3)] + [w(4, 8, 32), w(32, 64), w(64, 32)] for _ in range(2)]

    @staticmethod
    def norm(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-6)

    def __call__(self, ids: Any, mask: Any) -> dict[str, Any]:
        x = tf.gather(self.table, ids) + self.places[: tf.shape(ids)[1]]
        away = (1.0 - tf.cast(mask, tf.float32)[:, None, None, :]) * -1e4
        for q, k, v, o, up, down in self.layers:
            y = self.norm(x)
            q, k, v = (tf.einsum("bsd,dhk->bhsk", y, w) for w in (q, k, v))
            scores = tf.nn.softmax(tf.einsum("bhsk,bhtk->bhst", q, k) / np.sqrt(8).astype("float32") + away)
            x += tf.einsum("bhsk,hkd->bsd", tf.einsum("bhst,bhtk->bhsk", scores, v), o)
            x += tf.matmul(tf.nn.gelu(tf.matmul(self.norm(x), up), approximate=True), down)
        return {"states": self.norm(x), "pooled": tf.tanh(x[:, 0])}


class Recurrent(tf.Module):  # type: ignore[misc]
    """A gated recurrence as a loop of the graph."""

    inputs: Mapping[str, Any] = {"frames": tf.TensorSpec((None, 12, 8), tf.float32)}

    def __init__(self) -> None:
        super().__init__()
        w = Weights(self)
        self.x, self.h, self.b = w(8, 48), w(16, 48), w(48)

    def __call__(self, frames: Any) -> dict[str, Any]:
        steps = tf.transpose(frames, [1, 0, 2])

        def step(state: Any, x: Any) -> Any:
            forget, gate, value = tf.split(tf.matmul(x, self.x) + tf.matmul(state, self.h) + self.b, 3, -1)
            return tf.sigmoid(forget) * state + tf.sigmoid(gate) * tf.tanh(value)

        states = tf.scan(step, steps, tf.zeros([tf.shape(frames)[0], 16]))
        return {"states": tf.transpose(states, [1, 0, 2])}


def saved(kind: type[Any], folder: str) -> None:
    """The network as a SavedModel."""
    net = kind()
    function = tf.function(net.__call__, autograph=False)
    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in kind.inputs.items()}
    tf.saved_model.save(net, folder, signatures=function.get_concrete_function(**specs))


def frozen(kind: type[Any], path: str) -> None:
    """The network as a frozen graph; its outputs' nodes are named as its outputs."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    net = kind()

    def named(**feeds: Any) -> list[Any]:
        return [tf.identity(value, name=name) for name, value in net(**feeds).items()]

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in kind.inputs.items()}
    function = convert_variables_to_constants_v2(tf.function(named, autograph=False).get_concrete_function(**specs))
    tf.io.write_graph(function.graph, ".", path, as_text=False)
