"""What the documentation says is true: its code runs, and it leaves nothing out."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import graphopt
from graphopt import hookspecs, testing
from graphopt.cli import main

from . import options
from .pages import PAGES, ROOT, blocks, commands

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAPHOPT_PLUGINS", raising=False)
    names: dict[str, object] = {"__name__": "documentation"}
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        elif block.language == "console":
            for command, code in commands(block):
                if command.startswith("graphopt "):
                    _graphopt(command, code, capsys)
    if list(tmp_path.glob("test_*.py")):
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "."]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stdout


def _graphopt(command: str, code: int, capsys: Capture) -> str:
    """Run a `graphopt ...` line in this process; what it printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command, comments=True)[1:])
    printed = capsys.readouterr()
    assert left.value.code == code, f"{command}\n{printed.out}\n{printed.err}"
    assert "Traceback" not in printed.err
    return printed.out


def test_the_option_tables_are_current() -> None:
    text = options.PAGE.read_text()
    assert text == options.fresh(text), "python -m tests.docs.options writes them anew"


def test_every_command_and_option_is_documented() -> None:
    text = options.PAGE.read_text()
    for name, command in options.commands().items():
        assert f"## graphopt {name}" in text
        for one in command.params:
            if one.param_type_name == "option" and one.name != "help":
                assert all(f"`{word}`" in text for word in one.opts), one.opts


def test_every_hook_is_documented_with_an_example() -> None:
    page = ROOT / "docs" / "hooks.md"
    code = "".join(block.text for block in blocks(page))
    hooks = [name for name in vars(hookspecs) if name.startswith("graphopt_")]
    assert len(hooks) >= 5
    for name in hooks:
        assert f"## {name}\n" in page.read_text()
        assert f"def {name}(" in code
    text = re.sub(r"\s+", " ", page.read_text())
    for name in hookspecs.ONE_ANSWER:
        assert "At most one plugin may answer" in text.split(f"## {name}")[1].split("## ")[0]


@pytest.mark.parametrize("name", graphopt.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert f"`graphopt.{name}`" in (ROOT / "docs" / "index.md").read_text()


@pytest.mark.parametrize("name", ["check_rule", "assert_unchanged"])
def test_the_checkers_are_documented(name: str) -> None:
    assert hasattr(testing, name)
    assert name in (ROOT / "docs" / "first_pass.md").read_text()


def test_every_json_key_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    text = options.PAGE.read_text()
    exec(next(block.text for block in blocks(options.PAGE) if block.language == "python"), {})

    def documented(value: object, free: bool = False) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                assert free or f"`{key}`" in text, key
                documented(inner, key in _FREE)
        elif isinstance(value, list):
            for inner in value:
                documented(inner, free)

    for words in (
        "optimize model.onnx -o out.onnx --build --shapes x=1x3x8x8",
        "passes",
        "plugins",
        "inspect model.onnx",
        "diff model.onnx out.onnx",
        "explain model.onnx --pass fold-conv-bn --node c",
        "inspect absent.onnx",
    ):
        printed = _graphopt(f"graphopt {words} --json", int("absent" in words), capsys)
        documented(json.loads(printed))


_FREE = {
    *("by_op_before", "by_op_after", "by_op", "by_type", "vetoes"),
    *("not_lowered", "profile", "shapes", "shapes_used", "domains", "dynamic", "bytes_by_dtype"),
}
"""Keys whose value has names from the model as its keys."""


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_has_its_two_commands() -> None:
    lines = [command for block in blocks(ROOT / "README.md") for command, _ in commands(block)]
    assert len(lines) == 2
    assert "graphopt optimize" in lines[0]
    assert "--build" in lines[0]
    assert lines[1].endswith("/pytest")
