"""What cannot work: a clear line, exit code 1, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.testing import model

from .conftest import CHAIN, Cli, files

BUILD = ("--build", "--verify", "none")


def truncated(folder: Path) -> list[str]:
    whole = model("g (float[64,64] x) => (float[64,64] y) { y = MatMul(x, w) }", weights={"w": (64, 64)})
    (folder / "m.onnx").write_bytes(whole.SerializeToString()[:9000])
    return []


def text_file(folder: Path) -> list[str]:
    (folder / "m.onnx").write_text("This is a note, not a model.\n")
    return []


def empty(folder: Path) -> list[str]:
    (folder / "m.onnx").write_bytes(b"")
    return []


def lfs_pointer(folder: Path) -> list[str]:
    (folder / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return []


def folder_instead(folder: Path) -> list[str]:
    (folder / "m.onnx").mkdir()
    return []


def absent(folder: Path) -> list[str]:
    return []


def _external(folder: Path, location: str) -> None:
    source = model("g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    source.graph.initializer.append(weight)
    (folder / "m.onnx").write_bytes(source.SerializeToString())


def missing_external_data(folder: Path) -> list[str]:
    _external(folder, "weights.bin")
    return []


def climbing_external_path(folder: Path) -> list[str]:
    _external(folder, "../weights.bin")
    return []


def cyclic(folder: Path) -> list[str]:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Neg", ["b"], ["y"], "third"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    made = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]))
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return []


def unknown_operator(folder: Path) -> list[str]:
    head = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    onnx.save(model(f"{head} g (float[3] x) => (float[3] y) {{ y = acme.Frobnicate(x) }}"), folder / "m.onnx")
    return list(BUILD)


def missing_output_folder(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    return ["-o", "no/such/folder/out.onnx"]


def missing_engine_folder(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    return ["--engine", "no/such/folder/m.engine", "--shapes", "x=1x3"]


def missing_report_folder(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    return ["--report", "no/such/folder/report.html"]


def output_is_a_folder(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    return ["-o", "."]


def zero_sized(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    return ["--build", "--shapes", "x=0x3"]


def plugin_that_raises(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    (folder / "bad.py").write_text("raise RuntimeError('no licence')\n")
    return ["--plugin", "bad.py"]


def pass_that_raises(folder: Path) -> list[str]:
    onnx.save(model(CHAIN), folder / "m.onnx")
    (folder / "bad.py").write_text(
        "import graphopt\n@graphopt.pass_()\ndef melt(graph, target):\n    return 1 / 0\n"
        "@graphopt.hookimpl\ndef graphopt_passes():\n    return [melt]\n"
    )
    return ["--plugin", "bad.py", "--strict"]


CASES: list[tuple[Callable[[Path], list[str]], str]] = [
    (truncated, "truncated or damaged"),
    (text_file, "a text file"),
    (empty, "empty"),
    (lfs_pointer, "Git LFS pointer"),
    (folder_instead, "a folder"),
    (absent, "no such file"),
    (missing_external_data, "weights.bin"),
    (climbing_external_path, "../weights.bin"),
    (cyclic, "cycle"),
    (unknown_operator, "Frobnicate"),
    (missing_output_folder, "mkdir -p no/such/folder"),
    (missing_engine_folder, "mkdir -p no/such/folder"),
    (missing_report_folder, "mkdir -p no/such/folder"),
    (output_is_a_folder, "folder"),
    (zero_sized, "--shapes x=0x3: an input without elements"),
    (plugin_that_raises, "no licence"),
    (pass_that_raises, "melt"),
]


@pytest.mark.parametrize(("make", "says"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_clear_error_and_nothing_left(cli: Cli, tmp_path: Path, make: Callable[[Path], list[str]], says: str) -> None:
    words = make(tmp_path)
    before = files(tmp_path)
    done = cli("optimize", "m.onnx", *words, "--json")
    assert done.code == 1
    assert says in done.err
    assert done.err.startswith("error: ")
    assert "bug in graphopt" not in done.err
    assert done.json["status"] == "failed"
    assert set(done.json["error"]) == {"what", "where", "hint", "kind"}
    assert [name for name in files(tmp_path) if name != "__pycache__"] == before


@pytest.mark.parametrize("command", ["inspect", "diff"])
def test_other_commands_refuse_a_text_file_too(cli: Cli, tmp_path: Path, command: str) -> None:
    text_file(tmp_path)
    done = cli(command, *["m.onnx"] * (2 if command == "diff" else 1))
    assert (done.code, done.out) == (1, "")
    assert "a text file" in done.err


def test_what_nobody_expected_is_called_a_bug(
    cli: Cli, chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("graphopt.pipeline.optimize", broken)
    done = cli("optimize", "chain.onnx")
    assert done.code == 1
    assert done.err.splitlines()[0] == "error: this is a bug in graphopt: ZeroDivisionError: division by zero"
    assert "GRAPHOPT_DEBUG=1" in done.err
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    from graphopt.cli import main

    with pytest.raises(SystemExit):
        main(["optimize", "chain.onnx"])
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_a_message(cli: Cli, chain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "out.onnx")

    monkeypatch.setattr("graphopt.pipeline.optimize", full)
    done = cli("optimize", "chain.onnx", "--json")
    assert done.code == 1
    assert "out.onnx: No space left on device" in done.err
    assert done.json["error"]["kind"] == "OSError"
    assert files(tmp_path) == ["chain.onnx"]


def _endless(path: Path) -> None:
    """A model that loads at once and runs for hours."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Sin", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [3]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [3]),
        ],
    )
    loop = helper.make_node("Loop", ["turns", "yes", "x"], ["y"], "endless", body=body)
    graph = helper.make_graph(
        [loop],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [
            onnx.numpy_helper.from_array(np.array(10**12, np.int64), "turns"),
            onnx.numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_verification_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    _endless(tmp_path / "m.onnx")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-m", "graphopt", "optimize", "m.onnx", "--json"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not _descendants(run.pid) and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    time.sleep(1.5)
    children = _descendants(run.pid)
    assert children
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert "Traceback" not in err
    assert '"status": "failed"' in out
    assert files(tmp_path) == ["m.onnx", "scratch"]
    assert set(files(scratch)) <= {".ses"}, "onnxruntime keeps .ses in TMPDIR"
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m graphopt passes | head -1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert done.stderr == ""
    assert done.stdout


def test_an_interrupt_while_the_command_line_is_imported_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'graphopt.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from graphopt.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted; nothing was left half-written\n")
