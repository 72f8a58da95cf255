"""graphopt.toml, or [tool.graphopt] of pyproject.toml: a project's options, which the command line overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from .engines.digest import file_digest
from .errors import ModelError, UsageError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = ("graphopt.toml", "pyproject.toml")
_SHAPES = {"shapes", "min_shapes", "max_shapes", "profile"}
_PATHS = {"inputs", "calib", "plan", "timing_cache", "plugin"}
_NEVER = {"as_json", "help", "output", "engine", "save_plan", "save_onnx", "report", "outputs", "build"}


class Typed:
    """A command line as it was typed in the current folder."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.project_digest = ""
        """Of the project's file, when it was found."""

    @cached_property
    def project(self) -> Path | None:
        """The project's file, where no --config names one. Raises UsageError."""
        named = os.environ.get("GRAPHOPT_CONFIG", "")
        path = find(Path.cwd()) if not named else Path(named) if named != "none" else None
        with suppress(ModelError):  # who reads it says what is wrong
            self.project_digest = file_digest(path) if path is not None else ""
        return path

    @property
    def may_be_known(self) -> bool:
        """Whether it is a command that the engine cache may have answered before."""
        return self.words[:1] == ["build"] and "--no-cache" not in self.words


def find(start: Path) -> Path | None:
    """The nearest graphopt.toml, or pyproject.toml with [tool.graphopt], in this folder or above it."""
    for folder in (start, *start.parents):
        for name in NAMES:
            path = folder / name
            if path.is_file() and (name == NAMES[0] or _is_ours(path)):
                return path
        if (folder / ".git").exists():
            return None
    return None


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        if b"graphopt" not in path.read_bytes():
            return False
    return "graphopt" in _read(path).get("tool", {})


def settings(path: Path) -> dict[str, Any]:
    """What the file says. Raises UsageError where it is no TOML."""
    found = _read(path)
    return dict(found.get("tool", {}).get("graphopt", {})) if path.name == NAMES[1] else found


def defaults(path: Path, commands: Mapping[str, Any], words: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """{command: {parameter: value}} of keys that are options without dashes; a table [build] holds for build alone.

    commands: name -> click command. words: of the command line; where they give shapes, those of the file do not count.

    Raises UsageError for a key that is no option, or a value that cannot be one.
    """
    data = settings(path)
    shared = {key: value for key, value in data.items() if not (key in commands and isinstance(value, dict))}
    known = {name: _options(command) for name, command in commands.items()}
    every = {option for options in known.values() for option in options}
    for key in shared:
        if _plain(key) not in every:
            table = isinstance(shared[key], dict)
            names = {word for options in known.values() for word in _spelled(options)}
            hint = nearest(key, names | set(commands) if table else names, "", 0.6)
            what = "no option, and no command" if table else "no option of any command"
            raise UsageError(f"{key!r} is {what}", where=str(path), hint=hint)
    given = {word.split("=")[0] for word in words}
    result: dict[str, dict[str, Any]] = {}
    for name, options in known.items():
        own = data.get(name)
        own = own if isinstance(own, dict) else {}
        for key in own:
            if _plain(key) not in options:
                raise UsageError(
                    f"{key!r} is no option of graphopt {name}",
                    where=f"{path} [{name}]",
                    hint=nearest(key, _spelled(options), f"graphopt {name} --help lists them", 0.6),
                )
        found: dict[str, Any] = {}
        for key, value in {**shared, **own}.items():
            option = options.get(_plain(key))
            if option is not None:
                found.update(_values(option, value, path))
        if given & {word for one in options.values() if one.name in _SHAPES for word in one.opts}:
            found = {key: value for key, value in found.items() if key not in _SHAPES}
        result[name] = {key: value for key, value in found.items() if key in {one.name for one in options.values()}}
    return result


def _options(command: Any) -> dict[str, Any]:
    """'min-shapes' -> option, for every spelling of every option that a file may set."""
    return {
        _plain(word): one
        for one in command.params
        if one.param_type_name == "option" and one.name not in _NEVER
        for word in one.opts
        if word.startswith("--")
    }


def _spelled(options: Mapping[str, Any]) -> set[str]:
    return {word.lstrip("-") for one in options.values() for word in one.opts if word.startswith("--")}


def _plain(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()


def _values(option: Any, value: Any, path: Path) -> dict[str, Any]:
    name = str(option.name)
    if name == "shapes" and isinstance(value, dict):
        return _shapes(value, path)
    if name == "profile" and isinstance(value, list):
        return {name: [_further(one, path) for one in value]}
    if isinstance(value, dict):
        mark = "=" if name in ("freeze", "bind", "min_shapes", "max_shapes") else ":"
        value = [f"{key}{mark}{_dims(inner)}" for key, inner in value.items()]
    if name in _PATHS:
        several = value if isinstance(value, list) else [value]
        value = [_beside(str(one), path) for one in several]
        value = value if option.multiple else value[0]
    if option.multiple and not isinstance(value, list):
        value = [value]
    if isinstance(value, list) and not option.multiple:
        raise UsageError(f"{name!r} takes one value, not a list", where=str(path))
    if option.is_flag and not isinstance(value, bool):
        raise UsageError(f"{name!r} is true or false, not {value!r}", where=str(path))
    return {name: [str(one) for one in value] if isinstance(value, list) else value}


def _shapes(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """x = "1x3" or [1, 3], or {min = ..., opt = ..., max = ...}."""
    found: dict[str, list[str]] = {}
    bounds = {"min": "min_shapes", "opt": "shapes", "max": "max_shapes"}
    for name, value in table.items():
        several = value if isinstance(value, dict) else {"opt": value}
        for bound, dims in several.items():
            if bound not in bounds:
                raise UsageError(f"shapes.{name} has no {bound!r}", where=str(path), hint="give min, opt and max")
            found.setdefault(bounds[bound], []).append(f"{name}={_dims(dims)}")
    return dict(found)


def _further(given: Any, path: Path) -> str:
    """'x=1x3:4x3:8x3' of {x = {min = "1x3", opt = "4x3", max = "8x3"}}; a bound that is not given is the nearest."""
    if isinstance(given, str):
        return given
    if not isinstance(given, dict):
        raise UsageError(f"{given!r} is no profile", where=str(path), hint="write { x = { min = ..., max = ... } }")
    pieces = []
    for name, value in given.items():
        several = [value]
        if isinstance(value, dict):
            if not value or value.keys() - {"min", "opt", "max"}:
                raise UsageError(f"profile of {name!r}: {value}", where=str(path), hint="give min, opt and max")
            typical = value.get("opt", value.get("max", value.get("min")))
            several = [value.get("min", typical), typical, value.get("max", typical)]
        pieces.append(f"{name}={':'.join(map(_dims, several))}")
    return ",".join(pieces)


def _dims(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _beside(word: str, path: Path) -> str:
    """A relative path is meant from the file's folder; names of modules, and what is no file there, stay."""
    near = path.parent / word
    return os.path.relpath(near) if not os.path.isabs(word) and (near.exists() or "/" in word or "." in word) else word


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"it is no TOML: {error}", where=str(path)) from error
