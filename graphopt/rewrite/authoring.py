"""What the author of a pass may have mistyped: told when the pass is loaded, for such a pass would never fire."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from graphopt.errors import PluginError, nearest

from .parameters import parameters
from .pattern import Const, Either, Maybe, NodePattern, Output, Traced, Var


def check_pattern(traced: Traced, where: str) -> None:
    """Raises PluginError for an operator, an attribute or a number of inputs that ONNX never had, or a lost variable.

    An operator that is like none of ONNX's may be somebody's own, in a model that names no domain.
    """
    bound: set[str] = set()
    for item in _items(traced.outputs):
        if isinstance(item, Var):
            bound.add(item.name)
        elif not item.own and (wrong := wrong_call(item.op, item.attrs, len(item.inputs))):
            raise PluginError(f"pattern(): {wrong[0]}", where=where, hint=wrong[1])
    lost = [name for name in (*traced.variables, traced.rest) if name and name not in bound]
    if lost:
        raise PluginError(f"pattern() has a parameter {lost[0]!r} that stands nowhere in it", where=where)


def check_parameters(methods: Sequence[Callable[..., Any]], traced: Traced, where: str) -> None:
    """Raises PluginError where check() or rewrite() names what the pattern does not bind."""
    bound = [*traced.variables, *([traced.rest] if traced.rest else [])]
    for method in methods:
        wanted = parameters(method)
        for name in (*wanted.positional[1:], *wanted.keywords):
            if name not in bound and name not in wanted.optional:
                told = f"{method.__name__}() names {name!r}, which the pattern does not"
                raise PluginError(told, where=where, hint=nearest(name, bound, f"it names {', '.join(bound)}"))


def wrong_call(op: str, attrs: Any, inputs: int) -> tuple[str, str] | None:
    """(what is wrong, hint) with a call of an operator of ONNX, whatever the opset; None: nothing."""
    newest = _newest(op)
    if newest is None:
        hint = nearest(op, _operators(), "", 0.65)
        return (
            (f"ONNX has no operator {op!r}", f"{hint} one of yours without a domain: op.domain('').{op}")
            if hint
            else None
        )
    if newest[0].issuperset(attrs) and inputs <= newest[1]:
        return None
    every = [one for one in onnx.defs.get_all_schemas_with_history() if one.name == op and not one.domain]
    known = sorted({key for one in every for key in one.attributes})
    for key in attrs:
        if key not in known:
            return f"{op} has no attribute {key!r}", nearest(key, known, f"it has {', '.join(known) or 'none'}")
    most = max(one.max_input for one in every)
    return (f"{op} takes at most {most} inputs, not {inputs}", "") if inputs > most else None


@cache
def _newest(op: str) -> tuple[frozenset[str], int] | None:
    """(attributes, most inputs) of an operator of ONNX."""
    if not onnx.defs.has(op):
        return None
    found = onnx.defs.get_schema(op)
    return frozenset(found.attributes), found.max_input


def place_in(function: Callable[..., Any], error: BaseException) -> str:
    """' (my_pass.py, line 12)': where in the author's file it was raised; '' if nowhere there."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    file, line = getattr(code, "co_filename", ""), 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({Path(file).name}, line {line})" if line else ""


def _operators() -> set[str]:
    return {one.name for one in onnx.defs.get_all_schemas() if not one.domain}


def _items(operands: Sequence[Any]) -> Iterator[NodePattern | Var]:
    """Every node and variable of a pattern."""
    pending, seen = list(operands), set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, NodePattern):
            pending += [*item.inputs, *item.attrs.values(), item.rest_attrs, item.label]
            yield item
        elif isinstance(item, Var):
            yield item
        elif isinstance(item, Output):
            pending.append(item.node)
        elif isinstance(item, Either):
            pending += item.options
        elif isinstance(item, (Const, Maybe)):
            pending.append(item.inner)
