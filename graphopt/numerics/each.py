"""Every change of a recorded run, compared with what it replaced, in one session for all of them.

The program of the run (source nodes, and every node that was ever made) is one model whose outputs are the pairs to
compare; it runs once per sample. Only what differs there is cut out as a slice and looked at on its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.config import Dims, Shapes
from graphopt.errors import GraphoptError
from graphopt.ir import dtypes, shapes

from .adversarial import KINDS, adversarial_feeds
from .difference import Array, Value
from .execute import ChildDied, ExecutionError, OutOfTime, Runner
from .feeds import make_feeds
from .history import Change, Pair, Recorder
from .npz import check_feeds, load_npz
from .ports import read_outline
from .program import Program, put
from .ranges import Input, read_inputs
from .shapes import sample_shapes
from .slices import Breach, cut, outside, trial

_MOST_SHAPES = 12
_MOST_REPAIRS = 64
_LOOKED_AT = 3
"""A suspicious change is looked at on at most this many samples."""
_UNKNOWN_BYTES = 1 << 20
_NODE = re.compile(r"@(\d+)\b")


@dataclass(frozen=True)
class Sample:
    """label: 'random 0', or one of adversarial.KINDS."""

    label: str
    shapes: dict[str, Dims]
    feeds: Mapping[str, Value]

    @property
    def huge(self) -> bool:
        return self.label == "ends"


@dataclass
class Findings:
    """What the comparison of every change gave."""

    breaches: list[Breach] = field(default_factory=list)
    changes: int = 0
    compared: int = 0
    """Changes whose numbers were compared on their own."""
    unseen: int = 0
    """Changes that could not be, and are covered by the comparison of the whole only."""
    samples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A dict for json.dumps; the breaches stand under `refused` of the report."""
        return {
            "changes": self.changes,
            "compared": self.compared,
            "unseen": self.unseen,
            "samples": self.samples,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }


def check_each(
    recorder: Recorder,
    source: Path,
    *,
    profile: Shapes | None = None,
    inputs: str | Path | Mapping[str, Array] | None = None,
    samples: int = 3,
    seed: int = 0,
    threads: int = 0,
    seconds: float = 3600.0,
) -> Findings:
    """The breaches among the changes of a run that has ended.

    source: the file from which the run began. The other arguments are those of `verify`; the adversarial samples come
    on top of the `samples` random ones.
    """
    began = time.perf_counter()
    findings = Findings(changes=len(recorder.changes))
    for change in recorder.changes:
        if change.problems:
            findings.breaches.append(Breach(change, "; ".join(change.problems)))
    ports = read_inputs(read_outline(source))
    if odd := [port.name for port in ports if port.required and port.kind == "unsupported"]:
        findings.notes.append(f"no values can be made for: {', '.join(odd)}")
        return findings
    wanted = _samples(ports, profile or Shapes(), inputs, samples, seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-")))
        runner = stack.enter_context(Runner(threads=threads, seconds=seconds))
        _Each(recorder, folder, runner, findings).look(wanted, samples if inputs is None else 1)
    findings.unseen += sum(bool(change.unseen) for change in recorder.changes)
    unseen = {change.unseen for change in recorder.changes if change.unseen}
    findings.notes += [f"not compared on its own, only as part of the whole: {reason}" for reason in sorted(unseen)]
    findings.seconds = time.perf_counter() - began
    return findings


def _samples(ports: Sequence[Input], profile: Shapes, given: Any, samples: int, seed: int) -> list[Sample]:
    """Random ones at several shapes, best first and more than are needed; then the adversarial ones at the first."""
    if given is not None:
        arrays = check_feeds(given, ports) if isinstance(given, Mapping) else load_npz(given, ports)
        dims = {name: tuple(np.shape(array)) for name, array in arrays.items()}
        found = [Sample("given", dims, arrays)]
        candidates = [dims]
    else:
        candidates = sample_shapes(ports, profile, max(samples, _MOST_SHAPES))
        order = [*candidates, *candidates * (samples if len(candidates) < samples else 0)]
        found = [
            Sample(f"random {i}", dims, make_feeds(ports, dims, seed + i))
            for i, dims in enumerate(order[:_MOST_SHAPES])
        ]
    for dims in candidates[:1]:
        found += [Sample(kind, dims, adversarial_feeds(ports, dims, kind, seed)) for kind in KINDS]
    return found


class _Each:
    def __init__(self, recorder: Recorder, folder: Path, runner: Runner, findings: Findings) -> None:
        self.program: Program = recorder.program
        self.changes = recorder.changes
        self.folder, self.runner, self.findings = folder, runner, findings
        self.failed: dict[str, str] = {}
        self.suspicious: dict[int, list[tuple[Sample, Pair]]] = {}

    def look(self, samples: list[Sample], most: int) -> None:
        self.samples = samples
        rooms: dict[str, list[tuple[Change, Pair]]] = {}
        for change in self.changes:
            for pair in change.pairs:
                rooms.setdefault(pair.room, []).append((change, pair))
        used: dict[str, None] = {}
        for room in sorted(rooms):
            labels = self._room(room, rooms[room], samples, most)
            used.update(dict.fromkeys(labels))
            if not labels:
                self.findings.unseen += len({change.number for change, _ in rooms[room]} - set(self.suspicious))
        self.findings.samples = list(used)
        self.findings.compared = len({change.number for pairs in rooms.values() for change, _ in pairs} if used else ())
        lost = [label for label in self.failed if label not in used]
        if lost:
            self.findings.notes.append(f"the source does not run on samples {', '.join(lost)}: {self.failed[lost[0]]}")
        for number in sorted(self.suspicious):
            breach = self._judge(self.changes[number])
            if breach is not None:
                self.findings.breaches.append(breach)

    # -- all at once -------------------------------------------------------------------------------------------

    def _room(self, room: str, pairs: list[tuple[Change, Pair]], samples: list[Sample], most: int) -> list[str]:
        """Run the pairs of one room over the samples; the labels of those that the source could take."""
        used: list[str] = []
        random = 0
        live = self._open(pairs)
        for sample in samples:
            if sample.label.startswith("random") and random >= most:
                continue
            for _ in range(_MOST_REPAIRS):
                if not live:
                    return used
                try:
                    found = self.runner.probe(
                        self._feeds(sample),
                        [(p.expected, p.actual, self._bytes(p.expected, sample)) for _, p in live],
                    )
                except OutOfTime as error:
                    self.findings.notes.append(f"sample {sample.label!r}: {error.what}")
                    return used
                except ChildDied as error:
                    culprit = self._first(live, partial(self._try, sample))
                    if culprit is None:
                        self.failed[sample.label] = _line(error)
                    else:
                        self._suspect(culprit, sample, live)
                        live = self._without(culprit, live)
                    live = self._open(live)
                    if culprit is None:
                        break
                    continue
                except ExecutionError as error:
                    culprit = self._culprit(error)
                    if culprit is None:
                        self.failed[sample.label] = _line(error)
                        break
                    self._suspect(culprit, sample, live)
                    live = self._open(self._without(culprit, live))
                    continue
                for i in found:
                    self._suspect(live[i][0].number, sample, [live[i]])
                used.append(sample.label)
                random += sample.label.startswith("random")
                break
        return used

    def _open(self, pairs: list[tuple[Change, Pair]]) -> list[tuple[Change, Pair]]:
        """Load the model of these pairs; those that are left when what does not load is taken out."""
        for _ in range(_MOST_REPAIRS):
            if not pairs:
                break
            try:
                self._load(pairs)
            except GraphoptError as error:
                culprit = self._culprit(error)
                if culprit is None:
                    culprit = self._first(pairs, self._load)
                if culprit is None:
                    self.findings.notes.append(f"changes could not be compared one by one: {_line(error)}")
                    return []
                self._suspect(culprit, None, pairs)
                pairs = self._without(culprit, pairs)
                continue
            return pairs
        return []

    def _load(self, pairs: list[tuple[Change, Pair]]) -> None:
        values = dict.fromkeys(name for _, pair in pairs for name in (pair.expected, pair.actual))
        lines, from_outside = self.program.needed(values)
        self._inputs = {v: self.program.inputs[v].name for v in from_outside if v in self.program.inputs}
        path = self.folder / "all.onnx"
        put(self.program.model(lines, self._inputs, {v: v for v in values}), path)
        self.runner.open(path)

    def _first(self, pairs: list[tuple[Change, Pair]], run: Callable[[list[tuple[Change, Pair]]], None]) -> int | None:
        """The first change with which `run` fails, by bisection; None if it fails on the source's values alone."""

        def fails(some: list[tuple[Change, Pair]]) -> bool:
            try:
                run(some)
            except GraphoptError:
                return True
            return False

        if fails([(change, dataclasses.replace(pair, actual=pair.expected)) for change, pair in pairs]):
            return None
        low, high = 0, len(pairs)
        while high - low > 1:
            middle = (low + high) // 2
            if fails(pairs[:middle]):
                high = middle
            else:
                low = middle
        return pairs[high - 1][0].number

    def _culprit(self, error: GraphoptError) -> int | None:
        """The change whose node an error is about."""
        for found in _NODE.finditer(str(error)):
            if int(found[1]) < len(self.program.lines):
                tag = self.program.lines[int(found[1])].tag
                if tag:
                    return int(tag[1:])
        return None

    def _try(self, sample: Sample, pairs: list[tuple[Change, Pair]]) -> None:
        self._load(pairs)
        self.runner.probe(self._feeds(sample), [(p.expected, p.actual, _UNKNOWN_BYTES) for _, p in pairs])

    def _without(self, culprit: int, pairs: list[tuple[Change, Pair]]) -> list[tuple[Change, Pair]]:
        tag = f"a{culprit}"
        lines = self.program.lines
        return [
            (change, pair)
            for change, pair in pairs
            if change.number != culprit
            and all(lines[i].tag != tag for i in self.program.needed([pair.expected, pair.actual])[0])
        ]

    def _suspect(self, number: int, sample: Sample | None, pairs: list[tuple[Change, Pair]]) -> None:
        looked = self.suspicious.setdefault(number, [])
        for change, pair in pairs:
            if sample is not None and change.number == number and len(looked) < _LOOKED_AT * 4:
                looked.append((sample, pair))

    def _feeds(self, sample: Sample) -> dict[str, Value]:
        return {name: sample.feeds[name] for name in self._inputs.values()}

    def _bytes(self, value: str, sample: Sample) -> int:
        """About how many bytes a value has at a sample's shapes."""
        about = self.program.about[value]
        dims, dtype = shapes.of(about), dtypes.of(about)
        if dims is None or dtype is None:
            return _UNKNOWN_BYTES
        sizes = {
            dim: size
            for name, given in sample.shapes.items()
            for tensor in self.program.inputs.values()
            if tensor.name == name
            for dim, size in zip(shapes.of(tensor) or (), given, strict=False)
            if isinstance(dim, str)
        }
        return math.prod(dim if isinstance(dim, int) else sizes.get(dim or "", 16) for dim in dims) * dtype.itemsize

    # -- one alone ---------------------------------------------------------------------------------------------

    def _judge(self, change: Change) -> Breach | None:
        looked = self.suspicious[change.number]
        # What does not even load has been seen on no sample.
        samples = list({id(sample): sample for sample, _ in looked}.values())[:_LOOKED_AT] or self.samples
        for sample in samples:
            room = next((pair.room for one, pair in looked if one is sample), change.pairs[0].room)
            try:
                breach = self._slice(change, [pair for pair in change.pairs if pair.room == room], sample)
            except ExecutionError:
                continue
            except GraphoptError as error:
                self.findings.notes.append(f"pass {change.name} at {change.node!r}: no slice: {_line(error)}")
                continue
            if breach is not None:
                breach.sample, breach.feeds = sample.label, sample.feeds
                return breach
        return None

    def _slice(self, change: Change, pairs: list[Pair], sample: Sample) -> Breach | None:
        wanted = outside(self.program, change, pairs)
        values: dict[str, Value] = {}
        if wanted:
            lines, from_outside = self.program.needed(wanted)
            inputs = {v: self.program.inputs[v].name for v in from_outside if v in self.program.inputs}
            path = self.folder / "inputs.onnx"
            put(self.program.model(lines, inputs, {v: f"{v}__" for v in wanted}), path)
            self.runner.open(path)
            found = self.runner.run({name: sample.feeds[name] for name in inputs.values()})
            values = {v: found[f"{v}__"] for v in wanted}
        made = cut(self.program, change, pairs, self.folder)
        return trial(self.runner, change, made, {name: values[v] for v, name in made.inputs.items()}, huge=sample.huge)


def _line(error: GraphoptError) -> str:
    return (str(error).splitlines() or [""])[0][:300]
