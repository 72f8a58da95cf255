"""What a pass author writes: a Rule (an equation), or a function pass; and where in the pipeline it runs."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import onnx_graphsurgeon as gs

from graphopt.errors import PluginError

from .authoring import check_parameters, check_pattern
from .pattern import Traced, trace

STAGES = ("canonicalize", "simplify", "fuse", "lower", "legalize")


@cache
def kebab(name: str) -> str:
    """'FoldConvBN2d' = 'fold-conv-bn2d'; 'fold_shapes' = 'fold-shapes'."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return text.replace("_", "-").lower()


class Rule:
    """An equation between two graphs: write `pattern` and `rewrite`, and `check` for what a pattern can't say.

    The docstring's first line is the equation. `pattern(self, op, x, ...)` returns the left side;
    `rewrite(self, op, x, ...)` the right side, with the same names; `check(self, op, x, ...)` returns None,
    or the reason why this match must be left alone.
    """

    stage: ClassVar[str] = "simplify"
    after: ClassVar[Sequence[str]] = ()
    before: ClassVar[Sequence[str]] = ()
    shared_inner: ClassVar[bool] = False
    """Whether inner values may have other readers (they stay, and the rewrite bypasses them)."""
    turn: ClassVar[int] = 0
    """Rules of different turns are not run together: the next begins where the one before finds nothing more."""
    target: Any = None
    """The run's `Target`, set before the first match."""

    def pattern(self, op: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The left side."""
        raise PluginError("a rule needs a pattern", where=type(self).__name__)

    def glance(self, node: gs.Node) -> bool:
        """False where a look at the node at the root tells that nothing will come of it; asked before anything else.

        For rules whose pattern holds at most nodes of its operator: a match costs fifty times as much.
        """
        return True

    def rewrite(self, op: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The right side."""
        raise PluginError("a rule needs a rewrite", where=type(self).__name__)

    def check(self, op: Any, /, *args: Any, **kwargs: Any) -> str | None:
        """None, or why this match must be left alone."""
        return None

    @cached_property
    def name(self) -> str:
        """kebab-case of the class's name."""
        return kebab(type(self).__name__)


@dataclass(frozen=True)
class FunctionPass:
    """A pass written as a function of the whole graph."""

    function: Callable[..., int]
    name: str
    stage: str
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    typed: bool = True

    @property
    def doc(self) -> str:
        return first_line(self.function)


def pass_(
    stage: str = "simplify",
    *,
    after: Sequence[str] = (),
    before: Sequence[str] = (),
    ops: Sequence[str] = (),
    typed: bool = True,
    name: str = "",
) -> Callable[[Callable[..., int]], FunctionPass]:
    """Make `f(graph, target) -> number of changes` a pass of this stage.

    ops: the operators that it starts from; a model without any of them does not run it. typed: whether it looks at
    dtypes and shapes; before one that does not, those of what others edited are not worked out.
    """

    def decorate(function: Callable[..., int]) -> FunctionPass:
        return FunctionPass(
            function, name or kebab(function.__name__), stage, tuple(after), tuple(before), tuple(ops), typed
        )

    return decorate


Pass = Rule | FunctionPass


@dataclass(eq=False)
class Entry:
    """A pass as the registry knows it."""

    run: Pass
    plugin: str = "?"
    traced: Traced | None = None

    def __post_init__(self) -> None:
        run = self.run
        self.name, self.stage = str(run.name), run.stage
        self.kind = (True, run.turn) if isinstance(run, Rule) else (False, 0)
        """Neighbours of one kind run together."""
        self.order = (self.name, self.plugin, self.stage, tuple(run.after), tuple(run.before), self.kind)
        """What its place among others depends on."""

    @property
    def doc(self) -> str:
        """The equation, or the promise."""
        return self.run.doc if isinstance(self.run, FunctionPass) else first_line(type(self.run))


def entry(run: Any, plugin: str = "?") -> Entry:
    """A pass, checked against its contract. Raises PluginError."""
    where = f"plugin {plugin}"
    if isinstance(run, type) and issubclass(run, Rule):
        raise PluginError(f"{run.__name__} is a class; return an instance: {run.__name__}()", where=where)
    if not isinstance(run, (Rule, FunctionPass)):
        raise PluginError(f"{run!r} is no pass", where=where, hint="return Rule instances and functions under @pass_")
    if run.stage not in STAGES:
        raise PluginError(f"pass {run.name} is of unknown stage {run.stage!r}", where=where, hint=", ".join(STAGES))
    if isinstance(run, FunctionPass):
        return Entry(run, plugin)
    return Entry(run, plugin, _traced(run, where))


def _traced(run: Rule, where: str) -> Traced:
    """The rule's pattern; of instances of one class that hold the same plain values, worked out once."""
    kind = type(run)
    own: Any = ()
    if vars(run):
        own = tuple(sorted((name, value) for name, value in vars(run).items() if name not in ("name", "target")))
        plain = all(isinstance(value, (str, int, float)) for _, value in own)
        if not plain or getattr(run.pattern, "__func__", None) is not kind.pattern:
            return _checked(run, where)
    known = _TRACED.get(kind)
    if known is None:
        known = _TRACED[kind] = {}
    if own not in known:
        known[own] = _checked(run, where)
    return known[own]


def _checked(run: Rule, where: str) -> Traced:
    where = f"{where}, pass {run.name}"
    traced = trace(run.pattern, where)
    check_pattern(traced, where)
    check_parameters((run.check, run.rewrite), traced, where)
    return traced


_TRACED: weakref.WeakKeyDictionary[type[Rule], dict[Any, Traced]] = weakref.WeakKeyDictionary()


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return _first_line(getattr(thing, "__doc__", None) or "")


@cache
def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()
