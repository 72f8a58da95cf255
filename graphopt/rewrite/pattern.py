"""A pattern is what a rule's `pattern(self, op, x, ...)` returns when it is traced with these objects.

`op.Transpose(x, perm=p)` becomes a NodePattern; the names of the function's parameters become variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from graphopt.errors import PluginError

from .parameters import Parameters, parameters


class Operand:
    """Anything that can stand in an input slot; `+ - * /` and unary minus spell Add, Sub, Mul, Div, Neg."""

    def __add__(self, other: Any) -> NodePattern:
        return NodePattern("Add", (self, operand(other)))

    def __radd__(self, other: Any) -> NodePattern:
        return NodePattern("Add", (operand(other), self))

    def __sub__(self, other: Any) -> NodePattern:
        return NodePattern("Sub", (self, operand(other)))

    def __rsub__(self, other: Any) -> NodePattern:
        return NodePattern("Sub", (operand(other), self))

    def __mul__(self, other: Any) -> NodePattern:
        return NodePattern("Mul", (self, operand(other)))

    def __rmul__(self, other: Any) -> NodePattern:
        return NodePattern("Mul", (operand(other), self))

    def __truediv__(self, other: Any) -> NodePattern:
        return NodePattern("Div", (self, operand(other)))

    def __rtruediv__(self, other: Any) -> NodePattern:
        return NodePattern("Div", (operand(other), self))

    def __neg__(self) -> NodePattern:
        return NodePattern("Neg", (self,))

    def __bool__(self) -> bool:
        raise TypeError("a pattern has no truth value: conditions belong into check(self, op, ...)")


@dataclass(frozen=True, eq=False)
class Var(Operand):
    """A name: a tensor in an input slot, a Python value in an attribute slot; the same wherever it is repeated."""

    name: str
    rest: bool = False
    """`*xs`: all remaining inputs."""


@dataclass(frozen=True, eq=False)
class Const(Operand):
    """Demands that the operand is a constant."""

    inner: Operand


@dataclass(frozen=True, eq=False)
class Maybe(Operand):
    """An optional input: the variables inside are None where it is absent."""

    inner: Operand


@dataclass(frozen=True, eq=False)
class Literal(Operand):
    """A constant of one element that equals this number in its own dtype; a list: an integer vector."""

    value: Any


@dataclass(frozen=True, eq=False)
class Either(Operand):
    """The first of several patterns that matches."""

    options: tuple[Operand, ...]


@dataclass(frozen=True, eq=False)
class NodePattern(Operand):
    """A node; stands for its first output where it is used as an operand."""

    op: str
    inputs: tuple[Operand, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    rest_attrs: Var | None = None
    domain: str = ""
    outputs: int = 1
    label: Var | None = None
    """The variable that is bound to its first output."""
    own: bool = False
    """Whether it was named by domain: it may be no operator of ONNX even where that is ''."""

    def __iter__(self) -> Iterator[Operand]:
        return iter([Output(self, i) for i in range(self.outputs)])


@dataclass(frozen=True, eq=False)
class Output(Operand):
    """Output number `index` of a node of several outputs."""

    node: NodePattern
    index: int


def operand(value: Any) -> Operand:
    """A pattern as it is; a number or list of numbers as a Literal."""
    return value if isinstance(value, Operand) else Literal(value)


def alternatives(*options: Any) -> Either:
    """The first of these patterns that matches."""
    return Either(tuple(operand(option) for option in options))


class PatternOps:
    """The `op` of a pattern: `op.Name(inputs..., attribute=variable or value, attrs=variable, outputs=n)`.

    `attrs=` binds the attributes that are not named as a dict; without it they must have their default values.
    `label=` binds the node's own (first) output to a variable, so that an inner value can be looked at or returned.
    """

    def __init__(self, domain: str | None = None) -> None:
        self._domain = domain

    def domain(self, name: str) -> PatternOps:
        """Operators of another domain: `op.domain("com.x").Foo(...)`; "" for one that is not ONNX's and has none."""
        return PatternOps(name)

    def Const(self, value: Any) -> Const:
        """A constant."""
        return Const(operand(value))

    def maybe(self, value: Any) -> Maybe:
        """An optional input."""
        return Maybe(operand(value))

    alternatives = staticmethod(alternatives)

    def __getattr__(self, name: str) -> Callable[..., NodePattern]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._node, name)

    def _node(
        self, name: str, *inputs: Any, attrs: Any = None, outputs: int = 1, label: Var | None = None, **named: Any
    ) -> NodePattern:
        slots = tuple(operand(value) if value is not None else Maybe(_ABSENT) for value in inputs)
        return NodePattern(name, slots, named, attrs, self._domain or "", outputs, label, self._domain is not None)


_ABSENT = Literal(None)
"""Inside Maybe: the slot must be empty."""


def is_absent(pattern: Operand) -> bool:
    """Whether the slot is written None: it must be empty."""
    return isinstance(pattern, Maybe) and pattern.inner is _ABSENT


@dataclass(frozen=True, eq=False)
class Traced:
    """A rule's pattern: one operand per output, and the variables in order."""

    outputs: tuple[Operand, ...]
    variables: tuple[str, ...]
    rest: str
    """The name of `*xs`, or ''."""
    depth: int

    def call(self, function: Callable[..., Any], op: Any, bound: dict[str, Any]) -> Any:
        """function(op, variables...), with `*xs` unpacked; only the parameters that it names are passed."""
        key = getattr(function, "__func__", function)
        wanted = _PARAMETERS.get(key)
        if wanted is None:
            wanted = _PARAMETERS[key] = parameters(function)
        if wanted.rest:
            first = [bound[name] for name in wanted.positional[1:]]
            named = {name: bound[name] for name in self.variables if name in wanted.keywords}
            return function(op, *first, *(bound[self.rest] if self.rest else ()), **named)
        named = {name: bound[name] for name in wanted.positional[1:] if name in bound}
        for name in wanted.keywords:
            if name in bound:
                named[name] = bound[name]
        return function(op, **named)


_PARAMETERS: dict[Any, Parameters] = {}


def trace(function: Callable[..., Any], where: str) -> Traced:
    """The pattern that `function(op, x, ...)` describes. Raises PluginError naming `where`."""
    wanted = parameters(function)
    if not wanted.positional:
        raise PluginError("pattern() takes no parameter `op`", where=where)
    if wanted.others:
        raise PluginError(f"pattern() can't have **{wanted.others}", where=where, hint="use attrs=NAME on a node")
    rest = wanted.rest
    positional = [Var(name) for name in wanted.positional[1:]]
    if rest:
        positional.append(Var(rest, rest=True))
    named = {name: Var(name) for name in wanted.keywords}
    try:
        result = function(PatternOps(), *positional, **named)
    except Exception as error:
        raise PluginError(f"pattern() raised {type(error).__name__}: {error}", where=where) from error
    outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    for output in outputs:
        roots = output.options if isinstance(output, Either) else (output,)
        if not all(isinstance(root, (NodePattern, Output)) for root in roots):
            raise PluginError(f"pattern() must return nodes, not {output!r}", where=where)
    variables = tuple(v.name for v in positional if not v.rest) + tuple(named)
    return Traced(outputs, variables, rest, max(_depth(output) for output in outputs))


def _depth(pattern: Any) -> int:
    if isinstance(pattern, NodePattern):
        return 1 + max((_depth(child) for child in pattern.inputs), default=0)
    if isinstance(pattern, Output):
        return _depth(pattern.node)
    if isinstance(pattern, Either):
        return max(_depth(option) for option in pattern.options)
    if isinstance(pattern, (Const, Maybe)):
        return _depth(pattern.inner)
    return 0


def root_node(pattern: Operand) -> NodePattern:
    """The node that makes a pattern's output."""
    assert isinstance(pattern, (NodePattern, Output))
    return pattern.node if isinstance(pattern, Output) else pattern


def roots(pattern: Operand) -> Sequence[NodePattern]:
    """The nodes that may be at the root of an output's pattern."""
    options = pattern.options if isinstance(pattern, Either) else (pattern,)
    return [root_node(option) for option in options]
