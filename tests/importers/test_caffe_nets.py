"""Published networks: from Caffe's files to engines, against what Caffe itself computed of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from graphopt_importers.caffe import Caffe

from graphopt.cli import main
from graphopt.importer import ImportRequest

from .caffe_cases import OUTPUTS
from .caffe_nets import NETS, SMALL, feeds

RECORDED = np.load(OUTPUTS)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_computes_what_caffe_computes(name: str, tmp_path: Path) -> None:
    """Relative L2 difference under 1e-5."""
    path = Caffe().convert(ImportRequest(str(SMALL[name]().write(tmp_path / "caffe")), tmp_path)).model
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    assert sorted(f"{name}/{one}" for one in outputs) == sorted(key for key in RECORDED if key.startswith(f"{name}/"))
    for output, found in zip(outputs, session.run(None, feeds(name)), strict=True):
        wanted = RECORDED[f"{name}/{output}"]
        assert found.shape == wanted.shape
        assert wanted.std() > 0
        assert np.linalg.norm(found.astype(np.float64) - wanted) < 1e-5 * np.linalg.norm(wanted)


def built(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as left:
        main(["build", str(path), "-o", str(path.with_suffix(".engine")), "--json", *words])
    printed = json.loads(capsys.readouterr().out)
    assert left.value.code == 0, printed
    assert path.with_suffix(".engine").stat().st_size > 1000
    return dict(printed)


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet_ssd", "fcn8s", "crnn"])
def test_one_command_makes_an_engine_of_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--import-option", "detections=fixed"] if name == "mobilenet_ssd" else []
    printed = built(SMALL[name]().write(tmp_path), capsys, *words)
    assert printed["status"] == "ok"


@pytest.mark.full
@pytest.mark.parametrize("name", NETS)
def test_one_command_makes_an_engine_of_it_at_full_size(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where pycaffe is installed, its outputs are those that the engine's model is compared with."""
    words = ["--import-option", "detections=fixed"] if name == "mobilenet_ssd" else []
    assert built(NETS[name]().write(tmp_path), capsys, *words)["status"] == "ok"
