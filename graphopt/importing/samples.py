"""Example inputs, and others at other sizes of the dynamic dimensions, so that a size which was baked in is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, UsageError, nearest
from graphopt.importer import ImportRequest
from graphopt.numerics.difference import Array
from graphopt.numerics.feeds import make_feeds
from graphopt.numerics.ports import read_outline
from graphopt.numerics.ranges import Input, read_inputs

_MOST_ELEMENTS = 4
"""Times the elements of the first sample."""


def example_inputs(request: ImportRequest, model: Path) -> dict[str, Array]:
    """The user's inputs, else random ones in a range that the ONNX model can take; in the model's order.

    Raises UsageError for inputs and shapes that the model does not have, or that do not fit.
    """
    ports = {one.name: one for one in read_inputs(read_outline(model)) if one.required or one.name in request.inputs}
    asked = {_only(name, ports): dims for name, dims in request.shapes.items()}
    given = {_only(name, ports): np.asarray(value) for name, value in request.inputs.items()}
    for name in [*asked, *given]:
        if name not in ports:
            hint = f"inputs: {', '.join(map(_described, ports.values()))}"
            raise UsageError(f"no input is named {name!r}", where=request.source, hint=nearest(name, ports, hint, 0.8))
    for name, array in given.items():
        _fit(request, ports[name], array.shape, f"the example for input {name!r}")
    shapes = {}
    for name, port in ports.items():
        dims = given[name].shape if name in given else asked.get(name, port.dims)
        if dims is None:
            hint = f"say it: --shapes {name}=1x3"
            raise UsageError(f"input {name!r} is of any rank", where=request.source, hint=hint)
        _fit(request, port, dims, f"--shapes {name}")
        shapes[name] = tuple(
            dim if isinstance(dim, int) else request.sizes.get(str(dim), _typical(axis, len(dims)))
            for axis, dim in enumerate(dims)
        )
    made = {} if len(given) == len(ports) else make_feeds(list(ports.values()), shapes, 0)
    return {name: given[name] if name in given else np.asarray(made[name]) for name in ports if name in {*given, *made}}


def _only(name: str, ports: Mapping[str, Input]) -> str:
    return next(iter(ports)) if name == "" and len(ports) == 1 else name


def _fit(request: ImportRequest, port: Input, dims: Sequence[Any], what: str) -> None:
    own = port.dims
    if own is not None and (
        len(own) != len(dims)
        or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(own, dims, strict=True))
    ):
        text = "x".join(map(str, dims)) or "a scalar"
        raise UsageError(f"{what} is {text}", where=request.source, hint=f"it takes {_described(port)}")


def _described(port: Input) -> str:
    dims = "..." if port.dims is None else ",".join("?" if dim is None else str(dim) for dim in port.dims)
    return f"{port.name} {port.dtype_name}[{dims}]"


def _typical(axis: int, rank: int) -> int:
    """The size of an open dimension in examples: 2 samples; 64 pixels; 8 steps or tokens."""
    return 2 if axis == 0 else 64 if rank == 4 else 8


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
