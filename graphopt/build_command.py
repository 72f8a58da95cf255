"""graphopt build: from a model to an engine, with every option of the builder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from .arguments import (
    BackendName,
    Bind,
    Freeze,
    Inputs,
    Json,
    KeepMetadata,
    Lower,
    MaxShapes,
    MemoryLimit,
    MinShapes,
    Model,
    NoCache,
    NoPlugin,
    Opset,
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
    limits_of,
)
from .build_words import options_of, takes_build
from .cache_command import cache_app
from .config import Target
from .console import failures, progress
from .errors import UsageError
from .import_words import takes_import
from .precision_words import request_of, takes_precision
from .project import Typed

EngineFile = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", "--saveEngine", metavar="FILE", show_default=False,
        help="The engine; NAME.engine in the current folder if not given.",
    ),
]  # fmt: skip
SaveOnnx = Annotated[
    str | None,
    typer.Option("--save-onnx", metavar="FILE", show_default=False, help="Write the optimized model, too."),
]
Raw = Annotated[
    bool, typer.Option("--raw", metavar="", help="Build the model as it is: no pass, and nothing to compare.")
]
LayerTimes = Annotated[
    str | None,
    typer.Option(
        "--layer-times", metavar="FILE", show_default=False,
        help="Show this profile, as `graphopt profile -o` wrote it, in the HTML report; auto goes by it.",
    ),
]  # fmt: skip


@takes_precision
@takes_build
@takes_import
def build(
    context: typer.Context,
    model: Model,
    output: EngineFile = None,
    save_onnx: SaveOnnx = None,
    report: ReportFile = None,
    layer_times: LayerTimes = None,
    raw: Raw = False,
    no_cache: NoCache = False,
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
    segments: Segments = "auto",
    verify: Verify = "end",
    inputs: Inputs = None,
    samples: Samples = 3,
    seed: Seed = 0,
    strict: Strict = False,
    time_limit: TimeLimit = 3600.0,
    memory_limit: MemoryLimit = None,
    backend: BackendName = "tensorrt_rtx",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    request: Any = None,
    builder: Any = None,
    imported: Any = None,
) -> None:
    """Optimize MODEL, check that it still computes the same, and build an engine with every option of the builder.

    What was built before is taken from the engine cache. ENGINE.json says what an engine is made of.
    """
    with failures(as_json):
        from .build_run import Build
        from .options import dims_by_name, outputs_of, shapes_of, values_by_name

        if raw:
            pipeline, lower, verify = "none", "never", "none"
        if seed < 0:
            raise UsageError(f"a seed of {seed} cannot be had", where="--seed", hint="choose 0 or more")
        model_path, engine = outputs_of(model, save_onnx, output, True, report)
        assert engine is not None
        options = replace(options_of(builder, verbose), segments=segments)
        target = Target(backend, compute_capability=next(iter(options.compute_capabilities), None))
        job = Build(
            model,
            engine,
            context.params,
            words_of(context),
            report=report,
            use_cache=not no_cache,
            times=layer_times,
            foreign=imported is not None,
        )
        with progress(quiet or as_json) as show:
            show("looking into the engine cache", 0, 0)
            if not job.answered():
                job.run(
                    show,
                    importer=imported,
                    output=model_path if save_onnx else None,
                    target=target,
                    pipeline=pipeline,
                    skip=skip or (),
                    plugins=plugin or (),
                    no_plugins=no_plugin or (),
                    shapes=shapes_of(min_shapes or (), shapes or (), max_shapes or ()),
                    freeze=dims_by_name(freeze or (), "--freeze"),
                    bind=values_by_name(bind or ()),
                    opset=opset,
                    promote_io=promote_io,
                    keep_metadata=keep_metadata,
                    lower=lower,
                    precision=request_of(request),
                    verify=verify,
                    inputs=inputs,
                    samples=samples,
                    seed=seed,
                    build_options=options,
                    strict=strict,
                    limits=limits_of(time_limit, memory_limit),
                )
        if isinstance(context.obj, Typed):
            job.remember(context.obj)
        job.tell_all(verbose)


def words_of(context: typer.Context) -> list[str]:
    """The words that repeat this call anywhere: what the configuration file said is spelled out."""
    words = ["graphopt", str(context.info_name)]
    for one in context.command.params:
        value = context.params.get(str(one.name))
        if one.param_type_name == "argument":
            words.append(str(value))
        elif one.name not in _ABOUT_PRINTING and value not in (None, False, (), [], one.default):
            for single in value if isinstance(value, (list, tuple)) else [value]:
                words += [one.opts[0]] if value is True else [one.opts[0], str(single)]
    return words


_ABOUT_PRINTING = ("as_json", "quiet", "verbose", "no_cache")


def add_to(app: typer.Typer) -> None:
    """Make these commands of the application."""
    examples = (
        "[bold]Examples[/]",
        "$ graphopt build model.onnx --shapes x=1x3x224x224",
        "$ graphopt build model.onnx -o m.engine --precision fp16 --min-shapes x=1x3x224x224 --shapes x=8x3x224x224 "
        "--max-shapes x=16x3x224x224 --builderOptimizationLevel 4 --report report.html",
        "$ graphopt build model.onnx --profile x=1x3x224x224 --profile x=2x3x224x224:8x3x224x224:32x3x224x224",
        "$ graphopt build model.onnx --raw --memPoolSize workspace:4G",
    )
    app.command(epilog="\n\n".join(examples))(build)
    app.add_typer(cache_app, name="cache")
