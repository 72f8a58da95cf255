"""A result is there whole, or the old one is: after a kill, a full disk, a folder that cannot be written to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir import save as saving
from graphopt.ir.load import load
from graphopt.ir.save import stage, write

from .models import model, node, relu, run, save, tensor, value


def large(megabytes: int, fill: float = 1.0):
    """A model with one weight of this size."""
    return model(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", (1,))],
        [value("y", (megabytes << 18,))],
        [tensor("w", np.full(megabytes << 18, fill, np.float32))],
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_touched_before_commit(tmp_path: Path) -> None:
    target = save(relu(), tmp_path / "o.onnx")
    before = target.read_bytes()
    with stage(load(large(1)), target, external=True) as staged:
        assert target.read_bytes() == before
        assert staged.model_path.exists()
        run(staged.model_path)
    assert names(tmp_path) == ["o.onnx"], "without a commit nothing stays"
    assert target.read_bytes() == before
    with stage(load(large(1)), target, external=True) as staged:
        files = staged.commit()
    assert names(tmp_path) == sorted(path.name for path in files)
    assert len(files) == 2


def test_an_error_inside_the_stage_leaves_the_old_result(tmp_path: Path) -> None:
    target = save(relu(), tmp_path / "o.onnx")
    for error in (RuntimeError, OSError, KeyboardInterrupt):
        with pytest.raises(error), stage(load(large(1)), target):
            raise error("verification failed")
    assert names(tmp_path) == ["o.onnx"]


@pytest.mark.parametrize("external", [False, True])
def test_killed_while_staging(tmp_path: Path, external: bool) -> None:
    target = save(relu(), tmp_path / "o.onnx")
    before = target.read_bytes()
    save(large(8), tmp_path / "m.onnx")
    code = (
        "import os, sys; from graphopt.ir import save; from graphopt.ir.load import load\n"
        "save._sync = lambda path: (print('here', flush=True), sys.stdin.read())\n"
        f"save.write(load('m.onnx'), 'o.onnx', external={external})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    left = [name for name in names(tmp_path) if name not in ("m.onnx", "o.onnx")]
    assert [name.startswith(".graphopt-") for name in left] == [True]
    assert target.read_bytes() == before
    write(load(tmp_path / "m.onnx"), target)
    assert run(target)[0].shape == (8 << 18,)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """The target is the old model or the new one, each with its own data, whenever the writer dies."""
    save(large(4, 2.0), tmp_path / "m.onnx")
    target = write(load(large(4, 1.0)), tmp_path / "o.onnx", external=True)[0]
    code = (
        "import sys, time; from graphopt.ir.save import write; from graphopt.ir.load import load\n"
        "graph = load('m.onnx'); print('here', flush=True)\n"
        "while True: write(graph, 'o.onnx', external=True); write(load('m.onnx'), 'o.onnx', external=False)"
    )
    for delay in (0.001, 0.01, 0.03, 0.05):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.kill()
        child.communicate()
        assert run(target)[0][0] in (2.0, 3.0)
        load(target)


def test_two_processes_that_write_one_output(tmp_path: Path) -> None:
    save(large(1, 2.0), tmp_path / "a.onnx")
    save(large(1, 4.0), tmp_path / "b.onnx")
    code = (
        "import sys; from graphopt.ir.save import write; from graphopt.ir.load import load\n"
        "graph = load(sys.argv[1])\n"
        "for i in range(30): write(graph, 'o.onnx', external=True)"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path) for name in ("a.onnx", "b.onnx")]
    assert [child.wait() for child in children] == [0, 0]
    assert run(tmp_path / "o.onnx")[0][0] in (3.0, 5.0)
    assert len(names(tmp_path)) == 4, "the other one's data has been removed"


def test_the_model_is_moved_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "o.onnx"
    write(load(large(1, 1.0)), target, external=True)
    moved = []

    def replace(source: Path, final: Path, real=os.replace) -> None:
        if Path(final).parent == tmp_path:
            moved.append(Path(final).name)
            assert run(target)[0][0] == 2.0, "the old result runs until its model file is replaced"
        real(source, final)

    monkeypatch.setattr(saving.os, "replace", replace)
    write(load(large(1, 5.0)), target, external=True)
    assert [name.endswith(".data") for name in moved] == [True, False]
    assert run(target)[0][0] == 6.0


def test_a_failed_move_leaves_no_new_data_behind(tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    with stage(load(large(1)), target, external=True) as staged:
        target.mkdir()
        with pytest.raises(GraphoptError, match="cannot be written"):
            staged.commit()
    assert names(tmp_path) == ["o.onnx"]


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in [
        (tmp_path / "none" / "o.onnx", r"folder .*none does not exist\n  mkdir -p"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/null"), "no regular file"),
        (tmp_path / "a\0b", "NUL"),
        (tmp_path / "a\0b" / "c", "NUL"),
        (tmp_path / ("n" * 300), "too long"),
        (tmp_path / "pipe" / "o.onnx", "does not exist"),
    ]:
        with pytest.raises(GraphoptError, match=said):
            write(load(relu()), path)
    assert names(tmp_path) == ["pipe"]


def test_a_folder_that_cannot_be_written_to() -> None:
    graph, user = load(relu()), os.geteuid()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        with pytest.raises(GraphoptError, match=r"Permission denied\n  write somewhere else with -o"):
            write(graph, folder / "o.onnx")
    finally:
        os.seteuid(user)
        folder.rmdir()


@pytest.mark.parametrize("external", [False, True])
def test_a_file_limit(tmp_path: Path, external: bool) -> None:
    """A quota: the write fails in its middle."""
    target = save(relu(), tmp_path / "o.onnx")
    before = target.read_bytes()
    graph = load(large(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(GraphoptError, match="cannot be written: File too large"):
            write(graph, target, external=external)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["o.onnx"]
    assert target.read_bytes() == before


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk(tmp_path: Path, external: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        target = save(relu(), disk / "o.onnx")
        before = target.read_bytes()
        with pytest.raises(GraphoptError, match=r"No space left on device\n  free some space"):
            write(load(large(4)), target, external=external)
        assert names(disk) == ["o.onnx"]
        assert target.read_bytes() == before
    finally:
        subprocess.run(["umount", disk], check=True)
