"""The kernels of the first-party layers, through TensorRT's life cycle, against the float64 truth of their bodies."""

from __future__ import annotations

import pytest

from graphopt.conformance.check import check_layer
from graphopt.registry import Registry

LAYERS = [layer for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")]


@pytest.mark.gpu
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_kernel_computes_its_body_in_every_dtype_and_shape(layer):
    outcome = check_layer(layer, gpu=True)
    assert outcome.findings
    assert outcome.ok, [f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures[:10]]
