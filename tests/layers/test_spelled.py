"""What a kernel is measured against: every spelling of its layer, as a model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from graphopt_layers.norms import FusedRMSNorm

from graphopt.conformance.bench import calls, spelled


def test_every_spelling_is_a_model_of_the_same_numbers() -> None:
    (case,) = calls(FusedRMSNorm(), [{"x": (4, 32), "weight": (32,)}], ["float32"])
    models = dict(spelled(case))
    assert {"body", "inverse", "standard"} <= models.keys()
    assert [node.op_type for node in models["standard"].graph.node] == ["RMSNormalization"]
    feeds, found = case.arrays(), {}
    for name, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        (found[name],) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    for name, values in found.items():
        np.testing.assert_allclose(values, found["body"], rtol=1e-5, atol=1e-6, err_msg=name)
