"""ONNX's own operator tests through the default pipeline: the outputs stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.difference import compare
from graphopt.numerics.randomness import random_outputs
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager

from .ir.operator_models import cases

RUNNABLE_LEAST = 1600
"""Of the 2,024 models, how many onnxruntime 1.32 runs on the suite's data."""

REFERENCE_LEAST = 80
"""How many of the others onnx's reference evaluator runs, at the least."""


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    opened = session(model)
    feeds = {port.name: value for port, value in zip(opened.get_inputs(), inputs, strict=False) if value is not None}
    return opened.run(None, feeds)  # type: ignore[no-any-return]


@pytest.mark.parametrize("part", range(4))
def test_outputs_are_unchanged(part: int) -> None:
    entries = Registry().select()
    wrong: list[str] = []
    ran = 0
    for case in cases()[part::4]:
        model = case.model()
        manager = Manager(load(model), entries, graphopt.Target())
        manager.run()
        result = to_proto(manager.graph)
        random = random_outputs(model)
        for inputs, given in case.data():
            try:
                expected = run(model, inputs)
            except Exception:
                continue
            ran += 1
            names = [port.name for port in model.graph.output]
            try:
                actual = run(result, inputs)
            except Exception as error:
                wrong.append(f"{case.name}: {error}")
                continue
            for place, (name, want, got) in enumerate(zip(names, expected, actual, strict=True)):
                if name not in random and not (found := compare(want, got)).ok:
                    if place < len(given) and compare(given[place], got).ok:
                        continue  # where onnxruntime's kernel is not what ONNX says
                    wrong.append(f"{case.name}: {name}: {found.reason}")
    assert not wrong, f"{len(wrong)} wrong: {wrong[:5]}"
    assert ran >= RUNNABLE_LEAST // 4


def evaluate(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    names = [port.name for port in model.graph.input]
    feeds = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)  # type: ignore[return-value]


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_outputs_are_unchanged_where_only_the_reference_evaluator_runs_the_model(part: int) -> None:
    entries = Registry().select()
    wrong: list[str] = []
    ran = 0
    for case in cases()[part::4]:
        model = case.model()
        random = random_outputs(model)
        result = None
        for inputs, _ in case.data():
            try:
                run(model, inputs)
                continue
            except Exception:
                pass
            try:
                expected = evaluate(model, inputs)
            except Exception:
                continue
            ran += 1
            if result is None:
                manager = Manager(load(model), entries, graphopt.Target())
                manager.run()
                result = to_proto(manager.graph)
            try:
                actual = evaluate(result, inputs)
            except Exception as error:
                wrong.append(f"{case.name}: {error}")
                continue
            names = [port.name for port in model.graph.output]
            for name, want, got in zip(names, expected, actual, strict=True):
                if name not in random and not (found := compare(want, got)).ok:
                    wrong.append(f"{case.name}: {name}: {found.reason}")
    assert not wrong, f"{len(wrong)} of {ran} wrong: {wrong[:8]}"
    assert ran >= REFERENCE_LEAST // 4
