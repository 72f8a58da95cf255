"""`graphopt lint-precision` and `graphopt diff-plans`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from .arguments import BackendName, Json, Model, NoPlugin, Plugin, TypicalShapes
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .import_words import onnx_of, takes_import

Strict = Annotated[bool, typer.Option("--strict", metavar="", help="Exit with 1 if there is a finding.")]
All = Annotated[bool, typer.Option("--all", metavar="", help="Name every node, not the first three of each finding.")]
Version = Annotated[
    str,
    typer.Option("--target-version", metavar="X.Y", help="Judge for this version of the backend. Default: installed."),
]
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="A precision plan.", show_default=False)]

_SHOWN = 3
_KINDS = {
    "build": ("red", "that do not build"),
    "accuracy": ("yellow", "that cost accuracy"),
    "speed": ("cyan", "that cost speed"),
}
_BROUGHT = frozenset({"old-quantized-form", "zero-point", "unsigned", "quantized-bias", "weight-per-tensor"})
"""Rules about what graphopt brings to TensorRT's form itself."""


@takes_import
def lint_precision(
    model: Model,
    shapes: TypicalShapes = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    backend: BackendName = "tensorrt_rtx",
    target_version: Version = "",
    strict: Strict = False,
    show_all: All = False,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Find casts and Q/DQ nodes of MODEL that lose fusions or accuracy, or do not build: node, reason, fix."""
    with failures(as_json), ExitStack() as stack:
        from . import backends
        from .config import Limits
        from .ir.load import load
        from .options import shapes_of
        from .precision.lint import counted, lint

        if not target_version:
            library = backends.get(backend, Limits())
            target_version = library.version() if library.available() is None else ""
        with progress(as_json) as show:
            path = onnx_of(
                model, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                profile=shapes_of((), shapes or (), ()),
            )  # fmt: skip
            show("load", 0, 0)
            found = lint(load(path), backend, target_version)
        if as_json:
            listed = [one.to_json() for one in found]
            print_json({"schema_version": SCHEMA_VERSION, "findings": listed, "rules": counted(found)})
        else:
            stdout().print(_findings(found, model, None if show_all else _SHOWN))
        if strict and found:
            raise typer.Exit(1)


def diff_plans(before: PlanFile, after: PlanFile, as_json: Json = False) -> None:
    """Compare two precision plans, tensor by tensor."""
    with failures(as_json):
        from dataclasses import asdict

        from .precision.plan import Plan, diff

        found = diff(Plan.load(before), Plan.load(after))
        if as_json:
            rows = [{"tensor": n, "before": a and asdict(a), "after": b and asdict(b)} for n, a, b in found]
            print_json({"schema_version": SCHEMA_VERSION, "same": not found, "tensors": rows})
        else:
            stdout().print(_differences(found))


def _findings(found: list[Any], model: str, nodes_shown: int | None) -> Any:
    """What does not build, then what costs accuracy, then speed: reason, fix, and the first nodes; None shows all."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    if not found:
        return Text(f"{model}: nothing to say about its casts and quantization.", style="green")
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in sorted(found, key=lambda one: list(_KINDS).index(one.kind)):
        alike.setdefault((one.kind, one.rule, one.reason, one.fix), []).append(f"{one.node} ({one.op})")
    lines: list[Any] = []
    for (kind, rule, reason, fix), nodes in alike.items():
        style, _ = _KINDS[kind]
        count = f" x {len(nodes)}" if len(nodes) > 1 else ""
        lines.append(Text.assemble((rule, style), f"{count}: {reason}"))
        lines.append(Padding(Text(f"fix: {fix}"), (0, 0, 0, 4)))
        shown = nodes if nodes_shown is None else nodes[:nodes_shown]
        rest = [f"and {len(nodes) - len(shown)} more: --all"] if len(nodes) > len(shown) else []
        lines += [Padding(Text(name, style="dim", overflow="fold"), (0, 0, 0, 4)) for name in (*shown, *rest)]
    counts = {kind: sum(one.kind == kind for one in found) for kind in _KINDS}
    told = ", ".join(f"{count} {_KINDS[kind][1]}" for kind, count in counts.items() if count)
    lines.append(Text(f"{model}: {told}."))
    if any(one.rule in _BROUGHT for one in found):
        lines.append(
            Text(f"graphopt optimize {model} --precision fp16 keeps its 8 bits, in the form that TensorRT wants.")
        )
    return Group(*lines)


def _differences(found: list[Any]) -> Any:
    from rich.text import Text

    from .report.text import plain_table

    if not found:
        return Text("The plans are the same.")
    table = plain_table("tensor", "before", "after", stretch="tensor")
    for name, old, new in found:
        table.add_row(name, *(_short(entry) for entry in (old, new)))
    return table


def _short(entry: Any) -> str:
    if entry is None:
        return "-"
    return (
        f"{entry.dtype} -> {entry.quantized} ({entry.scale or 'own scales'})" if entry.quantized else str(entry.dtype)
    )


def add_to(app: typer.Typer) -> None:
    """Put the commands into the application."""
    app.command("lint-precision", epilog="[bold]Example[/]\n\n$ graphopt lint-precision quantized.onnx")(lint_precision)
    app.command("diff-plans")(diff_plans)
