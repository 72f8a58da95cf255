"""Passes run in order, to a fixpoint, and are not believed."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import graphopt
from graphopt.errors import PassError, PluginError
from graphopt.ir.load import load
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.rule import entry, kebab
from graphopt.rewrite.schedule import schedule
from graphopt.testing import apply, model

CHAIN = "g (float[3] x) => (float[3] y) { a = Relu(x) b = Neg(a) y = Abs(b) }"


def rename(old: str, new: str, **extra):
    """A rule that turns one unary operator into another."""

    class Rename(graphopt.Rule):
        """Old(x) = New(x)."""

        def pattern(self, op, x):
            return getattr(op, old)(x)

        def rewrite(self, op, x):
            return getattr(op, new)(x)

        name = f"{old.lower()}-to-{new.lower()}"

    for key, value in extra.items():
        setattr(Rename, key, value)
    return Rename()


def run(source, *passes, **kwargs):
    manager = Manager(load(model(source)), [entry(one, "mine") for one in passes], graphopt.Target(), **kwargs)
    manager.run()
    return manager


def test_names_are_kebab_case():
    assert kebab("FoldConvBN2d") == "fold-conv-bn2d"
    assert kebab("HTTPServer") == "http-server"
    assert kebab("fold_shapes") == "fold-shapes"


def test_stages_run_in_order_whatever_the_order_of_registration():
    passes = [rename("Abs", "Exp", stage="fuse"), rename("Neg", "Abs", stage="canonicalize")]
    for some in (passes, passes[::-1]):
        manager = run(CHAIN, *some)
        assert [node.op for node in manager.graph.nodes] == ["Relu", "Exp", "Exp"]


def test_after_and_before_order_passes_of_a_stage():
    def names(*passes):
        return [one.name for one in schedule([entry(p) for p in passes])["simplify"]]

    a, b, c = rename("A", "B"), rename("C", "D"), rename("E", "F")
    assert names(c, b, a) == ["a-to-b", "c-to-d", "e-to-f"]
    type(a).after = ["e-to-f"]
    assert names(a, b, c) == ["c-to-d", "e-to-f", "a-to-b"]
    type(b).after = ["a-to-b"]
    assert names(a, b, c) == ["e-to-f", "a-to-b", "c-to-d"]
    type(c).after = ["c-to-d"]
    with pytest.raises(PluginError, match=r"a-to-b -> .*-> a-to-b|c-to-d -> .*-> c-to-d|e-to-f -> .*-> e-to-f"):
        names(a, b, c)


def test_two_passes_of_one_name_are_an_error_that_names_both_plugins():
    with pytest.raises(PluginError, match=r"of plugin one and of plugin two"):
        schedule([entry(rename("A", "B"), "one"), entry(rename("A", "B"), "two")])


def test_rules_that_undo_each_other_are_named():
    with pytest.raises(PassError) as caught:
        run(CHAIN, rename("Neg", "Abs"), rename("Abs", "Neg"))
    assert "neg-to-abs" in str(caught.value)
    assert "abs-to-neg" in str(caught.value)


def test_function_passes_that_undo_each_other_are_named():
    def flip(old, new):
        @graphopt.pass_(name=f"{old}-{new}")
        def flipped(graph, target):
            count = 0
            for node in graph.nodes:
                if node.op == old:
                    node.op = new
                    count += 1
            return count

        return flipped

    with pytest.raises(PassError, match=r"undo each other for ever.*Abs-Neg <-> Neg-Abs"):
        run(CHAIN, flip("Neg", "Abs"), flip("Abs", "Neg"))


def test_a_rule_that_grows_for_ever_is_stopped():
    class Grow(graphopt.Rule):
        """Relu(x) = Relu(Relu(x))."""

        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, x):
            return op.Relu(op.Relu(x))

    with pytest.raises(PassError, match="does not end: grow of plugin mine fired"):
        run(CHAIN, Grow())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda graph, target: 1, "claims 1 changes but left the graph as it was"),
        (lambda graph, target: len(graph.nodes.pop(0).name) * 0, "claims 0 changes but changed the graph"),
        (lambda graph, target: None, "returned None, not the number of changes"),
        (lambda graph, target: 1 // 0, "raised ZeroDivisionError"),
    ],
)
def test_a_function_pass_is_not_believed(body, message):
    with pytest.raises(PassError, match=message) as caught:
        run(CHAIN, graphopt.pass_(name="liar")(body))
    assert "pass liar of plugin mine" in str(caught.value)


def test_a_function_pass_in_plain_graphsurgeon():
    @graphopt.pass_()
    def drop_abs(graph: gs.Graph, target: graphopt.Target) -> int:
        found = [node for node in graph.nodes if node.op == "Abs"]
        for node in found:
            producer = node.inputs[0].inputs[0]
            producer.outputs = [node.outputs[0]]
            node.outputs.clear()
            graph.nodes.remove(node)
        return len(found)

    manager = run(CHAIN, drop_abs, rename("Neg", "Exp"))
    assert [node.op for node in manager.graph.nodes] == ["Relu", "Exp"]


def test_an_exception_in_a_rule_names_pass_plugin_and_node():
    class Broken(graphopt.Rule):
        """Raises."""

        def pattern(self, op, x):
            return op.Neg(x)

        def rewrite(self, op, x):
            raise KeyError("oops")

    with pytest.raises(PassError, match=r"node 'Neg_0' \(Neg\): pass broken of plugin mine raised KeyError: 'oops'"):
        run(CHAIN, Broken())


def test_a_rewrite_that_provably_changes_dtype_or_shape_is_refused():
    class Widen(graphopt.Rule):
        """Wrong: the dtype changes."""

        def pattern(self, op, x):
            return op.Neg(x)

        def rewrite(self, op, x):
            return op.Cast(x, to=11)

    class Flat(Widen):
        """Wrong: the shape changes."""

        def rewrite(self, op, x):
            return op.Unsqueeze(x, np.array([0]))

    with pytest.raises(PassError, match="from float32 to float64"):
        run(CHAIN, Widen())
    with pytest.raises(PassError, match="changes 'b' from shape 3 to 1x3"):
        run(CHAIN, Flat())


def test_a_veto_is_kept_with_its_reason():
    class Never(graphopt.Rule):
        """Nothing."""

        def pattern(self, op, x):
            return op.Neg(x)

        def check(self, op, x):
            return "not today"

        def rewrite(self, op, x):
            return x

    manager = run(CHAIN, Never())
    assert manager.fired["never"].vetoes == {"Neg_0": "not today"}
    assert manager.fired["never"].changes == 0


def test_most_stops_after_that_many_changes():
    for most, ops in ((0, ["Relu", "Neg", "Abs"]), (1, ["Exp", "Neg", "Abs"]), (2, ["Exp", "Exp", "Abs"])):
        manager = run(CHAIN, rename("Relu", "Exp"), rename("Neg", "Exp"), most=most)
        assert [node.op for node in manager.graph.nodes] == ops
    assert manager.last == ("neg-to-exp", "Neg_0")


def test_lineage_leads_back_to_the_source_nodes():
    class Both(graphopt.Rule):
        """Abs(Neg(x)) = Exp(x), for the sake of argument."""

        def pattern(self, op, x):
            return op.Abs(op.Neg(x))

        def rewrite(self, op, x):
            return op.Exp(x)

    result, _ = apply(CHAIN, Both(), rename("Exp", "Sin", stage="fuse"))
    made = next(node for node in result.graph.node if node.op_type == "Sin")
    notes = {prop.key: prop.value for prop in made.metadata_props}
    assert notes == {"graphopt.origin": '["Abs_0", "Neg_0"]', "graphopt.rule": '["both", "exp-to-sin"]'}
    again = load(result)
    assert "graphopt.origin" not in next(n for n in again.nodes if n.op == "Sin").__dict__["_extras"].metadata


def test_outputs_keep_their_names_and_inputs_may_pass_through():
    class Drop(graphopt.Rule):
        """Relu(x) = x, for the sake of argument."""

        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, x):
            return x

    result, _ = apply("g (float[3] x) => (float[3] y, float[3] z) { y = Relu(x) z = Relu(x) }", Drop())
    assert [out.name for out in result.graph.output] == ["y", "z"]
    assert [node.op_type for node in result.graph.node] == ["Identity", "Identity"]


def test_work_is_linear_in_nodes():
    """Counted, not timed: each node is tried a bounded number of times."""
    tries = []

    class Count(graphopt.Rule):
        """Relu(Relu(x)) = Relu(x)."""

        def pattern(self, op, x):
            return op.Relu(op.Relu(x))

        def check(self, op, x):
            tries.append(1)

        def rewrite(self, op, x):
            return op.Relu(x)

    per_node = []
    for size in (200, 800):
        tries.clear()
        text = " ".join(f"t{i + 1} = Relu(t{i})" for i in range(size))
        run(f"g (float[3] t0) => (float[3] t{size}) {{ {text} }}", Count())
        per_node.append(len(tries) / size)
    assert per_node[1] <= per_node[0] * 1.1
