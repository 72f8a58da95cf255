"""Records a run of the passes: what each change computed before and after, over one program of values.

A change is judged on the source's own values: what it made is computed from them, and later changes read the
source's value again, so that errors do not add up, and one wrong change does not cast doubt on the next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import flatten, new_constant, peek
from graphopt.ir.weights import digest
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.match import Match
from graphopt.rewrite.rule import Entry

from .instances import Instance, Instances
from .program import Program, Unknown
from .randomness import RANDOM_OPS
from .steps import Frozen, Step, freeze_all, freeze_node


@dataclass(frozen=True)
class Pair:
    """Two values that must be equal: the source's, and the one that the change put in its place.

    again: the source's, computed anew by the nodes that were replaced. room: which copy of which scope it lies in.
    """

    expected: str
    actual: str
    again: str
    tensor: str
    room: str


@dataclass
class Change:
    """One match of a rule, or one run of a function pass."""

    number: int
    name: str
    plugin: str
    node: str
    doc: str = ""
    origin: list[str] = field(default_factory=list)
    """Source nodes that the replaced ones stand for."""
    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong whatever the numbers are."""
    unseen: str = ""
    """Why its numbers cannot be compared on their own."""


@dataclass
class _Token:
    entry: Entry
    match: Match | None
    steps: list[Step]
    weights: list[tuple[gs.Constant, Any, bytes]]
    doors: tuple[Any, ...]


class Recorder:
    """An observer of one manager's run over a graph that is still the source's."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.graph = manager.graph
        self.changes: list[Change] = []
        self.program = Program(self.graph)
        self._snapshot: dict[int, Frozen] | None = freeze_all(self.graph)
        self.rooms = Instances(self.program, self.graph, self._snapshot)
        manager.observer = self

    # -- the observer ------------------------------------------------------------------------------------------

    def before(self, entry: Entry, match: Match | None) -> _Token:
        if match is None:
            if self._snapshot is None:
                self._snapshot = freeze_all(self.graph)
            return _Token(entry, None, [], [], self._doors())
        steps = [freeze_node(node) for node in match.nodes]
        weights = []
        for constant in {id(t): t for step in steps for t in step.ins if isinstance(t, gs.Constant)}.values():
            values = constant._values
            weights.append((constant, values, digest(constant) if _can_change(values) else b""))
        return _Token(entry, match, steps, weights, self._doors())

    def after(self, token: _Token, new: list[gs.Tensor], made: list[gs.Node]) -> None:
        entry, match = token.entry, token.match
        root = match.root.name if match is not None else ""
        change = Change(len(self.changes), entry.name, entry.plugin, root, entry.doc)
        self.changes.append(change)
        change.problems += self._door_problems(token.doors)
        if match is None:
            self._pass(change)
            return
        self._snapshot = None
        change.origin = _origin(token.steps)
        change.problems += _weight_problems(token)
        steps = [freeze_node(node) for node in made]
        lost, found = _random(token.steps), _random(steps)
        if found and lost != found:
            change.problems.append(f"it makes random numbers by {_listed(found)} instead of {_listed(lost)}")
        scope = self.manager.model.editor.scope(match.root)
        try:
            for room in self.rooms.of(scope):
                self._matched(change, room, token.steps, steps, match.outputs, new)
        except Unknown as unknown:
            change.unseen = str(unknown)

    # -- one match ---------------------------------------------------------------------------------------------

    def _matched(
        self, change: Change, room: Instance, old: list[Step], made: list[Step],
        outputs: list[gs.Tensor], new: list[gs.Tensor],
    ) -> None:  # fmt: skip
        again = self._again(change, room, old)
        for step in made:
            outs = self.program.add(step, room.value, f"a{change.number}", room.attrs(step))
            room.bind(step.outs, outs)
        fresh = {id(tensor) for step in made for tensor in step.outs}
        for tensor, other in zip(outputs, new, strict=True):
            expected, actual = room.value(tensor), room.value(other)
            if expected != actual:
                name = again.get(id(tensor), expected)
                change.pairs.append(Pair(expected, actual, name, tensor.name, room.name))
                if id(other) in fresh:
                    room.bind([other], [expected])

    def _again(self, change: Change, room: Instance, old: list[Step]) -> dict[int, str]:
        """The replaced nodes as lines of their own, over the values that they read; id(tensor) -> its value there."""
        found: dict[int, str] = {}
        pending = list(old)
        while pending:
            inner = {id(tensor) for step in pending for tensor in step.outs}
            ready = [step for step in pending if not any(id(tensor) in inner for tensor in step.ins)]
            if not ready:
                raise Unknown("the replaced nodes form a circle")
            for step in ready:
                outs = self.program.add(
                    step, lambda t: found.get(id(t)) or room.value(t), f"b{change.number}", room.attrs(step)
                )  # fmt: skip
                found.update(zip(map(id, step.outs), outs, strict=True))
            pending = [step for step in pending if not any(step is one for one in ready)]
        return found

    # -- a function pass ---------------------------------------------------------------------------------------

    def _pass(self, change: Change) -> None:
        old = self._snapshot
        assert old is not None
        new = self._snapshot = freeze_all(self.graph)
        change.problems += _dangling(new) if not _dangling(old) else []
        self.rooms.learn(new)
        for key, scope in new.items():
            before = old.get(key)
            if before is None:
                continue
            if not _is_edited(before, scope):
                continue
            try:
                for room in self.rooms.of(scope.scope):
                    self._scope(change, room, before, scope)
            except Unknown as unknown:
                change.unseen = str(unknown)

    def _scope(self, change: Change, room: Instance, before: Frozen, after: Frozen) -> None:
        was = {id(step.node): step for step in before.steps}
        now = {id(step.node): step for step in after.steps}
        moved: set[int] = set()
        pairs: list[tuple[gs.Tensor, str, str]] = []
        kept: dict[int, str] = {}
        for step in after.steps:
            known = was.get(id(step.node))
            shifted = any(id(tensor) in moved for tensor in step.ins)
            same = known is not None and not shifted and (_same(known, step) or self._swapped(room, known, step, pairs))
            if same:
                continue
            outs = self.program.add(step, room.value, f"a{change.number}", room.attrs(step))
            for tensor, value, form in zip(step.outs, outs, step.forms, strict=True):
                if not value:
                    continue
                expected = room.find(tensor)
                if not expected:
                    room.bind([tensor], [value])
                    continue
                kept.setdefault(id(tensor), expected)
                if known is not None and shapes_clash(_form(known, tensor), form):
                    moved.add(id(tensor))
                    room.bind([tensor], [value])
                else:
                    pairs.append((tensor, expected, value))
        for one, other in zip(before.outputs, after.outputs, strict=False):
            expected = kept.get(id(one)) or room.value(one)
            if one is not other or id(one) in moved:
                pairs.append((one, expected, room.value(other)))
        gone = [step for key, step in was.items() if key not in now or not _same(step, now[key])]
        try:
            again = self._again(change, _Before(room, kept), gone) if pairs else {}
        except Unknown:
            again = {}
        for tensor, expected, actual in pairs:
            if expected != actual:
                change.pairs.append(Pair(expected, actual, again.get(id(tensor), expected), tensor.name, room.name))
        change.origin = list(dict.fromkeys([*change.origin, *_origin(gone)]))

    def _swapped(self, room: Instance, known: Step, step: Step, pairs: list[tuple[gs.Tensor, str, str]]) -> bool:
        """Whether only operands were exchanged for others that must be equal to them."""
        if known.key != step.key or len(known.ins) != len(step.ins) or known.outs != step.outs:
            return False
        found = []
        for old, new in zip(known.ins, step.ins, strict=True):
            if old is new:
                continue
            if not old.name or not new.name or shapes_clash(shapes.of(old), shapes.of(new)):
                return False
            if dtypes.of(old) != dtypes.of(new):
                return False
            if isinstance(old, gs.Constant) and isinstance(new, gs.Constant):
                if digest(old) != digest(new):
                    return False
                continue
            expected, actual = room.value(old), room.value(new)
            if expected != actual:
                found.append((old, expected, actual))
                at = self.program.maker.get(actual)
                if at is not None and self.program.lines[at].tag == f"a{len(self.changes) - 1}":
                    room.bind([new], [expected])
        known_pairs = {(expected, actual) for _, expected, actual in pairs}
        pairs += [one for one in found if one[1:] not in known_pairs]
        return True

    # -- what sampling cannot see ------------------------------------------------------------------------------

    def _doors(self) -> tuple[Any, ...]:
        graph = self.graph
        return tuple(
            (kind, tensor.name, dtypes.name(dtypes.of(tensor)), shapes.of(tensor))
            for kind, tensors in (("input", graph.inputs), ("output", graph.outputs))
            for tensor in tensors
        )

    def _door_problems(self, before: tuple[Any, ...]) -> list[str]:
        after = self._doors()
        names = [[(kind, name) for kind, name, *_ in doors] for doors in (before, after)]
        if names[0] != names[1]:
            lost = [f"{kind} {name!r}" for kind, name in names[0] if (kind, name) not in names[1]]
            return [f"it changes inputs or outputs: {lost[0]} is gone" if lost else "it reorders inputs or outputs"]
        found = []
        symbols = {dim for kind, _, _, form in before if kind == "input" for dim in form or () if isinstance(dim, str)}
        for (kind, name, dtype, shape), (_, _, other, form) in zip(before, after, strict=True):
            if dtype != other:
                found.append(f"it declares {kind} {name!r} as {other} instead of {dtype}")
            elif not _is_finer(shape, form, None if kind == "input" else symbols):
                found.append(f"it declares {kind} {name!r} as {shapes.text(form)} instead of {shapes.text(shape)}")
        return found


class _Before(Instance):
    """A room as it was before tensors of it got other meanings."""

    def __init__(self, room: Instance, kept: dict[int, str]) -> None:
        super().__init__(room.program, room.name, room.outer, room.given)
        self._room, self._kept = room, kept

    def find(self, tensor: gs.Tensor) -> str:
        return self._kept.get(id(tensor)) or self._room.find(tensor)


def shapes_clash(one: shapes.Shape, other: shapes.Shape) -> bool:
    """Whether two declared shapes cannot be of one value."""
    if one is None or other is None:
        return False
    if len(one) != len(other):
        return True
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(one, other, strict=True))


def _is_finer(shape: shapes.Shape, form: shapes.Shape, symbols: set[str] | None) -> bool:
    """Whether a declared shape is the one before, save that an output may say what was not known.

    symbols: those of the inputs; another name at an output says nothing. None: of an input, which must stay as it was.
    """
    if symbols is None or shape is None or form is None:
        return shape == form or (shape is None and symbols is not None)
    return len(shape) == len(form) and all(
        a is None or a == b or (isinstance(a, str) and a not in symbols) for a, b in zip(shape, form, strict=True)
    )


def _form(step: Step, tensor: gs.Tensor) -> shapes.Shape:
    return next((form for out, form in zip(step.outs, step.forms, strict=True) if out is tensor), None)


def _dangling(scopes: dict[int, Frozen]) -> list[str]:
    """A node that reads what no node of the model makes any more."""
    made = {id(tensor) for body in scopes.values() for tensor in body.inputs}
    made.update(id(tensor) for body in scopes.values() for step in body.steps for tensor in step.outs)
    for body in scopes.values():
        for step in body.steps:
            for tensor in step.ins:
                if tensor.name and id(tensor) not in made and not isinstance(tensor, gs.Constant):
                    return [f"it leaves node {step.name!r} reading {tensor.name!r}, which nothing makes"]
    return []


def _same(one: Step, other: Step) -> bool:
    return (
        one.key == other.key
        and len(one.ins) == len(other.ins)
        and len(one.outs) == len(other.outs)
        and all(a is b for a, b in zip(one.ins, other.ins, strict=True))
        and all(a is b for a, b in zip(one.outs, other.outs, strict=True))
    )


def _is_edited(before: Frozen, after: Frozen) -> bool:
    if len(before.steps) != len(after.steps) or len(before.outputs) != len(after.outputs):
        return True
    was = {id(step.node): step for step in before.steps}
    if any(id(step.node) not in was or not _same(was[id(step.node)], step) for step in after.steps):
        return True
    return any(one is not other for one, other in zip(before.outputs, after.outputs, strict=True))


def _can_change(values: Any) -> bool:
    flags = getattr(values, "flags", None)
    return flags is not None and bool(flags.writeable)


def _weight_problems(token: _Token) -> list[str]:
    assert token.match is not None
    mine = {id(node) for node in token.match.nodes}
    found = []
    for constant, values, mark in token.weights:
        if constant._values is values and not mark:
            continue
        others = [node.name for node in constant.outputs if id(node) not in mine]
        if not others:
            continue
        before = mark or digest(new_constant(constant.name, values))
        if digest(constant) != before:
            found.append(f"it changes the values of {constant.name!r} in place, which node {others[0]!r} reads, too")
    return found


def _random(steps: list[Step]) -> Counter[str]:
    return Counter(step.op for step in steps if step.op in RANDOM_OPS)


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} {op}" for op, count in sorted(found.items())) or "none"


def _origin(steps: list[Step]) -> list[str]:
    found: dict[str, None] = {}
    for step in steps:
        known = peek(step.node)
        for name in flatten(known.origin) if known is not None and known.origin else [step.name]:
            found[name] = None
    return list(found)[:50]
