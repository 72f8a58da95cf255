"""Questions about the order of things: convexity, dominance, what lies between."""

from __future__ import annotations

import networkx as nx
import onnx_graphsurgeon as gs
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.graph import new_node, new_variable
from graphopt.ir.load import load
from graphopt.ir.view import View
from graphopt.testing import model

DIAMOND = """g (float[3] x, float[3] z) => (float[3] y) {
    a = Neg(x)
    b = Relu(a)
    c = Abs(a)
    d = Add(b, c)
    e = Mul(d, z)
    y = Exp(e)
}"""


def view(text: str) -> tuple[View, dict[str, gs.Node]]:
    graph = load(model(text))
    return View(graph), {node.outputs[0].name: node for node in graph.nodes}


def test_a_set_that_a_path_leaves_and_enters_again_is_not_convex():
    found, n = view(DIAMOND)
    assert found.is_convex([n["a"], n["b"], n["c"], n["d"]])
    assert not found.is_convex([n["a"], n["b"], n["d"]])
    assert found.is_convex([n["b"]])
    assert found.is_convex([])


def test_dominance():
    found, n = view(DIAMOND)
    assert found.dominates(n["a"], n["d"])
    assert not found.dominates(n["b"], n["d"])
    assert not found.dominates(n["d"], n["e"]), "z enters below"
    assert found.dominates(n["e"], n["y"])
    assert found.dominates(n["e"], n["e"])
    assert not found.dominates(n["y"], n["a"])


def test_what_lies_between():
    found, n = view(DIAMOND)
    assert [node.outputs[0].name for node in found.between(n["a"], n["d"])] == ["a", "b", "c", "d"]
    assert found.between(n["b"], n["c"]) == []


def test_what_a_body_reads_counts():
    found, n = view(
        """g (bool k, float[3] x) => (float[3] y) {
            a = Neg(x)
            b = If(k)<then_branch = t () => (u) { u = Relu(a) }, else_branch = e () => (v) { v = Abs(x) }>
            y = Add(a, b)
        }"""
    )
    assert not found.is_convex([n["a"], n["y"]])
    assert [node.outputs[0].name for node in found.between(n["a"], n["y"])] == ["a", "b", "y"]


@given(st.lists(st.lists(st.integers(0, 100), min_size=0, max_size=3), min_size=1, max_size=9), st.integers(0, 511))
def test_convexity_is_what_contraction_says(reads: list[list[int]], mask: int):
    """A set is convex exactly if contracting it leaves the graph without a cycle through it."""
    values = [new_variable("x")]
    nodes = []
    for number, sources in enumerate(reads):
        made = new_variable(f"v{number}")
        nodes.append(new_node("Sum", [values[s % len(values)] for s in sources], [made], name=f"n{number}"))
        values.append(made)
    found = View(gs.Graph(nodes, [values[0]], [values[-1]]))
    chosen = [number for number in range(len(nodes)) if mask >> number & 1]
    contracted = nx.DiGraph()
    for a, b in found.graph.edges:
        a, b = ("set" if n in chosen else n for n in (a, b))
        if a != b:
            contracted.add_edge(a, b)
    expected = nx.is_directed_acyclic_graph(contracted)
    assert found.is_convex([nodes[number] for number in chosen]) == expected
