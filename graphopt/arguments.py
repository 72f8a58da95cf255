"""The arguments and options of the commands, each with the line that --help says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .config import Limits, Target

_OUTPUT, _SHAPES, _PASSES, _VERIFY, _ENGINE, _SAY = (
    "Files",
    "Shapes and inputs",
    "Passes and plugins",
    "Verification",
    "Engine",
    "What is printed",
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An ONNX file, or what an importer takes.", show_default=False)
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE", help="Load a plugin: a .py file or a module. Repeatable.", rich_help_panel=_PASSES
    ),
]
NoPlugin = Annotated[
    list[str] | None,
    typer.Option("--no-plugin", metavar="NAME", help="Leave a plugin out. Repeatable.", rich_help_panel=_PASSES),
]
Pipeline = Annotated[
    str, typer.Option("--pipeline", metavar="NAME", help="Which selection of passes runs.", rich_help_panel=_PASSES)
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="PASS", help="Leave a pass out. Repeatable.", rich_help_panel=_PASSES),
]
Lower = Annotated[
    str,
    typer.Option(
        "--lower",
        metavar="WHEN",
        rich_help_panel=_PASSES,
        help="Where custom layers are placed. auto: where a measurement says that it pays. always, never.",
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", metavar="", rich_help_panel=_ENGINE, help="Build even if the engine cache has this engine."
    ),
]
Segments = Annotated[
    str,
    typer.Option(
        "--segments",
        metavar="WHEN",
        rich_help_panel=_ENGINE,
        help="Where custom layers' kernels run between engines. auto: where that is measured to pay. always, never.",
    ),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="NAME=DIMS",
        help="Make an input's shape part of the model. Repeatable.",
        rich_help_panel=_SHAPES,
    ),
]
PromoteIO = Annotated[
    bool,
    typer.Option(
        "--promote-io",
        metavar="",
        rich_help_panel=_SHAPES,
        help="Inputs and outputs of dtypes that no engine has (int16, uint32, ...) become wider ones.",
    ),
]
Bind = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        metavar="NAME=VALUE",
        rich_help_panel=_SHAPES,
        help="Make an input a constant: 5, 1,2,3, true, [[1,2],[3,4]] or @file.npy. Repeatable.",
    ),
]
KeepMetadata = Annotated[
    bool,
    typer.Option(
        "--keep-metadata",
        metavar="",
        help="Keep what exporters note about every node: stack traces, traced expressions.",
        rich_help_panel=_OUTPUT,
    ),
]
Opset = Annotated[
    int | None,
    typer.Option(
        "--opset",
        metavar="N",
        rich_help_panel=_SHAPES,
        help="Convert the model to this opset of ONNX first.",
        show_default=False,
    ),
]
BackendName = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="tensorrt_rtx, tensorrt or onnxruntime.", rich_help_panel=_ENGINE),
]
Capability = Annotated[
    str,
    typer.Option(
        "--compute-capability",
        metavar="SM",
        rich_help_panel=_ENGINE,
        show_default=False,
        help="The GPU to build for: sm89 or 8.9. No GPU is needed here.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print one JSON object, and nothing else, to stdout.", rich_help_panel=_SAY
    ),
]


Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=_OUTPUT,
        show_default=False,
        help="The optimized model; NAME.opt.onnx in the current folder if not given.",
    ),
]
Build = Annotated[
    bool,
    typer.Option(
        "--build", metavar="", help="Build an engine too: NAME.engine in the current folder.", rich_help_panel=_OUTPUT
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="FILE", help="Build an engine into this file.", rich_help_panel=_OUTPUT, show_default=False
    ),
]
ReportFile = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report: x.json or x.html.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
TypicalShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes",
        "--optShapes",
        metavar="NAME=DIMS",
        rich_help_panel=_SHAPES,
        help="The typical shape of an input, as x=1x3x48x320. Imports: x=Nx3x48x320. Repeatable.",
    ),
]
MinShapes = Annotated[
    list[str] | None,
    typer.Option("--min-shapes", "--minShapes", metavar="NAME=DIMS", help="Its least shape.", rich_help_panel=_SHAPES),
]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--max-shapes", "--maxShapes", metavar="NAME=DIMS", help="Its largest shape.", rich_help_panel=_SHAPES
    ),
]
Verify = Annotated[
    str,
    typer.Option(
        "--verify",
        metavar="WHEN",
        rich_help_panel=_VERIFY,
        help="end: compare the result with the source. each: also take back what broke the numbers. "
        "none: compare nothing.",
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="FILE",
        help="Compare with these inputs: an .npz file.",
        rich_help_panel=_VERIFY,
        show_default=False,
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", metavar="N", help="How many random inputs to compare with.", rich_help_panel=_VERIFY)
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="The seed of the random inputs.", rich_help_panel=_VERIFY)
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        metavar="",
        help="Fail where a pass failed, something was taken back, or could not be compared.",
        rich_help_panel=_VERIFY,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        rich_help_panel=_PASSES,
        help="End the passes, each run that compares, and the build, if they take longer.",
    ),
]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory-limit",
        metavar="GB",
        rich_help_panel=_VERIFY,
        show_default=False,
        help="Memory for the process that compares; what the machine has left if not given.",
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        "--optimization-level",
        metavar="0-5",
        rich_help_panel=_ENGINE,
        show_default=False,
        help="How long the builder may search; its own default if not given.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="Print only warnings and errors.", rich_help_panel=_SAY)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", metavar="", help="List every pass, also those that changed nothing.", rich_help_panel=_SAY
    ),
]
Word = Annotated[
    str,
    typer.Argument(metavar="[WORD]", help="Only those whose name, plugin or equation holds it.", show_default=False),
]
Before = Annotated[
    str, typer.Argument(metavar="A", help="An ONNX file, or what an importer takes.", show_default=False)
]
After = Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)]
PassName = Annotated[
    str, typer.Option("--pass", metavar="PASS", help="The pass, as `graphopt passes` names it.", show_default=False)
]
NodeName = Annotated[
    str,
    typer.Option(
        "--node", metavar="NODE", show_default=False, help="A node of MODEL, by its name or by an output of it."
    ),
]


def target_of(backend: str, compute_capability: str) -> Target:
    """The target that --backend and --compute-capability name. Raises UsageError."""
    from .config import Target, parse_compute_capability

    capability = parse_compute_capability(compute_capability) if compute_capability else None
    return Target(backend=backend, compute_capability=capability)


def limits_of(seconds: float, memory_gb: float | None) -> Limits:
    """What --time-limit and --memory-limit allow. Raises UsageError."""
    from .config import Limits
    from .errors import UsageError

    for option, value in (("--time-limit", seconds), ("--memory-limit", memory_gb)):
        if value is not None and not 0 < value < 1e8:
            raise UsageError(f"{value:g} is no limit", where=option, hint="choose more than 0")
    return Limits(
        build_seconds=seconds,
        pass_seconds=seconds,
        run_seconds=seconds,
        import_seconds=seconds,
        memory_bytes=int((memory_gb or 0) * 1e9),
    )
