"""Every first-party layer without a GPU: function, spellings and shapes are what the body means in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.conformance.check import check_layer
from graphopt.registry import Registry
from graphopt.testing import model

LAYERS = [layer for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_function_spellings_and_shapes_are_what_the_body_means(layer):
    outcome = check_layer(layer, gpu=False, quick=True, cuda=False)
    assert outcome.findings
    assert outcome.ok, [f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures[:10]]


CORPUS = Path(os.environ.get("GRAPHOPT_CORPUS", "corpus"))
FOUND = {
    "llama-ts17-dyn": {"FusedAddRMSNorm", "FusedRMSNorm", "FusedRotaryHalf", "FusedSwiGLU"},
    "llama-dy18": {"FusedAddRMSNorm", "FusedRMSNorm", "FusedRotaryHalf", "FusedSwiGLU"},
    "gpt-neox-ts17-dyn": {"FusedAddLayerNorm", "FusedRotaryHalf"},
    "deformable-detr-dy18": {"FusedAddLayerNorm", "FusedDeformableAttention"},
    "deformable-detr-ts17": {"FusedAddLayerNorm", "FusedDeformableAttention"},
    "bert-fp16": {"FusedAddLayerNorm"},
    "vit-fp16": {"FusedAddLayerNorm"},
    "llama-dy23": {"FusedAddRMSNorm", "FusedRMSNorm", "FusedRotaryHalf", "FusedSwiGLU"},
    "modernbert-dy18": {"FusedAddLayerNorm", "FusedGeGLUSplit", "FusedRotaryHalf"},
    "modernbert-ts17": {"FusedAddLayerNorm", "FusedGeGLUSplit", "FusedRotaryHalf"},
    "eva02-ts17": {"FusedAddLayerNorm", "FusedRotaryPairs", "FusedSwiGLUSplit"},
    "eva02-dy18": {"FusedAddLayerNorm", "FusedRotaryPairs", "FusedSwiGLUSplit"},
    "gemma-dy18": {"FusedGeGLU", "FusedRMSNorm", "FusedRotaryHalf"},
    "gemma-ts17": {"FusedGeGLU", "FusedRMSNorm", "FusedRotaryHalf"},
    "phi3-dy18": {"FusedRMSNorm", "FusedRotaryHalf", "FusedSwiGLUSplit"},
    "bert-dy18": {"FusedAddLayerNorm"},
    "vit-ts17-dyn": {"FusedAddLayerNorm"},
}


@pytest.mark.parametrize("name", FOUND)
def test_layers_are_found_in_what_exporters_write_after_the_full_pipeline(name):
    path = CORPUS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"the corpus has no {name}")
    result = graphopt.optimize(path, lower="always", verify="none")
    calls = {node.op_type.split("_")[0] for node in result.model.graph.node if node.domain == "graphopt"}
    assert calls >= FOUND[name]
    assert not result.report.warnings
    onnx.checker.check_model(result.model, full_check=True)


OPERATORS = {
    "FusedNonZero": ("g (float[N,3] x) => (int64[2,M] y) { a = Relu(x) y = NonZero(a) }", {}),
    "FusedCompress": (
        "g (float[4,N] x, bool[4] k) => (float[M,N] y) { a = Relu(x) y = Compress<axis=0>(a, k) }", {}
    ),
    "FusedGridSample3D": (
        "g (float[N,2,3,4,5] x, float[N,2,3,4,3] p) => (float[N,2,2,3,4] y) {"
        ' y = GridSample<mode="linear">(x, p) }', {}
    ),
    "FusedMaxUnpool": (
        "g (float[1,2,3,4] x, int64[1,2,3,4] i) => (float[1,2,6,8] y) {"
        " y = MaxUnpool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0]>(x, i) }", {}
    ),
    "FusedCol2Im": (
        "g (float[N,12,16] x) => (float[N,3,5,5] y) {"
        " y = Col2Im<dilations=[1,1], pads=[0,0,0,0], strides=[1,1]>(x, s, b) }",
        {"s": np.array([5, 5]), "b": np.array([2, 2])},
    ),
    "FusedNonMaxSuppression": (
        "g (float[1,N,4] b, float[1,2,N] s) => (int64[M,3] y) { y = NonMaxSuppression(b, s, m, i, l) }",
        {"m": np.array([5]), "i": np.array([0.5], np.float32), "l": np.array([0.1], np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_that_tensorrt_lacks_become_layers(name):
    text, weights = OPERATORS[name]
    result = graphopt.optimize(model(text, opset=20, weights=weights), lower="always")
    assert result.status == "ok"
    assert name in {node.op_type.split("_")[0] for node in result.model.graph.node}
