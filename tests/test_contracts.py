"""Rules about the code itself, each with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("tensorrt", "tensorrt_rtx", "cupy", "onnxruntime", "torch", "onnx", "onnx_graphsurgeon")


def test_importing_graphopt_loads_nothing_heavy():
    """People import it in services and notebooks; plugins are imported only when asked for."""
    code = f"import sys, graphopt; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_children_that_parse_and_build_load_nothing_that_they_do_not_need():
    """There are four of them in a build; NumPy alone is a tenth of a second each."""
    code = "import sys, graphopt.backends.worker as _; print([one for one in ('numpy', 'onnx') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_import_only_rooms_below_them():
    """Data flows one way: cli > pipeline > report > numerics, backends > registry > rewrite > ir > config, errors."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_does_too_much():
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("graphopt", "plugins", "custom_layers")
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_lint_and_types():
    for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = subprocess.run(
            [Path(sys.executable).parent / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
