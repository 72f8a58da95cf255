"""Every portable layer is found in what PyTorch's two exporters write of it, after the full default pipeline."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.registry import Registry

EXPORTS = sorted((Path(__file__).parent / "exports").glob("*.txt"))  # made by exports/make.py
ELSEWHERE = {"FusedRotaryInterleaved": "the operator of opset 23, and its own spelling"}


def named(path: Path) -> str:
    """The layer whose meaning a file holds."""
    return path.stem.split("-")[0].split("_")[0]


def _cases() -> list[object]:
    """Dynamic shapes only in the full run: the layer of every file is looked for in each."""
    full = pytest.mark.full
    return [pytest.param(p, id=p.stem, marks=[full] if p.stem.endswith("dynamic") else []) for p in EXPORTS]


@pytest.mark.parametrize("path", _cases())
def test_the_layer_is_found_with_the_same_results(path: Path) -> None:
    source = onnx.parser.parse_model(path.read_text())
    result = graphopt.optimize(source, lower="always")
    assert [node.op_type.split("_")[0] for node in result.model.graph.node if node.domain == "graphopt"] == [
        named(path)
    ]
    assert result.status == "ok"
    assert not result.report.warnings


def test_every_portable_layer_has_two_spellings() -> None:
    layers = {layer.__name__ for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")}
    portable = {layer.__name__ for _, layer in Registry().layers() if layer.portable} & layers
    exporters = {name: {path.stem.split("-")[1] for path in EXPORTS if named(path) == name} for name in portable}
    few = {name for name, found in exporters.items() if found != {"torchscript", "dynamo"}}
    assert few == set(ELSEWHERE)
