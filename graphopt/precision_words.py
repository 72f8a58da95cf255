"""The options of `optimize` that say in which dtypes the model is computed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .config import PRECISIONS
from .errors import UsageError
from .precision_commands import add_to as add_precision_to

if TYPE_CHECKING:
    from .precision.stage import Request

__all__ = ["OPTIONS", "add_precision_to", "request_of", "takes_precision"]
_PANEL = "Precision"


def _option(name: str, metavar: str, text: str, kind: Any = str) -> Any:
    return Annotated[kind, typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)]


OPTIONS: dict[str, tuple[Any, Any]] = {
    "precision": (
        _option(
            "--precision",
            "NAME",
            "tf32, fp32, fp16, bf16, fp8, int8, int4, or auto: the fastest that stays within --max-error.",
        ),
        "tf32",
    ),
    "calib": (
        _option(
            "--calib", "DATA", "Samples to measure with: .npz, a folder of them, MODULE:FUNCTION, random.", str | None
        ),
        None,
    ),
    "calib_method": (
        _option("--calib-method", "NAME", "How ranges of activations are chosen: max, percentile, entropy, mse."),
        "max",
    ),
    "calib_samples": (_option("--calib-samples", "N", "How many samples to measure ranges on, at most.", int), 64),
    "weights_only": (
        Annotated[
            bool,
            typer.Option(
                "--weights-only",
                metavar="",
                rich_help_panel=_PANEL,
                help="Quantize weights only, and compute in fp16. int4 always does.",
            ),
        ],
        False,
    ),
    "max_error": (
        _option("--max-error", "X", "How far outputs may be off, in the metric.", float | None),
        None,
    ),
    "metric": (
        _option("--metric", "NAME", "l2 (relative), cosine (1 - cosine), max, top1, or MODULE:FUNCTION."),
        "l2",
    ),
    "keep": (
        _option(
            "--keep",
            "PATTERN",
            "Keep operators or nodes in float32, by regular expression. Repeatable.",
            list[str] | None,
        ),
        None,
    ),
    "io_types": (
        _option("--io-types", "WHAT", "keep: inputs and outputs keep their dtypes. change: they become low, too."),
        "keep",
    ),
    "layer_times": (
        _option(
            "--layer-times",
            "FILE",
            "Let auto go by these times of layers: what `graphopt profile -o` wrote of an engine. Repeatable.",
            list[str] | None,
        ),
        None,
    ),
    "auto_builds": (
        _option("--auto-builds", "N", "How many engines auto may build and time on the GPU at hand, at most.", int),
        12,
    ),
    "plan": (_option("--plan", "FILE", "Follow this precision plan.", str | None), None),
    "save_plan": (_option("--save-plan", "FILE", "Write the precision plan that was followed.", str | None), None),
    "target_version": (
        _option("--target-version", "X.Y", "Plan for this version of the backend, not for the installed one."),
        "",
    ),
    "sparse": (
        _option("--sparse", "WHAT", "keep: weights as they are. prune: make them 2:4 sparse, by magnitude."),
        "keep",
    ),
}


def takes_precision(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options; it gets them as one `request`, and those that it has itself as well."""
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**words: Any) -> None:
        given = {name: words[name] if name in own.parameters else words.pop(name) for name in OPTIONS}
        words["request"] = given
        command(**words)

    parameters = [one for one in own.parameters.values() if one.name != "request"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in OPTIONS.items()
        if name not in own.parameters
    ]
    run.__signature__ = own.replace(parameters=[*parameters, *extra])  # type: ignore[attr-defined]
    run.__annotations__ = {
        **{one.name: one.annotation for one in parameters},
        "return": None,
        **{one.name: one.annotation for one in extra},
    }
    return run


def request_of(words: dict[str, Any]) -> Request:
    """What the options ask for. Raises UsageError."""
    from .precision.calibrate import METHODS
    from .precision.stage import Request

    if words["precision"] not in PRECISIONS:
        raise UsageError(f"unknown precision {words['precision']!r}", where="--precision",
                         hint=f"choose one of: {', '.join(PRECISIONS)}")  # fmt: skip
    for name, known in (("io_types", ("keep", "change")), ("calib_method", METHODS), ("sparse", ("keep", "prune"))):
        if words[name] not in known:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {words[name]}: choose one of {', '.join(known)}")
    if words["calib_samples"] < 1:
        raise UsageError("at least one sample is needed", where="--calib-samples")
    if words["auto_builds"] < 0:
        raise UsageError("a number of engines cannot be negative", where="--auto-builds")
    return Request(
        precision=words["precision"],
        io=words["io_types"],
        keep=tuple(words["keep"] or ()),
        calib=words["calib"],
        max_error=words["max_error"],
        metric=words["metric"],
        plan=words["plan"],
        plan_output=words["save_plan"],
        layer_times=_files(words["layer_times"]),
        builds=words["auto_builds"],
        method=words["calib_method"],
        calib_samples=words["calib_samples"],
        prune=words["sparse"] == "prune",
        weights_only=words["weights_only"],
        version=words["target_version"],
    )


def _files(given: list[str] | str | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())
