"""Which .prototxt and which .caffemodel belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphopt.errors import ModelError, UsageError

from .prototxt import Message, parse

_LARGEST_TEXT = 64 * 2**20


def pair(source: str, options: Mapping[str, str]) -> tuple[Path, Path | None, list[str]]:
    """(definition, weights or None where there are none, notes).

    Weights are those of option `weights`, or of the definition's name (net.prototxt: net.caffemodel), or the only
    .caffemodel of the folder.

    Raises:
        UsageError: a file that an option names is not there.
        ModelError: there is no definition, or there are several weights to choose from.
    """
    path = Path(source)
    notes: list[str] = []
    given = options.get("weights", "")
    if path.suffix.lower() == ".caffemodel":
        if given:
            raise UsageError("--import-option weights, and a .caffemodel as the model", hint="give the .prototxt")
        return _definition(path, options, notes), path, notes
    if "net" in options:
        raise UsageError("--import-option net goes with a .caffemodel", hint=f"{source} is the definition already")
    if given:
        weights = Path(given)
        if not weights.is_file() and not weights.is_absolute() and (path.parent / weights).is_file():
            weights = path.parent / weights
        if not weights.is_file():
            raise UsageError(f"no such file: {given}", where="--import-option weights")
        return path, weights, notes
    return path, _beside(path, ".caffemodel", "weights", notes), notes


def _definition(weights: Path, options: Mapping[str, str], notes: list[str]) -> Path:
    if given := options.get("net", ""):
        if not Path(given).is_file():
            raise UsageError(f"no such file: {given}", where="--import-option net")
        return Path(given)
    found = _beside(weights, ".prototxt", "net", notes)
    if found is None:
        raise ModelError(
            "there is no .prototxt beside it",
            where=str(weights),
            hint="name the network: --import-option net=FILE.prototxt",
        )
    return found


def _beside(path: Path, suffix: str, option: str, notes: list[str]) -> Path | None:
    same = path.with_suffix(suffix)
    if same.is_file():
        return same
    try:
        others = sorted(one for one in path.parent.iterdir() if one.suffix == suffix and one.is_file())
    except OSError:
        return None
    if len(others) == 1:
        notes.append(f"{option}: {others[0].name}, the only {suffix} beside {path.name}")
        return others[0]
    if others:
        raise ModelError(
            f"none of {len(others)} {suffix} files beside it has its name: {', '.join(one.name for one in others[:5])}",
            where=str(path),
            hint=f"choose one: --import-option {option}=FILE",
        )
    return None


def definition(path: Path) -> Message:
    """The message of a .prototxt. Raises ModelError."""
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise ModelError("it is larger than any definition of a network", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(
            "it is no text",
            where=str(path),
            hint="a .prototxt is in protobuf's text format; weights go in a .caffemodel",
        ) from error
    return parse(text, str(path))
