"""An end to what does not end by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block once `seconds` have passed, and again each second that it is ignored.

    Python code is interrupted between two steps, native code when it comes back. In the main thread only: elsewhere,
    and where the program has an alarm of its own, nothing is limited.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    if not ours or seconds <= 0:
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"it does not end within {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
