"""A node that a rule makes is called after the source node it stands for."""

from __future__ import annotations

from typing import Any

import graphopt
from graphopt.ir.edits import Editor
from graphopt.ir.load import load
from graphopt.testing import apply, model

TEXT = """m (float[2, 3] x) => (float[2, 3] y) {
    [inner] c = Relu (x)
    [outer] y = Neg (c)
}"""


class Turned(graphopt.Rule):
    """Turns Neg(Relu(x)) into other operators; only the names matter here, not the numbers."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(op.Relu(x))

    def rewrite(self, op: Any, x: Any) -> Any:
        return op.Min(op.Sub(x, op.Relu(x)), x)


def test_named_after_the_matched_node_of_the_operator_else_after_the_root() -> None:
    found, changes = apply(model(TEXT), Turned())
    assert sum(changes.values()) == 1
    stems = {node.op_type: node.name.rsplit("_", 1)[0] for node in found.graph.node}
    assert stems == {"Relu": "inner", "Sub": "outer", "Min": "outer"}
    assert len({node.name for node in found.graph.node}) == 3
    assert [port.name for port in found.graph.output] == ["y"]
    for node in found.graph.node:
        assert {prop.key: prop.value for prop in node.metadata_props}["graphopt.origin"] == '["outer", "inner"]'


def test_numbers_do_not_pile_up() -> None:
    edit = Editor(load(model(TEXT)))
    first = edit.fresh("inner")
    again = edit.fresh(first)
    assert first.startswith("inner_")
    assert again.count("_") == 1
    assert again != first
