"""The commands about custom layers: check-layer, bench-layer, new."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Json
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout
from .errors import BackendError, GraphoptError, UsageError

if TYPE_CHECKING:
    from .conformance.check import Outcome
    from .layers.layer import Layer

LayerName = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:LAYER", help="A class: package.module:FusedX, or file.py:FusedX.", show_default=False
    ),
]
NoGpu = Annotated[bool, typer.Option("--no-gpu", metavar="", help="Check only what needs no GPU.")]
Quick = Annotated[bool, typer.Option("--quick", metavar="", help="Fewer and smaller shapes.")]
Dtype = Annotated[
    list[str] | None, typer.Option("--dtype", metavar="NAME", help="Only this dtype of the layer. Repeatable.")
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes",
        metavar="NAME=DIMS",
        help="Shapes to measure at: x=8192x4096,weight=4096. Repeatable; the layer's cases if not given.",
    ),
]
NoStore = Annotated[bool, typer.Option("--no-store", metavar="", help="Do not keep what was measured.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The package's name, as on PyPI.", show_default=False)]
WithPass = Annotated[bool, typer.Option("--pass", metavar="", help="With a pass (so it is if nothing is said).")]
WithLayer = Annotated[bool, typer.Option("--layer", metavar="", help="With a custom layer.")]
Folder = Annotated[str, typer.Option("--in", metavar="FOLDER", help="Where the package's folder is made.")]


def find_layer(words: str) -> type[Layer]:
    """The class that MODULE:LAYER names. Raises UsageError, PluginError."""
    from .layers.layer import Layer

    place, mark, name = words.rpartition(":")
    if not mark or not place:
        raise UsageError(f"{words!r} names no layer", hint="write package.module:FusedX or file.py:FusedX")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise UsageError("no such file", where=place)
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except GraphoptError:
        raise
    except Exception as error:
        raise UsageError(f"it cannot be imported: {type(error).__name__}: {error}", where=place) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Layer)):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Layer)]
        known = [key for key in known if key != "Layer"]
        raise UsageError(f"{name} is no layer", where=place, hint=f"layers there: {', '.join(known) or 'none'}")
    return found


def check_layer(
    layer: LayerName,
    no_gpu: NoGpu = False,
    quick: Quick = False,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Check a custom layer: its function and its kernel against what its body means."""
    with failures(as_json):
        from .conformance.check import check_layer as run

        with progress(as_json) as show:
            try:
                found = run(find_layer(layer), gpu=not no_gpu, quick=quick, dtypes_only=dtype or (), progress=show)
            except BackendError as error:
                error.hint = "; ".join(filter(None, (error.hint, "--no-gpu checks what needs none")))
                raise
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, **found.to_json()})
        else:
            _tell(found)
        if not found.ok:
            raise typer.Exit(1)


def _tell(found: Outcome) -> None:
    data = found.to_json()
    where = f" on {found.gpu}" if found.gpu else ", nothing on a GPU"
    for check, count in data["checks"].items():
        bad = [one for one in found.failures if one.check == check]
        error = f", largest error {data['largest_error'][check]:.2g}" if data["largest_error"][check] else ""
        stdout().print(f"{'✗' if bad else '✓'} {check}: {count - len(bad)} of {count}{error}", highlight=False)
        for one in bad[:5]:
            stdout().print(f"    {one.case}: {one.detail}", highlight=False, markup=False)
    for time in data["timings"]:
        share = f"{time['of_copy_bandwidth']:.0%} of the copy bandwidth"
        stdout().print(f"  {time['case']}: {time['ms']} ms, {share}", highlight=False, markup=False)
    for remark in found.remarks:
        stdout().print(f"  {remark}", highlight=False, markup=False)
    stdout().print(f"{found.layer}: {'right' if found.ok else 'WRONG'}{where}", highlight=False)


def bench_layer(
    layer: LayerName,
    shapes: At = None,
    dtype: Dtype = None,
    no_store: NoStore = False,
    as_json: Json = False,
) -> None:
    """Measure a layer's kernel against the fastest engine of its body or another spelling; --lower auto reads it."""
    with failures(as_json):
        from .conformance.bench import bench_layer as run
        from .conformance.bench import calls
        from .conformance.cases import cases
        from .options import dims_by_name

        found = find_layer(layer)()
        sets = [dims_by_name([word], "--shapes") for word in shapes or ()]
        wanted = calls(found, sets, dtype or ()) if sets else [
            case for case in cases(found, only=dtype or ()) if case.family == "normal" and case.shapes
        ][: 3 * max(len(found.cases), 1)]  # fmt: skip
        with progress(as_json) as show:
            measured = run(wanted, store=not no_store, progress=show)
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "measurements": measured})
        else:
            for one in measured:
                _row(one)


def _row(one: dict[str, Any]) -> None:
    shapes = ", ".join(f"{name}={'x'.join(map(str, dims))}" for name, dims in one["shapes"].items())
    engine = f"{one['engine_ms']} ms ({one['times_faster']} x)" if one["engine_ms"] is not None else one["why"]
    text = f"{one['layer']} {one['dtype']} {shapes}: kernel {one['kernel_ms']} ms, engine of the body {engine}"
    stdout().print(text, highlight=False, markup=False)


def new(name: Name, with_pass: WithPass = False, with_layer: WithLayer = False, folder: Folder = ".") -> None:
    """Make a plugin package that installs, and whose tests pass, as it is."""
    with failures(False):
        from .scaffold import new_package

        for path in new_package(name, Path(folder), with_pass=with_pass, with_layer=with_layer):
            stdout().print(str(path), highlight=False, markup=False)
        root = Path(folder, name)
        stdout().print(f"\nNext: cd {root}; pip install -e '.[test]'; pytest", highlight=False, markup=False)


def add_to(app: typer.Typer) -> None:
    """Make these commands of the application."""
    examples: dict[str, tuple[Any, str]] = {
        "check-layer": (check_layer, "my_layers.py:FusedX --no-gpu"),
        "bench-layer": (bench_layer, "my_layers.py:FusedX --shapes x=8192x4096"),
        "new": (new, "my-passes --pass --layer"),
    }
    for name, (command, words) in examples.items():
        app.command(name, epilog=f"[bold]Example[/]\n\n$ graphopt {name} {words}")(command)
