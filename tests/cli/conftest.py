"""Runs the real command in this process, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.cli import main
from graphopt.testing import model

CHAIN = "g (float[N,3] x) => (float[N,3] y) { a = Transpose<perm=[0,1]>(x) b = Relu(a) c = Identity(b) y = Exp(c) }"
WRONG = '''
import graphopt

class ReplaceRelu(graphopt.Rule):
    """Relu(x) = x, which is wrong."""
    def pattern(self, op, x):
        return op.Relu(x)
    def rewrite(self, op, x):
        return op.Abs(x)

@graphopt.hookimpl
def graphopt_passes():
    return [ReplaceRelu()]
'''


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """cli('optimize', 'm.onnx') = how that ended; the current folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("GRAPHOPT_DEBUG", raising=False)

    def run(*words: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """chain.onnx: four nodes of which two do nothing."""
    path = tmp_path / "chain.onnx"
    onnx.save(model(CHAIN), path)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """wrong.py: a plugin whose only rule changes the numbers."""
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    return path


def files(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())
