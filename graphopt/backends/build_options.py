"""How to build an engine: every option, its name in TensorRT's API, and what it may be. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from graphopt.config import Shapes
from graphopt.errors import UsageError

VERBOSITIES = ("detailed", "layer_names_only", "none")
SEGMENTS = ("auto", "always", "never")
TILING = ("none", "fast", "moderate", "full")
HARDWARE = ("none", "ampere_plus", "same_compute_capability")
PLATFORMS = ("same_as_build", "windows_amd64")
POOLS = ("workspace", "tactic_dram", "tactic_shared_memory", "dla_managed_sram", "dla_local_dram", "dla_global_dram")

SETTINGS: dict[str, tuple[str, str]] = {
    "optimization_level": ("builder_optimization_level", ""),
    "tiling": ("tiling_optimization_level", "TilingOptimizationLevel"),
    "l2_limit_bytes": ("l2_limit_for_tiling", ""),
    "aux_streams": ("max_aux_streams", ""),
    "avg_timing": ("avg_timing_iterations", ""),
    "max_tactics": ("max_num_tactics", ""),
    "hardware_compatibility": ("hardware_compatibility_level", "HardwareCompatibilityLevel"),
    "runtime_platform": ("runtime_platform", "RuntimePlatform"),
    "profiling_verbosity": ("profiling_verbosity", "ProfilingVerbosity"),
}
"""Field -> (attribute of IBuilderConfig, the enumeration of its values)."""

FLAGS: dict[str, tuple[str, str]] = {
    "sparsity": ("SPARSE_WEIGHTS", "Use sparse kernels where weights are 2:4 sparse."),
    "refit": ("REFIT", "Weights can be replaced in the built engine."),
    "refit_identical": ("REFIT_IDENTICAL", "Only with the weights that it was built with."),
    "refit_individual": ("REFIT_INDIVIDUAL", "Only weights that are marked for it."),
    "strip_weights": ("STRIP_PLAN", "Leave the weights out; they are refitted when it is loaded."),
    "weight_streaming": ("WEIGHT_STREAMING", "Weights may stay in host memory and be streamed to the GPU."),
    "version_compatible": ("VERSION_COMPATIBLE", "The engine runs on later versions of TensorRT, too."),
    "exclude_lean_runtime": ("EXCLUDE_LEAN_RUNTIME", "With version compatibility: leave the lean runtime out."),
    "direct_io": ("DIRECT_IO", "No reformatting of inputs and outputs."),
    "disable_timing_cache": ("DISABLE_TIMING_CACHE", "Measure every tactic anew."),
    "editable_timing_cache": ("EDITABLE_TIMING_CACHE", "The timing cache can be changed afterwards."),
    "error_on_timing_cache_miss": ("ERROR_ON_TIMING_CACHE_MISS", "Fail where a tactic is not in the timing cache."),
    "disable_compilation_cache": ("DISABLE_COMPILATION_CACHE", "Compile every kernel anew."),
    "strict_nans": ("STRICT_NANS", "No optimization may assume that there is no NaN."),
    "distributive_independence": ("DISTRIBUTIVE_INDEPENDENCE", "Equal slices of a batch give equal results."),
    "monitor_memory": ("MONITOR_MEMORY", "The builder reports the memory that it takes."),
}
"""Field -> (BuilderFlag, what it does)."""

_CHOICES = {
    "segments": SEGMENTS,
    "tiling": TILING,
    "hardware_compatibility": HARDWARE,
    "runtime_platform": PLATFORMS,
    "profiling_verbosity": VERBOSITIES,
}
_LEAST = {"l2_limit_bytes": 0, "aux_streams": 0, "avg_timing": 1, "max_tactics": 1}


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine; None, () and False leave the backend's own default. Raises UsageError."""

    optimization_level: int | None = None
    memory_pools: Mapping[str, int] = field(default_factory=dict)
    """Pool -> bytes; the pools are those of POOLS."""
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    tf32: bool = True
    profiling_verbosity: str = "detailed"
    """What the engine tells of its layers: 'detailed', 'layer_names_only' or 'none'."""
    segments: str = "auto"
    """Whether calls of custom layers run as their kernels between engines: 'auto', 'always' or 'never'."""
    profiles: tuple[Shapes, ...] = ()
    """Further optimization profiles, after the one that the build's shapes make."""
    timing_cache: str = ""
    """A file that is read before the build, if it is there, and written after it."""
    tiling: str | None = None
    l2_limit_bytes: int | None = None
    aux_streams: int | None = None
    avg_timing: int | None = None
    max_tactics: int | None = None
    hardware_compatibility: str | None = None
    runtime_platform: str | None = None
    tactic_sources: tuple[str, ...] = ()
    """'+NAME' adds a source to the default ones, '-NAME' takes it away."""
    preview_features: tuple[str, ...] = ()
    """'+NAME' switches a feature on, '-NAME' off."""
    flags: tuple[str, ...] = ()
    """Those of FLAGS that are switched on."""
    plugins: tuple[str, ...] = ()
    no_plugins: tuple[str, ...] = ()
    """Where the custom layers of the model come from: --plugin, --no-plugin."""
    hooks: bool = False
    """Whether plugins implement graphopt_builder, which is then asked in the process that builds."""
    verbose: bool = False
    """Keep the backend's informative log lines, not only warnings and errors."""

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"optimization level {self.optimization_level} does not exist", hint="choose 0 to 5")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise UsageError(
                    f"{name.replace('_', ' ')} {value!r} does not exist", hint=f"choose {', '.join(known)}"
                )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name.replace('_', ' ')} {value} cannot be had", hint=f"choose {least} or more")
        for pool, count in self.memory_pools.items():
            if pool not in POOLS:
                raise UsageError(f"there is no memory pool {pool!r}", hint=f"choose {', '.join(POOLS)}")
            if count < 0:
                raise UsageError(f"a {pool} of {count} bytes cannot be had")
        for flag in self.flags:
            if flag not in FLAGS:
                raise UsageError(f"there is no build option {flag!r}", hint=f"choose {', '.join(FLAGS)}")
        for word in (*self.tactic_sources, *self.preview_features):
            if word[:1] not in ("+", "-") or not word[1:]:
                raise UsageError(f"{word!r} switches nothing", hint="write +NAME or -NAME")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildOptions:
        """The options that `dataclasses.asdict` and JSON made of them. Raises UsageError for unknown names."""
        known = {one.name for one in fields(cls)}
        if unknown := sorted(data.keys() - known):
            raise UsageError(f"there is no build option {unknown[0]!r}", hint=f"options: {', '.join(sorted(known))}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        if "compute_capabilities" in plain:
            plain["compute_capabilities"] = tuple(map(tuple, plain["compute_capabilities"]))
        if "profiles" in plain:
            plain["profiles"] = tuple(map(shapes_from_json, plain["profiles"]))
        return cls(**plain)


def shapes_from_json(data: Mapping[str, Mapping[str, Any]]) -> Shapes:
    """Shapes of {'min': {name: dims}, 'opt': ..., 'max': ...}."""
    return Shapes(**{bound: {name: tuple(dims) for name, dims in found.items()} for bound, found in data.items()})
