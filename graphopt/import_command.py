"""`graphopt convert` and `graphopt importers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import (
    Inputs,
    Json,
    MaxShapes,
    MinShapes,
    NoPlugin,
    Opset,
    Plugin,
    Quiet,
    Strict,
    TimeLimit,
    TypicalShapes,
    Verify,
    limits_of,
)
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout, warn
from .errors import UsageError
from .import_words import takes_import

if TYPE_CHECKING:
    from .importing.ask import Import

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A model of another framework: net.pt2, net.py:make, ...", show_default=False
    ),
]
OnnxFile = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", show_default=False,
        help="The ONNX model; NAME.onnx in the current folder if not given.",
    ),
]  # fmt: skip


@takes_import
def convert(
    model: Source,
    output: OnnxFile = None,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    inputs: Inputs = None,
    opset: Opset = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    verify: Verify = "end",
    strict: Strict = False,
    time_limit: TimeLimit = 3600.0,
    as_json: Json = False,
    quiet: Quiet = False,
    imported: Any = None,
) -> None:
    """Convert SOURCE to ONNX, and compare it with what the framework itself computes; no pass runs."""
    with failures(as_json):
        from .importing.ask import completed, stem_of
        from .importing.door import import_model, no_import
        from .options import shapes_of
        from .registry import Registry

        if verify not in ("end", "none"):
            raise UsageError(f"--verify {verify}: choose one of end, none")
        path = Path(output) if output else Path(f"{stem_of(model)}.onnx")
        if not path.parent.is_dir():
            raise UsageError(f"folder {path.parent} does not exist", where=f"--output {path}")
        if imported is None or imported.importer == "onnx":
            raise no_import(model, Registry(plugin or (), no_plugin or ()))
        profile = shapes_of(min_shapes or (), shapes or (), max_shapes or ())
        ask: Import = completed(imported, profile, opset, inputs)
        with progress(quiet or as_json) as show:
            found = import_model(
                model, importer=ask, output=path, plugins=plugin or (), no_plugins=no_plugin or (),
                verify=verify == "end", strict=strict, limits=limits_of(time_limit, None), progress=show,
            )  # fmt: skip
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "output": str(path), "imported": found.report})
        elif not quiet:
            from .report.imports import import_text

            if found.report["status"] == "unverified":
                warn(f"the imported model could not be compared: {found.report['reason']}")
            stdout().print(import_text(found.report))
            stdout().print(f"\nwritten to {path}", markup=False)


def importers(plugin: Plugin = None, no_plugin: NoPlugin = None, as_json: Json = False) -> None:
    """List the importers: which files each takes, its options, and whether its framework is installed."""
    with failures(as_json):
        from .importing.installed import importer_json
        from .registry import Registry
        from .report.imports import importers_table

        found = [importer_json(one) for one in Registry(plugin or (), no_plugin or ()).importers().values()]
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "importers": found})
        else:
            stdout().print(importers_table(found))


def add_to(app: typer.Typer) -> None:
    """Make these commands of the application."""
    examples = (
        "[bold]Examples[/]",
        "$ graphopt convert net.pt2 -o net.onnx",
        "$ graphopt convert nets.py:make --shapes x=Nx3x224x224",
        "$ graphopt convert torchvision.models:resnet18 --shapes x=1x3x224x224 --from torch",
    )
    app.command("convert", epilog="\n\n".join(examples))(convert)
    app.command("importers")(importers)
