"""Where the code of 'net.py:make' and 'package.nets:make' is; nothing of it is imported."""

from __future__ import annotations

import ast
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_WORDS = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*")


def split(source: str) -> tuple[str, str] | None:
    """('net.py', 'make') of 'net.py:make'; ('net.py', '') of 'net.py'; None for what is neither file nor module."""
    before, mark, name = source.rpartition(":")
    if not mark:
        return (source, "") if source.endswith(".py") and Path(source).is_file() else None
    if not _WORDS.fullmatch(name):
        return None
    if before.endswith(".py") or _WORDS.fullmatch(before):
        return before, name
    return None


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


def code_of(place: str) -> Path | None:
    """The file of a module, by looking at folders only."""
    if place.endswith(".py"):
        return Path(place) if Path(place).is_file() else None
    first, *rest = place.split(".")
    spec = PathFinder.find_spec(first, [".", *sys.path])
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        inner = Path(folder, *rest)
        for path in (inner.with_suffix(".py"), inner / "__init__.py"):
            if path.is_file():
                return path
    return None


def callables_of(path: Path) -> list[str]:
    """The functions and classes that a file defines."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return []
    return [one.name for one in tree.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
