"""A layer whose rule fails is left out; the run goes on."""

from __future__ import annotations

import types

import pytest

import graphopt
from graphopt.testing import model


class FusedWrongShape(graphopt.Layer):
    """y = -x."""

    def body(self, op, x):
        return op.Neg(op.Abs(x))

    def infer(self, x):
        return graphopt.tensor(x.dtype, (*x.shape[:-1], 7))

    def enqueue(self, x, y):
        pass


def plugin():
    made = types.ModuleType("wrong_shape")
    made.graphopt_layers = graphopt.hookimpl(lambda: [FusedWrongShape], specname="graphopt_layers")
    return made


TEXT = "g (float[2,3] x) => (float[2,3] y) { a = Abs(x) y = Neg(a) }"


def test_a_layer_that_changes_a_shape_is_left_out_once():
    result = graphopt.optimize(model(TEXT), lower="always", plugins=[plugin()], verify="none")
    assert [node.op_type for node in result.model.graph.node] == ["Abs", "Neg"]
    assert any("fused-wrong-shape" in text and "was left out" in text for text in result.report.warnings)


def test_strict_it_is_an_error():
    with pytest.raises(graphopt.GraphoptError, match="from shape 2x3 to 2x7"):
        graphopt.optimize(model(TEXT), lower="always", plugins=[plugin()], verify="none", strict=True)
