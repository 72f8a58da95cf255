"""Numbers of which only the identity is known: equal unknowns are one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import shapes

Element = Any
"""An int, or an Unknown."""


class Unknown:
    """A number that is not known; one object stands for one number."""

    __slots__ = ("is_size", "parts", "symbol")

    def __init__(self, symbol: str | None, is_size: bool, parts: Any = None) -> None:
        self.symbol = symbol
        self.parts = parts
        """(operator, operand, operand) where it was computed."""
        self.is_size = is_size
        """Whether it is proved not to be negative."""


class Numbers:
    """Makes unknowns; the same computation on the same numbers gives the same object."""

    def __init__(self) -> None:
        self._made: dict[Any, Unknown] = {}

    def of(self, key: Any, *, is_size: bool, symbol: str | None = None) -> Unknown:
        """The unknown of this key."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = Unknown(symbol, is_size)
        return found

    def dim(self, tensor: Any, axis: int, value: shapes.Dim) -> Element:
        """The size of an axis."""
        if isinstance(value, int):
            return value
        if value is not None and shapes.same_dim(value, value):
            return self.of(("symbol", value), is_size=True, symbol=value)
        return self.of(("dim", id(tensor), axis), is_size=True)

    def compute(self, op: str, a: Element, b: Element) -> Element | None:
        """`a op b` as ONNX computes it for integers; None where it is undefined or too large."""
        if isinstance(a, int) and isinstance(b, int):
            return _exact(op, a, b)
        if op == "Mul" and (a == 1 or b == 1):
            return b if a == 1 else a
        if op == "Add" and (a == 0 or b == 0):
            return b if a == 0 else a
        if (op == "Sub" and b == 0) or (op == "Div" and b == 1):
            return a
        if a is b and op in ("Min", "Max", "Sub"):
            return 0 if op == "Sub" else a
        if op in ("Mul", "Add", "Min", "Max"):
            a, b = sorted((a, b), key=lambda item: (isinstance(item, Unknown), id(item)))
        sizes = all((isinstance(item, int) and item >= 0) or getattr(item, "is_size", False) for item in (a, b))
        if op == "Sub" and isinstance(a, Unknown) and a.parts is not None and a.parts[0] == "Add":
            _, left, right = a.parts
            if same(left, b) or same(right, b):
                return right if same(left, b) else left
        if op in ("Div", "Mod") and sizes and isinstance(b, int):
            whole = self.quotient([a], [b])
            if whole is not None:
                return whole if op == "Div" else 0
        made = self.of((op, a, b), is_size=sizes and op != "Sub")
        made.parts = (op, a, b)
        return made

    def product(self, items: Sequence[Element]) -> Element | None:
        """The product of all."""
        result: Element | None = 1
        for item in items:
            result = None if result is None else self.compute("Mul", result, item)
        return result

    def quotient(self, numerator: Sequence[Element], denominator: Sequence[Element]) -> Element | None:
        """What is left of a product after every factor of another one is cancelled; None if one does not cancel."""
        above, below = _factors(numerator), []
        for factor in _factors(denominator):
            spot = next((i for i, item in enumerate(above) if item is factor), None)
            if isinstance(factor, int) or spot is None:
                below.append(factor)
            else:
                del above[spot]
        if not all(isinstance(factor, int) for factor in below):
            return None
        top, bottom = 1, 1
        for item in above:
            top *= item if isinstance(item, int) else 1
        for item in below:
            bottom *= item
        if bottom <= 0 or top % bottom:
            return None
        return self.product([top // bottom, *(item for item in above if isinstance(item, Unknown))])

    def broadcast(self, columns: Sequence[Element]) -> Element | None:
        """The size that these sizes broadcast to; None if that is not known.

        n against min(n, c) with c > 1 is n: where the two differ neither is 1, and the operator fails.
        """
        rest = [item for item in columns if not (isinstance(item, int) and item == 1)]
        rest = [item for item in rest if not any(_is_capped(item, other) for other in rest)]
        if not rest:
            return 1
        number = next((item for item in rest if isinstance(item, int)), None)
        if number is not None:
            return number
        return rest[0] if all(item is rest[0] for item in rest) else None


def _factors(items: Sequence[Element]) -> list[Element]:
    """What the product of all is a product of, computed products of sizes taken apart."""
    found: list[Element] = []
    left = list(items)[::-1]
    while left:
        item = left.pop()
        if isinstance(item, Unknown) and item.is_size and item.parts is not None and item.parts[0] == "Mul":
            left += item.parts[:0:-1]
        else:
            found.append(item)
    return found


def _is_capped(item: Element, other: Element) -> bool:
    """Whether `item` is min(other, c) for a number c > 1."""
    if not isinstance(item, Unknown) or item.parts is None or item.parts[0] != "Min":
        return False
    parts = item.parts[1:]
    return any(part is other for part in parts) and any(isinstance(part, int) and part > 1 for part in parts)


def same(a: Element, b: Element) -> bool:
    """Whether two elements are proved to be one number."""
    return a is b or (isinstance(a, int) and isinstance(b, int) and a == b)


def compare(op: str, a: Element, b: Element) -> int | None:
    """1, 0, or None where it is not known."""
    if isinstance(a, int) and isinstance(b, int):
        known = {"Equal": a == b, "Less": a < b, "Greater": a > b, "LessOrEqual": a <= b, "GreaterOrEqual": a >= b}
        return int(known[op])
    if a is b:
        return int(op in ("Equal", "LessOrEqual", "GreaterOrEqual"))
    for one, other, below in ((a, b, ("Less", "LessOrEqual")), (b, a, ("Greater", "GreaterOrEqual"))):
        if isinstance(one, Unknown) and one.is_size and isinstance(other, int) and other < 0:
            return int(op != "Equal" and op not in below)
    return None


def _exact(op: str, a: int, b: int) -> int | None:
    if op in ("Div", "Mod") and b == 0:
        return None
    if op == "Div":
        result = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    elif op == "Mod":
        result = a % b
    else:
        result = {"Add": a + b, "Sub": a - b, "Mul": a * b, "Min": min(a, b), "Max": max(a, b)}[op]
    return result if -(2**63) <= result < 2**63 else None
