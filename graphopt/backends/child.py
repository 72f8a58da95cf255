"""What every child process of ours does: talk to its parent, and end with it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

from graphopt.errors import BackendError

from .process import TRACE_BYTES

_PR_SET_PDEATHSIG = 1


class Pipe:
    """The way back to the parent."""

    def __init__(self, messages: int, trace: int) -> None:
        self._messages = messages
        self._trace = trace
        for descriptor in (messages, trace):
            os.set_inheritable(descriptor, False)

    def send(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._messages, data) :]

    def at_node(self, node: str) -> None:
        os.pwrite(self._trace, node.encode(errors="replace")[:TRACE_BYTES].ljust(TRACE_BYTES, b"\0"), 0)


def end_with(parent: int) -> None:
    """Die when the parent does, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise BackendError("the parent process is gone")
