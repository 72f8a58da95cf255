"""Kernels run on emulated threads: planted faults are found, and first-party kernels are right where no GPU is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from graphopt.conformance.cases import Case, cases
from graphopt.layers.layer import Layer
from graphopt.registry import Registry

from . import emulator
from .third_party import FusedRootNorm
from .wrong_kernels import FAULTS, MISALIGNED, FusedRootMean

pytestmark = pytest.mark.skipif(not emulator.USABLE, reason="needs g++ and CUDA's headers")
LAYERS = [layer for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")]
FOUND = ("beyond", "reads", "races", "tail", "stride", "narrow", "input")


def small(layer: type[Layer], most: int = 1 << 14) -> list[Case]:
    every = cases(layer(), quick=True)
    return [one for one in every if sum(map(math.prod, one.shapes.values())) <= most]


def wrong(layer: type[Layer], every: list[Case], folder: Path) -> list[str]:
    machine = emulator.Emulator(every, folder)
    return [told for case in every for tactic in case.layer.tactics() or [0] for told in machine.wrong(case, tactic)]


@pytest.mark.parametrize("layer", [FusedRootMean, pytest.param(FusedRootNorm, marks=pytest.mark.full)])
def test_a_right_kernel_is_right(layer: type[Layer], tmp_path: Path) -> None:
    assert not wrong(layer, small(layer, 4096), tmp_path)


@pytest.mark.parametrize(
    "fault", [one if one in ("beyond", "races") else pytest.param(one, marks=pytest.mark.full) for one in FOUND]
)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    layer, _ = FAULTS[fault]
    most = 1 << 17 if fault == "narrow" else 4096
    assert wrong(layer, small(layer, most), tmp_path)


def test_a_misaligned_load_is_found(tmp_path: Path) -> None:
    assert "loads a vector from no multiple of its bytes" in wrong(MISALIGNED, small(MISALIGNED, 4096), tmp_path)[0]


@pytest.mark.full
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_first_party_kernels_are_right(layer: type[Layer], tmp_path: Path) -> None:
    assert not wrong(layer, small(layer), tmp_path)
