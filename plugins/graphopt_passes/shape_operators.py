"""Sizes of the results of operators that arrange axes in a way of their own, from the sizes of their operands.

Each function gives the sizes of output `number`; None in the place of a size that the operands do not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from .einsum import terms
from .partly_known import Element

if TYPE_CHECKING:
    from .shape_facts import Facts

Dims = Sequence[Element | None] | None
Sizes = Callable[["Facts", gs.Node, int, tuple[Element, ...]], Dims]


def _einsum(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    """A letter is as long as where it stands; where it stands several times, sizes of 1 are repeated."""
    found = terms(node.attrs.get("equation", ""), len(node.inputs))
    known = [facts.dims(tensor) for tensor in node.inputs]
    if found is None:
        return None
    columns: dict[str, list[Element]] = {}
    for term, dims in zip(found[0], known, strict=True):
        if dims is None or len(dims) != len(term):
            return None
        for letter, dim in zip(term, dims, strict=True):
            columns.setdefault(letter, []).append(dim)
    return [facts.numbers.broadcast(columns[letter]) for letter in found[1]]


def _flatten(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    axis = node.attrs.get("axis", 1)
    axis = axis + len(first) if axis < 0 else axis
    return [facts.numbers.product(first[:axis]), facts.numbers.product(first[axis:])]


def _arg(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    axis = node.attrs.get("axis", 0) % len(first)
    return [*first[:axis], *([1] if node.attrs.get("keepdims", 1) else []), *first[axis + 1 :]]


def _pooled(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    return [*first[:2], *([1] * (len(first) - 2))]


def _sampled(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    grid = facts.dims(node.inputs[1])
    return None if grid is None or len(grid) != len(first) else [*first[:2], *grid[1:-1]]


def _top(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    axis = node.attrs.get("axis", -1) % len(first)
    return [*first[:axis], None, *first[axis + 1 :]]


def _batch(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    return [first[0]] + [None] * (len(first) - 1)


def _recurrent(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    if node.attrs.get("layout", 0) or len(first) != 3:
        return None
    return [first[0], None, first[1], None] if number == 0 else [None, first[1], None]


def _larger(facts: Facts, node: gs.Node, number: int, first: tuple[Element, ...]) -> Dims:
    block = node.attrs["blocksize"]
    count, _, height, width = first
    return [count, None, facts.numbers.compute("Mul", height, block), facts.numbers.compute("Mul", width, block)]


SIZES: dict[str, Sizes] = {
    "Einsum": _einsum,
    "Flatten": _flatten,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _pooled,
    "GridSample": _sampled,
    "TopK": _top,
    "ConvTranspose": _batch,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DepthToSpace": _larger,
}
