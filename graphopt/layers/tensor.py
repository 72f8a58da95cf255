"""What a layer's `infer`, `check` and `workspace` are told of a tensor: dtype and shape, sizes possibly symbolic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dim:
    """A size that is not known yet: `+ - * //`, `ceil_div`, `larger` and `smaller` make new ones.

    It is an IDimensionExpr while TensorRT asks, a symbol or unknown in the model. Asking for its value (comparing,
    `if`, `int`, `range`) is an error: a shape rule is arithmetic.
    """

    kind: str
    """'symbol', 'unknown', or the name of a tensorrt.DimensionOperation."""
    parts: tuple[Any, ...] = ()

    def __add__(self, other: Any) -> Any:
        return _make("SUM", self, other)

    def __radd__(self, other: Any) -> Any:
        return _make("SUM", other, self)

    def __sub__(self, other: Any) -> Any:
        return _make("SUB", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _make("SUB", other, self)

    def __mul__(self, other: Any) -> Any:
        return _make("PROD", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _make("PROD", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _make("FLOOR_DIV", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _make("FLOOR_DIV", other, self)

    def __bool__(self) -> bool:
        raise TypeError("the size is not known here: shape rules are arithmetic (+ - * //, ceil_div, larger, smaller)")

    def _unordered(self, other: Any) -> bool:
        raise TypeError("the size is not known here: use graphopt.larger(a, b) or graphopt.smaller(a, b)")

    __lt__ = __le__ = __gt__ = __ge__ = _unordered


@dataclass(frozen=True)
class Size:
    """A size that only the kernel finds out (Unique, NonZero): at most `upper`, usually about `typical`.

    Each Size of an output adds one array after the outputs of `enqueue`: the kernel writes the size there
    (int32, no axes: what TensorRT demands). One Size object used twice is one size.
    Source: IExprBuilder.declareSizeTensor.
    """

    upper: Any
    typical: Any = None


@dataclass(frozen=True)
class Tensor:
    """dtype and shape of an input or output; `const` is the value where the model holds a constant."""

    dtype: np.dtype[Any]
    shape: tuple[Any, ...]
    """int, Dim or (outputs of data-dependent size) Size."""
    const: np.ndarray[Any, Any] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        """Number of elements: int or Dim."""
        product: Any = 1
        for dim in self.shape:
            product = product * dim
        return product

    @property
    def nbytes(self) -> Any:
        """Bytes: int or Dim."""
        return self.size * self.dtype.itemsize


def tensor(dtype: Any, shape: Sequence[Any]) -> Tensor:
    """A tensor of this dtype ('float16', 'bfloat16', a NumPy dtype, that of another) and shape."""
    return Tensor(np.dtype(dtype), tuple(shape))


def ceil_div(a: Any, b: Any) -> Any:
    """The least whole number >= a / b, of int or Dim."""
    return _make("CEIL_DIV", a, b)


def larger(a: Any, b: Any) -> Any:
    """max(a, b), of int or Dim."""
    return _make("MAX", a, b)


def smaller(a: Any, b: Any) -> Any:
    """min(a, b), of int or Dim."""
    return _make("MIN", a, b)


WHOLE: dict[str, Callable[[int, int], int]] = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "MAX": max,
    "MIN": min,
    "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


def _make(kind: str, a: Any, b: Any) -> Any:
    for value in (a, b):
        if not isinstance(value, (int, np.integer, Dim)):
            return NotImplemented
    if isinstance(a, Dim) or isinstance(b, Dim):
        if (kind == "SUM" and b == 0) or (kind in ("PROD", "FLOOR_DIV", "CEIL_DIV") and b == 1):
            return a
        if (kind == "SUM" and a == 0) or (kind == "PROD" and a == 1):
            return b
        return Dim(kind, (a, b))
    return WHOLE[kind](int(a), int(b))
