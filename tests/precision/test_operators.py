"""Every operator model of ONNX, in low precision: valid, with the casts that were counted beforehand."""

from __future__ import annotations

import onnx
import pytest

from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.rounding import rounded
from graphopt.precision.floats import Floats
from graphopt.precision.types import know_types
from graphopt.precision.write import write_plan
from tests.ir.operator_models import cases

PARTS = 16


def is_foreign(model: onnx.ModelProto) -> bool:
    """Whether there are operators beside the standard ones, or string tensors, for which no rounding copy is made."""
    return any(node.domain not in ("", "ai.onnx") for node in model.graph.node) or bool(model.graph.sparse_initializer)


@pytest.mark.parametrize("part", [0, *(pytest.param(i, marks=pytest.mark.full) for i in range(1, PARTS))])
def test_every_operator_is_valid_in_float16(part):
    done = 0
    for case in cases()[part::PARTS]:
        source = case.model()
        try:
            onnx.checker.check_model(source, full_check=True)
        except Exception:
            continue
        for io in ("keep", "change"):
            graph = load(source)
            know_types(graph)
            floats = Floats(graph, "fp16", "float16", io, {})
            plan = floats.plan()
            write_plan(graph, plan, {})
            result = to_proto(graph)
            try:
                onnx.checker.check_model(result, full_check=True)
            except Exception as error:
                raise AssertionError(f"{case.name} with io={io}: {error}") from error
            if io == "keep" and not is_foreign(result):
                rounded(result)
            done += any(entry.dtype == "float16" for entry in plan.tensors.values())
    assert done > 20
