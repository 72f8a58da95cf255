"""`graphopt bisect`: which changes of which passes do not compute what they replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import (
    BackendName,
    Bind,
    Capability,
    Freeze,
    Inputs,
    Json,
    Lower,
    MaxShapes,
    MinShapes,
    NoPlugin,
    Pipeline,
    Plugin,
    Quiet,
    Samples,
    Seed,
    Skip,
    TypicalShapes,
    target_of,
)
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .errors import UsageError
from .import_words import takes_import

Model = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="An ONNX file, or what an importer takes.", show_default=False)
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where the repros go; NAME.refused in the current folder if not given.",
        show_default=False,
    ),
]
Again = Annotated[
    str | None,
    typer.Option("--replay", metavar="FOLDER", help="Run the pass of a repro folder again.", show_default=False),
]


@takes_import
def bisect(
    model: Model = None,
    output: Folder = None,
    replay: Again = None,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    freeze: Freeze = None,
    bind: Bind = None,
    pipeline: Pipeline = "default",
    skip: Skip = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    lower: Lower = "auto",
    inputs: Inputs = None,
    samples: Samples = 3,
    seed: Seed = 0,
    backend: BackendName = "tensorrt_rtx",
    compute_capability: Capability = "",
    as_json: Json = False,
    quiet: Quiet = False,
    imported: Any = None,
) -> None:
    """Find the changes that do not compute what they replaced; exit with 1 if there are any."""
    with failures(as_json):
        if (model is None) == (replay is None):
            raise UsageError("it takes a MODEL, or --replay FOLDER", where="bisect")
        target = target_of(backend, compute_capability)
        if replay is not None:
            from .numerics.repro import replay as run_again
            from .registry import Registry

            again = run_again(Path(replay), Registry(plugin or (), no_plugin or ()), target)
            if as_json:
                print_json(again.to_json())
            elif not quiet:
                stdout().print(f"{'persists' if again.persists else 'gone'} ({again.how}): {again.what}", markup=False)
            raise typer.Exit(1 if again.persists else 0)
        assert model is not None
        from .options import dims_by_name, shapes_of, values_by_name
        from .pipeline import optimize

        folder = Path(output) if output else Path(f"{Path(model).stem}.refused")
        with progress(quiet or as_json) as show:
            result = optimize(
                model,
                importer=imported,
                target=target,
                pipeline=pipeline,
                skip=skip or (),
                plugins=plugin or (),
                no_plugins=no_plugin or (),
                lower=lower,
                shapes=shapes_of(min_shapes or (), shapes or (), max_shapes or ()),
                freeze=dims_by_name(freeze or (), "--freeze"),
                bind=values_by_name(bind or ()),
                verify="each",
                inputs=inputs,
                samples=samples,
                seed=seed,
                repro=folder,
                progress=show,
            )
        found = result.report
        each = found.each.to_json() if found.each is not None else {}
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "status": found.status, **each, "culprits": found.refused})
        elif not quiet:
            from .report.text import culprits_table

            made = f"{each.get('changes', 0)} changes, {each.get('compared', 0)} of them compared on their own"
            stdout().print(f"{made}, on {len(each.get('samples', []))} samples", markup=False)
            if found.refused:
                stdout().print(culprits_table(found.refused))
            else:
                stdout().print("No change computes anything else than what it replaced.")
        raise typer.Exit(1 if found.refused else 0)
