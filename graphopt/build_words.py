"""The builder's options as words of the command line: graphopt's spelling, and trtexec's where it has one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from .backends.build_options import FLAGS, HARDWARE, PLATFORMS, POOLS, TILING, VERBOSITIES, BuildOptions
from .config import Shapes, parse_compute_capability
from .errors import UsageError

_PANEL = "Builder"
_THEIRS = {
    "sparsity": "--sparsity", "refit": "--refit", "strip_weights": "--stripWeights",
    "weight_streaming": "--allowWeightStreaming", "version_compatible": "--versionCompatible",
    "exclude_lean_runtime": "--excludeLeanRuntime", "direct_io": "--directIO",
    "error_on_timing_cache_miss": "--errorOnTimingCacheMiss", "disable_timing_cache": "--noBuilderCache",
    "disable_compilation_cache": "--disableCompilationCache",
    "distributive_independence": "--distributiveIndependence", "monitor_memory": "--monitorMemory",
}  # fmt: skip
"""trtexec's names of flags."""


def _option(kind: Any, names: str, metavar: str, text: str) -> Any:
    return Annotated[
        kind, typer.Option(*names.split(), metavar=metavar, help=text, rich_help_panel=_PANEL, show_default=False)
    ]


def _flag(name: str, text: str) -> Any:
    ours, theirs = f"--{name.replace('_', '-')}", _THEIRS.get(name, "")
    return _option(bool, ours if theirs in ("", ours) else f"{ours} {theirs}", "", text)


OPTIONS: dict[str, tuple[Any, Any]] = {
    "optimization_level": (
        _option(
            int | None,
            "--optimization-level --builderOptimizationLevel",
            "0-5",
            "How long the builder may search; its own default if not given.",
        ),
        None,
    ),
    "profile": (
        _option(
            list[str] | None,
            "--profile",
            "NAME=MIN:OPT:MAX,...",
            "One more optimization profile, as x=1x3:4x3:8x3; the first is that of --shapes. Repeatable.",
        ),
        None,
    ),
    "mem_pool_size": (
        _option(
            list[str] | None,
            "--mem-pool-size --memPoolSize",
            "POOL:SIZE",
            f"Memory that a pool may take, as workspace:4G: {', '.join(POOLS)}. A bare number is MiB. Repeatable.",
        ),
        None,
    ),
    "timing_cache": (
        _option(
            str | None,
            "--timing-cache --timingCacheFile",
            "FILE",
            "Read what tactics took from this file, and write what was measured.",
        ),
        None,
    ),
    "tiling": (
        _option(
            str | None,
            "--tiling-optimization-level --tilingOptimizationLevel",
            "LEVEL",
            f"{', '.join(TILING)}; or 0-3.",
        ),
        None,
    ),
    "l2_limit": (
        _option(
            str | None, "--l2-limit-for-tiling --l2LimitForTiling", "SIZE", "L2 cache that tiling may count on, as 20M."
        ),
        None,
    ),
    "aux_streams": (
        _option(
            int | None, "--max-aux-streams --maxAuxStreams", "N", "Streams beside the main one that layers may run on."
        ),
        None,
    ),
    "avg_timing": (
        _option(int | None, "--avg-timing --avgTiming", "N", "Timings of a tactic that are averaged."),
        None,
    ),
    "max_tactics": (
        _option(int | None, "--max-tactics --maxTactics", "N", "Tactics that are timed for a layer."),
        None,
    ),
    "hardware_compatibility": (
        _option(
            str | None,
            "--hardware-compatibility-level --hardwareCompatibilityLevel",
            "LEVEL",
            f"Which other GPUs the engine runs on: {', '.join(HARDWARE)}.",
        ),
        None,
    ),
    "runtime_platform": (
        _option(
            str | None,
            "--runtime-platform --runtimePlatform",
            "NAME",
            f"Where the engine runs: {', '.join(PLATFORMS)}.",
        ),
        None,
    ),
    "tactic_sources": (
        _option(
            list[str] | None, "--tactic-sources --tacticSources", "+NAME,-NAME", "Libraries to use, or not. Repeatable."
        ),
        None,
    ),
    "preview_features": (
        _option(
            list[str] | None, "--preview --previewFeatures", "+NAME,-NAME", "Preview features, on or off. Repeatable."
        ),
        None,
    ),
    "compute_capability": (
        _option(
            list[str] | None,
            "--compute-capability --computeCapabilities",
            "SM,...",
            "GPUs to build for (TensorRT-RTX): sm89 or 8.9, several with commas. No GPU is needed here.",
        ),
        None,
    ),
    "profiling_verbosity": (
        _option(
            str,
            "--profiling-verbosity --profilingVerbosity",
            "LEVEL",
            f"What the engine tells of its layers: {', '.join(VERBOSITIES)}. Default: detailed.",
        ),
        "detailed",
    ),
    **{name: (_flag(name, text), False) for name, (_, text) in FLAGS.items()},
}


def takes_build(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options; it gets them as one dictionary, `builder`."""

    @functools.wraps(command)
    def run(**words: Any) -> None:
        words["builder"] = {name: words.pop(name) for name in OPTIONS}
        command(**words)

    own = inspect.signature(command, eval_str=True)
    parameters = [one for one in own.parameters.values() if one.name != "builder"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*parameters, *extra])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*parameters, *extra)} | {"return": None}
    return run


def options_of(words: dict[str, Any], verbose: bool = False) -> BuildOptions:
    """What the options ask for. Raises UsageError."""
    from .engines.store import parse_bytes

    tiling = words["tiling"]
    capabilities = [one for word in words["compute_capability"] or () for one in word.split(",") if one]
    return BuildOptions(
        optimization_level=words["optimization_level"],
        memory_pools=pools_of(words["mem_pool_size"] or ()),
        compute_capabilities=tuple(parse_compute_capability(one) for one in capabilities),
        profiling_verbosity=words["profiling_verbosity"],
        profiles=tuple(profile_of(one) for one in words["profile"] or ()),
        timing_cache=words["timing_cache"] or "",
        tiling=TILING[int(tiling)] if tiling is not None and tiling in ("0", "1", "2", "3") else _snake(tiling),
        l2_limit_bytes=None if words["l2_limit"] is None else parse_bytes(words["l2_limit"]),
        aux_streams=words["aux_streams"],
        avg_timing=words["avg_timing"],
        max_tactics=words["max_tactics"],
        hardware_compatibility=_snake(words["hardware_compatibility"]),
        runtime_platform=_snake(words["runtime_platform"]),
        tactic_sources=_switches(words["tactic_sources"] or ()),
        preview_features=_switches(words["preview_features"] or ()),
        flags=tuple(name for name in FLAGS if words[name]),
        verbose=verbose,
    )


def pools_of(words: Iterable[str]) -> dict[str, int]:
    """{'workspace': 4 << 30} of 'workspace:4G', or of trtexec's 'workspace:4096,dlaSRAM:1'. Raises UsageError."""
    from .engines.store import parse_bytes

    found = {}
    for word in ",".join(words).split(",") if words else ():
        name, mark, size = word.replace("=", ":").partition(":")
        if not mark:
            raise UsageError(f"{word!r} names no pool", where="--mem-pool-size", hint="write POOL:SIZE: workspace:4G")
        found[
            {"tactic_shared_mem": "tactic_shared_memory", "dla_sram": "dla_managed_sram"}.get(
                _snake(name) or "", _snake(name) or ""
            )
        ] = parse_bytes(size)
    return found


def profile_of(text: str) -> Shapes:
    """The profile in 'x=1x3:4x3:8x3,y=5': least, typical, largest; one alone is all three. Raises UsageError."""
    low, typical, high = {}, {}, {}
    for piece in text.split(","):
        name, mark, bounds = piece.rpartition("=")
        if not mark or not name or not re.fullmatch(r"(\d+(x\d+)*)?(:(\d+(x\d+)*)?){0,2}", bounds):
            raise UsageError(
                f"{piece!r} is no profile", where="--profile", hint="write NAME=MIN:OPT:MAX: x=1x3:4x3:8x3"
            )
        parts = bounds.split(":")
        if len(parts) == 2:
            raise UsageError(f"{piece!r} has two of three shapes", where="--profile", hint="write NAME=MIN:OPT:MAX")
        several = [tuple(int(dim) for dim in one.split("x")) if one else () for one in parts]
        low[name], typical[name], high[name] = several * 3 if len(several) == 1 else several
    return Shapes(low, typical, high)


def _switches(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(one for word in words for one in word.split(",") if one)


def _snake(word: str | None) -> str | None:
    """'ampere+' = 'ampere_plus', 'sameComputeCapability' = 'same_compute_capability', as trtexec spells them."""
    if word is None:
        return None
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word.replace("+", "_plus").replace("-", "_")).lower()
