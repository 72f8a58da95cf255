"""A child that dies, hangs or is interrupted costs an error message and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from graphopt.backends import get
from graphopt.config import Limits, Shapes
from graphopt.errors import BackendError

SHAPES = Shapes(opt={"x": (1, 3, 48, 192)})


def children() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children(recursive=True) if "graphopt.backends.worker" in cmdline(child)
    ]


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def old_engine(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "model.engine"
    path.parent.mkdir()
    path.write_text("the engine of yesterday")
    return path


def assert_untouched(old_engine: Path) -> None:
    assert old_engine.read_text() == "the engine of yesterday"
    assert list(old_engine.parent.iterdir()) == [old_engine]
    assert children() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_death_in_the_middle_of_a_build(rtx, classifier, old_engine, number):
    def kill(phase, done, total):
        for child in children():
            child.send_signal(number)

    with pytest.raises(
        BackendError, match=f"TensorRT-RTX .* builder died with signal {number.name} while build"
    ) as caught:
        rtx.build(classifier, old_engine, SHAPES, progress=kill)
    assert ("out of memory" in caught.value.hint) == (number == signal.SIGKILL)
    assert_untouched(old_engine)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
def test_an_exception_in_the_callback_ends_the_build(rtx, classifier, old_engine, kind):
    def interrupt(phase, done, total):
        raise kind

    with pytest.raises(kind):
        rtx.build(classifier, old_engine, SHAPES, progress=interrupt)
    assert_untouched(old_engine)


def test_timeout(rtx, classifier, old_engine):
    def stop(phase, done, total):
        for child in children():
            child.suspend()

    rtx.version()
    hurried = get("tensorrt_rtx", Limits(build_seconds=2))
    start = time.monotonic()
    with pytest.raises(BackendError, match="was stopped after 2 s, the limit"):
        hurried.build(classifier, old_engine, SHAPES, progress=stop)
    assert time.monotonic() - start < 10
    assert_untouched(old_engine)


def test_a_crash_of_the_real_parser_names_the_node(rtx, write):
    """TopK with a K that is only known at run time ends the process of TensorRT-RTX 1.6.1."""
    model = write(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[A, B] x, int64[K] k) => (float[C, D] values, int64[E, F] indices)
        {
            [before] r = Relu(x)
            [culprit] values, indices = TopK <axis = 1> (r, k)
        }"""
    )
    with pytest.raises(BackendError) as caught:
        rtx.parse(model)
    if rtx.version().startswith("1.6.1"):
        assert "parser died with signal SIGSEGV while parsing node culprit [TopK]" in str(caught.value)
        assert "try fixed shapes" in caught.value.hint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(rtx, classifier, old_engine, number):
    """The child is stopped first, so that only the parent's end can be what ends it."""
    code = (
        "import sys, psutil; from graphopt.backends import get; from graphopt.config import Shapes\n"
        "def hold(*step):\n"
        "    (child,) = psutil.Process().children()\n"
        "    child.suspend(); print(child.pid, flush=True)\n"
        "get('tensorrt_rtx').build(*sys.argv[1:], Shapes(opt={'x': (1, 3, 48, 192)}), progress=hold)\n"
    )
    command = [sys.executable, "-c", code, str(classifier), str(old_engine)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, number)
    parent.wait(timeout=10)
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert old_engine.read_text() == "the engine of yesterday"
    if number == signal.SIGINT:
        assert list(old_engine.parent.iterdir()) == [old_engine]


def test_prints_of_native_code_stay_out_of_this_process(rtx, write, capfd):
    model = write("""<ir_version: 8, opset_import: ["": 17]> g (string[4] x) => (string[4] y) { y = Identity(x) }""")
    with pytest.raises(BackendError):
        rtx.parse(model)
    assert capfd.readouterr() == ("", "")
