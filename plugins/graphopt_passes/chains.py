"""Reshapes and Transposes in a row, as a permutation of factors of dimensions: what it takes at least to say it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from graphopt.ir import shapes

Dims = list[tuple[int, ...]]
"""What each dimension is a product of, as places of factors in the operand's order; () is a dimension of 1."""
Step = tuple[str, list[int]]
"""("Transpose", perm), ("Reshape", target), ("Unsqueeze", axes) or ("Squeeze", axes)."""


MOST_AXES = 8
"""What a tensor between two steps may have: TensorRT knows no more."""


class Stuck(Exception):
    """A step that factors don't describe."""


class _Factor:
    """A factor of a dimension; it may come apart later."""

    def __init__(self, size: shapes.Dim) -> None:
        self.size = size if isinstance(size, int) else None
        self.parts: tuple[_Factor, _Factor] | None = None

    def split(self, left: shapes.Dim, right: shapes.Dim) -> tuple[_Factor, _Factor]:
        self.parts = _Factor(left), _Factor(right)
        return self.parts

    def leaves(self) -> list[_Factor]:
        if self.parts is None:
            return [] if self.size == 1 else [self]
        return self.parts[0].leaves() + self.parts[1].leaves()


def _leaves(factors: Sequence[_Factor]) -> list[_Factor]:
    return [leaf for factor in factors for leaf in factor.leaves()]


class Chain:
    """What a tensor has become after some of these operators.

    Dimensions that are not numbers are factors of their own, told apart by where they come from, not by their names.
    """

    def __init__(self, shape: shapes.Shape) -> None:
        """Raises Stuck where the rank is unknown or the tensor is empty."""
        if shape is None or 0 in shape:
            raise Stuck
        self.source = [[_Factor(dim)] for dim in shape]
        self.dims = list(self.source)
        self.guesses = False
        """Whether a step has a -1 beside an unknown dimension, which cannot make an empty tensor."""

    def transpose(self, perm: Any) -> None:
        if not isinstance(perm, list) or sorted(perm) != list(range(len(self.dims))):
            raise Stuck
        self.dims = [self.dims[axis] for axis in perm]

    def unsqueeze(self, axes: Sequence[int], rank: int) -> None:
        old = iter(self.dims)
        if len(set(axes)) != len(axes) or rank != len(self.dims) + len(axes):
            raise Stuck
        self.dims = [[] if axis in axes else next(old) for axis in range(rank)]

    def squeeze(self, axes: Sequence[int]) -> None:
        if any(_leaves(self.dims[axis]) for axis in axes):
            raise Stuck
        self.dims = [dim for axis, dim in enumerate(self.dims) if axis not in axes]

    def flatten(self, axis: int) -> None:
        self.dims = [[f for dim in part for f in dim] for part in (self.dims[:axis], self.dims[axis:])]

    def reshape(self, target: Sequence[int]) -> None:
        """By numbers, 0 = as before, at most one -1 = the rest. Raises Stuck where a factor would be cut across."""
        old = [_leaves(dim) for dim in self.dims]
        stream = [leaf for dim in old for leaf in dim]
        new: list[list[_Factor] | None] = [None] * len(target)
        places = list(range(len(target)))
        if any(want < -1 or (want == 0 and place >= len(old)) for place, want in enumerate(target)):
            raise Stuck
        for last in (0, -1):  # from the left, then from the right
            while places and target[places[last]] != -1:
                want = target[places[last]]
                taken = _same(stream, old[places[last]], last) if want == 0 else _take(stream, want, last)
                if taken is None:
                    break
                new[places.pop(last)] = taken
        if len(places) > 1 and len(stream) == 1 and stream[0].size is None:
            self._part(stream, [target[place] for place in places], places, new)
        if len(places) == 1 and (target[places[0]] == -1 or (len(stream) == 1 and stream[0].size is None)):
            if target[places[0]] == -1:
                self.guesses |= any(leaf.size is None for dim in new if dim is not None for leaf in dim)
            elif target[places[0]] > 0:
                stream[0].size = target[places[0]]
            else:
                raise Stuck
            new[places.pop()], stream = stream, []
        if places or stream:
            raise Stuck
        self.dims = [dim for dim in new if dim is not None]

    def _part(
        self, stream: list[_Factor], wanted: list[int], places: list[int], new: list[list[_Factor] | None]
    ) -> None:
        """One unknown factor is parted into numbers and one unknown: (n, -1, m)."""
        if wanted.count(-1) != 1 or 0 in wanted:
            raise Stuck
        while wanted[0] != -1:
            left, stream[0] = stream[0].split(wanted.pop(0), None)
            new[places.pop(0)] = left.leaves()
        while wanted[-1] != -1:
            stream[0], right = stream[0].split(None, wanted.pop())
            new[places.pop()] = right.leaves()

    def shortest(self, most: int) -> list[Step] | None:
        """The least steps that do the same; None where they are more than `most`."""
        order = {id(leaf): place for place, leaf in enumerate(_leaves([f for dim in self.source for f in dim]))}
        sizes = [leaf.size for leaf in _leaves([f for dim in self.source for f in dim])]
        before, after = (
            [tuple(order[id(leaf)] for leaf in _leaves(dim)) for dim in dims] for dims in (self.source, self.dims)
        )
        ways: list[Callable[[Dims, Dims], list[Dims]]] = [_none, _one, _late, _early, _both]
        for way in ways:
            path = way(before, after)
            if path and len(path) - 1 <= most and max(map(len, path)) <= max(MOST_AXES, len(before), len(after)):
                steps = [self._step(a, b, sizes) for a, b in pairwise(path)]
                if None not in steps:
                    return [step for step in steps if step is not None]
        return None

    def _step(self, before: Dims, after: Dims, sizes: Sequence[int | None]) -> Step | None:
        if [place for dim in before for place in dim] != [place for dim in after for place in dim]:
            return "Transpose", _perm(before, after)
        target = []
        for axis, dim in enumerate(after):
            if all(sizes[place] is not None for place in dim):
                target.append(math.prod(sizes[place] or 0 for place in dim))
            else:
                target.append(0 if axis < len(before) and before[axis] == dim else -1)
        if target.count(-1) < 2 and (0 not in target or -1 not in target or self.guesses):
            return "Reshape", target
        for op, few, many in (("Unsqueeze", before, after), ("Squeeze", after, before)):
            axes = _ones(few, many)
            if axes is not None:
                return op, axes
        return None


def _take(stream: list[_Factor], want: int, last: int) -> list[_Factor] | None:
    """Factors that make a number, from one end of the stream; None before an unknown one."""
    taken: list[_Factor] = []
    while want > 1:
        size = stream[last].size if stream else 0
        if size is None:
            if taken:
                raise Stuck
            return None
        if size and want % size == 0:
            factor = stream.pop(last)
        elif size and size % want == 0:
            parts = stream[last].split(want, size // want) if last == 0 else stream[last].split(size // want, want)
            factor, stream[last] = (parts[0], parts[1]) if last == 0 else (parts[1], parts[0])
        else:
            raise Stuck
        want //= factor.size or 1
        taken.insert(len(taken) if last == 0 else 0, factor)
    return taken


def _same(stream: list[_Factor], dim: list[_Factor], last: int) -> list[_Factor] | None:
    """The factors of a dimension that stays, from one end of the stream."""
    start = 0 if last == 0 else len(stream) - len(dim)
    if start < 0 or [id(factor) for factor in stream[start : start + len(dim)]] != [id(factor) for factor in dim]:
        return None
    del stream[start : start + len(dim)]
    return dim


def _ones(few: Dims, many: Dims) -> list[int] | None:
    """Which dimensions of `many` are a 1 that `few` does not have; None where there are other differences."""
    axes: list[int] = []
    for axis, dim in enumerate(many):
        if len(axes) + len(few) < len(many) and not dim and (axis - len(axes) >= len(few) or few[axis - len(axes)]):
            axes.append(axis)
        elif axis - len(axes) >= len(few) or few[axis - len(axes)] != dim:
            return None
    return axes


def _perm(before: Dims, after: Dims) -> list[int]:
    """The order that makes `after` of `before`, which hold the same dimensions."""
    left = list(range(len(before)))
    perm = []
    for dim in after:
        axis = next(axis for axis in left if before[axis] == dim)
        left.remove(axis)
        perm.append(axis)
    return perm


def _runs(dims: Dims) -> bool:
    """Whether each dimension is of neighbours in the operand's order."""
    return all(b == a + 1 for dim in dims for a, b in pairwise(dim))


def _sorted(dims: Dims) -> Dims:
    """The dimensions in the operand's order; each 1 stays behind the dimension that it followed."""
    keys: list[tuple[int, int]] = []
    for dim in dims:
        keys.append((dim[0], 0) if dim else (keys[-1][0], keys[-1][1] + 1) if keys else (-1, 0))
    return [dims[axis] for axis in sorted(range(len(dims)), key=lambda axis: keys[axis])]


def _none(before: Dims, after: Dims) -> list[Dims]:
    flat = [place for dim in after for place in dim]
    if flat != sorted(flat):
        return []
    return [before] if before == after else [before, after]


def _one(before: Dims, after: Dims) -> list[Dims]:
    return [before, after] if sorted(before) == sorted(after) else []


def _late(before: Dims, after: Dims) -> list[Dims]:
    """Transpose, Reshape: where the operand's dimensions stay whole."""
    return [before, *_turned(before, after), after] if _turned(before, after) else []


def _turned(before: Dims, after: Dims) -> list[Dims]:
    flat = [place for dim in after for place in dim]
    where = {place: index for index, place in enumerate(flat)}
    if not _runs([tuple(where[place] for place in dim) for dim in before]):
        return []
    moved = _sorted([tuple(where[place] for place in dim) for dim in before])
    return [[tuple(flat[index] for index in dim) for dim in moved]]


def _early(before: Dims, after: Dims) -> list[Dims]:
    """Reshape, Transpose: where the result's dimensions are of neighbours."""
    return [before, _sorted(after), after] if _runs(after) else []


def _both(before: Dims, after: Dims) -> list[Dims]:
    """Reshape, Transpose, Reshape over the longest runs that stay together."""
    runs: Dims = []
    for place in (place for dim in after for place in dim):
        if runs and runs[-1][-1] + 1 == place:
            runs[-1] = (*runs[-1], place)
        else:
            runs.append((place,))
    return [before, sorted(runs), runs, after]
