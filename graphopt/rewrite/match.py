"""Does a pattern hold at this node? Full backtracking over commutation and alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import PluginError
from graphopt.ir import dtypes
from graphopt.ir.edits import Editor

from .pattern import (
    Const,
    Either,
    Literal,
    Maybe,
    NodePattern,
    Operand,
    Output,
    Traced,
    Var,
    is_absent,
    root_node,
    roots,
)
from .spelling import COMMUTATIVE, attribute_operand, default, is_standard, moved, unnamed
from .value import Value, constant_of

Goals = tuple[Any, ...] | None


@dataclass
class Match:
    """Where a pattern holds: values of its variables, the nodes it covers, the tensors that it yields."""

    root: gs.Node
    bound: dict[str, Any]
    nodes: list[gs.Node]
    outputs: list[gs.Tensor]


@dataclass
class NearMiss:
    """How far matching came before it failed, and why it went no further."""

    reached: int = -1
    reason: str = "no node of the pattern's root operator"

    def note(self, reached: int, reason: Callable[[], str]) -> None:
        if reached > self.reached:
            self.reached, self.reason = reached, reason()


@dataclass
class Matcher:
    """Matches patterns in one model at its opsets."""

    editor: Editor
    opset_of: Callable[[gs.Node], int]
    miss: NearMiss | None = None
    _bound: dict[str, Any] = field(default_factory=dict)
    _nodes: dict[int, gs.Node] = field(default_factory=dict)
    _roots: list[gs.Tensor] = field(default_factory=list)
    _shared: bool = False
    _done: Match | None = None

    def match(self, traced: Traced, node: gs.Node, *, shared_inner: bool = False) -> Match | None:
        """The first way in which the pattern holds with `node` at the root of its first output."""
        self._shared = shared_inner
        first = traced.outputs[0]
        for option in first.options if isinstance(first, Either) else (first,):
            if root_node(option).op != node.op:
                continue
            index = option.index if isinstance(option, Output) else 0
            if index >= len(node.outputs):
                continue
            self._bound, self._nodes, self._roots, self._done = {}, {}, [node.outputs[index]], None
            rest: Goals = None
            for other in reversed(traced.outputs[1:]):
                rest = ("root", other, None, rest)
            if self._node(root_node(option), node, index, rest):
                assert self._done is not None
                return self._done
        return None

    def _fail(self, reason: Callable[[], str]) -> bool:
        if self.miss is not None:
            self.miss.note(len(self._nodes), reason)
        return False

    def _solve(self, goals: Goals) -> bool:
        if goals is None:
            return self._finish()
        kind, pattern, value, rest = goals
        if kind == "root":
            return self._other_root(pattern, rest)
        sort = type(pattern)
        if sort is Var:
            return self._bind(pattern.name, value, rest)
        if sort is NodePattern:
            return self._producer(pattern, 0, value, rest)
        if sort is Const:
            if (
                type(value) is not gs.Constant
                and not isinstance(value, np.ndarray)
                and (value is None or constant_of(value) is None)
            ):
                return self._fail(lambda: f"{_label(value)} is no constant")
            if type(pattern.inner) is Var:
                return self._bind(pattern.inner.name, value, rest)
            return self._solve(("in", pattern.inner, value, rest))
        if sort is Maybe:
            if value is None:
                return self._all_absent(pattern, rest)
            if is_absent(pattern):
                return self._fail(lambda: f"optional input {_label(value)} is present")
            return self._solve(("in", pattern.inner, value, rest))
        if sort is Literal:
            if _equals(value, pattern.value):
                return self._solve(rest)
            return self._fail(lambda: f"{_label(value)} is not {pattern.value}")
        if sort is Output:
            return self._producer(pattern.node, pattern.index, value, rest)
        if sort is Either:
            return any(self._solve(("in", option, value, rest)) for option in pattern.options)
        raise AssertionError(pattern)

    def _bind(self, name: str, value: Any, rest: Goals) -> bool:
        if value is None:
            return self._fail(lambda: f"there is no input {name!r}")
        known = self._bound.get(name, _UNBOUND)
        if isinstance(value, gs.Tensor):
            value = Value(value)
        elif isinstance(value, np.ndarray):
            value = Value(None, value)
        if known is not _UNBOUND:
            same = known.is_same(value) if isinstance(known, Value) and isinstance(value, Value) else known == value
            if same:
                return self._solve(rest)
            return self._fail(lambda: f"{name!r} would be two different things")
        self._bound[name] = value
        if self._solve(rest):
            return True
        del self._bound[name]
        return False

    def _all_absent(self, pattern: Maybe, rest: Goals) -> bool:
        if is_absent(pattern):
            return self._solve(rest)
        names = [name for name in _names(pattern.inner) if name not in self._bound]
        if any(self._bound.get(name) is not None for name in _names(pattern.inner)):
            return self._fail(lambda: "an optional input is absent here and present there")
        self._bound.update(dict.fromkeys(names))
        if self._solve(rest):
            return True
        for name in names:
            del self._bound[name]
        return False

    def _producer(self, pattern: NodePattern, index: int, value: Any, rest: Goals) -> bool:
        if not isinstance(value, gs.Variable) or not value.inputs:
            return self._fail(lambda: f"{_label(value)} is not computed by {pattern.op}")
        node = value.inputs[0]
        if node.op != pattern.op:
            return self._fail(lambda: f"{_label(value)} is computed by {node.op} {node.name!r}, not by {pattern.op}")
        if node.outputs[index if index < len(node.outputs) else 0] is not value:
            return self._fail(lambda: f"{_label(value)} is not output {index} of {node.name!r}")
        return self._node(pattern, node, index, rest)

    def _node(self, pattern: NodePattern, node: gs.Node, index: int, rest: Goals) -> bool:
        known = self._nodes.get(id(pattern))
        if known is not None:
            return known is node and self._solve(rest)
        if pattern.domain != (node.domain or "") and not (not pattern.domain and is_standard(node)):
            return self._fail(lambda: f"{node.name!r} is of domain {node.domain!r}")
        for slot in range(max(pattern.outputs, index + 1), len(node.outputs)):
            if node.outputs[slot].name and self.editor.is_used(node.outputs[slot]):
                return self._fail(partial("output {} of {!r} is used".format, slot, node.name))
        if node.op == "BatchNormalization" and any(t.name for t in node.outputs[1:]) and self.opset_of(node) < 14:
            return self._fail(partial("{!r} has training outputs".format, node.name))
        self._nodes[id(pattern)] = node
        undo = self._attributes(pattern, node)
        if undo is not None and pattern.label is not None:
            if pattern.label.name in self._bound:
                raise PluginError(f"label {pattern.label.name!r} of {pattern.op} stands elsewhere in the pattern too")
            self._bound[pattern.label.name] = Value(node.outputs[0])
            undo.append(pattern.label.name)
        if undo is not None:
            for goals in self._operands(pattern, node, rest):
                if self._solve(goals):
                    return True
            for name in undo:
                del self._bound[name]
        del self._nodes[id(pattern)]
        return False

    def _attributes(self, pattern: NodePattern, node: gs.Node) -> list[str] | None:
        """Bind and check attributes; the names bound here, or None if one does not fit."""
        bound: list[str] = []
        if not node.attrs and not pattern.attrs and pattern.rest_attrs is None:
            return bound
        opset = self.opset_of(node)
        skip = unnamed(node.op, opset, is_standard(node))
        rest = {}
        for name, value in node.attrs.items():
            if name in pattern.attrs or name in skip:
                continue
            if pattern.rest_attrs is not None:
                rest[name] = value
            elif isinstance(value, gs.Node.AttributeRef) or not _same_attribute(value, default(node, name, opset)):
                self._fail(partial("{!r} has {}={!r}, which the pattern does not name".format, node.name, name, value))
                self._unbind(bound)
                return None
        wanted = list(pattern.attrs.items())
        if pattern.rest_attrs is not None:
            wanted.append(("", pattern.rest_attrs))
        for name, spec in wanted:
            value = rest if not name else node.attrs.get(name)
            if value is None:
                value = default(node, name, opset)
            if isinstance(value, gs.Node.AttributeRef):
                self._fail(partial("{} of {!r} is a parameter of the enclosing function".format, name, node.name))
                self._unbind(bound)
                return None
            if isinstance(spec, Var):
                known = self._bound.get(spec.name, _UNBOUND)
                if known is _UNBOUND:
                    self._bound[spec.name] = value
                    bound.append(spec.name)
                    continue
                fits = _same_attribute(value, known)
            else:
                fits = spec(value) if callable(spec) else _same_attribute(value, spec)
            if not fits:
                self._fail(partial("{} of {!r} is {!r}".format, name, node.name, value))
                self._unbind(bound)
                return None
        return bound

    def _unbind(self, names: list[str]) -> None:
        for name in names:
            del self._bound[name]

    def _operands(self, pattern: NodePattern, node: gs.Node, rest: Goals) -> Iterator[Goals]:
        """The ways to pair the pattern's inputs with the node's."""
        values: list[Any] = [tensor if tensor.name else None for tensor in node.inputs]
        if is_standard(node):
            for entry in moved(node.op, self.opset_of(node)):
                values += [None] * (entry.slot + 1 - len(values))
                values[entry.slot] = attribute_operand(node, entry)
        while values and values[-1] is None:
            values.pop()
        wanted = pattern.inputs
        tail = wanted[-1] if wanted and isinstance(wanted[-1], Var) and wanted[-1].rest else None
        if tail is not None:
            wanted = wanted[:-1]
        if len(values) > len(wanted) and tail is None:
            self._fail(lambda: f"{node.name!r} has {len(values)} inputs, the pattern names {len(wanted)}")
            return
        fixed = values[: len(wanted)] + [None] * (len(wanted) - len(values))
        if tail is not None:
            rest = ("in", tail, [Value(t) for t in values[len(wanted) :] if t is not None], rest)
        yield _chain(wanted, fixed, rest)
        if len(wanted) == len(values) == 2 and node.op in COMMUTATIVE and values[0] is not values[1]:
            yield _chain(wanted, fixed[::-1], rest)

    def _other_root(self, pattern: Operand, rest: Goals) -> bool:
        for root in roots(pattern):
            index = pattern.index if isinstance(pattern, Output) else 0
            for node in self._above(root, set()):
                if node.op != root.op or index >= len(node.outputs):
                    continue
                self._roots.append(node.outputs[index])
                if self._node(root, node, index, rest):
                    return True
                self._roots.pop()
        return self._fail(lambda: "another output of the pattern was not found")

    def _above(self, pattern: NodePattern, seen: set[int]) -> list[gs.Node]:
        """Nodes that may be `pattern`: what reads, directly or through inner nodes, something that is matched."""
        if id(pattern) in self._nodes:
            return [self._nodes[id(pattern)]]
        if id(pattern) not in seen:
            seen.add(id(pattern))
            for child in pattern.inputs:
                readers = [node for tensor in self._anchors(child, seen) for node in list(tensor.outputs)[:64]]
                if found := list({id(node): node for node in readers if node.op == pattern.op}.values()):
                    return found[:64]
        return []

    def _anchors(self, operand: Operand, seen: set[int]) -> list[gs.Tensor]:
        """Tensors that `operand` may be, known from what is matched below it."""
        while isinstance(operand, (Const, Maybe)):
            operand = operand.inner
        if isinstance(operand, Var):
            bound = self._bound.get(operand.name)
            return [bound.tensor] if isinstance(bound, Value) and bound.tensor is not None else []
        if isinstance(operand, Either):
            return [tensor for option in operand.options for tensor in self._anchors(option, seen)]
        if isinstance(operand, Output):
            inner, index = operand.node, operand.index
        elif isinstance(operand, NodePattern):
            inner, index = operand, 0
        else:
            return []
        return [node.outputs[index] for node in self._above(inner, seen) if index < len(node.outputs)]

    def _finish(self) -> bool:
        nodes = list({id(node): node for node in self._nodes.values()}.values())
        scope = self.editor.scope(nodes[0])
        ids = {id(node) for node in nodes}
        kept = {id(tensor) for tensor in self._roots}
        for node in nodes:
            if self.editor.scope(node) is not scope:
                return self._fail(partial("{!r} is outside the body that reads it".format, node.name))
            if self._shared:
                continue
            for tensor in node.outputs:
                if id(tensor) in kept:
                    continue
                if self.editor.is_result(tensor):
                    return self._fail(partial("inner value {!r} is a graph output".format, tensor.name))
                stranger = next((user for user in tensor.outputs if id(user) not in ids), None)
                if stranger is not None:
                    return self._fail(
                        partial("inner value {!r} is also read by {!r}".format, tensor.name, stranger.name)
                    )
        self._done = Match(nodes[0], dict(self._bound), nodes, list(self._roots))
        return True


_UNBOUND = object()


def _chain(patterns: tuple[Operand, ...], values: list[Any], rest: Goals) -> Goals:
    for pattern, value in zip(reversed(patterns), reversed(values), strict=True):
        rest = ("in", pattern, value, rest)
    return rest


def _names(pattern: Operand) -> list[str]:
    if isinstance(pattern, Var):
        return [pattern.name]
    if isinstance(pattern, (Const, Maybe)):
        return _names(pattern.inner)
    if isinstance(pattern, Output):
        return _names(pattern.node)
    if isinstance(pattern, Either):
        return [name for option in pattern.options for name in _names(option)]
    if isinstance(pattern, NodePattern):
        specs = (*pattern.attrs.values(), pattern.rest_attrs, pattern.label)
        named = [spec.name for spec in specs if isinstance(spec, Var)]
        return [name for child in pattern.inputs for name in _names(child)] + named
    return []


def _same_attribute(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return list(a) == list(b)
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, (int, float)) and isinstance(b, (int, float)) and bool(np.float32(a) == np.float32(b))
    return bool(type(a) is type(b) and a == b)


def _equals(value: Any, wanted: Any) -> bool:
    if value is None or isinstance(value, gs.Tensor):
        known = None if value is None else constant_of(value)
        if known is None:
            return False
        handle = Value(known)
        if (handle.size or 0) > (len(wanted) if isinstance(wanted, (list, tuple)) else 1):
            return False
        value = handle.const
    if value is None or value.dtype.kind in "OSU":
        return False
    if isinstance(wanted, (list, tuple)):
        return bool(value.shape == (len(wanted),) and value.tolist() == list(wanted))
    if value.size != 1:
        return False
    got = float(value.astype(np.float64).ravel()[0])
    if not dtypes.is_float(value.dtype):
        return bool(got == wanted)
    return bool(np.isclose(got, wanted, rtol=_ROUNDING.get(dtypes.name(value.dtype), 1e-6), atol=0.0))


_ROUNDING = {"float16": 1e-3, "bfloat16": 1e-2}
"""How far a stored number may be from the one a pattern names and still be its rounding."""


def _label(value: Any) -> str:
    if value is None:
        return "an absent input"
    return repr(value.name) if isinstance(value, gs.Tensor) else "an attribute"
