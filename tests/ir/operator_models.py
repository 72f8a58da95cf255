"""The 2,024 models of ONNX's own operator tests, parsed once."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


class Case(NamedTuple):
    kind: str
    name: str
    found: Any

    def model(self) -> onnx.ModelProto:
        if self.found.model is not None:
            copy = onnx.ModelProto()
            copy.CopyFrom(self.found.model)
            return copy
        return onnx.load(Path(self.found.model_dir) / "model.onnx")

    def data(self) -> list[tuple[list[Any], list[Any]]]:
        """(inputs, expected outputs) of each data set: arrays, lists of arrays, or None."""
        if self.found.data_sets is not None:
            return [(list(inputs), list(outputs)) for inputs, outputs in self.found.data_sets]
        sets = []
        ports = onnx.load(Path(self.found.model_dir) / "model.onnx").graph
        for folder in sorted(Path(self.found.model_dir).glob("test_data_set_*")):
            sets.append((_read(folder, "input", ports.input), _read(folder, "output", ports.output)))
        return sets


def _read(folder: Path, kind: str, ports: Any) -> list[Any]:
    values = []
    for i, _ in enumerate(ports):
        path = folder / f"{kind}_{i}.pb"
        if path.exists():
            tensor = onnx.TensorProto.FromString(path.read_bytes())
            values.append(onnx.numpy_helper.to_array(tensor))
    return values


@cache
def cases() -> tuple[Case, ...]:
    """All cases; stable order. Takes a few seconds, so nothing asks for it while tests are collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [Case(kind, case.name, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    return tuple(sorted(found, key=lambda case: (case.kind, case.name)))


def sample(every: int) -> tuple[Case, ...]:
    """A stratified sample: every n-th case by name, so that each family of operators is met."""
    return cases()[::every]
