"""The command `graphopt check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .arguments import (
    BackendName,
    Bind,
    Capability,
    Freeze,
    Json,
    MaxShapes,
    MinShapes,
    Model,
    NoPlugin,
    Plugin,
    PromoteIO,
    Skip,
    TimeLimit,
    TypicalShapes,
    limits_of,
    target_of,
)
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .import_words import takes_import

if TYPE_CHECKING:
    from .check import Checked, Verdict

NoBuild = Annotated[bool, typer.Option("--no-build", metavar="", help="Ask the parser alone; say what is expected.")]


@takes_import
def check(
    model: Model,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    freeze: Freeze = None,
    bind: Bind = None,
    promote_io: PromoteIO = False,
    no_build: NoBuild = False,
    backend: BackendName = "tensorrt_rtx",
    compute_capability: Capability = "",
    skip: Skip = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    time_limit: TimeLimit = 3600.0,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Say whether TensorRT takes MODEL: which nodes it refuses, why, and what graphopt does about each."""
    with failures(as_json):
        from .check import check as run
        from .options import dims_by_name, shapes_of, values_by_name

        with progress(as_json) as show:
            found = run(
                model,
                importer=imported,
                target=target_of(backend, compute_capability),
                shapes=shapes_of(min_shapes or (), shapes or (), max_shapes or ()),
                freeze=dims_by_name(freeze or (), "--freeze"),
                bind=values_by_name(bind or ()),
                promote_io=promote_io,
                build=not no_build,
                plugins=plugin or (),
                no_plugins=no_plugin or (),
                skip=skip or (),
                limits=limits_of(time_limit, None),
                progress=show,
            )
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, **found.to_json()})
        else:
            _tell(found)
        if not found.ok:
            raise typer.Exit(1)


def _tell(found: Checked) -> None:
    out = stdout()
    by = f"{found.backend} {found.version}" if found.version else f"no {found.backend} here: by a table ({found.basis})"
    if found.imported is not None:
        from .report.imports import import_text

        out.print(import_text(found.imported))
    out.print(f"{by}", markup=False)
    out.print(f"as it is: {_words(found.source)}", markup=False)
    _blockers(found.source)
    if found.opset:
        out.print(f"opset {found.opset['before']} -> {found.opset['after']}", markup=False)
    for name, how in found.interface.items():
        out.print(f"{name}: {how}", markup=False)
    for one in found.rewrites:
        made = f"{one['nodes']} nodes in {', '.join(one['dtypes'])}" if one["nodes"] else "no node of its own"
        out.print(f"{one['pass']}: {one['changes']} changes, {made}: {one['does']}", markup=False)
        out.print(f"  accuracy: {one['accuracy']}", markup=False)
    expected = (
        "" if found.result.builds is not None else f" (expected: {'builds' if found.predicted else 'does not build'})"
    )
    nodes = f"{found.nodes_before} -> {found.nodes_after} nodes"
    out.print(f"after graphopt ({nodes}): {_words(found.result)}{expected}", markup=False)
    _blockers(found.result)


def _words(verdict: Verdict) -> str:
    if verdict.builds:
        return "builds"
    reason = f": {verdict.reason}" if verdict.reason else ""
    if verdict.builds is None:
        return ("is parsed" if verdict.parses else "is refused") + reason
    return ("is parsed, but does not build" if verdict.parses else "is refused") + reason


def _blockers(verdict: Verdict) -> None:
    if not verdict.blockers:
        return
    table = Table(box=None, padding=(0, 2, 0, 2))
    for title in ("node", "operator", "why", "what is done"):
        table.add_column(title, overflow="fold")
    for one in verdict.blockers:
        names = ", ".join(one.source[:3]) or one.node or "(model)"
        table.add_row(*map(escape, (names, one.op, one.reason, one.remedy)))
    stdout().print(table)


def add_check(app: typer.Typer) -> None:
    """Make it a command of the application."""
    app.command(
        "check",
        epilog="[bold]Examples[/]\n\n$ graphopt check model.onnx\n\n"
        "$ graphopt check model.onnx --bind axes=1 --promote-io --json",
    )(check)
