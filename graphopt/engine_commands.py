"""The commands about engines: run, bench, profile."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Inputs, Json, MaxShapes, MinShapes, NoPlugin, Plugin, Seed, TypicalShapes
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .errors import UsageError
from .import_words import onnx_of, takes_import

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Shapes
    from .runtime.profile import Profile

Thing = Annotated[
    str, typer.Argument(metavar="MODEL|ENGINE", help="An .onnx model or a built engine.", show_default=False)
]
Things = Annotated[
    list[str],
    typer.Argument(metavar="MODEL|ENGINE...", help="Engines, and models to build engines of.", show_default=False),
]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="WITH",
        help="Compare the outputs: with 'onnxruntime', a model, or an engine. Exit code 1 if they differ.",
        show_default=False,
    ),
]
OfModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE",
        help="The model that an engine was built from; known from ENGINE.json if graphopt built it.",
        show_default=False,
    ),
]
Outputs = Annotated[
    str | None, typer.Option("--outputs", metavar="FILE", help="Write the outputs to an .npz file.", show_default=False)
]
Check = Annotated[
    bool,
    typer.Option(
        "--check", metavar="", help="Checks that need no reference: equal rows, batch against single rows, repetition."
    ),
]
Seconds = Annotated[float, typer.Option("--seconds", metavar="N", help="Measure each for about this long.")]
NoRaw = Annotated[
    bool, typer.Option("--no-raw", metavar="", help="Of a model, do not build the engine of it as it is.")
]
Cpu = Annotated[
    bool, typer.Option("--onnxruntime", metavar="", help="Also time onnxruntime, on the GPU if it can, else the CPU.")
]
Batches = Annotated[
    str | None,
    typer.Option(
        "--batches",
        metavar="LIST",
        help="Also time each at these batch sizes: 1,8,32; or all: the profile's least, powers of two, its largest.",
        show_default=False,
    ),
]
Top = Annotated[int, typer.Option("--top", metavar="N", help="Lines to show.")]
ProfileFile = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the profile as JSON.", show_default=False)
]


@takes_import
def run(
    what: Thing,
    inputs: Inputs = None,
    shapes: TypicalShapes = None,
    compare: Compare = None,
    model: OfModel = None,
    outputs: Outputs = None,
    check: Check = False,
    plugin: Plugin = None,
    seed: Seed = 0,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Run a model (in onnxruntime) or an engine (on the GPU) once, and compare its outputs."""
    with failures(as_json), ExitStack() as stack:
        from .importing.ask import Import
        from .trials import compare_with, run_once, write_outputs

        with progress(as_json) as show:
            words: dict[str, Any] = {"plugins": plugin or (), "profile": _profile(None, shapes, None), "inputs": inputs}
            path = onnx_of(what, imported, stack, show, **words)
            ask = imported or Import()
            model = model and onnx_of(model, ask, stack, show, several=True, **words)
            if compare not in (None, "onnxruntime"):
                compare = onnx_of(compare, ask, stack, show, several=True, **words)
        done = run_once(
            path, model=model, given=inputs, shapes=_dims(shapes), seed=seed, check=check, plugins=plugin or ()
        )
        if outputs is not None:
            write_outputs(Path(outputs), done.outputs)
        differences = compare_with(compare, done, plugin or ()) if compare is not None else []
        ok = all(one.ok for one in differences) and all(one.ok for one in done.checks)
        if as_json:
            print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "status": "ok" if ok else "different",
                    "ran": done.ran,
                    "outputs": {
                        name: {"dtype": str(array.dtype), "shape": list(array.shape)}
                        for name, array in done.outputs.items()
                    },
                    "compared": [one.to_json() for one in differences],
                    "checks": [one.to_json() for one in done.checks],
                }
            )
        else:
            for name, array in done.outputs.items():
                stdout().print(f"{name}: {array.dtype}{list(array.shape)}", markup=False)
            for one in differences:
                stdout().print(f"  {'✓' if one.ok else '✗'} {one}", markup=False)
            for found in done.checks:
                stdout().print(f"  {'✓' if found.ok else '✗'} {found}", markup=False)
        if not ok:
            raise typer.Exit(1)


@takes_import
def bench(
    what: Things,
    inputs: Inputs = None,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    seconds: Seconds = 1.0,
    no_raw: NoRaw = False,
    onnxruntime: Cpu = False,
    batches: Batches = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    seed: Seed = 0,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Time engines side by side; of a model, the engine of it as it is, and of what graphopt makes of it."""
    with failures(as_json), ExitStack() as stack:
        from .trials import bench_all

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-")))
        with progress(as_json) as show:
            shown = [
                onnx_of(
                    one, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                    profile=_profile(min_shapes, shapes, max_shapes), inputs=inputs, several=len(what) > 1,
                )
                for one in what
            ]  # fmt: skip
            rows = bench_all(
                shown, folder, given=inputs, profile=_profile(min_shapes, shapes, max_shapes), seconds=seconds,
                raw=not no_raw, onnxruntime=onnxruntime, plugins=plugin or (), no_plugins=no_plugin or (), seed=seed,
                batches=_sizes(batches), progress=show,
            )  # fmt: skip
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "rows": [row.to_json() for row in rows]})
        else:
            from rich.table import Table

            table = Table("", "GPU ms (p10 to p90)", "per second", "call ms", "device MB", "difference", box=None)
            for row in rows:
                table.add_row(*row.cells())
            stdout().print(table)


@takes_import
def profile(
    what: Thing,
    inputs: Inputs = None,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    seconds: Seconds = 1.0,
    top: Top = 20,
    output: ProfileFile = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    seed: Seed = 0,
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Time every layer of an engine, and say which nodes of the exported model it stands for."""
    with failures(as_json), ExitStack() as stack:
        from .trials import profile_one

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-")))
        with progress(as_json) as show:
            path = onnx_of(
                what, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                profile=_profile(min_shapes, shapes, max_shapes), inputs=inputs,
            )  # fmt: skip
            found = profile_one(
                path, folder, given=inputs, profile_shapes=_profile(min_shapes, shapes, max_shapes), seconds=seconds,
                plugins=plugin or (), no_plugins=no_plugin or (), seed=seed, progress=show,
            )  # fmt: skip
        data = {"schema_version": SCHEMA_VERSION, **found.to_json()}
        if output is not None:
            Path(output).write_text(json.dumps(data, indent=1), encoding="utf-8")
        if as_json:
            print_json(data)
        else:
            tell(found, top)


def tell(found: Profile, top: int) -> None:
    """A profile as a table, the costliest first, and what it comes to."""
    from rich.table import Table

    total = found.total_ms or 1.0
    table = Table("ms", "share", "layer", "source nodes", "by", box=None)
    for layer in sorted(found.layers, key=lambda one: -one.ms)[:top]:
        table.add_row(
            f"{layer.ms:.4f}", f"{layer.ms / total:.1%}", f"{layer.name} ({layer.kind})", _some(layer.sources),
            _some(layer.rules),
        )  # fmt: skip
    stdout().print(table)
    rest = len(found.layers) - top
    if rest > 0:
        stdout().print(f"and {rest} more layers; --top shows them", markup=False)
    costly = found.by_source()[:3]
    named = [name for names, _ in costly for name in names]
    share = sum(ms for _, ms in costly) / total
    stdout().print(f"{len(named)} source nodes cost {share:.0%} of the time: {_some(named, 8)}", markup=False)
    stdout().print(
        f"{found.total_ms:.3f} ms in {len(found.layers)} layers ({found.alone_ms:.3f} ms alone), {found.named:.0%} "
        f"of it with known source nodes; one launch takes {found.launch} ms on {found.gpu}",
        markup=False,
    )


def _some(names: Sequence[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _sizes(text: str | None) -> Sequence[int] | None:
    if text is None or text == "all":
        return None if text is None else ()
    if not all(word.isdecimal() and int(word) for word in text.split(",")):
        raise UsageError(f"--batches {text}", hint="write --batches 1,8,32 or --batches all")
    return [int(word) for word in text.split(",")]


def _dims(words: list[str] | None) -> Mapping[str, tuple[int, ...]]:
    from .options import dims_by_name

    return dims_by_name(words or (), "--shapes")


def _profile(low: list[str] | None, typical: list[str] | None, high: list[str] | None) -> Shapes | None:
    from .options import shapes_of

    return shapes_of(low or (), typical or (), high or ())


def add_to(app: typer.Typer) -> None:
    """Make these commands of the application. Raises nothing."""
    examples: dict[str, tuple[Any, str]] = {
        "run": (run, "model.engine --inputs sample.npz --compare onnxruntime"),
        "bench": (bench, "model.onnx --shapes x=8x3x224x224"),
        "profile": (profile, "model.onnx --shapes x=8x3x224x224 --top 10"),
    }
    for name, (command, words) in examples.items():
        app.command(name, epilog=f"[bold]Example[/]\n\n$ graphopt {name} {words}")(command)


__all__ = ["UsageError", "add_to", "bench", "profile", "run", "tell"]
