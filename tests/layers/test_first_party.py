"""Every first-party layer without a GPU: function, spellings and shapes are what the body means in float64."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import graphopt
from graphopt.conformance.check import check_layer
from graphopt.registry import Registry

LAYERS = [layer for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_function_spellings_and_shapes_are_what_the_body_means(layer):
    outcome = check_layer(layer, gpu=False, quick=True)
    assert outcome.findings
    assert outcome.ok, [f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures[:10]]


CORPUS = Path(os.environ.get("GRAPHOPT_CORPUS", "corpus"))
FOUND = {
    "llama-ts17-dyn": {"FusedRMSNorm", "FusedSwiGLU"},
    "llama-dy23": {"FusedAddRMSNorm", "FusedRMSNorm", "FusedRotaryHalf", "FusedSwiGLU"},
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
