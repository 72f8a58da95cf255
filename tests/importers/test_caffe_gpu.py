"""Engines of Caffe networks on a GPU: `pytest -m gpu -n 0 tests/importers/test_caffe_gpu.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.cli import main

from .caffe_cases import OUTPUTS
from .caffe_nets import SMALL, feeds

pytestmark = pytest.mark.gpu
TF32 = 2e-2
"""Fifty layers on operands of 11 bits: 0.0024 for resnet50 where each is rounded, 0.024 where truncated (emulated)."""


def outputs(name: str, folder: Path, *words: str) -> dict[str, object]:
    source = SMALL[name]().write(folder)
    engine = folder / "net.engine"
    with pytest.raises(SystemExit) as left:
        main(["build", str(source), "-o", str(engine), "-q", *words])
    assert left.value.code == 0
    return dict(graphopt.Engine(str(engine))(**feeds(name)))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "mobilenet_ssd"])
def test_an_engine_computes_what_caffe_computed(name: str, tmp_path: Path) -> None:
    recorded = np.load(OUTPUTS)
    for output, found in outputs(name, tmp_path).items():
        wanted = recorded[f"{name}/{output}"]
        assert np.linalg.norm(np.asarray(found) - wanted) < TF32 * np.linalg.norm(wanted)


def test_detections_of_both_forms_are_the_same(tmp_path: Path) -> None:
    """As many rows as there are detections, by engines around a kernel; and a fixed number of rows, by one engine."""
    found = np.asarray(outputs("mobilenet_ssd", tmp_path / "a")["detection_out"])[0, 0]
    fixed = np.asarray(outputs("mobilenet_ssd", tmp_path / "b", "--import-option", "detections=fixed")["detection_out"])
    kept = fixed[0, 0][fixed[0, 0, :, 1] >= 0]
    assert len(kept) > 5
    np.testing.assert_allclose(found, kept, atol=1e-3)
