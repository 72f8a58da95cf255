"""The command line: words in, one call, words out. What is heavy is imported inside the commands."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .arguments import (
    BackendName,
    Bind,
    Build,
    Capability,
    Engine,
    Freeze,
    Inputs,
    Json,
    KeepMetadata,
    Level,
    Lower,
    MaxShapes,
    MemoryLimit,
    MinShapes,
    Model,
    NoCache,
    NodeName,
    NoPlugin,
    Opset,
    Output,
    PassName,
    Pipeline,
    Plugin,
    PromoteIO,
    Quiet,
    ReportFile,
    Samples,
    Seed,
    Segments,
    Skip,
    Strict,
    TimeLimit,
    TypicalShapes,
    Verbose,
    Verify,
    Word,
    limits_of,
    target_of,
)
from .bisect import bisect
from .build_command import add_to as add_build
from .check_command import add_check
from .console import SCHEMA_VERSION, USAGE, fail, failures, options_from, prepare, print_json, progress, stdout
from .engine_commands import add_to as add_engine_commands
from .errors import UsageError
from .import_command import add_to as add_import_commands
from .import_words import onnx_of, takes_import
from .inspect_commands import add_to as add_inspect_commands
from .layer_commands import add_to
from .one_command import needed
from .outcome import tell
from .precision_words import add_precision_to, request_of, takes_precision
from .project import Typed, defaults

app = typer.Typer(
    name="graphopt",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"graphopt {__version__}\n")
        raise typer.Exit


@app.callback()
def _graphopt(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="GRAPHOPT_CONFIG",
            show_default=False,
            show_envvar=False,
            help="Options of the project: a graphopt.toml or pyproject.toml; 'none' for no such file.",
        ),
    ] = "",
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", help="Print the version and leave.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Optimize ONNX models for TensorRT: rewrite the graph, prove that it computes the same, build an engine."""
    options_from("")
    if config == "none" or context.resilient_parsing:
        return
    typed = context.obj if isinstance(context.obj, Typed) else Typed([])
    with failures("--json" in typed.words):
        path = Path(config) if config else typed.project
        if path is not None:
            known: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
            plain = {name: one for name, one in known.items() if not hasattr(one, "commands")}
            found = defaults(path, plain, typed.words)
            context.default_map = dict(found)
            options_from(str(path) if found.get(context.invoked_subcommand or "") else "")


@app.command(
    epilog="\n\n".join(
        (
            "[bold]Examples[/]",
            "$ graphopt optimize model.onnx -o small.onnx",
            "$ graphopt optimize model.onnx --build --shapes x=1x3x48x320",
            "$ graphopt optimize model.onnx --engine m.engine --min-shapes x=1x3x48x64 --shapes x=8x3x48x320 "
            "--max-shapes x=16x3x48x640 --compute-capability sm89",
            "$ graphopt optimize model.onnx --plugin ./my_pass.py --verify each --report report.html",
        )
    )
)
@takes_precision
@takes_import
def optimize(
    model: Model,
    output: Output = None,
    build: Build = False,
    engine: Engine = None,
    report: ReportFile = None,
    shapes: TypicalShapes = None,
    min_shapes: MinShapes = None,
    max_shapes: MaxShapes = None,
    freeze: Freeze = None,
    bind: Bind = None,
    opset: Opset = None,
    promote_io: PromoteIO = False,
    keep_metadata: KeepMetadata = False,
    pipeline: Pipeline = "default",
    skip: Skip = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    lower: Lower = "auto",
    verify: Verify = "end",
    inputs: Inputs = None,
    samples: Samples = 3,
    seed: Seed = 0,
    strict: Strict = False,
    time_limit: TimeLimit = 3600.0,
    memory_limit: MemoryLimit = None,
    backend: BackendName = "tensorrt_rtx",
    compute_capability: Capability = "",
    optimization_level: Level = None,
    segments: Segments = "auto",
    no_cache: NoCache = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    request: Any = None,
    imported: Any = None,
) -> None:
    """Optimize MODEL, check that it still computes the same, and build an engine if asked."""
    with failures(as_json):
        from .options import dims_by_name, outputs_of, shapes_of, values_by_name

        profile = shapes_of(min_shapes or (), shapes or (), max_shapes or ())
        frozen, bound = dims_by_name(freeze or (), "--freeze"), values_by_name(bind or ())
        if seed < 0:
            raise UsageError(f"a seed of {seed} cannot be had", where="--seed", hint="choose 0 or more")
        target = target_of(backend, compute_capability)
        model_path, engine_path = outputs_of(model, output, engine, build, report)
        from .backends.protocol import BuildOptions
        from .engines.store import Store
        from .pipeline import optimize as run

        options = BuildOptions(
            optimization_level,
            compute_capabilities=(target.compute_capability,) if target.compute_capability else (),
            segments=segments,
        )
        with progress(quiet) as show:
            result = run(
                model,
                importer=imported,
                output=model_path,
                target=target,
                pipeline=pipeline,
                skip=skip or (),
                plugins=plugin or (),
                no_plugins=no_plugin or (),
                shapes=profile,
                freeze=frozen,
                bind=bound,
                opset=opset,
                promote_io=promote_io,
                keep_metadata=keep_metadata,
                lower=lower,
                precision=request_of(request),
                verify=verify,
                inputs=inputs,
                samples=samples,
                seed=seed,
                engine=engine_path,
                build_options=options,
                store=None if engine_path is None or no_cache else Store(),
                count_layers=True,
                strict=strict,
                limits=limits_of(time_limit, memory_limit),
                progress=show,
            )
        tell(result, model, report, as_json, quiet, verbose)


@app.command(epilog="[bold]Example[/]\n\n$ graphopt passes transpose\n\n$ graphopt passes --plugin ./my_pass.py")
def passes(
    word: Word = "",
    pipeline: Pipeline = "default",
    skip: Skip = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    as_json: Json = False,
) -> None:
    """List the passes in the order in which they run, each with its equation."""
    with failures(as_json):
        from .registry import Registry
        from .report.listing import holding, layers_holding, passes_json, passes_table
        from .rewrite.schedule import schedule

        registry = Registry(plugin or (), no_plugin or ())
        stages = holding(word, schedule(registry.select(pipeline, skip or ())))
        layers = layers_holding(word, registry.layers(), skip or ())
        if as_json:
            print_json(
                {"schema_version": SCHEMA_VERSION, **passes_json(stages, pipeline, registry.pipelines(), layers)}
            )
        else:
            stdout().print(passes_table(stages, pipeline, registry.pipelines(), layers))


@app.command()
def plugins(plugin: Plugin = None, no_plugin: NoPlugin = None, as_json: Json = False) -> None:
    """List the plugins that were found: where from, what they add, and why one cannot be used."""
    with failures(as_json):
        from .registry import Registry
        from .report.listing import plugins_table

        found = Registry(plugin or (), no_plugin or ()).plugins
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "plugins": [one.to_json() for one in found]})
        else:
            stdout().print(plugins_table(found))


@app.command(epilog="[bold]Example[/]\n\n$ graphopt explain model.onnx --pass fold-constants --node Shape_0")
@takes_import
def explain(
    model: Model,
    name: PassName,
    node: NodeName,
    shapes: TypicalShapes = None,
    freeze: Freeze = None,
    bind: Bind = None,
    pipeline: Pipeline = "default",
    skip: Skip = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    lower: Lower = "auto",
    backend: BackendName = "tensorrt_rtx",
    compute_capability: Capability = "",
    as_json: Json = False,
    imported: Any = None,
) -> None:
    """Say why a pass changes a node, or why it does not."""
    with failures(as_json), ExitStack() as stack:
        from .ir.load import load
        from .ir.specialize import bind_inputs, freeze_dims
        from .lowering import lowering
        from .options import dims_by_name, shapes_of, values_by_name
        from .registry import Registry
        from .report.listing import explanation_text
        from .rewrite.explain import explain as why
        from .rewrite.manager import Manager

        frozen, bound = dims_by_name(freeze or (), "--freeze"), values_by_name(bind or ())
        target = target_of(backend, compute_capability)
        registry = Registry(plugin or (), no_plugin or ())
        entries = registry.select(pipeline, skip or ())
        with progress(as_json) as show:
            path = onnx_of(
                model, imported, stack, show, plugins=plugin or (), no_plugins=no_plugin or (),
                profile=shapes_of((), shapes or (), ()),
            )  # fmt: skip
        layers = lowering(registry, load(path), entries, target, lower, every=True)
        if name in layers.reasons:
            raise UsageError(layers.reasons[name], where=f"layer {name}")
        entries += layers.entries

        def start(most: int | None = None) -> Manager:
            graph = load(path)
            freeze_dims(graph, frozen)
            bind_inputs(graph, bound)
            return Manager(
                graph,
                entries,
                target,
                most=most,
                veto=lambda one, match: registry.veto(one.name, match.nodes, target),
                custom=layers.custom,
            )

        with progress(as_json) as show:
            show("passes", 0, 0)
            found = why(start, name, node)
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, **found.to_json()})
        else:
            stdout().print(explanation_text(found))


app.command(
    epilog="\n\n".join(
        (
            "[bold]Examples[/]",
            "$ graphopt bisect model.onnx --plugin ./my_pass.py -o repros",
            "$ graphopt bisect --replay repros/my-pass-Conv_3 --plugin ./my_pass.py",
        )
    )
)(bisect)


for add in (
    add_inspect_commands,
    add_build,
    add_import_commands,
    add_to,
    add_check,
    add_engine_commands,
    add_precision_to,
):
    add(app)


def main(arguments: list[str] | None = None) -> None:
    """The `graphopt` command."""
    words = sys.argv[1:] if arguments is None else arguments
    prepare()
    try:
        with failures("--json" in words):
            code = _run(words)
    except typer.Exit as leave:
        code = leave.exit_code
    sys.exit(code)


def _run(words: list[str]) -> int:
    typed = Typed(words)
    try:
        found: Any = needed(app, typed)(
            args=words or ["--help"], prog_name="graphopt", standalone_mode=False, obj=typed
        )
    except typer.Exit:
        raise
    except Exception as error:
        # Usage errors of whichever copy of click typer runs on.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.format_message()  # prints the help
            return 0
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "graphopt"
        said = error.format_message().rstrip(".")
        several = said.startswith("Got unexpected extra argument") and "=" in said
        raise fail(
            said,
            hint="write an option again before each of its values: --shapes a=1x3 --shapes b=4"
            if several
            else f"{path} --help shows what it takes",
            kind="UsageError",
            code=USAGE,
            as_json="--json" in words,
        ) from None
    return found if isinstance(found, int) else 0
