"""A layer's body as a small graph: what `body(self, op, x, ...)` did with the `op` that it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, PluginError
from graphopt.rewrite.build import Skip

from .layer import Layer

DTYPES = frozenset(
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "int4 uint4 float4_e2m1fn".split()
)


class Symbol:
    """An attribute whose value is not known while the body is traced."""

    def __init__(self, layer: str, name: str, default: Any) -> None:
        self.layer, self.name, self.default = layer, name, default

    def _refuse(self, *_: Any) -> Any:
        raise PluginError(
            f"the value of attribute {self.name!r} is not known while the body is traced: it is no Python number",
            where=f"layer {self.layer}",
            hint=f"use it as an operand or attribute, or list its values: variants = ({{'{self.name}': ...}}, ...)",
        )

    def _arithmetic(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Traced) else self._refuse()

    __bool__ = __float__ = __int__ = __index__ = __iter__ = __len__ = __getitem__ = __neg__ = __abs__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __pow__ = __mod__ = _arithmetic
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rpow__ = __rmod__ = _arithmetic
    __hash__ = object.__hash__


@dataclass(eq=False)
class Made:
    """An operator that the body used."""

    op: str
    operands: list[Any]
    """Traced, numbers, lists and arrays (with Symbols in them), None."""
    attrs: dict[str, Any]
    outputs: int = 1
    domain: str = ""


class Traced:
    """An input, or an output of an operator."""

    def __init__(self, op: Tracer, name: str = "", made: Made | None = None, index: int = 0) -> None:
        self._op, self.name, self.made, self.index = op, name, made, index

    def __bool__(self) -> bool:
        raise PluginError("a tensor has no truth value while the body is traced", hint="op.Where(condition, a, b)")

    def _make(self, name: str, *operands: Any) -> Any:
        return getattr(self._op, name)(*operands)

    def __add__(self, other: Any) -> Any:
        return self._make("Add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._make("Add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._make("Sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._make("Sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._make("Mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._make("Mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._make("Div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._make("Div", other, self)

    def __neg__(self) -> Any:
        return self._make("Neg", self)


class Tracer:
    """The `op` of a body; see `Layer.body`."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.made: list[Made] = []

    def like(self, value: Any, other: Traced) -> Traced:
        return self._node("CastLike", value, other)  # type: ignore[no-any-return]

    def const(self, values: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(values, dtype)

    def domain(self, name: str) -> Any:
        raise Skip(f"a body holds standard operators, none of domain {name!r}")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in DTYPES:
            return lambda value: self._node("Cast", value, to=name)
        if name.startswith("_") or not name[0].isupper():
            raise AttributeError(f"`op` has no {name!r}: operators begin with a capital, casts are named by dtype")
        return partial(self._node, name)

    def _node(self, name: str, *operands: Any, outputs: int = 1, **attrs: Any) -> Any:
        values = list(operands)
        while values and values[-1] is None:
            values.pop()
        made = Made(name, values, {key: value for key, value in attrs.items() if value is not None}, outputs)
        self.made.append(made)
        results = tuple(Traced(self, made=made, index=index) for index in range(outputs))
        return results[0] if outputs == 1 else results


@dataclass
class Body:
    """A traced spelling of a layer."""

    layer: Layer
    spelling: str
    fixed: Mapping[str, Any]
    """The variant: attribute values that were fixed."""
    present: tuple[str, ...]
    """Inputs that are not absent, in order."""
    inputs: dict[str, Traced]
    outputs: list[Traced]
    nodes: list[Made]
    opset: int
    symbols: dict[str, Symbol] = field(default_factory=dict)


def absences(layer: Layer) -> list[tuple[str, ...]]:
    """Every choice of present inputs, all of them first."""
    optional = list(layer.optional)
    choices: list[tuple[str, ...]] = [()]
    for name in optional:
        choices += [(*gone, name) for gone in choices]
    return [tuple(name for name in layer.inputs if name not in gone) for gone in sorted(choices, key=len)]


def trace(layer: Layer, opset: int, present: Sequence[str], fixed: Mapping[str, Any], spelling: str = "") -> Body:
    """One spelling (default: the body) of a layer with these inputs and this variant.

    Raises:
        Skip: it cannot be said at this opset.
        PluginError: the body breaks the contract.
    """
    view = object.__new__(type(layer))
    symbols = {name: Symbol(layer.name, name, value) for name, value in layer.values.items() if name not in fixed}
    view.__dict__.update(layer.__dict__, **symbols, **fixed)
    function = spellings(view)[spelling or "body"]
    op = Tracer(opset)
    inputs = {name: Traced(op, name=name) for name in layer.inputs if name in present}
    where = f"layer {layer.name}, {function.__name__}()"
    try:
        result = function(op, *(inputs.get(name) for name in layer.inputs))
    except (Skip, GraphoptError):
        raise
    except Exception as error:
        raise PluginError(f"it raised {type(error).__name__}: {error}", where=where) from error
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    for output in outputs:
        if not isinstance(output, Traced):
            raise PluginError(f"it returned {output!r}, not what an operator made", where=where)
    return Body(layer, function.__name__, dict(fixed), tuple(inputs), inputs, outputs, _needed(outputs), opset, symbols)


def spellings(layer: Layer) -> dict[str, Callable[..., Any]]:
    """The body, and the other spellings by name."""
    found = {"body": layer.body}
    for function in layer.patterns():
        found.setdefault(getattr(function, "__name__", "pattern"), function)
    return found


def _needed(outputs: list[Traced]) -> list[Made]:
    """The operators that outputs depend on, in order of use."""
    order: dict[int, Made] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Traced) and value.made is not None and id(value.made) not in order:
            for operand in value.made.operands:
                visit(operand)
            order[id(value.made)] = value.made

    for output in outputs:
        visit(output)
    return list(order.values())


def symbols_in(value: Any) -> list[Symbol]:
    """The symbols inside a constant operand or attribute."""
    if isinstance(value, Symbol):
        return [value]
    if isinstance(value, (list, tuple)):
        return [symbol for item in value for symbol in symbols_in(item)]
    return []
