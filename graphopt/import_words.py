"""The options of commands that take models of other frameworks: they become one `Import`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .config import Shapes, parse_dims
from .console import failures
from .errors import UsageError

if TYPE_CHECKING:
    from .importing.ask import Import

_PANEL = "Models of other frameworks"


def _option(kind: Any, name: str, metavar: str, text: str) -> Any:
    return Annotated[kind, typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL, show_default=False)]


OPTIONS: dict[str, tuple[Any, Any]] = {
    "from_importer": (
        _option(str, "--from", "NAME", "The source's framework, as `graphopt importers` names it; onnx for none."),
        "",
    ),
    "import_option": (
        _option(list[str] | None, "--import-option", "NAME=VALUE", "An option of the importer. Repeatable."),
        None,
    ),
    "import_tolerance": (
        _option(
            float | None,
            "--import-tolerance",
            "X",
            "How far outputs may be off from the framework's own, in relative L2: 0.001 if not given.",
        ),
        None,
    ),
}


def takes_import(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options; it gets them as `imported`: an Import, or None for what is ONNX by its name.

    Of --shapes, it gets what has numbers only: the optimization profile.
    """

    @functools.wraps(command)
    def run(**words: Any) -> None:
        with failures(bool(words.get("as_json"))):
            words["imported"] = _import_of({name: words.pop(name) for name in OPTIONS}, words)
        command(**words)

    own = inspect.signature(command, eval_str=True)
    parameters = [one for one in own.parameters.values() if one.name != "imported"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*parameters, *extra])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*parameters, *extra)} | {"return": None}
    return run


def _import_of(given: dict[str, Any], words: dict[str, Any]) -> Import | None:
    from .importing.ask import Import, may_be_foreign

    named_by = [words[name] for name in ("what", "model", "before", "after") if name in words]
    sources = [one for what in named_by for one in (what if isinstance(what, list) else [what])]
    ask = Import(given["from_importer"])
    foreign = [one for one in sources if isinstance(one, str) and may_be_foreign(one, ask)]
    if not foreign:
        if given["import_option"] or given["import_tolerance"] is not None:
            option = "--import-option" if given["import_option"] else "--import-tolerance"
            raise UsageError(
                f"{', '.join(map(str, sources))} is taken as ONNX by its name",
                where=option,
                hint="name its framework with --from",
            )
        return Import("onnx") if given["from_importer"] else None
    named: dict[str, tuple[int | str, ...]] = {}
    if "shapes" in words:
        named, words["shapes"] = split_shapes(words["shapes"] or ())
    tolerance = given["import_tolerance"]
    if tolerance is not None and not tolerance > 0:
        raise UsageError(f"{tolerance:g} is no tolerance", where="--import-tolerance", hint="choose more than 0")
    options = options_by_name(given["import_option"] or ())
    made = Import(given["from_importer"], named, options=options)
    return made if tolerance is None else Import(made.importer, named, options=options, tolerance=tolerance)


def onnx_of(
    source: str, ask: Import | None, stack: ExitStack, show: Any, *, plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (), profile: Shapes | None = None, inputs: str | None = None, several: bool = False,
) -> str:  # fmt: skip
    """The source's path, or that of the ONNX file that an importer makes of it, which lives as long as the stack.

    several: it is one of several sources, and --from is meant for those that are not ONNX by their names.
    """
    if ask is None:
        return source
    from .importing.ask import may_be_foreign

    if several and not may_be_foreign(source, None):
        return source
    from .importing.door import open_source
    from .registry import Registry

    found = open_source(source, ask, Registry(plugins, no_plugins), profile=profile, inputs=inputs, progress=show)
    return source if found is None else str(stack.enter_context(found).path)


def options_by_name(words: Sequence[str]) -> dict[str, str]:
    """{'a': 'b'} of 'a=b'. Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark or not name:
            raise UsageError(f"{word!r} names no option", where="--import-option", hint="write NAME=VALUE")
        if name in found:
            raise UsageError(f"option {name!r} is given two values", where="--import-option")
        found[name] = value
    return found


_DIM = r"(?:\d+|[A-Za-wyz_][A-Za-wyz0-9_]*)"
_DIMS = re.compile(rf"{_DIM}(?:x{_DIM})*")


def split_shapes(words: Sequence[str]) -> tuple[dict[str, tuple[int | str, ...]], list[str]]:
    """({'a': ('N', 3), '': (1, 3)}, ['b=4x3']) of 'a=Nx3', '1x3' and 'b=4x3'.

    The first are shapes of the import alone: with names for dynamic dimensions, or without an input's name.
    """
    named: dict[str, tuple[int | str, ...]] = {}
    rest: list[str] = []
    for word in words:
        for piece in word.split(","):
            name, mark, dims = piece.rpartition(max("=:", key=piece.rfind))
            symbolic = _DIMS.fullmatch(dims) and re.search(r"[A-Za-z_]", dims.replace("x", ""))
            if not symbolic and (mark or not _DIMS.fullmatch(dims)):
                rest.append(piece)
                continue
            shape = tuple(int(dim) if dim.isdecimal() else dim for dim in dims.split("x"))
            if named.setdefault(name, shape) != shape:
                raise UsageError(f"--shapes gives input {name!r} two different shapes with names")
    for piece in rest:
        parse_dims(piece)
    return named, rest
