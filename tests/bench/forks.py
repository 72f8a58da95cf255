"""A process that imports a script once and answers each request in a fork of its own. Standard library only.

So imports are paid once and outside every measurement, and what crashes, leaks or hangs does so alone.
`python forks.py SCRIPT` reads requests as JSON lines; SCRIPT has `answer(request) -> dict`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Forks:
    """The client's side: one such process, started on the first request and again after its death."""

    def __init__(self, python: str | Path, script: str | Path, arguments: tuple[str, ...] = ()) -> None:
        self._command = [str(python), str(Path(__file__).resolve()), str(Path(script).resolve()), *arguments]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The script's answer; {'error': why} if it raised, crashed, or took longer than that."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"seconds": seconds, "request": request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process ended before it could be asked"}
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"error": f"its process ended with code {self._process.wait()}"}

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(30)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fork(answer: Any, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        try:
            found = answer(request)
        except BaseException as error:
            where = traceback.format_exc(limit=-2)[-600:]
            found = {"error": f"{type(error).__name__}: {str(error)[:600]}", "where": where}
        data = json.dumps(found).encode()
        while data:
            data = data[os.write(write, data) :]
        os._exit(0)
    os.close(write)
    said, late = _read(read, time.monotonic() + seconds)
    os.close(read)
    if late:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if late:
        return {"error": f"not done after {seconds:g} s", "late": True}
    if not said:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
        return {"error": f"crashed: {name}"}
    return {**json.loads(said), "peak_rss": usage.ru_maxrss * 1024}


def _read(descriptor: int, until: float) -> tuple[bytes, bool]:
    said = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return said, True
        part = os.read(descriptor, 1 << 16)
        if not part:
            return said, False
        said += part


def main() -> None:
    spec = importlib.util.spec_from_file_location("script", sys.argv[1])
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec.loader.exec_module(script)
    if hasattr(script, "prepare"):
        script.prepare(*sys.argv[2:])
    for line in sys.stdin:
        asked = json.loads(line)
        out.write(json.dumps(_fork(script.answer, asked["request"], asked["seconds"])) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
