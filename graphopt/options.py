"""What the words of a command line mean: shapes, values, names of files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .config import Dims, Shapes, parse_dims
from .errors import GraphoptError, UsageError
from .importing.ask import stem_of


def dims_by_name(words: Iterable[str], option: str) -> dict[str, Dims]:
    """{'x': (1, 3), 'y': (4,)} of 'x=1x3' 'y=4', of 'x:1x3,y:4', and of trtexec's "'a:b':1x3".

    Raises:
        UsageError: a word names no shape, or an input has two.
        GraphoptError: a dimension is zero.
    """
    found: dict[str, Dims] = {}
    for word in words:
        for piece in _split(word, option):
            name, dims = _named(piece, option)
            if len(name) > 2 and name[0] == name[-1] == "'":
                name = name[1:-1]
            if 0 in dims:
                raise GraphoptError(
                    "an input without elements proves nothing and builds nothing", where=f"{option} {piece}"
                )
            if found.setdefault(name, dims) != dims:
                raise UsageError(f"{option} gives input {name!r} two different shapes")
    return found


def shapes_of(low: Iterable[str], typical: Iterable[str], high: Iterable[str]) -> Shapes | None:
    """The optimization profile of the three options; None where none is given."""
    return (
        Shapes(
            dims_by_name(low, "--min-shapes"),
            dims_by_name(typical, "--shapes"),
            dims_by_name(high, "--max-shapes"),
        )
        or None
    )


def _split(word: str, option: str) -> list[str]:
    """A comma-separated list; a comma inside a name stays, because what precedes it ends in no shape."""
    pieces: list[str] = []
    rest = ""
    for part in word.split(","):
        rest = f"{rest},{part}" if rest else part
        try:
            _named(rest, option)
        except UsageError:
            continue
        pieces.append(rest)
        rest = ""
    return [*pieces, rest] if rest or not pieces or word.endswith(",") else pieces


def _named(text: str, option: str) -> tuple[str, Dims]:
    try:
        if text.rfind(":") > text.rfind("=") >= 0:  # the mark is the last of the two, the name may hold the other
            _, dims = parse_dims(f"x{text[text.rfind(':') :]}")
            return text[: text.rfind(":")], dims
        return parse_dims(text)
    except UsageError as error:
        raise UsageError(error.what, where=option, hint=error.hint) from None


def values_by_name(words: Iterable[str]) -> dict[str, Any]:
    """{'k': 5, 'scales': [1.0, 2.0], 'mask': array} of 'k=5' 'scales=1,2.0' 'mask=@mask.npy'. Raises UsageError."""
    found: dict[str, Any] = {}
    for word in words:
        name, mark, value = _cut(word)
        if not mark or not name or not value:
            raise UsageError(
                f"{word!r} names no value",
                where="--bind",
                hint="write NAME=VALUE: a number, a list as 1,2,3 or [[1,2],[3,4]], true, false, or @file.npy",
            )
        if name in found:
            raise UsageError(f"input {name!r} is given two values", where="--bind")
        found[name] = _value(value, word)
    return found


def _cut(word: str) -> tuple[str, str, str]:
    for start in ("=@", "=["):
        if start in word:
            name, _, value = word.partition(start)
            return name, "=", start[1] + value
    return word.rpartition("=")


def _value(text: str, word: str) -> Any:
    if text.startswith("@"):
        return _array(text[1:])
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        pass
    try:
        return [json.loads(part) for part in text.split(",")] if "," in text else float(text)
    except ValueError:
        raise UsageError(
            f"{word!r}: {text!r} is no value",
            where="--bind",
            hint="write a number, a list as 1,2,3 or [[1,2],[3,4]], true, false, or @file.npy",
        ) from None


def _array(path: str) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError("no such file", where=f"--bind @{path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"it is no .npy file: {error}", where=f"--bind @{path}") from error
    if not isinstance(found, np.ndarray):
        raise UsageError(
            "it holds several arrays", where=f"--bind @{path}", hint="save one with numpy.save(file, array)"
        )
    return found


def outputs_of(
    model: str, output: str | None, engine: str | None, build: bool, report: str | None
) -> tuple[Path, Path | None]:
    """(model, engine) to write: as named, or NAME.opt.onnx and NAME.engine in the current folder.

    Raises:
        UsageError: two of the files are one, or one is the input.
        GraphoptError: a folder does not exist.
    """
    stem = stem_of(model)
    model_path = Path(output) if output else Path(f"{stem}.opt.onnx")
    engine_path = Path(engine) if engine else Path(f"{stem}.engine") if build else None
    report_path = Path(report) if report else None
    if report_path is not None and report_path.suffix not in (".json", ".html"):
        raise UsageError(f"{report_path}: a report is a .json or an .html file", where="--report")
    named = [("--output", model_path), ("--engine", engine_path), ("--report", report_path)]
    taken = {os.path.realpath(model): "the input file"}
    for option, path in named:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise GraphoptError(
                f"folder {path.parent} does not exist", where=f"{option} {path}", hint=f"mkdir -p {path.parent}"
            )
        if path.is_dir():
            raise GraphoptError("it is a folder", where=f"{option} {path}", hint="name a file")
        other = taken.setdefault(os.path.realpath(path), f"what {option} names")
        if other != f"what {option} names":
            raise UsageError(f"it is {other}", where=f"{option} {path}", hint="choose another name")
    return model_path, engine_path
