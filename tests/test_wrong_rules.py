"""Planted wrong rules: each is caught, named, undone, leaves a repro that replays, and costs the others nothing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.config import Target
from graphopt.numerics.repro import FILES, replay
from graphopt.registry import Registry
from graphopt.testing import model

from .planted import WRONG, Planted


@pytest.mark.parametrize("planted", WRONG, ids=lambda one: one.name)
def test_a_planted_wrong_rule_is_caught_named_and_undone(planted: Planted, tmp_path: Path) -> None:
    plugin = tmp_path / "planted.py"
    plugin.write_text(planted.plugin)
    source = tmp_path / "source.onnx"
    onnx.save(model(planted.text, weights=planted.weights, opset=planted.opset), source)
    without = graphopt.optimize(source, verify="none")
    fired = graphopt.optimize(source, plugins=[str(plugin)], verify="none")
    assert {one.name: one.changes for one in fired.report.passes}[planted.name], "it must fire to be worth a test"

    result = graphopt.optimize(source, plugins=[str(plugin)], verify="each", repro=tmp_path / "repros")

    assert result.status == "refused"
    assert {(one["pass"], one["plugin"]) for one in result.report.refused} == {(planted.name, "planted")}
    assert planted.word in result.report.refused[0]["why"]
    assert result.report.verification is not None
    assert result.report.verification.passed
    assert result.to_json()["nodes"]["by_op_after"] == without.to_json()["nodes"]["by_op_after"]

    folder = Path(result.report.refused[0]["repro"])
    about = json.loads((folder / "repro.json").read_text())
    assert (about["pass"], about["plugin"]) == (planted.name, "planted")
    found = replay(folder, Registry([str(plugin)]), Target())
    assert found.persists, found
    if about["sample"]:
        assert {path.name for path in folder.iterdir()} == set(FILES)
        assert len(onnx.load(folder / "before.onnx").graph.node) <= 12
