"""Does the result compute what its source computes?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.config import Dims, Shapes
from graphopt.errors import UsageError

from .coarse import computed_in
from .difference import Array, Difference, Value, compare, severity
from .exchange import read_values, write_values
from .execute import ChildDied, ExecutionError, Model, OutOfTime, Runner, as_file
from .feeds import make_feeds
from .interface import interface_problems, keeps_to
from .npz import check_feeds, load_npz
from .ports import input_ports, output_ports, read_outline
from .randomness import random_outputs
from .ranges import Input, read_inputs
from .rounding_error import rounding_breaches
from .shapes import sample_shapes
from .source_error import formulas_apart, own_differences, unrepeatable
from .tolerance import (
    CHAOTIC_LIMIT,
    ESCALATION_FACTOR,
    ESCALATION_LIMIT,
    ONE_FORMULA,
    ROUNDING_FACTOR,
    escalated,
    tolerance_for,
)

_MOST_SHAPES = 12
_SIGKILL = 9
RANDOM_NOTE = "random: shapes only"


@dataclass(frozen=True)
class Dropped:
    """Shapes at which the source itself does not run, and why."""

    shapes: dict[str, Dims]
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was compared, at which shapes, and how far apart it was.

    status: 'passed', 'failed', or 'unverified' where the source, or the machine, allowed no comparison.
    outputs: the worst difference of each output over the samples; Difference.sample indexes shapes_used.
    """

    status: str
    outputs: list[Difference] = field(default_factory=list)
    shapes_used: list[dict[str, Dims]] = field(default_factory=list)
    shapes_dropped: list[Dropped] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def to_json(self) -> dict[str, Any]:
        """A dict for json.dumps, without NaN or infinity."""
        plain = dataclasses.asdict(self) | {"outputs": [output.to_json() for output in self.outputs]}
        return dict(json.loads(json.dumps(plain)))  # tuples become lists, as whoever reads the file gets them


def verify(
    source: Model,
    result: Model,
    *,
    shapes: Shapes | None = None,
    inputs: str | Path | Mapping[str, Array] | None = None,
    samples: int = 3,
    seed: int = 0,
    precision: str = "fp32",
    threads: int = 0,
    seconds: float = 3600.0,
    memory_bytes: int = 0,
) -> Verification:
    """passed = same inputs and outputs by name, dtype and rank, and at every sample each output within its tolerance.

    source, result: files (external data beside them) or bytes. shapes: the profile to sample. inputs: an .npz file or
    arrays, then the only sample. samples: how many, at several shapes where dims are dynamic. precision: in which the
    result computes (config.PRECISIONS). threads: per operator, 0 = all cores. seconds: per loading and per run.
    memory_bytes: what the child that runs the models may take, 0 = what the machine has left.

    Each output is held to its dtype, or to the coarsest one that the source rounds to on the way to it.
    A float32 output beyond 1e-5 is held against the source in float64: its bound becomes twice the source's own
    float32 error where that is larger (tolerance.escalated). Outputs that depend on random ops are
    compared by shape and dtype. A result with float16, bfloat16 or float8 in it is evaluated once more with rounding
    after every operator (rounding_error.rounding_breaches).
    Raises UsageError (shapes or inputs do not fit the model) and ModelError (a file is no ONNX model).
    """
    if samples < 1:
        raise UsageError("verification needs at least one sample")
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(as_file(model)) for model in (source, result)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-")))
        runner = stack.enter_context(Runner(threads=threads, seconds=seconds, memory_bytes=memory_bytes))
        trial = _Trial(paths[0], paths[1], folder, runner, samples, seed, precision)
        status = trial.judge(shapes or Shapes(), inputs)
    return Verification(
        status,
        trial.worst,
        trial.used,
        trial.dropped,
        time.perf_counter() - began,
        list(dict.fromkeys(trial.notes)),
    )


class _Trial:
    def __init__(
        self, source: Path, result: Path, folder: Path, runner: Runner, samples: int, seed: int, precision: str
    ) -> None:
        self.source, self.result, self.folder, self.runner = source, result, folder, runner
        self.samples, self.seed, self.precision = samples, seed, precision
        self.found: list[Difference] = []
        self.used: list[dict[str, Dims]] = []
        self.dropped: list[Dropped] = []
        self.notes: list[str] = []
        self.behind: dict[str, str] = {}
        """output -> the coarsest low dtype that the source rounds to on the way to it"""

    def judge(self, profile: Shapes, given: str | Path | Mapping[str, Array] | None) -> str:
        outline, other = read_outline(self.source), read_outline(self.result)
        inputs, outputs = read_inputs(outline), output_ports(outline)
        problems, remarks, doubts = interface_problems(
            input_ports(outline), outputs, input_ports(other), output_ports(other)
        )
        self.notes += remarks
        if problems:
            self.notes += problems
            return "failed"
        if odd := [port.name for port in inputs if port.required and port.kind == "unsupported"]:
            self.notes.append(f"no values can be made for: {', '.join(odd)}")
            return "unverified"
        random = random_outputs(outline)
        self.behind = computed_in(outline)
        del outline, other
        if given is not None:
            arrays = check_feeds(given, inputs) if isinstance(given, Mapping) else load_npz(given, inputs)
            candidates = [{name: tuple(np.shape(array)) for name, array in arrays.items()}]
            self.samples = 1
        else:
            arrays = None
            candidates = sample_shapes(inputs, profile, max(self.samples, _MOST_SHAPES))
        if not self._run_source(inputs, candidates, arrays):
            self.notes += doubts.values()
            return "failed" if doubts else "unverified"
        for name, text in doubts.items():
            value, port = self._expected(0)[name], next(port for port in outputs if port.name == name)
            if not isinstance(value, np.ndarray) or keeps_to(port, value.shape):
                self.notes.append(text)
                return "failed"
        verdict = self._run_result([output.name for output in outputs], random)
        if verdict == "failed" and len(self.found) == len(outputs) * len(self.used):
            verdict = self._appeal(random)
        if verdict == "passed":
            verdict = self._round(random)
        if random:
            self.notes.append(f"{RANDOM_NOTE} ({', '.join(sorted(random))})")
        return verdict

    def _file(self, kind: str, sample: int) -> Path:
        return self.folder / f"{kind}-{sample}"

    def _run_source(
        self, inputs: Sequence[Input], candidates: list[dict[str, Dims]], arrays: Mapping[str, Value] | None
    ) -> bool:
        try:
            self._open(self.source, "source")
        except ExecutionError as error:
            self.notes.append(f"the source does not load: {error}")
            return False
        queue = list(candidates)
        while queue and len(self.used) < self.samples:
            shapes = queue.pop(0)
            sample = len(self.used)
            feeds = arrays if arrays is not None else make_feeds(inputs, shapes, self.seed + sample)
            try:
                if self.runner.pid is None:
                    self.runner.open(self.source)
                found = self.runner.run(feeds)
            except ExecutionError as error:
                self.dropped.append(Dropped(shapes, str(error)))
                if isinstance(error, OutOfTime):
                    break
                continue
            write_values(self._file("feeds", sample), feeds)
            write_values(self._file("expected", sample), found)
            self.used.append(shapes)
            if not queue:
                # Fewer shapes than samples: the same shapes again, with other values.
                queue = self.used[: self.samples - len(self.used)]
        if not self.used:
            self.notes.append("the source runs at none of the shapes; name one with --shapes or bring --inputs")
        return bool(self.used)

    def _open(self, path: Path, what: str) -> None:
        note = self.runner.open(path)
        if note:
            self.notes.append(f"{what} {note}")

    def _run_result(self, names: Sequence[str], random: set[str]) -> str:
        try:
            self.runner.close()
            self._open(self.result, "result")
            for sample in range(len(self.used)):
                actual = self.runner.run(self._feeds(sample))
                expected = self._expected(sample)
                for name in names:
                    self.found.append(self._compare(name, expected[name], actual[name], sample, name in random))
        except (OutOfTime, ChildDied) as error:
            self.notes.append(f"the result does not run: {error}")
            out_of_means = isinstance(error, OutOfTime) or error.signal == _SIGKILL
            return "unverified" if out_of_means else "failed"
        except ExecutionError as error:
            self.notes.append(f"the result does not run: {error}")
            return "failed"
        return self._status()

    def _status(self) -> str:
        return "passed" if all(d.ok for d in self.found) else "failed"

    @property
    def worst(self) -> list[Difference]:
        """Of each output the worst difference, in the order of the outputs."""
        found: dict[str, Difference] = {}
        for one in self.found:
            if one.name not in found or severity(one) > severity(found[one.name]):
                found[one.name] = one
        return list(found.values())

    def _feeds(self, sample: int) -> dict[str, Value]:
        return read_values(self._file("feeds", sample))

    def _compare(self, name: str, expected: Value, actual: Value, sample: int, random: bool) -> Difference:
        tolerance = None
        if isinstance(expected, np.ndarray):
            tolerance = tolerance_for(str(expected.dtype.name), self.precision, self.behind.get(name, ""))
        found = compare(expected, actual, tolerance, name=name)
        shape = np.shape(expected) if isinstance(expected, np.ndarray) else ()
        found = dataclasses.replace(found, sample=sample, shape=tuple(shape))
        return _shapes_only(found, expected, actual) if random else found

    def _appeal(self, random: set[str]) -> str:
        """Failed outputs get a second look: does the source repeat itself, and how exact is it?"""
        failed = [d for d in self.found if not d.ok]
        if not failed or any("dtype" in d.reason or "shape" in d.reason for d in failed):
            return "failed"
        unsure = {d.sample for d in failed}
        try:
            fickle = unrepeatable(self.runner, self.source, {s: self._feeds(s) for s in unsure}, self._expected)
        except ExecutionError as error:
            self.notes.append(f"the source did not run again: {error}")
            fickle = set()
        if fickle:
            random |= fickle
            self.notes.append(f"the source does not repeat itself in: {', '.join(sorted(fickle))}")
        if self.precision in ("fp32", "tf32") and any(d.dtype == "float32" for d in failed):
            owns, note = own_differences(self.runner, self.source, {s: self._feeds(s) for s in unsure}, self._expected)
            self.notes += [note] if note else []
        else:
            owns = {}
        self.found = [self._retried(d, owns, fickle) for d in self.found]
        doubtful = {(d.sample, d.name) for d in self.found if not d.ok and (d.sample, d.name) in owns}
        if doubtful:
            feeds = {s: self._feeds(s) for s, _ in doubtful}
            apart = formulas_apart(self.runner, self.source, self.result, feeds)
            self.found = [self._by_formula(d, owns, apart) if (d.sample, d.name) in doubtful else d for d in self.found]
        return self._status()

    def _by_formula(
        self,
        found: Difference,
        owns: Mapping[tuple[int, str], Difference],
        apart: Mapping[tuple[int, str], Difference],
    ) -> Difference:
        """One formula in float64, and a few times the source's own error in float32: another order of rounding.

        Where float32 says little about the source itself (a decision that falls otherwise, a phase of many turns), the
        two must be equal in float64, and no further apart in float32 than the source is from its own float64.
        """
        own, rest = owns[found.sample, found.name], apart.get((found.sample, found.name))
        bound, least = ROUNDING_FACTOR * own.relative_l2, own.relative_l2
        if rest is None or "relative L2" not in found.reason or own.relative_l2 > CHAOTIC_LIMIT:
            return found
        if bound > ESCALATION_LIMIT:
            bound, least = ESCALATION_FACTOR * own.relative_l2, ONE_FORMULA
        if found.relative_l2 > bound or rest.relative_l2 > least:
            return found
        reason = (
            f"{rest.relative_l2:.3g} apart in float64, where the source's own float32 error is {own.relative_l2:.3g}"
        )
        return dataclasses.replace(found, ok=True, tolerance=bound, reason=reason)

    def _round(self, random: set[str]) -> str:
        """What computes in low precision is also evaluated with rounding after every operator."""
        paths, count = (self.source, self.result), len(self.used)
        wrong, notes = rounding_breaches(self.runner, *paths, count, self._feeds, self._expected, self.precision)
        self.notes += notes
        self.found = [d if d.name in random else wrong.get((d.sample, d.name), d) for d in self.found]
        return self._status()

    def _expected(self, sample: int) -> dict[str, Value]:
        return read_values(self._file("expected", sample))

    def _retried(self, found: Difference, owns: Mapping[tuple[int, str], Difference], fickle: set[str]) -> Difference:
        if found.ok:
            return found
        if found.name in fickle:
            return dataclasses.replace(found, ok=True, reason=RANDOM_NOTE)
        own = owns.get((found.sample, found.name))
        if own is None or found.dtype != "float32" or "relative L2" not in found.reason:
            return found
        wider = escalated(own.relative_l2, own.max_abs)
        if wider.relative_l2 < found.tolerance:
            return found
        faint = found.max_abs <= wider.near_zero
        ok = faint or found.relative_l2 <= wider.relative_l2
        if faint and found.relative_l2 > wider.relative_l2:
            self.notes.append(f"{found.name} is close to zero at these inputs: weak evidence, better bring --inputs")
        reason = f"the source's own float32 error is {own.relative_l2:.3g} relative, {own.max_abs:.3g} absolute"
        if not ok:
            reason = f"relative L2 difference {found.relative_l2:.3g} exceeds {wider.relative_l2:.3g} ({reason})"
        return dataclasses.replace(found, ok=ok, tolerance=wider.relative_l2, reason=reason)


def _shapes_only(found: Difference, expected: Value, actual: Value) -> Difference:
    same = type(expected) is type(actual)
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        same = expected.dtype == actual.dtype and expected.shape == actual.shape
    return dataclasses.replace(found, ok=same, reason=RANDOM_NOTE if same else found.reason)
