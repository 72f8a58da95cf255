"""One change as two small models: what it replaced, and what it put there, over the same inputs and outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from graphopt.errors import GraphoptError

from .difference import Difference, Value, compare
from .double import NoDouble, double_copy
from .execute import ExecutionError, Runner
from .history import Change, Pair
from .judge import judge
from .program import Program, put
from .randomness import RANDOM_OPS
from .source_error import widened


@dataclass(frozen=True)
class Slice:
    """before, after: model files. inputs: value of the program -> its name in both models.

    dice: the random operators of each.
    """

    before: Path
    after: Path
    inputs: dict[str, str]

    @property
    def dice(self) -> tuple[list[str], list[str]]:
        first, second = (
            sorted(node.op_type for node in onnx.load(path).graph.node if node.op_type in RANDOM_OPS)
            for path in (self.before, self.after)
        )
        return first, second


@dataclass
class Breach:
    """A change that does not compute what it replaced, or broke a rule that numbers do not show."""

    change: Change
    what: str
    difference: Difference | None = None
    before: bytes = b""
    after: bytes = b""
    inputs: Mapping[str, Value] = field(default_factory=dict)
    expected: Mapping[str, Value] = field(default_factory=dict)
    actual: Mapping[str, Value] = field(default_factory=dict)
    sample: str = ""
    feeds: Mapping[str, Value] = field(default_factory=dict)
    """The model's own inputs of the sample."""


def outside(program: Program, change: Change, pairs: Sequence[Pair]) -> list[str]:
    """The values that a change read, constants left out."""
    n = change.number
    found = [
        *program.needed([pair.again for pair in pairs], {f"b{n}"})[1],
        *program.needed([pair.actual for pair in pairs], {f"a{n}"})[1],
    ]
    return [value for value in dict.fromkeys(found) if value not in program.constants]


def cut(program: Program, change: Change, pairs: Sequence[Pair], folder: Path) -> Slice:
    """Write the two models of a change. Raises GraphoptError."""
    n = change.number
    names: set[str] = set()
    inputs = {value: _name(program.about[value].name, names) for value in outside(program, change, pairs)}
    before, after = {}, {}
    for pair in pairs:
        if pair.again in before or pair.actual in after:
            continue
        before[pair.again] = after[pair.actual] = _name(pair.tensor or "y", names)
    old = program.needed(before, {f"b{n}"})[0]
    new = program.needed(after, {f"a{n}"})[0]
    made = Slice(folder / f"before-{n}.onnx", folder / f"after-{n}.onnx", inputs)
    put(program.model(old, inputs, before, typed=True), made.before)
    put(program.model(new, inputs, after, typed=True), made.after)
    return made


def _name(stem: str, taken: set[str]) -> str:
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name


def trial(runner: Runner, change: Change, made: Slice, inputs: Mapping[str, Value], *, huge: bool) -> Breach | None:
    """What is wrong with a change on these inputs of its slice; None if nothing is, or nothing can be told."""
    try:
        runner.open(made.before)
        expected = runner.run(inputs)
    except ExecutionError:
        return None
    try:
        runner.open(made.after)
        actual = runner.run(inputs)
    except ExecutionError as error:
        return _breach(change, f"what it made does not run: {_line(error)}", None, made, inputs, expected, {})
    lost, dice = made.dice
    if lost != dice:
        what = f"it makes random numbers by {', '.join(dice) or 'nothing'} instead of {', '.join(lost) or 'nothing'}"
        return _breach(change, what, None, made, inputs, expected, actual)
    if dice:
        found = [compare(value, actual[name], name=name) for name, value in expected.items()]
        worst = next((one for one in found if one.reason.startswith(("dtype", "shape"))), None)
    else:
        wide = [_wide(runner, path, inputs) for path in (made.before, made.after)]
        worst = judge(expected, actual, wide[0], wide[1], huge=huge)
    if worst is None:
        return None
    return _breach(change, str(worst), worst, made, inputs, expected, actual)


def _breach(
    change: Change, what: str, worst: Difference | None, made: Slice, inputs: Mapping[str, Value],
    expected: Mapping[str, Value], actual: Mapping[str, Value],
) -> Breach:  # fmt: skip
    before, after = made.before.read_bytes(), made.after.read_bytes()
    return Breach(change, what, worst, before, after, inputs, expected, actual)


def _wide(runner: Runner, path: Path, inputs: Mapping[str, Value]) -> dict[str, Value] | None:
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            wide = Path(folder, "float64.onnx")
            wide.write_bytes(double_copy(path))
            runner.open(wide)
            return runner.run({name: widened(value) for name, value in inputs.items()})
    except (NoDouble, ExecutionError):
        return None


def _line(error: GraphoptError) -> str:
    return (str(error).splitlines() or [""])[0][:300]
