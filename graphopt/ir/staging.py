"""A folder beside the target in which a result is made; what killed processes left behind is swept."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".graphopt-"
_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A folder of this process alone in `parent`, removed at the end.

    It is locked while it is in use; the kernel gives the lock back when the process dies, however it dies. A folder
    of this kind without a lock is therefore nobody's, and is removed. Raises OSError.
    """
    with turn(parent):
        _sweep(parent)
        folder = parent / f"{PREFIX}{os.urandom(4).hex()}"
        folder.mkdir(0o700)
        handle = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network file systems have no locks; nothing is swept there either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(handle)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process per folder at a time, or one would remove the data that another is about to name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(parent: Path) -> None:
    for entry in list(os.scandir(parent)):
        if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(entry.path)
            finally:
                os.close(handle)


def _remove(folder: str | Path) -> None:
    with suppress(OSError):
        os.rmdir(folder)
        return
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
