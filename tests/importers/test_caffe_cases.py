"""Every layer, compared with what Caffe itself computed; and with Caffe, where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphopt_importers.caffe import Caffe
from graphopt_importers.caffe.layers import CONVERTERS

from graphopt.importer import ImportRequest

from . import caffe_files
from .caffe_cases import OUTPUTS, Case, cases, with_caffe

RECORDED = np.load(OUTPUTS)
CASES = cases()


def imported(case: Case, folder: Path, **words: Any) -> dict[str, Any]:
    """output -> what the imported model computes in onnxruntime."""
    source = caffe_files.write(folder / "caffe", case.prototxt(), case.blobs)
    (folder / "onnx").mkdir()
    path = Caffe().convert(ImportRequest(str(source), folder / "onnx", **words)).model
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    fed = {one.name: case.inputs[one.name] for one in session.get_inputs()}
    found = dict(zip(names, session.run(None, fed), strict=True))
    for one in session.get_outputs():
        declared = [dim for dim in one.shape]
        assert all(isinstance(d, str) or d == n for d, n in zip(declared, found[one.name].shape, strict=True))
    return found


def assert_same(found: Any, wanted: Any) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    size = np.linalg.norm(wanted.astype(np.float64))
    assert np.linalg.norm(found.astype(np.float64) - wanted) <= 1e-6 * size + 1e-12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layer_computes_what_caffe_computes(case: Case, tmp_path: Path) -> None:
    found = imported(case, tmp_path)
    wanted = {key.split("/", 1)[1]: RECORDED[key] for key in RECORDED if key.split("/", 1)[0] == case.name}
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert_same(found[name], array)


@pytest.mark.skipif(importlib.util.find_spec("caffe") is None, reason="pycaffe is not installed")
def test_what_was_recorded_is_what_caffe_computes(tmp_path: Path) -> None:
    for case in CASES:
        for name, array in with_caffe(case, tmp_path / case.name).items():
            assert_same(RECORDED[f"{case.name}/{name}"], array)


def test_every_layer_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/importers_caffe.md").read_text()
    assert not [kind for kind in CONVERTERS if f"`{kind}`" not in page]
    assert not [option for option in Caffe.options if f"`{option}" not in page]


def test_every_layer_is_held_to_something() -> None:
    """Caffe's own outputs, or an equation."""
    texts = [case.text for case in CASES] + [Path(__file__).with_name("test_caffe_equations.py").read_text()]
    silent = {"Identity", "Parameter", "ContinuationIndicator"}
    missing = [kind for kind in CONVERTERS if not any(f'"{kind}"' in text for text in texts)]
    assert set(missing) <= silent
