"""The parameters of a function, read from its code: `inspect.signature` took half of the time that rules load in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NamedTuple


class Parameters(NamedTuple):
    """Names by kind; of a bound method, without its `self`."""

    positional: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    """Those after `*`."""
    rest: str = ""
    """Of `*xs`, or ''."""
    others: str = ""
    """Of `**xs`, or ''."""
    optional: frozenset[str] = frozenset()
    """Those that have a default."""


def parameters(function: Callable[..., Any]) -> Parameters:
    """The parameters of a function, a bound method, or anything that can be called."""
    plain = function.__func__ if isinstance(function, MethodType) else function
    known = plain.__dict__ if isinstance(plain, FunctionType) else None
    if known is None or "__wrapped__" in known or "__signature__" in known:
        return _from_signature(function)
    code = plain.__code__
    count, keywords = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    positional, named = names[:count], names[count : count + keywords]
    extra = iter(names[count + keywords :])
    rest = next(extra) if code.co_flags & inspect.CO_VARARGS else ""
    others = next(extra) if code.co_flags & inspect.CO_VARKEYWORDS else ""
    defaults = plain.__defaults__ or ()
    optional = frozenset((*positional[count - len(defaults) :], *(plain.__kwdefaults__ or ())))
    return Parameters(positional[1:] if plain is not function else positional, named, rest, others, optional)


def _from_signature(function: Callable[..., Any]) -> Parameters:
    every = list(inspect.signature(function).parameters.values())

    def names(*kinds: Any) -> tuple[str, ...]:
        return tuple(one.name for one in every if one.kind in kinds)

    sort = inspect.Parameter
    return Parameters(
        names(sort.POSITIONAL_ONLY, sort.POSITIONAL_OR_KEYWORD),
        names(sort.KEYWORD_ONLY),
        "".join(names(sort.VAR_POSITIONAL)),
        "".join(names(sort.VAR_KEYWORD)),
        frozenset(one.name for one in every if one.default is not one.empty),
    )
