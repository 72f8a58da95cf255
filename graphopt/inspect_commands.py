"""The commands that look at models: inspect, diff."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import typer

from .arguments import After, Before, Json, Model, NoPlugin, Plugin, TypicalShapes
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .import_words import onnx_of, takes_import


@takes_import
def inspect(
    model: Model,
    shapes: TypicalShapes = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Say what is in MODEL: inputs and outputs, operators, weights, functions, dynamic dimensions."""
    with failures(as_json), ExitStack() as stack:
        from .ir.load import load
        from .options import shapes_of
        from .report.contents import contents
        from .report.listing import contents_text

        with progress(as_json) as show:
            path = onnx_of(
                model, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                profile=shapes_of((), shapes or (), ()),
            )  # fmt: skip
            show("load", 0, 0)
            found = contents(load(path), model)
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, **found.to_json()})
        else:
            stdout().print(contents_text(found))


@takes_import
def diff(
    before: Before,
    after: After,
    shapes: TypicalShapes = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Compare two models: operators, inputs and outputs, weights by content, and which nodes came and went."""
    with failures(as_json), ExitStack() as stack:
        from .ir.load import load
        from .options import shapes_of
        from .report.diff import compare
        from .report.listing import diff_text

        with progress(as_json) as show:
            paths = [
                onnx_of(
                    one, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                    profile=shapes_of((), shapes or (), ()), several=True,
                )
                for one in (before, after)
            ]  # fmt: skip
            show("load", 0, 0)
            found = compare(*map(load, paths))
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "before": before, "after": after, **found.to_json()})
        else:
            stdout().print(diff_text(found, before, after))


def add_to(app: typer.Typer) -> None:
    """Make these commands of the application."""
    app.command()(inspect)
    app.command()(diff)
