"""Where graphopt keeps what it has made. It loads fast: the standard library's slow modules are left alone."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$GRAPHOPT_CACHE, else graphopt in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("GRAPHOPT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphopt"


def measured_files() -> list[Path]:
    """The files with measurements of layers, on which it depends where custom layers are placed."""
    return sorted((cache_folder() / "measured").glob("*.json"))
