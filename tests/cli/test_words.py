"""What the words of the command line mean, and which are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.options import dims_by_name, shapes_of, values_by_name

from .conftest import Cli, files


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["x=1x3x48x320"], {"x": (1, 3, 48, 320)}),
        (["x:1x3", "y:7"], {"x": (1, 3), "y": (7,)}),
        (["x:1x3,y:7"], {"x": (1, 3), "y": (7,)}),
        (["x=1x3,y=7"], {"x": (1, 3), "y": (7,)}),
        (["'input:0':1x3"], {"input:0": (1, 3)}),
        (["input:0=1x3"], {"input:0": (1, 3)}),
        (["a=b:1x3"], {"a=b": (1, 3)}),
        (["a=b=1x3"], {"a=b": (1, 3)}),
        (["a,b=1x3"], {"a,b": (1, 3)}),
        (["s="], {"s": ()}),
        (["x=1", "x=1"], {"x": (1,)}),
    ],
)
def test_shapes(words: list[str], found: dict[str, tuple[int, ...]]) -> None:
    assert dims_by_name(words, "--shapes") == found


@pytest.mark.parametrize("words", [["x"], [""], ["x=axb"], ["x=1x-1"], ["=1x3"], ["x=1,"], ["x=1", "x=2"]])
def test_shapes_that_are_none(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--shapes"):
        dims_by_name(words, "--shapes")


def test_a_profile_must_be_ordered() -> None:
    assert shapes_of((), (), ()) is None
    with pytest.raises(UsageError, match="min <= typical <= max"):
        shapes_of(["x=4"], ["x=2"], ["x=8"])


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("k=5", {"k": 5}),
        ("k=-5", {"k": -5}),
        ("k=1e-3", {"k": 1e-3}),
        ("k=.5", {"k": 0.5}),
        ("k=1,2,3", {"k": [1, 2, 3]}),
        ("k=[[1,2],[3,4]]", {"k": [[1, 2], [3, 4]]}),
        ("k=true", {"k": True}),
        ("k=False", {"k": False}),
        ("a=b=5", {"a=b": 5}),
        ("a:0=5", {"a:0": 5}),
    ],
)
def test_values(word: str, found: dict[str, object]) -> None:
    assert values_by_name([word]) == found


def test_a_value_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a=b.npy"
    np.save(path, np.arange(3))
    assert values_by_name([f"k=@{path}"])["k"].tolist() == [0, 1, 2]
    for name, content in (("text.npy", b"hello"), ("absent.npy", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            values_by_name([f"k=@{tmp_path / name}"])


@pytest.mark.parametrize("word", ["k", "k=", "=5", "k=five", "k=1,two"])
def test_values_that_are_none(word: str) -> None:
    with pytest.raises(UsageError, match="--bind"):
        values_by_name([word])


USAGE = [
    ("optimize",),
    ("optimize", "chain.onnx", "--nonsense"),
    ("optimize", "chain.onnx", "--verify", "sometimes"),
    ("optimize", "chain.onnx", "--backend", "tensorflow"),
    ("optimize", "chain.onnx", "--compute-capability", "ampere"),
    ("optimize", "chain.onnx", "--optimization-level", "9"),
    ("optimize", "chain.onnx", "--optimization-level", "high"),
    ("optimize", "chain.onnx", "--pipeline", "fast"),
    ("optimize", "chain.onnx", "--skip", "fold-everything"),
    ("optimize", "chain.onnx", "--no-plugin", "nobody"),
    ("optimize", "chain.onnx", "--shapes", "x=wide"),
    ("optimize", "chain.onnx", "--shapes", "z=1x3"),
    ("optimize", "chain.onnx", "--freeze", "z=1x3"),
    ("optimize", "chain.onnx", "--freeze", "x=1x4"),
    ("optimize", "chain.onnx", "--bind", "z=1"),
    ("optimize", "chain.onnx", "--bind", "x=[1,2]"),
    ("optimize", "chain.onnx", "--report", "report.pdf"),
    ("optimize", "chain.onnx", "-o", "chain.onnx"),
    ("optimize", "chain.onnx", "-o", "./chain.onnx"),
    ("optimize", "chain.onnx", "--engine", "chain.onnx"),
    ("optimize", "chain.onnx", "-o", "same", "--engine", "same"),
    ("explain", "chain.onnx", "--pass", "fold-conv-bm", "--node", "Exp_3"),
    ("explain", "chain.onnx", "--pass", "fold-conv-bn", "--node", "Exponential"),
    ("explain", "chain.onnx"),
    ("melt", "chain.onnx"),
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_words_exit_with_2_and_leave_nothing(
    cli: Cli, chain: Path, tmp_path: Path, words: tuple[str, ...], as_json: bool
) -> None:
    content = chain.read_bytes()
    done = cli(*words, *(["--json"] if as_json else []))
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert files(tmp_path) == ["chain.onnx"]
    assert chain.read_bytes() == content
    if as_json:
        assert done.json["schema_version"] == 1
        assert done.json["status"] == "failed"
        assert done.json["error"]["kind"] == "UsageError"
        assert set(done.json["error"]) == {"what", "where", "hint", "kind"}
    else:
        assert done.out == ""


def test_near_names_are_offered(cli: Cli, chain: Path) -> None:
    assert "fold-conv-bn" in cli("optimize", "chain.onnx", "--skip", "fold-conv-bm").err
    assert "fold-conv-bn" in cli("explain", "chain.onnx", "--pass", "fold-conv-bm", "--node", "Relu_0").err


def test_help_and_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("graphopt ")
    assert "optimize" in cli().out
    for command in ("optimize", "passes", "plugins", "inspect", "diff", "explain"):
        done = cli(command, "--help")
        assert done.code == 0
        assert max(map(len, done.out.splitlines())) <= 80


def test_a_group_without_a_command_prints_its_help(cli: Cli) -> None:
    done = cli("cache")
    assert (done.code, done.err) == (0, "")
    assert "prune" in done.out


def test_a_second_value_needs_the_option_again(cli: Cli) -> None:
    done = cli("optimize", "m.onnx", "--shapes", "x=1x3", "y=4")
    assert done.code == 2
    assert "write an option again before each of its values: --shapes a=1x3 --shapes b=4" in done.err
