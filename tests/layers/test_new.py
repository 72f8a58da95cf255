"""`graphopt new`: the package is complete, its tests pass, and it installs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from graphopt.errors import UsageError
from graphopt.scaffold import new_package

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("with_pass", "with_layer"), [(False, False), (True, False), (False, True), (True, True)])
def test_its_tests_pass_at_once(with_pass: bool, with_layer: bool, tmp_path: Path) -> None:
    written = new_package("acme-vision", tmp_path, with_pass=with_pass, with_layer=with_layer)
    names = {path.relative_to(tmp_path / "acme-vision").as_posix() for path in written}
    assert ("tests/test_passes.py" in names) == (with_pass or not with_layer)
    assert ("tests/test_layers.py" in names) == with_layer
    root = tmp_path / "acme-vision"
    assert "@" not in "".join(path.read_text() for path in written).replace("@graphopt.hookimpl", "")
    paths = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        words, cwd=root, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Acme", "acme_x", "class", "1st", "", "../up", "graphopt", "numpy", "json", "norms"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        new_package(name, tmp_path, with_pass=True, with_layer=False)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    new_package("acme", tmp_path, with_pass=True, with_layer=False)
    before = (tmp_path / "acme" / "README.md").read_text()
    with pytest.raises(UsageError, match="there already"):
        new_package("acme", tmp_path, with_pass=False, with_layer=True)
    assert (tmp_path / "acme" / "README.md").read_text() == before


@pytest.mark.install
def test_it_installs_into_a_clean_environment(tmp_path: Path) -> None:
    new_package("acme-vision", tmp_path, with_pass=True, with_layer=True)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, ROOT], check=True)
    subprocess.run([*install, f"{tmp_path / 'acme-vision'}[test]"], check=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GRAPHOPT"))}
    root = tmp_path / "acme-vision"
    subprocess.run([python, "-m", "pytest", "-q"], cwd=root, env=env, check=True)
    listed = subprocess.run(
        [tmp_path / "env" / "bin" / "graphopt", "plugins"], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert "acme-vision" in listed
    assert "layer-norms" in listed
