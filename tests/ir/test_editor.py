"""Whatever is replaced, inserted and removed through an Editor, the graph stays whole and computes the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from graphopt.ir.edits import Editor
from graphopt.ir.graph import Links, Uses, new_node, new_variable, scopes
from graphopt.ir.load import load
from graphopt.ir.save import to_proto

from .models import body, model, node, run, tensor, value

UNARY = ("Neg", "Abs", "Identity", "Relu", "Identity")
BINARY = ("Add", "Sub", "Mul", "Max")


def check(graph: gs.Graph, edit: Editor | None = None) -> None:
    """Raises AssertionError unless links are mutual, names unique, nodes in order, and results made."""
    names: dict[str, gs.Tensor] = {}
    labels: set[str] = set()
    every = [part for scope in scopes(graph) for part in scope.nodes]
    alive = {id(part) for part in every}
    made: set[int] = set()

    def visit(scope: gs.Graph) -> None:
        made.update(map(id, scope.inputs))
        for part in scope.nodes:
            assert part.name not in labels, f"two nodes are called {part.name}"
            labels.add(part.name)
            for read in part.inputs:
                known(read)
                assert sum(user is part for user in read.outputs) == sum(t is read for t in part.inputs)
            for held in part.attrs.values():
                if isinstance(held, gs.Graph):
                    visit(held)
            for out in part.outputs:
                assert len(out.inputs) == 1
                assert out.inputs[0] is part
                if out.name:
                    assert names.setdefault(out.name, out) is out, f"two values are called {out.name}"
                for user in out.outputs:
                    assert id(user) in alive, f"{out.name} is read by {user.name}, which is gone"
                made.add(id(out))
            if edit is not None:
                assert edit.has(part)
                assert edit.scope(part) is scope
        for result in scope.outputs:
            known(result)

    def known(read: gs.Tensor) -> None:
        assert isinstance(read, gs.Constant) or not read.name or id(read) in made, (
            f"{read.name} is read before it is made"
        )
        if read.name:
            assert names.setdefault(read.name, read) is read, f"two values are called {read.name}"

    visit(graph)


@st.composite
def graphs(draw: Any) -> Any:
    """A random graph of elementwise operators with constants, shared values, and perhaps an If that captures."""
    values, nodes, weights = ["x", "k"], [], [tensor("k", np.array([1, -2, 3, 0.5], np.float32))]
    for i in range(draw(st.integers(2, 9))):
        pick = st.sampled_from(values)
        if draw(st.booleans()):
            nodes.append(node(draw(st.sampled_from(UNARY)), [draw(pick)], [f"v{i}"]))
        elif draw(st.integers(0, 5)) or i < 1:
            nodes.append(node(draw(st.sampled_from(BINARY)), [draw(pick), draw(pick)], [f"v{i}"]))
        else:
            then = body([node("Neg", [draw(pick)], [f"t{i}"]), node("Identity", [f"t{i}"], [f"u{i}"])], [f"u{i}"])
            other = body([node("Add", [draw(pick), draw(pick)], [f"e{i}"])], [f"e{i}"])
            nodes.append(node("If", ["c"], [f"v{i}"], then_branch=then, else_branch=other))
        values.append(f"v{i}")
    results = draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=3, unique=True))
    return model(
        nodes,
        [value("x", (4,)), value("c", (), TensorProto.BOOL)],
        [value(name, (4,)) for name in results],
        weights,
    )


class Edits:
    """Edits that do not change what is computed, each chosen by a number."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.edit = Editor(graph)

    def _node(self, number: int, op: str = "") -> gs.Node | None:
        found = [part for part in self.edit.nodes() if not op or part.op == op]
        return found[number % len(found)] if found else None

    def put_identity(self, number: int) -> None:
        """One slot reads its value through a new Identity."""
        part = self._node(number)
        if part is not None and part.inputs:
            slot = number % len(part.inputs)
            made = self.edit.insert("Identity", [part.inputs[slot]], at=part)
            part.inputs[slot] = made.outputs[0]
            self.edit.edited(part)

    def drop_identity(self, number: int) -> None:
        part = self._node(number, "Identity")
        if part is not None:
            self.edit.replace(part.outputs[0], part.inputs[0], at=part)
            self.edit.prune([part])

    def do_again(self, number: int) -> None:
        """A node's result comes from a copy of the node."""
        part = self._node(number)
        if part is not None and part.op != "If":
            copy = self.edit.insert(part.op, list(part.inputs), dict(part.attrs), at=part)
            self.edit.replace(part.outputs[0], copy.outputs[0], at=part)
            self.edit.prune([part])

    def merge(self, number: int) -> None:
        """Two nodes of one scope that do the same become one."""
        part = self._node(number)
        if part is None or part.op == "If":
            return
        for other in self.edit.nodes():
            same = other.op == part.op and len(other.inputs) == len(part.inputs)
            same = same and all(a is b for a, b in zip(other.inputs, part.inputs, strict=True))
            same = same and self.edit.scope(other) is self.edit.scope(part)
            if same and self.edit.place(other) < self.edit.place(part):
                self.edit.replace(part.outputs[0], other.outputs[0], at=part)
                self.edit.prune([part])
                return

    def add_nothing(self, number: int) -> None:
        """x = x + 0, with a new constant."""
        part = self._node(number)
        if part is not None and part.inputs and part.op != "If":
            zero = self.edit.constant(np.zeros(4, np.float32), "k")
            made = self.edit.insert("Add", [part.inputs[0], zero], at=part)
            part.inputs[0] = made.outputs[0]
            self.edit.edited(part)

    def prune(self, number: int) -> None:
        self.edit.prune(self.edit.nodes()[: number % 7])

    def flush(self, number: int) -> None:
        self.edit.flush()
        check(self.graph, self.edit)

    def start_anew(self, number: int) -> None:
        self.flush(number)
        self.edit = Editor(self.graph)

    ALL: tuple[Callable[[Any, int], None], ...] = (
        put_identity, drop_identity, do_again, merge, add_nothing, prune, flush, start_anew,
    )  # fmt: skip


FEEDS = [
    {"x": np.array([1, -1, 0.25, -8], np.float32), "c": np.array(True)},
    {"x": np.array([-3, 2, 5, 0], np.float32), "c": np.array(False)},
]


@settings(max_examples=120)
@given(graphs(), st.lists(st.tuples(st.sampled_from(Edits.ALL), st.integers(0, 1000)), max_size=25))
def test_any_sequence_of_edits(whole: Any, steps: list[Any]) -> None:
    graph = load(whole)
    names = [out.name for out in graph.outputs]
    edits = Edits(graph)
    for step, number in steps:
        step(edits, number)
    edits.flush(0)
    assert [out.name for out in graph.outputs] == names
    for feeds in FEEDS:
        for before, after in zip(run(whole, feeds), run(to_proto(graph), feeds), strict=True):
            np.testing.assert_array_equal(before, after)
    Editor(graph).sweep()
    check(graph)
    np.testing.assert_array_equal(run(whole, FEEDS[0])[0], run(to_proto(graph), FEEDS[0])[0])


def _lone_reader(graph: gs.Graph) -> None:
    list.pop(graph.nodes[0].outputs[0].outputs)


def _ghost_reader(graph: gs.Graph) -> None:
    list.append(graph.nodes[0].outputs[0].outputs, new_node("Neg", [], [], name="ghost"))


def _order(graph: gs.Graph) -> None:
    graph.nodes.reverse()


def _same_value(graph: gs.Graph) -> None:
    graph.nodes[0].outputs[0].name = graph.nodes[1].outputs[0].name


def _same_node(graph: gs.Graph) -> None:
    graph.nodes[0].name = graph.nodes[1].name


def _lost_result(graph: gs.Graph) -> None:
    graph.nodes.pop()


@pytest.mark.parametrize("damage", [_lone_reader, _ghost_reader, _order, _same_value, _same_node, _lost_result])
def test_the_check_sees(damage: Callable[[gs.Graph], None]) -> None:
    graph = load(model([node("Neg", ["x"], ["a"]), node("Abs", ["a"], ["y"])]))
    check(graph)
    damage(graph)
    with pytest.raises(AssertionError):
        check(graph)


# -- lists of links -----------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40), st.integers(0, 4)), max_size=40))
def test_operand_lists_stay_mutual(steps: list[tuple[int, int, int]]) -> None:
    """Long operand lists find their slots through an index, which every edit must keep or drop."""
    pool = [new_variable(name) for name in "abcde"]
    part = new_node("Sum", [pool[i % 5] for i in range(20)], [new_variable("y")], name="sum")
    inputs = part.inputs
    for kind, at, which in steps:
        chosen = pool[which]
        if kind == 0:
            inputs.append(chosen)
        elif kind == 1:
            inputs.insert(at, chosen)
        elif kind == 2 and inputs:
            inputs[at % len(inputs)] = chosen
        elif kind == 3 and inputs:
            inputs.pop(at % len(inputs))
        elif kind == 4 and inputs:
            del inputs[at % len(inputs)]
        elif kind == 5:
            inputs[at : at + 2] = [chosen, pool[0], chosen]
        elif kind == 6 and chosen in inputs:
            inputs.remove(chosen)
        elif kind == 7 and inputs:
            inputs[-1] = chosen
        for one in pool:
            assert inputs.slots(one) == [i for i, other in enumerate(inputs) if other is one]
            assert sum(user is part for user in one.outputs) == sum(other is one for other in inputs)


def fan(readers: int) -> tuple[gs.Graph, gs.Tensor, list[gs.Node]]:
    source = new_variable("x", np.dtype(np.float32), (4,))
    nodes = [new_node("Neg", [source], [new_variable(f"v{i}")], name=f"n{i}") for i in range(readers)]
    return gs.Graph(nodes, [source], [nodes[-1].outputs[0]], opset=18), source, nodes


def orders(nodes: list[gs.Node]) -> dict[str, list[gs.Node]]:
    mixed = np.random.default_rng(0).permutation(len(nodes))
    return {"forward": nodes, "reverse": nodes[::-1], "random": [nodes[i] for i in mixed]}


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_ten_thousand_readers_are_repointed_in_linear_time(order: str) -> None:
    def seconds(readers: int) -> float:
        _, source, nodes = fan(readers)
        other = new_variable("z")
        assert type(source.outputs) is Uses
        assert type(nodes[0].inputs) is Links
        start = time.process_time()
        for part in orders(nodes)[order]:
            part.inputs[0] = other
        assert not source.outputs
        assert len(other.outputs) == readers
        return time.process_time() - start

    few, many = (min(seconds(count) for _ in range(2)) for count in (2_500, 10_000))
    assert many < 8 * few + 0.02, f"{few:.3f} s for 2,500 readers, {many:.3f} s for 10,000"


def test_replacing_and_pruning_is_linear_in_readers() -> None:
    def seconds(readers: int) -> float:
        graph, source, nodes = fan(readers)
        edit = Editor(graph)
        made = edit.insert("Identity", [edit.constant(np.zeros(4, np.float32))], at=nodes[0])
        start = time.process_time()
        assert edit.replace_uses(source, made.outputs[0]) == readers
        edit.prune(nodes[:-1])
        edit.flush()
        assert graph.nodes == [made, nodes[-1]]
        return time.process_time() - start

    few, many = (min(seconds(count) for _ in range(2)) for count in (2_500, 10_000))
    assert many < 8 * few + 0.02, f"{few:.3f} s for 2,500 readers, {many:.3f} s for 10,000"


def test_one_node_that_reads_a_tensor_ten_thousand_times() -> None:
    def seconds(slots: int) -> float:
        source, other = new_variable("x"), new_variable("z")
        wide = new_node("Sum", [source] * slots, [new_variable("y")], name="wide")
        edit = Editor(gs.Graph([wide], [source, other], [wide.outputs[0]], opset=18))
        start = time.process_time()
        assert edit.replace_uses(source, other) == slots
        wide.inputs.clear()
        assert not source.outputs
        assert not other.outputs
        return time.process_time() - start

    few, many = (min(seconds(count) for _ in range(2)) for count in (2_500, 10_000))
    assert many < 8 * few + 0.02, f"{few:.3f} s for 2,500 slots, {many:.3f} s for 10,000"
