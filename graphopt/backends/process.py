"""The parent's half of a native run: start the child, listen to it, outlive it.

Messages are JSON lines on a pipe of their own, because native code prints to stdout and stderr as it likes; what it
prints goes to an unnamed file, of which the last lines end up in the result or in the error.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

from graphopt.errors import BackendError, GraphoptError, ModelError, UsageError

from .protocol import ParseError, ParserError, Progress

_TAIL_LINES = 20
_POLL_MS = 3_600_000
_TAIL_BYTES = 1 << 16
TRACE_BYTES = 1024
"""Size of the slot in which the child notes the node that its parser is at."""


def run(
    request: dict[str, Any], *, title: str, seconds: float, progress: Progress | None = None,
    worker: str = "graphopt.backends.worker", limit: str = "build_seconds",
) -> dict[str, Any]:  # fmt: skip
    """The child's answer to a request, with the last lines of its log under 'log'. limit: what `seconds` is called.

    Raises what the child raised, and BackendError if it dies, is killed, answers nonsense, or takes longer than
    `seconds`. No process is left behind, whatever ends the call.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as trace:
        stdin.write(json.dumps(request).encode())
        stdin.seek(0)
        read, write = os.pipe()
        try:
            child = _start(worker, write, stdin, log, trace)
        except OSError as error:
            os.close(read)
            raise BackendError(f"no child process could be started: {error.strerror}") from error
        finally:
            os.close(write)
        conversation = _Conversation(title, request, limit)
        try:
            answer = conversation.listen(read, time.monotonic() + seconds, progress)
            if answer is None:
                raise conversation.died(_exit_code(child), _tail(log), _at(trace))
            return {**answer, "log": tuple(_tail(log))}
        except _Late:
            raise conversation.late(seconds, _tail(log), _at(trace)) from None
        finally:
            os.close(read)
            _kill(child)


def _start(worker: str, write: int, stdin: IO[bytes], log: IO[bytes], trace: IO[bytes]) -> subprocess.Popen[bytes]:
    # The child finds every module where this process finds it, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", worker, str(write), str(trace.fileno()), str(os.getpid())],
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(write, trace.fileno()),
        env=environment,
        start_new_session=True,
    )


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _exit_code(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return None


class _Late(Exception):
    """The child has used up its time."""


class _Conversation:
    """What is known of the child so far, to say what it was at when it ended."""

    def __init__(self, title: str, request: dict[str, Any], limit: str) -> None:
        self.limit = limit
        self.who = title
        self.role = "library"
        self.doing = "loading"
        self.model = str(request.get("model", ""))

    def listen(self, read: int, deadline: float, progress: Progress | None) -> dict[str, Any] | None:
        """The child's answer, or None if it ended without one. Raises _Late, and what the child raised."""
        for line in _lines(read, deadline):
            try:
                message = json.loads(line)
                kind = message["type"]
            except (ValueError, TypeError, KeyError):
                return None
            if kind == "result":
                return dict(message["value"])
            if kind == "error":
                raise _exception(message)
            if kind == "stage":
                self.who, self.role, self.doing = message["who"], message["role"], message["doing"]
            elif kind == "progress":
                self.doing = f"building ({message['phase']}, step {message['done']} of {message['total']})"
                if progress is not None:
                    progress(message["phase"], message["done"], message["total"])
        return None

    def died(self, code: int | None, tail: list[str], node: str) -> BackendError:
        if code is None:
            how = "stopped answering"
        elif code < 0:
            how = f"died with signal {_signal(-code)}"
        else:
            how = f"ended with exit code {code} and no answer"
        hints = [_last_lines(tail)]
        if code == -signal.SIGKILL:
            hints.insert(0, "SIGKILL often means that the machine ran out of memory")
        elif code is not None and code < 0 and node and self.role == "parser":
            hints.insert(0, "a shape at this node that is known only at run time is a frequent cause: try fixed shapes")
        return BackendError(self._sentence(how, node), where=self.model, hint="\n  ".join(filter(None, hints)))

    def late(self, seconds: float, tail: list[str], node: str) -> BackendError:
        how = f"was stopped after {seconds:g} s, the limit ({self.limit}),"
        return BackendError(self._sentence(how, node), where=self.model, hint=_last_lines(tail))

    def _sentence(self, how: str, node: str) -> str:
        doing = f"parsing node {node}" if node and self.role == "parser" else self.doing
        return f"the {self.who} {self.role} {how} while {doing}"


def _lines(read: int, deadline: float) -> Iterator[bytes]:
    rest = b""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while True:
        left_ms = math.ceil((deadline - time.monotonic()) * 1000)
        if left_ms <= 0 or not poll.poll(min(left_ms, _POLL_MS)):
            if time.monotonic() < deadline:
                continue
            raise _Late
        some = os.read(read, 1 << 16)
        if not some:
            return
        *whole, rest = (rest + some).split(b"\n")
        yield from whole


def _exception(message: dict[str, Any]) -> GraphoptError:
    words = {"where": message["where"], "hint": message["hint"]}
    if message["kind"] == "ParseError":
        return ParseError(message["what"], errors=[ParserError(**one) for one in message["errors"]], **words)
    kinds = {"UsageError": UsageError, "ModelError": ModelError}
    return kinds.get(message["kind"], BackendError)(message["what"], **words)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _tail(log: IO[bytes]) -> list[str]:
    # pread, because parent and child share one file offset.
    size = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]


def _at(trace: IO[bytes]) -> str:
    return os.pread(trace.fileno(), TRACE_BYTES, 0).decode(errors="replace").rstrip("\0 ")


def _last_lines(tail: list[str]) -> str:
    return "last log lines:\n" + "\n".join(f"    {line}" for line in tail) if tail else ""
