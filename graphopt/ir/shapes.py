"""One shape: a tuple of int (static), str (symbol) and None (unknown); None where not even the rank is known.

Two equal symbols stand for the same number; two None never prove anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

Dim = int | str | None
Shape = tuple[Dim, ...] | None
_PLACEHOLDER = re.compile(r"\??|unk__\d+|None|-1")


def of(tensor: Any) -> Shape:
    """The shape of a graphsurgeon tensor as a tuple, or None for an unknown rank."""
    shape = tensor.shape
    return shape if shape is None or type(shape) is tuple else tuple(shape)


def is_static(shape: Shape) -> bool:
    """Whether every dimension is a number."""
    if shape is None:
        return False
    for dim in shape:  # noqa: SIM110 (half of what `all` takes, and asked of every value)
        if not isinstance(dim, int):
            return False
    return True


def volume(shape: Shape) -> int | None:
    """Number of elements; None unless it is known. A zero anywhere makes it zero."""
    if shape is None:
        return None
    if 0 in shape:
        return 0
    return math.prod(dim for dim in shape if isinstance(dim, int)) if is_static(shape) else None


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are proved to be equal; placeholder names ('?', 'unk__7', 'None') prove nothing."""
    return a is not None and a == b and (isinstance(a, int) or not is_placeholder(a))


def is_placeholder(dim: Dim) -> bool:
    """Whether a dimension is a name that stands for nothing ('?', 'unk__7'): onnx's inference writes those."""
    return isinstance(dim, str) and _is_blank(dim)


@lru_cache(1 << 12)
def _is_blank(name: str) -> bool:
    return _PLACEHOLDER.fullmatch(name) is not None


def same(a: Shape, b: Shape) -> bool:
    """Whether two shapes are proved to be equal."""
    return a is not None and b is not None and len(a) == len(b) and all(map(same_dim, a, b))


def broadcast(*shapes: Shape) -> Shape:
    """Numpy's broadcast of shapes as far as it is known; None if a rank is unknown.

    A symbol against 1 is the symbol; a symbol against another unknown is unknown; against n > 1 it is n.
    """
    if None in shapes:
        return None
    if shapes and is_static(shapes[0]) and shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    known = [shape for shape in shapes if shape is not None]
    rank = max((len(shape) for shape in known), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dims = [shape[axis - rank] for shape in known if len(shape) >= rank - axis]
        result.append(_broadcast_dim(dims))
    return tuple(result)


def _broadcast_dim(dims: Sequence[Dim]) -> Dim:
    rest = [dim for dim in dims if dim != 1]
    if not rest:
        return 1
    for dim in rest:
        if isinstance(dim, int):
            return dim
    return rest[0] if all(same_dim(rest[0], dim) for dim in rest) else None


def expands(small: Shape, large: Shape) -> bool:
    """Whether broadcasting `small` with `large` is proved to give `large`'s shape."""
    if small is None or large is None or len(small) > len(large):
        return False
    return all(a == 1 or same_dim(a, b) for a, b in zip(reversed(small), reversed(large), strict=False))


def merge(a: Shape, b: Shape) -> Shape:
    """What two descriptions of one tensor say together: numbers before symbols before nothing."""
    if a is None or b is None or len(a) != len(b):
        return b if a is None else a
    if a == b:
        return a
    return tuple(_merge_dim(x, y) for x, y in zip(a, b, strict=True))


def _merge_dim(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) or b is None or (isinstance(a, str) and is_placeholder(b)):
        return a
    if is_placeholder(a):
        return b
    return b if isinstance(b, int) or a is None else a


def axis(number: int, rank: int) -> int:
    """A possibly negative axis as a non-negative one. Raises ValueError outside [-rank, rank)."""
    if not -rank <= number < rank:
        raise ValueError(f"axis {number} is outside rank {rank}")
    return number % rank if rank else 0


def text(shape: Shape) -> str:
    """'1x3xHx?' for people; '?' for an unknown rank, 'scalar' for rank 0."""
    if shape is None:
        return "?"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"
