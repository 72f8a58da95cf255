"""Digests of files, as fast as all cores read them."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graphopt.errors import ModelError

_PIECE = 16 << 20
_BUFFER = 1 << 20


def file_digest(path: Path) -> str:
    """sha256 of the sha256 of each 16 MB of a file. Raises ModelError where it cannot be read."""
    try:
        size = path.stat().st_size
        places = range(0, size, _PIECE) or range(1)
        if len(places) == 1:
            return hashlib.sha256(_piece(path, 0)).hexdigest()
        with ThreadPoolExecutor(min(len(places), os.cpu_count() or 1)) as workers:
            return hashlib.sha256(b"".join(workers.map(lambda place: _piece(path, place), places))).hexdigest()
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}", where=str(path)) from error


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
