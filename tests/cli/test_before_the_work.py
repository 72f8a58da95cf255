"""What cannot be built is said before anything is optimized or compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.cli import main
from graphopt.testing import model

pytest.importorskip("tensorrt_rtx")
SPY = """
import graphopt
@graphopt.hookimpl
def graphopt_after_pass(graph, name, changes): open("began", "w").close()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    Path("spy.py").write_text(SPY)
    text = "g (float[N,3] x) => (float[N,3] y) { a = Add(x, w) y = Relu(a) }"
    onnx.save(model(text, weights={"w": np.ones(3, np.float32)}), "m.onnx")
    return tmp_path


def build(*words: str) -> int:
    shapes = [] if "--shapes" in words else ["--shapes", "x=1x3"]
    with pytest.raises(SystemExit) as left:
        main(["build", "m.onnx", *shapes, "--plugin", "spy.py", "--verify", "none", "--no-cache", *words])
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--timing-cache t.cache", "has no timing cache"),
        ("--compute-capability sm70", "has no compute capability 7.0 to build for"),
        ("--hardware-compatibility-level ampere+", "does not take --hardware-compatibility-level ampere_plus"),
        ("--tactic-sources +NONSUCH", "it knows edge_mask_convolutions"),
        ("--profile z=2x3", "the model has no input 'z'"),
        ("--profile x=2x3 --max-shapes z=2x3", "the model has no input 'z'"),
        ("--backend onnxruntime", "onnxruntime builds no engine"),
    ],
)
def test_an_option_that_cannot_be(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(*words.split()) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("began").exists()


def test_a_flag_that_needs_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.engines.request import gpu

    if gpu():
        pytest.skip("a GPU is here")
    assert build("--refit") == 1
    assert "cannot build an engine with --refit here" in (err := " ".join(capsys.readouterr().err.split()))
    assert "refittable engines are built beside an NVIDIA GPU" in err
    assert not Path("began").exists()


def test_what_can_be_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--version-compatible", "--exclude-lean-runtime", "--compute-capability", "sm89,sm120") == 0
    assert Path("began").exists()
    assert Path("m.engine").exists()


def test_a_complaint_names_the_users_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Not those that stand for them in temporary folders."""
    onnx.save(model("g (float[N,3,3] x) => (float[N] y) { y = Det(x) }"), "m.onnx")
    assert build("--raw", "--shapes", "x=1x3x3") == 1
    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("error: m.onnx")
    assert ".graphopt-" not in err
