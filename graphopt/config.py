"""What a run is asked to do: the target, the shapes, the limits. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import UsageError

BACKENDS = ("tensorrt_rtx", "tensorrt", "onnxruntime")
PRECISIONS = ("tf32", "fp32", "fp16", "bf16", "fp8", "int8", "int4", "auto")


@dataclass(frozen=True)
class Target:
    """What the optimized model will run on; readable by every rule from the first pass."""

    backend: str = "tensorrt_rtx"
    version: str = ""
    compute_capability: tuple[int, int] | None = None
    precision: str = "tf32"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"unknown backend {self.backend!r}", hint=f"choose one of: {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}", hint=f"choose one of: {', '.join(PRECISIONS)}")


def parse_compute_capability(text: str) -> tuple[int, int]:
    """'sm89', '8.9' and '89' = (8, 9). Raises UsageError."""
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    if not found:
        raise UsageError(f"{text!r} is no compute capability", hint="write it as sm89 or 8.9")
    return int(found[1]), int(found[2])


Dims = tuple[int, ...]


def parse_dims(text: str) -> tuple[str, Dims]:
    """'x=1x3x48x320' and 'x:1x3x48x320' = ('x', (1, 3, 48, 320)); 'x=' is a scalar. Raises UsageError."""
    name, mark, dims = text.rpartition(max("=:", key=text.rfind))
    if not mark or not name or not re.fullmatch(r"(\d+(x\d+)*)?", dims):
        raise UsageError(f"{text!r} names no shape", hint="write NAME=DIMS, for example x=1x3x48x320")
    return name, tuple(int(dim) for dim in dims.split("x")) if dims else ()


@dataclass(frozen=True)
class Shapes:
    """Least, typical and largest shape of each input, by input name: the optimization profile."""

    min: Mapping[str, Dims] = field(default_factory=dict)
    opt: Mapping[str, Dims] = field(default_factory=dict)
    max: Mapping[str, Dims] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in {*self.min, *self.opt, *self.max}:
            low, typical, high = self.of(name)
            if not len(low) == len(typical) == len(high):
                raise UsageError(f"input {name!r}: --min-shapes, --shapes and --max-shapes differ in rank")
            if not all(a <= b <= c for a, b, c in zip(low, typical, high, strict=True)):
                raise UsageError(f"input {name!r}: shapes must satisfy min <= typical <= max in every dimension")

    def of(self, name: str) -> tuple[Dims, Dims, Dims]:
        """(min, typical, max) of an input; what is not given is taken from the nearest that is. Raises KeyError."""
        low, typical, high = self.min.get(name), self.opt.get(name), self.max.get(name)
        some = typical if typical is not None else high if high is not None else low
        if some is None:
            raise KeyError(name)
        return (low if low is not None else some, some, high if high is not None else some)

    def __contains__(self, name: object) -> bool:
        return name in self.opt or name in self.max or name in self.min

    def __bool__(self) -> bool:
        return bool(self.min or self.opt or self.max)


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a run linear and its memory small."""

    fold_bytes: int = 16 << 20
    """A folded constant may grow to this size beyond its inputs."""
    inlined_nodes: int = 100_000
    """A call of a function that would become more nodes than this is left as it is."""
    unrolled_nodes: int = 256
    """A loop that would become more nodes than this is left as it is."""
    rounds: int = 64
    """A stage that is not at a fixpoint after this many rounds is an error."""
    build_seconds: float = 3600.0
    """A child process that parses or builds is ended after this time."""
    pass_seconds: float = 3600.0
    """A run of all passes is ended after this time, and the pass that was at work is named."""
    run_seconds: float = 3600.0
    """Loading a model for verification, or running it once, is ended after this time."""
    import_seconds: float = 3600.0
    """A child process that takes in a model of another framework is ended after this time."""
    memory_bytes: int = 0
    """The child process that runs a model may take this much; 0: what the machine has left when it starts."""
