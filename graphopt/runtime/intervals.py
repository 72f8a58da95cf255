"""Least, typical and largest shape of every value that crosses a border between parts: the inner engines' profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_graphsurgeon as gs

from graphopt.config import Dims, Shapes
from graphopt.errors import BackendError, UsageError
from graphopt.ir import dtypes
from graphopt.ir import shapes as dims_of
from graphopt.layers.facts import known, outputs_of
from graphopt.layers.tensor import Size, Tensor

from .partition import EnginePart, KernelPart, Partition

Interval = tuple[Dims, Dims, Dims]
OutputShapes = Callable[[EnginePart, Mapping[str, Dims]], Mapping[str, Dims]]
"""The shapes of a part's outputs at these shapes of its inputs; -1 where a size depends on data."""


def intervals(found: Partition, shapes: Shapes, ask: OutputShapes) -> dict[str, Interval]:
    """(least, typical, largest) shape of every value on a border, from those of the model's inputs.

    A size that is a symbol of an input has the input's bounds. Any other is worked out at the least, the typical and
    the largest shapes of the part's inputs: by the layer's `infer`, or by `ask` (the backend's parser). A size that
    lies outside of these three for shapes in between is refused by the engine when it is called.

    Raises:
        UsageError: an input's shape is missing.
        BackendError: a size depends on data, so that nothing bounds it.
    """
    bounds: dict[str, Interval] = {}
    symbols: dict[str, tuple[int, int, int]] = {}
    for name in found.inputs:
        bounds[name] = _input(found.tensors[name], shapes)
        for dim, *three in zip(dims_of.of(found.tensors[name]) or (), *bounds[name], strict=True):
            if isinstance(dim, str) and dims_of.same_dim(dim, dim):
                symbols.setdefault(dim, (three[0], three[1], three[2]))
    for part in found.parts:
        if isinstance(part, KernelPart):
            bounds.update(_kernel(part, bounds))
            continue
        outputs = {name: _by_symbols(found.tensors[name], symbols) for name in part.outputs}
        if any(one is None for one in outputs.values()):
            points = [ask(part, {name: bounds[name][at] for name in part.inputs}) for at in range(3)]
            for name in part.outputs:
                outputs[name] = outputs[name] or _spanned(name, [point[name] for point in points])
        bounds.update({name: one for name, one in outputs.items() if one is not None})
    return bounds


def decides_shapes(name: str) -> BackendError:
    """Such a value would have to be in host memory while the parts are queued."""
    return BackendError(
        "its values decide shapes in an engine, which segments do not support",
        where=f"value {name!r}",
        hint="make it a constant with --bind, or build with --segments never",
    )


def _input(tensor: gs.Variable, shapes: Shapes) -> Interval:
    dims = dims_of.of(tensor) or ()
    if tensor.name in shapes:
        bounds = shapes.of(tensor.name)
        if len(bounds[1]) != len(dims):
            raise decides_shapes(tensor.name)
        return bounds
    if not dims_of.is_static(dims):
        raise UsageError(
            f"the shape of {tensor.name}[{dims_of.text(dims)}] is known only at run time: say a typical one",
            hint=f"--shapes {tensor.name}={'x'.join(str(dim) if isinstance(dim, int) else '1' for dim in dims)}",
        )
    fixed = tuple(dim for dim in dims if isinstance(dim, int))
    return fixed, fixed, fixed


def _by_symbols(tensor: gs.Variable, symbols: Mapping[str, tuple[int, int, int]]) -> Interval | None:
    found = []
    for dim in dims_of.of(tensor) or ():
        if isinstance(dim, int):
            found.append((dim, dim, dim))
        elif isinstance(dim, str) and dim in symbols:
            found.append(symbols[dim])
        else:
            return None
    low, typical, high = (tuple(three[at] for three in found) for at in range(3))
    return low, typical, high


def _spanned(name: str, points: list[Dims]) -> Interval:
    if any(dim < 0 for dims in points for dim in dims):
        raise BackendError(
            "its size depends on data, or on the values of an input: no profile can bound it for the next part",
            where=f"value {name!r}",
            hint="build without segments: --segments never",
        )
    columns = list(zip(*points, strict=True))
    low, high = (tuple(pick(column) for column in columns) for pick in (min, max))
    return low, points[1], high


def _kernel(part: KernelPart, bounds: Mapping[str, Interval]) -> dict[str, Interval]:
    points: list[list[Dims]] = []
    for at in range(3):
        tensors: dict[str, Tensor | None] = dict.fromkeys(part.layer.inputs)
        for name, tensor in part.given.items():
            told = known(tensor)
            if isinstance(tensor, gs.Constant):
                tensors[name] = told
            else:
                dtype = dtypes.of(tensor)
                assert dtype is not None  # partition() has seen to it
                tensors[name] = Tensor(dtype, bounds[tensor.name][at])
        points.append([tuple(_size(dim, at) for dim in one.shape) for one in outputs_of(part.layer, tensors)])
    return {name: _spanned(name, [point[slot] for point in points]) for slot, name in enumerate(part.outputs)}


def _size(dim: object, at: int) -> int:
    if isinstance(dim, Size):
        upper = int(dim.upper)
        return (0, upper if dim.typical is None else int(dim.typical), upper)[at]
    return int(dim)  # type: ignore[call-overload, no-any-return]
