"""Layers for what TensorRT lacks are found, after the full default pipeline, in the spellings that exporters write."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.testing import model

I64, F32 = np.int64, np.float32
COL2IM = {"image": np.array([5, 7]), "block": np.array([2, 3])}
NMS = {"most": np.array([3]), "iou": np.array([0.5], F32), "score": np.array([0.1], F32)}
SCALARS = {"most": np.array(2**63 - 1), "iou": np.array(0.5, F32)}

# name -> (layer, opset, model, weights)
SPELLINGS = {
    "MaxUnpool, named strides": (
        "FusedMaxUnpool", 17,
        "g (float[N,3,5,7] x, int64[N,3,5,7] i) => (float[N,3,10,14] y) "
        "{ y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, i) }", {},
    ),
    "MaxUnpool, default strides": (
        "FusedMaxUnpool", 11,
        "g (float[2,3,5,7] x, int64[2,3,5,7] i) => (float[2,3,6,8] y) { y = MaxUnpool<kernel_shape=[2,2]>(x, i) }", {},
    ),
    "torch.nn.Fold, attributes left out": (
        "FusedCol2Im", 18, "g (float[N,18,20] x) => (float[N,3,5,7] y) { y = Col2Im(x, image, block) }", COL2IM,
    ),
    "torch.nn.Fold, attributes written": (
        "FusedCol2Im", 21,
        "g (float[N,18,20] x) => (float[N,3,5,7] y) "
        "{ y = Col2Im<dilations=[1,1], pads=[0,0,0,0], strides=[1,1]>(x, image, block) }", COL2IM,
    ),
    "torch.nonzero": (
        "FusedNonZero", 17, "g (float[N,5] x) => (int64[S,2] y) { n = NonZero(x) y = Transpose<perm=[1,0]>(n) }", {},
    ),
    "tf.where": (
        "FusedNonZero", 13,
        "g (float[N,5] x) => (int64[S,2] y) { b = Greater(x, z) n = NonZero(b) y = Transpose<perm=[1,0]>(n) }",
        {"z": np.array(0, F32)},
    ),
    "Compress": (
        "FusedCompress", 17, "g (float[7,5] x, bool[7] c) => (float[S,5] y) { y = Compress<axis=0>(x, c) }", {},
    ),
    "Compress, flat": (
        "FusedCompress", 17, "g (float[7,5] x, bool[35] c) => (float[S] y) { y = Compress(x, c) }", {},
    ),
    "tf.boolean_mask": (
        "FusedCompress", 13,
        "g (float[7,5] x, bool[7] c) => (float[S,5] y) "
        "{ n = NonZero(c) t = Transpose<perm=[1,0]>(n) s = Squeeze(t, one) y = Gather(x, s) }", {"one": np.array([1])},
    ),
    "x[mask] by index": (
        "FusedCompress", 13,
        "g (float[7,5] x, bool[7] c) => (float[S,5] y) { n = NonZero(c) s = Reshape(n, r) y = Gather<axis=0>(x, s) }",
        {"r": np.array([-1])},
    ),
    "torch.unique": (
        "FusedUnique", 17,
        "g (int64[N] x) => (int64[S] y, int64[N] v, int64[S] c) { y, i, v, c = Unique<sorted=1>(x) }", {},
    ),
    "np.unique": ("FusedUnique", 11, "g (float[4,5] x) => (float[S] y) { y, i, v, c = Unique(x) }", {}),
    "torchvision.ops.nms": (
        "FusedNonMaxSuppression", 17,
        "g (float[9,4] b, float[9] s) => (int64[K] y) { bb = Unsqueeze(b, z) ss = Unsqueeze(s, zz) "
        "n = NonMaxSuppression(bb, ss, most, iou) g = Gather<axis=1>(n, two) y = Squeeze(g, one) }",
        {**SCALARS, "z": np.array([0]), "zz": np.array([0, 1]), "two": np.array([2]), "one": np.array([1])},
    ),
    "tf.image.combined_non_max_suppression": (
        "FusedNonMaxSuppression", 13,
        "g (float[2,9,4] b, float[2,3,9] s) => (int64[K,3] y) "
        "{ y = NonMaxSuppression<center_point_box=1>(b, s, most, iou, score) }", NMS,
    ),
    "torch.fft.rfft, opset 17": (
        "FusedDFT", 17, "g (float[N,16,1] x) => (float[N,9,2] y) { y = DFT<axis=1, onesided=1>(x) }", {},
    ),
    "torch.fft.fft, opset 20": (
        "FusedDFT", 20, "g (float[N,16,2] x) => (float[N,16,2] y) { y = DFT(x, , axis) }", {"axis": np.array(-2)},
    ),
    "torch.fft.ifft, opset 20, axis left out": (
        "FusedDFT", 20, "g (float[N,16,2] x) => (float[N,16,2] y) { y = DFT<inverse=1>(x) }", {},
    ),
    "torch.stft, frame length said": (
        "FusedSTFT", 17, "g (float[2,64] x) => (float[2,13,9,2] y) { y = STFT<onesided=1>(x, step, w, n) }",
        {"step": np.array(4), "w": np.hanning(16).astype(F32), "n": np.array(16)},
    ),
    "torch.stft, real axis": (
        "FusedSTFT", 17, "g (float[2,64,1] x) => (float[2,13,9,2] y) { y = STFT(x, step, w) }",
        {"step": np.array(4), "w": np.hanning(16).astype(F32)},
    ),
    "grid_sample of five axes": (
        "FusedGridSample3D", 20,
        "g (float[N,2,3,4,5] x, float[N,2,3,4,3] p) => (float[N,2,2,3,4] y) "
        "{ y = GridSample<mode=\"linear\", padding_mode=\"border\", align_corners=1>(x, p) }", {},
    ),
    "grid_sample of five axes, defaults": (
        "FusedGridSample3D", 22,
        "g (float[1,2,3,4,5] x, float[1,2,3,4,3] p) => (float[1,2,2,3,4] y) { y = GridSample(x, p) }", {},
    ),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", SPELLINGS)
def test_layer_is_found_where_an_exporter_wrote_it(name):
    layer, opset, text, weights = SPELLINGS[name]
    source = model(text, weights=weights, opset=opset)
    result = graphopt.optimize(source, lower="always", verify="none")
    calls = [node.op_type.split("_")[0] for node in result.model.graph.node if node.domain == "graphopt"]
    assert calls == [layer]


def test_a_condition_of_unproved_length_is_left_alone():
    source = model("g (float[N,5] x, bool[M] c) => (float[S,5] y) { y = Compress<axis=0>(x, c) }", opset=17)
    result = graphopt.optimize(source, lower="always", verify="none")
    assert [node.op_type for node in result.model.graph.node] == ["Compress"]
