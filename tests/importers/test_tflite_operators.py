# ruff: noqa: E501  (an operator a line)
"""Each operator of TensorFlow Lite against its interpreter: `pytest -m heavy -n 0 tests/importers`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphopt_importers.tflite import TFLite

from graphopt.importer import Imported, ImportRequest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'graphopt[tensorflow]'")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'graphopt[tflite]'")

pytestmark = pytest.mark.heavy
RANDOM = np.random.default_rng(0)
IMAGE = (2, 9, 8, 6)


def weights(*shape: int) -> Any:
    return tf.constant(RANDOM.normal(0, 0.5, shape).astype("float32"))


CASES: dict[str, tuple[Callable[..., Any], Sequence[tuple[int, ...]]]] = {
    "conv same stride 2": (lambda x: tf.nn.conv2d(x, weights(3, 3, 6, 4), 2, "SAME"), [IMAGE]),
    "conv valid relu6": (lambda x: tf.nn.relu6(tf.nn.conv2d(x, weights(2, 3, 6, 4), 1, "VALID") + weights(4)), [IMAGE]),
    "conv dilated": (lambda x: tf.nn.conv2d(x, weights(3, 3, 6, 4), 1, "SAME", dilations=2), [IMAGE]),
    "conv groups": (lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 9), 1, "SAME"), [IMAGE]),
    "depthwise": (lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 6, 1), [1, 2, 2, 1], "SAME"), [IMAGE]),
    "depthwise multiplier": (lambda x: tf.nn.depthwise_conv2d(x, weights(3, 2, 6, 3), [1, 1, 1, 1], "VALID"), [IMAGE]),
    "conv 3d": (lambda x: tf.nn.conv3d(x, weights(2, 3, 3, 2, 4), [1, 1, 2, 1, 1], "SAME"), [(1, 4, 6, 5, 2)]),
    "transposed conv same": (
        lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 5, 6), (2, 18, 16, 5), 2, "SAME"), [IMAGE],
    ),
    "transposed conv odd": (
        lambda x: tf.nn.conv2d_transpose(x, weights(4, 3, 5, 6), (2, 17, 15, 5), 2, "SAME"), [IMAGE],
    ),
    "transposed conv valid": (
        lambda x: tf.nn.conv2d_transpose(x, weights(3, 2, 5, 6), (2, 19, 16, 5), 2, "VALID"), [IMAGE],
    ),
    "average pool": (lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), [IMAGE]),
    "max pool": (lambda x: tf.nn.max_pool2d(x, [3, 2], [2, 1], "VALID"), [IMAGE]),
    "pools in a row": (lambda x: tf.nn.max_pool2d(tf.nn.relu(tf.nn.avg_pool2d(x, 2, 1, "SAME")), 2, 2, "SAME"), [IMAGE]),
    "bilinear half pixels": (lambda x: tf.image.resize(x, (13, 20)), [IMAGE]),
    "bilinear smaller": (lambda x: tf.image.resize(x, (4, 3)), [IMAGE]),
    "bilinear corners": (lambda x: tf.compat.v1.image.resize_bilinear(x, (13, 20), align_corners=True), [IMAGE]),
    "bilinear old": (lambda x: tf.compat.v1.image.resize_bilinear(x, (13, 20)), [IMAGE]),
    "nearest half pixels": (lambda x: tf.image.resize(x, (13, 21), "nearest"), [IMAGE]),
    "nearest old": (lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (13, 5)), [IMAGE]),
    "nearest corners": (
        lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (13, 20), align_corners=True), [IMAGE],
    ),
    "depth to space": (lambda x: tf.nn.depth_to_space(x, 2), [(1, 4, 5, 8)]),
    "space to depth": (lambda x: tf.nn.space_to_depth(x, 2), [(1, 4, 6, 3)]),
    "space to batch": (lambda x: tf.space_to_batch_nd(x, [2, 3], [[1, 0], [0, 1]]), [(2, 9, 8, 3)]),
    "batch to space": (lambda x: tf.batch_to_space(x, [2, 3], [[1, 0], [0, 1]]), [(12, 5, 3, 2)]),
    "lrn": (lambda x: tf.nn.lrn(x, 2, 1.5, 0.3, 0.75), [IMAGE]),
    "l2 normalize": (lambda x: tf.math.l2_normalize(x, -1), [IMAGE]),
    "image and vector": (lambda x: tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME") * weights(4) + weights(8, 1), [IMAGE]),
    "image and image": (lambda x, y: tf.nn.conv2d(x, weights(1, 1, 6, 6), 1, "SAME") - y, [IMAGE, IMAGE]),
    "image and row": (lambda x, y: tf.nn.conv2d(x, weights(1, 1, 6, 6), 1, "SAME") / (y * y + 1.0), [IMAGE, (6,)]),
    "gate": (
        lambda x: x * tf.sigmoid(tf.nn.conv2d(tf.reduce_mean(x, [1, 2], keepdims=True), weights(1, 1, 6, 6), 1, "SAME")),
        [IMAGE],
    ),
    "conv then transpose": (lambda x: tf.transpose(tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME"), [0, 3, 1, 2]), [IMAGE]),
    "conv then flatten": (lambda x: tf.reshape(tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME"), (2, -1)), [IMAGE]),
    "conv then slices": (
        lambda x: tf.split(tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME"), [1, 3], -1), [IMAGE],
    ),
    "conv then pad": (
        lambda x: tf.pad(tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME"), [[0, 0], [1, 2], [0, 1], [3, 0]]), [IMAGE],
    ),
    "pad with": (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [3, 0]], constant_values=2.5), [IMAGE]),
    "mirror pad": (lambda x: tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], "REFLECT"), [IMAGE]),
    "concat images": (
        lambda x: tf.concat([tf.nn.conv2d(x, weights(1, 1, 6, 4), 1, "SAME"), tf.nn.relu(tf.nn.max_pool2d(x, 1, 1, "SAME"))], -1),
        [IMAGE],
    ),
    "dense": (lambda x: tf.nn.relu(tf.matmul(x, weights(7, 5)) + weights(5)), [(3, 7)]),
    "dense of rank 3": (lambda x: tf.tensordot(x, weights(7, 5), 1), [(2, 3, 7)]),
    "matmul": (lambda x, y: tf.matmul(x, y, transpose_b=True), [(2, 3, 7), (2, 4, 7)]),
    "matmul adjoint": (lambda x, y: tf.matmul(x, y, transpose_a=True), [(2, 7, 3), (2, 7, 4)]),
    "softmax": (lambda x: tf.nn.softmax(x), [(3, 7)]),
    "log softmax": (lambda x: tf.nn.log_softmax(x), [(3, 7)]),
    "means": (lambda x: (tf.reduce_mean(x, [1, 2]), tf.reduce_mean(x, -1), tf.reduce_sum(x, 1, keepdims=True)), [IMAGE]),
    "extremes": (lambda x: (tf.reduce_max(x, [1]), tf.reduce_min(x, [0, 2]), tf.reduce_prod(x, -1)), [(2, 3, 4)]),
    "any and all": (lambda x: (tf.reduce_any(x > 1, 1), tf.reduce_all(x > -1, [0])), [(3, 4)]),
    "unary": (
        lambda x: (tf.abs(x), tf.math.ceil(x), tf.cos(x), tf.exp(x), tf.floor(x), -x, tf.round(x), tf.sign(x), tf.sin(x)),
        [(3, 5)],
    ),
    "unary of positive": (lambda x: (tf.sqrt(x * x + 0.1), tf.math.rsqrt(x * x + 1.0), tf.math.log(x * x + 0.5)), [(3, 5)]),
    "activations": (
        lambda x: (tf.tanh(x), tf.sigmoid(x), tf.nn.relu(x), tf.nn.elu(x), tf.nn.leaky_relu(x, 0.3), tf.nn.relu6(x * 5)),
        [(3, 5)],
    ),
    "gelu": (lambda x: tf.nn.gelu(x, approximate=True), [(3, 5)]),
    "hard swish": (lambda x: x * tf.nn.relu6(x + 3.0) * (1 / 6), [(3, 5)]),
    "binary": (
        lambda x, y: (x + y, x - y, x * y, x / (y * y + 1.0), tf.maximum(x, y), tf.minimum(x, y), tf.math.squared_difference(x, y)),
        [(3, 5), (5,)],
    ),
    "power": (lambda x, y: tf.pow(tf.abs(x) + 0.5, y), [(3, 5), (5,)]),
    "floor division": (lambda x, y: (tf.math.floordiv(x, y + 3.0), tf.math.floormod(x * 4, y + 3.0)), [(3, 5), (5,)]),
    "integer division": (
        lambda x: (tf.cast(x * 9, tf.int32) // 4, tf.math.floormod(tf.cast(x * 9, tf.int32), -4)), [(3, 5)],
    ),
    "comparisons": (lambda x, y: (x < y, x <= y, x > y, x >= y, tf.equal(x, x), tf.not_equal(x, y)), [(3, 5), (5,)]),
    "logic": (lambda x, y: tf.logical_or(tf.logical_and(x > 0, y > 0), tf.logical_not(x > 1)), [(3, 5), (3, 5)]),
    "select": (lambda x, y: tf.where(x > y, x, y * 2), [(3, 5), (5,)]),
    "reshapes": (lambda x: (tf.reshape(x, (5, -1)), tf.squeeze(tf.expand_dims(x, 1)), tf.transpose(x, [2, 0, 1])), [(2, 5, 3)]),
    "stack": (lambda x, y: (tf.stack([x, y], 1), *tf.unstack(x, axis=1)), [(2, 3), (2, 3)]),
    "splits": (lambda x: tf.split(x, 3, 1), [(2, 6)]),
    "slices": (lambda x: (tf.slice(x, [0, 1, 0], [2, -1, 2]), x[:, 1:4:2], x[::-1], x[..., -1], x[:, None, 2]), [(3, 5, 4)]),
    "strided slices": (lambda x: (x[1], x[-2:, :3], x[:, ::-2, 1:], x[..., 1:2, tf.newaxis], x[0, 1, 2]), [(3, 5, 4)]),
    "gathers": (
        lambda x: (tf.gather(x, [2, 0, 0]), tf.gather(x, [1, 3], axis=1), tf.gather_nd(x, [[0, 1], [2, 4]])), [(3, 5, 4)],
    ),
    "batched gather": (lambda x: tf.gather(x, tf.constant([[1, 0], [3, 3], [2, 4]]), batch_dims=1, axis=1), [(3, 5, 4)]),
    "scatter": (lambda x: tf.scatter_nd([[1], [3], [1]], x, [6, 4]), [(3, 4)]),
    "tile": (lambda x: (tf.tile(x, [2, 1, 3]), tf.broadcast_to(x, (4, 3, 5, 2))), [(3, 5, 2)]),
    "reverse": (lambda x: tf.reverse(x, [1, 2]), [(3, 5, 2)]),
    "cumulative sums": (lambda x: (tf.cumsum(x, 1), tf.cumsum(x, 0, exclusive=True), tf.cumsum(x, 1, reverse=True)), [(3, 5)]),
    "arg": (lambda x: (tf.argmax(x, -1, tf.int32), tf.argmin(x, 0)), [(3, 5)]),
    "top k": (lambda x: tf.math.top_k(x, 3), [(3, 7)]),
    "one hot": (lambda x: tf.one_hot(tf.argmax(x, -1), 7, 2.0, -1.0), [(3, 7)]),
    "casts": (lambda x: (tf.cast(x * 3, tf.int32), tf.cast(x > 0, tf.float32), tf.cast(tf.cast(x, tf.int64), tf.float32)), [(3, 5)]),
    "if": (lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1), [(3, 5)]),
    "while": (
        lambda x: tf.while_loop(lambda i, a: i < 5, lambda i, a: (i + 1, tf.tanh(a + x)), [tf.constant(0), x])[1], [(3, 5)],
    ),
    "prelu": (lambda x: tf.nn.relu(x) - weights(5) * tf.nn.relu(-x), [(3, 5)]),
    "sum of many": (lambda x, y: tf.add_n([x, y, x]), [(3, 5), (3, 5)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operator(case: str, tmp_path: Path) -> None:
    function, shapes = CASES[case]
    specs = [tf.TensorSpec(shape, tf.float32, f"x{number}") for number, shape in enumerate(shapes)]
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    (tmp_path / "case.tflite").write_bytes(converter.convert())
    close(
        tmp_path / "case.tflite",
        tmp_path,
        {f"x{n}": RANDOM.normal(0, 1.2, s).astype("float32") for n, s in enumerate(shapes)},
    )


def close(source: Path, folder: Path, feeds: dict[str, Any]) -> Imported:
    """Imports the file, and compares it with the interpreter."""
    target = folder / "onnx"
    target.mkdir()
    found = TFLite().convert(ImportRequest(str(source), target, inputs=feeds))
    onnx.checker.check_model(onnx.load(found.model), full_check=True)
    assert found.reference is not None
    expected = found.reference(found.inputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    actual = onnxruntime.InferenceSession(found.model, options).run(None, dict(found.inputs))
    for one, other in zip(expected, actual, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-6 * max(1.0, float(np.abs(one).max(initial=0))))
        else:
            np.testing.assert_array_equal(other, one)
    return found
