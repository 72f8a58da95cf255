"""Ten thousand hostile models through load, inspect, diff, passes, verification and load again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from .fuzz import fuzz
from .mutate import bases, hostile

CASES = int(os.environ.get("GRAPHOPT_HOSTILE", "10000"))


def test_a_seed_is_one_model() -> None:
    assert all(hostile(seed) == hostile(seed) for seed in range(0, 200, 7))
    assert len({hostile(seed) for seed in range(200)}) > 190


def test_the_healthy_models_are_healthy() -> None:
    for raw in list(dict.fromkeys(bases()))[:6]:
        onnx.checker.check_model(onnx.ModelProto.FromString(raw))


def test_a_sample_of_hostile_models() -> None:
    tally = fuzz(0, 80, verify_every=30)
    assert not tally.findings
    assert sum(tally.outcomes.values()) == 80
    assert tally.outcomes["done"] > 10, "most of them would be refused at the door"


FOUND = (4767, 6487, 7687, 7903, 8178, 8488, 9825, 11171, 13083, 13130, 14607, 14688, 14946, 15179, 15606)


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once(seed: int) -> None:
    assert not fuzz(seed, seed + 1).findings


@pytest.mark.parametrize("seed", [12650, 14150])
def test_what_was_found_once_in_verification(seed: int) -> None:
    assert not fuzz(seed, seed + 1, verify_every=1).findings


@pytest.mark.full
def test_ten_thousand_hostile_models() -> None:
    tally = fuzz(0, CASES)
    assert not tally.findings
    assert sum(tally.outcomes.values()) == CASES


def test_the_driver_notices_a_death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plugin that aborts on one kind of model stands for native code that dies."""
    (tmp_path / "fatal.py").write_text(
        "import graphopt, os\n@graphopt.pass_()\ndef fatal(graph, target):\n    os.abort()\n"
        "@graphopt.hookimpl\ndef graphopt_passes():\n    return [fatal]\n"
    )
    monkeypatch.setenv("GRAPHOPT_PLUGINS", str(tmp_path / "fatal.py"))
    tally = fuzz(0, 12, verify_every=1000)
    assert tally.findings
    assert all("died with -6" in what for _, what in tally.findings)
    assert sum(tally.outcomes.values()) + len(tally.findings) == 12


@pytest.mark.parametrize("words", [("optimize", "--verify", "none", "--quiet"), ("inspect",), ("diff", "m.onnx")])
def test_the_commands_answer_without_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from graphopt.cli import main\n"
        "for name in sys.argv[1].split(','):\n"
        "    try: main([sys.argv[2], name, *sys.argv[3:]])\n"
        "    except SystemExit as left: assert left.code in (0, 1), (name, left.code)\n"
        "print('all', file=sys.stderr)"
    )
    seeds = range(500, 515)
    for seed in seeds:
        (tmp_path / f"{seed}.onnx").write_bytes(hostile(seed))
    onnx.save(onnx.ModelProto.FromString(bases()[0]), tmp_path / "m.onnx")
    files = ",".join(f"{seed}.onnx" for seed in seeds)
    done = subprocess.run(
        [sys.executable, "-c", code, files, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stderr.strip().endswith("all"), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "a bug in graphopt" not in done.stderr
