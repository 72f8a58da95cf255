"""A cheap look before a match is tried: the operators and constants above a root, as one compiled test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import onnx_graphsurgeon as gs

from .pattern import Const, Either, Literal, NodePattern, Operand, Output, Var, roots
from .rule import Entry, Rule
from .spelling import COMMUTATIVE, MOVED

Fits = Callable[[gs.Node], bool]
"""False only where no match is possible; the operator of the node itself was looked at before."""
_Test = Callable[[gs.Tensor, gs.Node], bool]
Above = tuple[str, ...]
"""What makes some inputs of a node: an operator, _CONSTANT, or '' for an input of the graph and where there is none."""
_CONSTANT = "Constant"
_WIDTH = 4
_MOST = 1 << 10


class _Start:
    """One way to begin: a rule, and the node at the root of its pattern."""

    def __init__(self, number: int, glances: bool, root: NodePattern, shared: bool) -> None:
        self.number = number
        self.glances = glances
        self.root = root
        self.shared = shared
        self.ways = _needs(root)

    @cached_property
    def fits(self) -> Fits:
        return guard(self.root, self.shared)


class Index:
    """Which of some rules may begin at a node, by its operator and those right above it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.depth = max([1, *(one.traced.depth for one in entries if one.traced is not None)])
        """Of the deepest pattern."""
        self.rules: dict[str, list[_Start]] = {}
        for number, one in enumerate(entries):
            run, traced = one.run, one.traced
            assert traced is not None
            assert isinstance(run, Rule)
            glances = type(run).glance is not Rule.glance
            for root in roots(traced.outputs[0]):
                start = _Start(number, glances, root, run.shared_inner or len(traced.outputs) > 1)
                self.rules.setdefault(root.op, []).append(start)
        self._slots = {
            op: sorted({slot for start in starts for way in start.ways for slot in way})
            for op, starts in self.rules.items()
        }
        """Operator -> the inputs at whose makers its rules look."""
        self._known: dict[str, dict[Above, list[tuple[int, bool, Fits]]]] = {op: {} for op in self.rules}

    def at(self, node: gs.Node) -> list[tuple[int, bool, Fits]]:
        """(number of the rule, whether it has a glance of its own, its guard), in the order of the rules."""
        op, inputs = node.op, node.inputs
        makers = []
        for slot in self._slots[op]:
            if slot < len(inputs):
                tensor = inputs[slot]
                above = tensor.inputs
                makers.append(above[0].op if above else _CONSTANT if type(tensor) is gs.Constant else "")
            else:
                makers.append("")
        known, key = self._known[op], tuple(makers)
        found = known.get(key)
        if found is None:
            if len(known) > _MOST:
                known.clear()
            ops = dict(zip(self._slots[op], makers, strict=True))
            found = known[key] = [
                (start.number, start.glances, start.fits)
                for start in self.rules[op]
                if any(all(ops[slot] in wanted for slot, wanted in way.items()) for way in start.ways)
            ]
        return found


def _needs(root: NodePattern) -> list[dict[int, set[str]]]:
    """The ways in which the pattern can hold: number of an input -> the operators that may make it."""
    moved = {entry.slot for entry in MOVED.get(root.op, ())}
    way = {
        slot: ops
        for slot, operand in enumerate(root.inputs[:_WIDTH])
        if (ops := _makers(operand)) is not None and not (slot in moved and ops == {_CONSTANT})
    }
    if root.op in COMMUTATIVE and len(root.inputs) == 2:
        return [way, {1 - slot: ops for slot, ops in way.items()}]
    return [way]


def _makers(operand: Operand) -> set[str] | None:
    """The operators that may make an operand; None for any."""
    if isinstance(operand, (Const, Literal)):
        return {_CONSTANT}
    if isinstance(operand, Output):
        return {operand.node.op}
    if isinstance(operand, NodePattern):
        return {operand.op}
    if isinstance(operand, Either):
        options = [_makers(option) for option in operand.options]
        return None if None in options else set().union(*(one for one in options if one is not None))
    return None


_INDEXES: dict[Any, Index] = {}


def index(entries: Sequence[Entry]) -> Index:
    """The index of these rules; of the same patterns as before, the same."""
    key = tuple([(one.traced, one.run.shared_inner) for one in entries if isinstance(one.run, Rule)])
    found = _INDEXES.get(key)
    if found is None:
        if len(_INDEXES) > _MOST:
            _INDEXES.clear()
        found = _INDEXES[key] = Index(entries)
    return found


def guard(root: NodePattern, shared_inner: bool = False) -> Fits:
    """What can be told of a node and what is above it without matching."""
    times = Counter(id(pattern) for pattern in _nodes(root))
    return _node(root, {key for key, count in times.items() if count == 1} if not shared_inner else set())


def _nodes(pattern: Operand) -> Iterator[NodePattern]:
    if isinstance(pattern, NodePattern):
        yield pattern
        for child in pattern.inputs:
            yield from _nodes(child)
    elif isinstance(pattern, Output):
        yield from _nodes(pattern.node)
    elif isinstance(pattern, Either):
        for option in pattern.options:
            yield from _nodes(option)
    elif isinstance(pattern, Const):
        yield from _nodes(pattern.inner)


def _node(pattern: NodePattern, own: set[int]) -> Fits:
    """own: patterns of inner values that nothing else in the pattern reads."""
    wanted = pattern.inputs
    variadic = bool(wanted) and isinstance(wanted[-1], Var) and wanted[-1].rest
    moved = {entry.slot for entry in MOVED.get(pattern.op, ())}
    tests = [
        (slot, test)
        for slot, operand in enumerate(wanted)
        if (test := _operand(operand, own)) is not None and not (slot in moved and test is _is_constant)
    ]
    names = [operand.name if isinstance(operand, Var) else "" for operand in wanted]
    twins = len(wanted) == 2 and names[0] != "" and names[0] == names[1] and not variadic
    most = 1 << 30 if variadic else len(wanted)
    swapped = [(1 - slot, test) for slot, test in tests] if pattern.op in COMMUTATIVE and len(wanted) == 2 else None

    def fits(node: gs.Node) -> bool:
        inputs = node.inputs
        count = len(inputs)
        if count > most and inputs[-1].name:
            return False
        if twins:
            alike = count == 2 and (inputs[0] is inputs[1] or all(_is_constant(one, node) for one in inputs))
            return alike
        for slot, test in tests:
            if slot >= count or not test(inputs[slot], node):
                break
        else:
            return True
        if swapped is None or count != 2:
            return False
        return all(test(inputs[slot], node) for slot, test in swapped)

    return fits


def _is_constant(tensor: gs.Tensor, reader: gs.Node) -> bool:
    return type(tensor) is gs.Constant or bool(tensor.inputs and tensor.inputs[0].op == "Constant")


def _operand(operand: Operand, own: set[int]) -> _Test | None:
    if isinstance(operand, (Const, Literal)):
        return _is_constant
    if isinstance(operand, Output):
        return _made(operand.node, own)
    if isinstance(operand, NodePattern):
        return _made(operand, own)
    if isinstance(operand, Either):
        options = [test for option in operand.options if (test := _operand(option, own)) is not None]
        if options and all(test is _is_constant for test in options):
            return _is_constant if len(options) == len(operand.options) else None
        if len(options) == len(operand.options):
            return lambda tensor, reader: any(test(tensor, reader) for test in options)
    return None


def _made(pattern: NodePattern, own: set[int]) -> _Test:
    op, above, alone = pattern.op, _node(pattern, own), id(pattern) in own

    def made(tensor: gs.Tensor, reader: gs.Node) -> bool:
        producers = tensor.inputs
        if not producers:
            return False
        node = producers[0]
        if node.op != op:
            return False
        if alone:
            for user in tensor.outputs:
                if user is not reader:
                    return False
        return above(node)

    return made
