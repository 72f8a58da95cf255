"""Inputs at other sizes of the dynamic dimensions, so that a size which an exporter baked in is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.numerics.difference import Array
from graphopt.numerics.feeds import make_feeds
from graphopt.numerics.ports import read_outline
from graphopt.numerics.ranges import Input, read_inputs

_MOST_ELEMENTS = 4
"""Times the elements of the first sample."""


def more_feeds(
    model: Path, first: Mapping[str, Array], bounds: Mapping[str, Sequence[Sequence[int]]]
) -> Iterator[dict[str, Array]]:
    """Feeds at one other size of each dynamic dimension: the profile's least or largest, else one more than the first.

    bounds: input name -> (least, typical, largest). Nothing for a model without dynamic dimensions.
    """
    inputs = read_inputs(read_outline(model))
    sizes: dict[str, int] = {}
    for port in inputs:
        for dim, size in zip(port.dims or (), np.shape(first.get(port.name, ())), strict=False):
            if isinstance(dim, str):
                sizes.setdefault(dim, size)
    if not sizes or any(port.kind != "tensor" for port in inputs):
        return
    limits = _limits(inputs, bounds)
    for plan in _plans(sizes, limits):
        shapes = {
            port.name: tuple(
                _size(dim, plan, old) for dim, old in zip(port.dims, np.shape(first[port.name]), strict=True)
            )
            for port in inputs
            if port.name in first and port.dims is not None
        }
        elements = sum(int(np.prod(dims)) for dims in shapes.values())
        if elements > _MOST_ELEMENTS * sum(np.size(value) for value in first.values()) + 4096:
            continue
        try:
            yield {name: np.asarray(value) for name, value in make_feeds(inputs, shapes, 1).items()}
        except GraphoptError:
            return


def _size(dim: Any, plan: Mapping[str, int], old: int) -> int:
    return dim if isinstance(dim, int) else plan.get(dim, old) if isinstance(dim, str) else old


def _limits(inputs: Sequence[Input], bounds: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for port in inputs:
        if port.name in bounds and port.dims is not None and len(bounds[port.name][0]) == len(port.dims):
            least, _, largest = bounds[port.name]
            for axis, dim in enumerate(port.dims):
                if isinstance(dim, str):
                    found.setdefault(dim, (least[axis], largest[axis]))
    return found


def _plans(sizes: Mapping[str, int], limits: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    if not limits:
        yield {name: size + 1 for name, size in sizes.items()}
        return
    for bound in (0, 1):
        plan = {name: limits[name][bound] if name in limits else size for name, size in sizes.items()}
        if plan != dict(sizes):
            yield plan
