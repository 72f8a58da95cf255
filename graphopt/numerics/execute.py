"""Runs models in a child process, so that native code that dies is an error and never loses the caller."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from graphopt.errors import GraphoptError

from .difference import Value
from .exchange import read_values, write_values

Model = str | Path | bytes


class ExecutionError(GraphoptError):
    """A model cannot be loaded, or refuses its inputs: the message is onnxruntime's."""


class ChildDied(ExecutionError):
    """The process that ran a model died; signal is the number that ended it, 0 where it just left."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", signal: int = 0) -> None:
        super().__init__(what, where=where, hint=hint)
        self.signal = signal

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_death, (self.what, self.where, self.hint, self.signal)


class OutOfTime(ExecutionError):
    """A model took longer than it was given, and was ended."""


def _rebuild_death(what: str, where: str, hint: str, signal: int) -> ChildDied:
    return ChildDied(what, where=where, hint=hint, signal=signal)


@dataclass(frozen=True)
class Execution:
    """What a model gave for each set of feeds, and how it had to be run if not in onnxruntime."""

    outputs: list[dict[str, Value]]
    note: str = ""


def execute(
    model: Model, feeds: Sequence[Mapping[str, Value]], *, engine: str = "auto", seconds: float = 3600.0
) -> Execution:
    """outputs[i] = model(feeds[i]), in onnxruntime with its optimizations off, loaded once.

    model: a file (external data beside it) or its bytes. engine: 'onnxruntime', 'reference' (onnx's own, up to
    200 MiB), or 'auto': the first, and the second where the first has no kernel. Raises ExecutionError.
    """
    with Runner(seconds=seconds) as runner, as_file(model) as path:
        note = runner.open(path, engine)
        return Execution([runner.run(one) for one in feeds], note)


def free_bytes() -> int:
    """What the machine, or the control group of this process, has left; 0 where it does not tell."""
    found = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(min(found, default=0), 0)


@contextlib.contextmanager
def as_file(model: Model) -> Iterator[Path]:
    """The model's path; bytes get a temporary file."""
    if not isinstance(model, bytes):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model)
        yield path


class Runner:
    """A child process that holds one model at a time. Use it in a with statement.

    A model that kills it is a ChildDied; the next open starts a fresh child.
    """

    def __init__(self, *, threads: int = 0, seconds: float = 3600.0, memory_bytes: int = 0) -> None:
        """threads: of each operator, 0 = every core of this process. seconds: per loading and per run.

        memory_bytes: what the child may take beyond files that it maps, 0 = what the machine has left at its start.
        """
        self._memory_bytes = memory_bytes
        self._threads = threads or len(os.sched_getaffinity(0))
        self._seconds = seconds
        self._child: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._errors: IO[bytes] | None = None
        self._where = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._folder:
            self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.pid if self._child else None

    def open(self, path: str | Path, engine: str = "auto") -> str:
        """Loads a model in place of the one before; a note if it is not run in onnxruntime. Raises ExecutionError."""
        self._where = Path(path).name
        if not Path(path).is_file():
            raise ExecutionError("no such file", where=str(path))
        if self._child is None or self._child.poll() is not None:
            self._start()
        answer = self._ask({"do": "open", "path": str(path), "engine": engine, "threads": self._threads})
        return str(answer["note"])

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """outputs = model(feeds), by output name, in order. Raises ExecutionError."""
        assert self._folder is not None, "a Runner is used in a with statement"
        given, found = Path(self._folder.name, "feeds"), Path(self._folder.name, "outputs")
        try:
            write_values(given, feeds)
            self._ask({"do": "run", "feeds": str(given), "outputs": str(found)})
            return read_values(found)
        finally:
            given.unlink(missing_ok=True)
            found.unlink(missing_ok=True)

    def probe(self, feeds: Mapping[str, Value], pairs: Sequence[tuple[str, str, int]]) -> list[int]:
        """Numbers of the pairs of outputs (expected, actual, bytes) that are not clearly equal. Raises ExecutionError.

        They are compared in the child.
        """
        assert self._folder is not None, "a Runner is used in a with statement"
        given = Path(self._folder.name, "feeds")
        try:
            write_values(given, feeds)
            return [int(i) for i in self._ask({"do": "probe", "feeds": str(given), "pairs": list(pairs)})["suspects"]]
        finally:
            given.unlink(missing_ok=True)

    def close(self) -> None:
        """Frees the model; the child stays for the next one."""
        if self._child and self._child.poll() is None:
            self._ask({"do": "close"})

    def _start(self) -> None:
        self._end()
        paths = [entry or os.getcwd() for entry in sys.path]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "graphopt.numerics.worker", str(self._memory_bytes or free_bytes())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        child = self._child
        assert child is not None, "open comes first"
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self._seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            raise self._death(late.is_set())
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise ExecutionError(answer["error"], where=self._where)
        return answer

    def _death(self, late: bool) -> ExecutionError:
        assert self._child is not None
        code = self._child.wait()
        said = self._last_words()
        self._end()
        if late:
            return OutOfTime(f"took more than {self._seconds:g} s and was ended", where=self._where)
        number = -code if code < 0 else 0
        try:
            how = f"by {signal.Signals(number).name}" if number else f"with exit code {code}"
        except ValueError:
            how = f"by signal {number}"
        hint = "SIGKILL often means that memory ran out" if number == signal.SIGKILL else said
        return ChildDied(f"the process that ran the model ended {how}", where=self._where, hint=hint, signal=number)

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if self._errors:
            self._errors.close()
            self._errors = None
