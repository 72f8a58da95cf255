"""What 'net.py:make' and 'package.nets:make' name: code of the user's own."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from .errors import ModelError, UsageError, nearest

_WORDS = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*")
_LOADERS = ("importlib", f"{os.sep}graphopt{os.sep}named.py", f"{os.sep}graphopt_importers{os.sep}")


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


def code_of(place: str) -> Path | None:
    """The file of a module, by looking at folders only: nothing of it is imported."""
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


def named(source: str) -> Any:
    """The object that a source names; its module is imported. Raises ModelError, UsageError."""
    parts = split(source)
    if parts is None:
        raise UsageError("it names no code", where=source, hint="write net.py:make, or package.nets:make")
    place, name = parts
    found: Any = _module(source, place)
    if not name:
        known = ", ".join(_callables_of(Path(place))) or "none"
        raise UsageError("say which function or class of it", where=source, hint=f"{source}:NAME; it has: {known}")
    for part in name.split("."):
        if not hasattr(found, part):
            names = [one for one in dir(found) if not one.startswith("_")]
            hint = nearest(part, names, f"it has: {', '.join(names[:20])}")
            raise UsageError(f"{place} has no {name!r}", where=source, hint=hint)
        found = getattr(found, part)
    return found


def import_module(name: str) -> Any:
    """A module, of the current folder, too. Raises ModelError where its code does not run."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise users_error(error, f"module {name} cannot be imported", name) from error


def are_installed(names: str) -> bool:
    """Whether modules, with commas between, are of installed packages, whose versions say what their code is."""
    codes = [code_of(name) for name in names.split(",") if name]
    return all(code is not None and {"site-packages", "dist-packages"} & {*code.parts} for code in codes)


def users_error(error: Exception, what: str, where: str, hint: str = "") -> ModelError:
    """What code of the user's raised, and at which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not any(word in one.filename for word in _LOADERS)]
    at = f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""
    if isinstance(error, SyntaxError):
        at = f"{error.filename}, line {error.lineno}"
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300]} ..."
    return ModelError(f"{what}: {type(error).__name__}: {text}", where=where, hint="\n".join(filter(None, [at, hint])))


def _module(source: str, place: str) -> Any:
    if not place.endswith(".py"):
        if code_of(place) is None:
            raise ModelError(f"there is no module {place}", where=source, hint="install it, or run in its folder")
        return import_module(place)
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"no such file: {place}", where=source)
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise users_error(error, "its code cannot be imported", source) from error
    return module


def _callables_of(path: Path) -> list[str]:
    """The functions and classes that a file defines."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return []
    return [one.name for one in tree.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
