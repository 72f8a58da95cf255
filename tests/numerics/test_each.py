"""`--verify each`: right rules pass, on every sample; what is wrong is found where it is, and only there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.config import Target
from graphopt.errors import UsageError
from graphopt.ir.load import load
from graphopt.numerics.close import suspects
from graphopt.numerics.each import check_each
from graphopt.numerics.execute import Runner
from graphopt.numerics.history import Recorder
from graphopt.numerics.repro import replay
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager
from graphopt.testing import model
from tests.real_models import LARGE, LIGHT_NAMES, light, ocr

IDENTITY = """
import graphopt

class LeakyIsNothing(graphopt.Rule):
    '''LeakyRelu(x) = x, which is right after an Abs only.'''

    def pattern(self, op, x):
        return op.LeakyRelu(x)

    def rewrite(self, op, x):
        return x

@graphopt.hookimpl
def graphopt_passes():
    return [LeakyIsNothing()]
"""
SITES = (
    "g (float[N,8] x) => (float[N,8] y, float[N,8] z)"
    " { a = Abs(x) right = LeakyRelu(a) b = Sin(x) wrong = LeakyRelu(b) c = LeakyRelu(right)"
    " y = Add(right, wrong) z = Mul(c, wrong) }"
)


def test_only_the_wrong_match_of_a_rule_is_undone(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(IDENTITY)
    result = graphopt.optimize(model(SITES), plugins=[str(tmp_path / "leaky.py")], verify="each")
    assert [one["source_nodes"] for one in result.report.refused] == [["LeakyRelu_1"]]
    assert [node.op_type for node in result.model.graph.node].count("LeakyRelu") == 1
    assert {one.name: one.changes for one in result.report.passes}["leaky-is-nothing"] == 2


def test_what_a_change_breaks_is_not_held_against_those_after_it(tmp_path: Path) -> None:
    """Every later change reads the source's value again."""
    (tmp_path / "leaky.py").write_text(IDENTITY)
    graph = load(model(SITES))
    manager = Manager(graph, Registry([str(tmp_path / "leaky.py")]).select(), Target())
    recorder = Recorder(manager)
    manager.run()
    source = tmp_path / "source.onnx"
    onnx.save(model(SITES), source)
    found = check_each(recorder, source)
    assert [(one.change.name, one.change.node) for one in found.breaches] == [("leaky-is-nothing", "LeakyRelu_1")]
    assert found.changes == found.compared == manager.changes >= 3


@pytest.mark.parametrize("name", ["cls", *(name for name in LIGHT_NAMES if name not in LARGE)])
def test_right_rules_are_never_refused(name: str, tmp_path: Path) -> None:
    source = ocr(name) if name == "cls" else light(name)
    result = graphopt.optimize(source, verify="each", samples=1)
    assert result.report.refused == []
    assert result.report.each is not None
    assert result.report.each.compared >= 1
    assert {"zeros", "tiny", "large", "ends"} <= set(result.report.each.samples)


def test_a_sample_that_ends_the_process_names_the_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node that dies in native code: here the child kills itself when it is asked for what the change made."""
    (tmp_path / "leaky.py").write_text(IDENTITY)
    source = tmp_path / "source.onnx"
    onnx.save(model(SITES), source)
    manager = Manager(load(source), Registry([str(tmp_path / "leaky.py")]).select(), Target())
    recorder = Recorder(manager)
    manager.run()
    deadly = next(c for c in recorder.changes if c.node == "LeakyRelu_1").pairs[0]
    asked = Runner.probe

    def probe(self: Runner, feeds: object, pairs: list[tuple[str, str, int]]) -> list[int]:
        if any(actual == deadly.actual != expected for expected, actual, _ in pairs):
            assert self.pid is not None
            os.kill(self.pid, signal.SIGSEGV)
        return asked(self, feeds, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "probe", probe)
    found = check_each(recorder, source)
    assert [one.change.node for one in found.breaches] == ["LeakyRelu_1"]
    assert found.compared == len(recorder.changes)


def test_a_mended_rule_makes_its_repro_pass(tmp_path: Path) -> None:
    plugin = tmp_path / "leaky.py"
    plugin.write_text(IDENTITY)
    result = graphopt.optimize(model(SITES), plugins=[str(plugin)], verify="each", repro=tmp_path / "repros")
    folder = Path(result.report.refused[0]["repro"])
    assert replay(folder, Registry([str(plugin)]), Target()).how == "rewritten"
    assert replay(folder, Registry([]), Target()).persists, "without the plugin, what was stored is compared"
    plugin.write_text(IDENTITY.replace("return x", "return op.Where(op.Less(x, 0.0), op.Mul(x, 0.01), x)"))
    found = replay(folder, Registry([str(plugin)]), Target())
    assert (found.persists, found.how) == (False, "rewritten"), found
    plugin.write_text(
        IDENTITY.replace("def rewrite", "def check(self, op, x):\n        return 'no'\n\n    def rewrite")
    )
    assert not replay(folder, Registry([str(plugin)]), Target()).persists
    with pytest.raises(UsageError, match="no repro folder"):
        replay(tmp_path, Registry([]), Target())


def test_close_values_are_told_from_others() -> None:
    x = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    holed = np.where(x > 2, np.nan, x).astype(np.float32)
    values = {"x": x, "same": x.copy(), "near": x * np.float32(1 + 1e-6), "far": x * np.float32(1.01), "holed": holed}
    values |= {"int": np.arange(4), "off": np.arange(4) + 1}
    pairs = [("x", "same"), ("x", "near"), ("x", "far"), ("x", "holed"), ("holed", "holed")]
    pairs += [("int", "int"), ("int", "off")]
    calls: list[list[str]] = []

    def run(names: list[str]) -> dict[str, np.ndarray]:
        calls.append(names)
        return {name: values[name] for name in names}

    assert suspects(run, [(a, b, 100) for a, b in pairs]) == [2, 3, 6]
    assert len(calls) == 1
    assert suspects(run, [(a, b, 200 << 20) for a, b in pairs]) == [2, 3, 6]
    assert len(calls) == 1 + len(pairs), "values too large to be held together are fetched one pair at a time"


def test_a_function_pass_that_leaves_a_dangling_node_is_undone(tmp_path: Path) -> None:
    (tmp_path / "cut.py").write_text(
        "import graphopt\n"
        "@graphopt.pass_('fuse')\n"
        "def cut_the_line(graph, target):\n"
        "    found = [n for n in graph.nodes if n.op == 'Sin']\n"
        "    for n in found:\n"
        "        graph.nodes[:] = [one for one in graph.nodes if one is not n]\n"
        "        n.outputs.clear()\n"
        "    return len(found)\n"
        "@graphopt.hookimpl\n"
        "def graphopt_passes():\n"
        "    return [cut_the_line]\n"
    )
    result = graphopt.optimize(model(SITES), plugins=[str(tmp_path / "cut.py")], verify="each")
    assert [one["pass"] for one in result.report.refused] == ["cut-the-line"]
    assert "which nothing makes" in result.report.refused[0]["why"]


def test_a_name_that_only_an_output_bears_may_become_better_known(tmp_path: Path) -> None:
    """Exporters name dimensions of outputs that they do not follow; wrong sizes and lost symbols are still refused."""
    source = model(
        """g (float[N,4] x) => (float[out_dim_0,2,2] y) { s = Shape(x) n = Gather(s, zero) f = Unsqueeze(n, axes)
        t = Concat <axis = 0> (f, rest) r = Reshape(x, t) y = Relu(r) }""",
        weights={"zero": np.int64(0), "axes": [0], "rest": [2, 2]},
    )
    found = graphopt.optimize(source, verify="each")
    assert found.status == "ok"
    assert [node.op for node in found.graph.nodes] == ["Reshape", "Relu"]
    assert list(found.graph.outputs[0].shape) == ["N", 2, 2]
