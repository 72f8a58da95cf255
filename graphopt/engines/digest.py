"""Digests of files, as fast as all cores read them.

It loads fast: the standard library's slow modules are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread

from graphopt.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

_PIECE = 16 << 20
_BUFFER = 1 << 20


def file_digest(path: Path) -> str:
    """sha256 of the sha256 of each 16 MB of a file. Raises ModelError where it cannot be read."""
    try:
        places = range(0, path.stat().st_size, _PIECE) or range(1)
        digests = together([partial(_piece, path, place) for place in places])
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    return hashlib.sha256(b"".join(digests)).hexdigest()


def digest_of(parts: Any) -> str:
    """A digest of what JSON can say."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """The results of functions that run side by side, one on each core. Raises what one of them raises.

    `concurrent.futures` does the same, and takes longer to import than this does to read a network.
    """
    results: list[Any] = [None] * len(works)
    raised: list[BaseException] = []
    numbers = iter(range(len(works)))

    def go() -> None:
        try:
            for number in numbers:
                results[number] = works[number]()
        except BaseException as error:
            raised.append(error)
            for _ in numbers:  # nobody begins anything more
                pass

    others = [Thread(target=go) for _ in range(min(len(works), os.cpu_count() or 1) - 1)]
    for one in others:
        one.start()
    go()
    for one in others:
        one.join()
    if raised:
        raise raised[0]
    return results


def _piece(path: Path, place: int) -> bytes:
    state, buffer = hashlib.sha256(), bytearray(_BUFFER)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(place)
        left = _PIECE
        while left and (count := file.readinto(view[: min(left, _BUFFER)])):
            state.update(view[:count])
            left -= count
    return state.digest()
