"""On a GPU: right kernels pass the conformance suite, and each planted fault is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.conformance.check import check_layer

from .third_party import FusedRootNorm
from .wrong_kernels import FAULTS, FusedRootMean

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def _with_root() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def test_the_third_partys_layer_is_right() -> None:
    outcome = check_layer(FusedRootNorm)
    assert outcome.ok, outcome.failures[:5]
    checks = {one.check for one in outcome.findings}
    wanted = {"infer", "function", "life cycle", "bounds", "values", "written", "graph", "determinism"}
    assert wanted <= checks
    assert {time["case"].split()[0] for time in outcome.timings} == set(FusedRootNorm.dtypes)


def test_the_right_twin_is_right() -> None:
    outcome = check_layer(FusedRootMean)
    assert outcome.ok, outcome.failures[:5]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    layer, checks = FAULTS[fault]
    outcome = check_layer(layer, quick=fault not in ("narrow", "races"))
    found = {one.check for one in outcome.failures}
    assert found & checks, f"found only {found}"


def test_a_misaligned_load_is_found() -> None:
    """It ends the CUDA context, and the process says so."""
    words = [
        sys.executable,
        "-m",
        "graphopt",
        "check-layer",
        "tests.layers.wrong_kernels:MISALIGNED",
        "--quick",
        "--json",
    ]
    done = subprocess.run(words, cwd=ROOT, env=_with_root(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "misaligned" in done.stdout + done.stderr


def test_the_measurement_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    from graphopt.conformance.bench import bench_layer, calls
    from graphopt.layers.measured import Store, current_gpu

    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    found = bench_layer(calls(FusedRootNorm(), [{"x": (4096, 4096), "weight": (4096,)}], ["float16"]))
    assert found[0]["kernel_ms"] > 0
    assert found[0]["engine_ms"] > 0
    kept = Store(current_gpu()).read()
    assert [(one.layer, one.dtype) for one in kept] == [("FusedRootNorm", "float16")]
    print(json.dumps(found))  # noqa: T201
