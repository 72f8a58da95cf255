"""A round trip computes what the source computes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from graphopt.ir.load import load
from graphopt.ir.save import to_proto

from .operator_models import Case, cases, sample


def run(raw: bytes, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return list(ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"]).run(None, feeds))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    return bool(one == other)


def differs(case: Case) -> bool | None:
    """Whether the results differ; None where onnxruntime cannot run the source itself, or its results are random."""
    model = case.model()
    random = {"Bernoulli", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"}
    if any(node.op_type in random or node.op_type == "Dropout" for node in model.graph.node):
        return None
    data = case.data()
    if not data:
        return None
    feeds = {port.name: value for port, value in zip(model.graph.input, data[0][0], strict=False)}
    raw = model.SerializeToString()
    try:
        wanted = run(raw, feeds)
    except Exception:  # onnxruntime raises a class of its own for each kind of refusal
        return None
    return not same(run(to_proto(load(model)).SerializeToString(deterministic=True), feeds), wanted)


def check(chosen: tuple[Case, ...], least: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {f"{case.kind} {case.name}": differs(case) for case in chosen}
    assert sum(result is not None for result in found.values()) > least * len(chosen), "hardly any model was run"
    assert not [name for name, result in found.items() if result]


def test_a_sample_of_operator_models_computes_the_same() -> None:
    check(sample(13), 0.5)


@pytest.mark.full
def test_all_operator_models_compute_the_same() -> None:
    check(cases(), 0.5)
