"""One engine: from the cache if it is there, else built, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from graphopt.backends.protocol import BuildResult, NetworkInfo

from .store import Store

_FIELDS = {one.name for one in fields(BuildResult)}
Progress = Callable[[str, int, int], None]


def build_or_load(
    store: Store, key: str, path: Path, make: Callable[[], BuildResult], describe: Callable[[BuildResult], Any],
    progress: Progress,
) -> tuple[BuildResult, bool, str]:  # fmt: skip
    """(the engine at `path`, whether it comes from the cache, '' or why it is not kept there).

    Of several processes that want it, one builds it.

    make: builds it at `path`. describe: its manifest, which is kept with it.
    """
    with store.turn(key, lambda: progress("waiting for another process that builds this engine", 0, 0)):
        entry = store.get(key, path)
        if entry is not None:
            return _result(entry, path), True, ""
        built = make()
        plain = {name: value for name, value in asdict(built).items() if name != "engine_path"}
        return (
            built,
            False,
            store.put(key, path, {"seconds": built.seconds, "built": plain, "manifest": describe(built)}),
        )


def _result(entry: dict[str, Any], path: Path) -> BuildResult:
    built = {name: value for name, value in entry["built"].items() if name in _FIELDS}
    return BuildResult(
        **{
            **built,
            "engine_path": path,
            "network": NetworkInfo.from_json(built["network"]),
            "log": tuple(built["log"]),
            "segments": tuple(built["segments"]),
        }
    )
