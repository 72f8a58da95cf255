"""Whether a source names code of PyTorch's; nothing of it is imported."""

from __future__ import annotations

import re

from graphopt.named import code_of, split


def is_torch_source(source: str) -> bool:
    """Whether it names code that speaks of torch."""
    parts = split(source)
    if parts is None:
        return False
    path = code_of(parts[0])
    try:
        return path is not None and re.search(rb"\btorch\b|\btransformers\b|\btimm\b", path.read_bytes()) is not None
    except OSError:
        return False
