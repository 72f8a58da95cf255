"""What --freeze and --bind do to a model before anything else: inputs become narrower, or constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.config import Dims
from graphopt.errors import UsageError

from . import dtypes, shapes
from .graph import extras, new_constant, scopes
from .infer import forget


def _input(graph: gs.Graph, name: str, option: str) -> gs.Variable:
    for tensor in graph.inputs:
        if tensor.name == name:
            return tensor
    known = ", ".join(repr(tensor.name) for tensor in graph.inputs)
    raise UsageError(f"{option} {name}: the model has no such input", hint=f"inputs: {known}")


def freeze_dims(graph: gs.Graph, frozen: Mapping[str, Dims]) -> None:
    """Make inputs static; a symbol that gets a number gets it in every input.

    Raises:
        UsageError: no such input, another rank, or a number that contradicts the model or another --freeze.
    """
    if not frozen:
        return
    symbols: dict[str, int] = {}
    for name, dims in frozen.items():
        tensor = _input(graph, name, "--freeze")
        shape = shapes.of(tensor)
        if shape is not None and len(shape) != len(dims):
            raise UsageError(
                f"--freeze {name}: the input is {shapes.text(shape)}, of rank {len(shape)}, not {len(dims)}"
            )
        for axis, (old, new) in enumerate(zip(shape or (None,) * len(dims), dims, strict=True)):
            if isinstance(old, int) and old != new:
                raise UsageError(f"--freeze {name}: dimension {axis} of the input is {old}, not {new}")
            if isinstance(old, str) and symbols.setdefault(old, new) != new:
                raise UsageError(f"--freeze {name}: {old!r} would be both {symbols[old]} and {new}")
        tensor.shape = dims
    declared = [(tensor, shapes.of(tensor)) for tensor in (*graph.inputs, *graph.outputs)]
    forget(graph)
    for tensor, shape in declared:
        if shape is not None and isinstance(tensor, gs.Variable):
            tensor.shape = tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)


def _holds(cast: Any, given: Any) -> bool:
    """Whether a cast kept the values: fractions may be rounded to a float dtype, nothing may overflow."""
    if dtypes.is_float(cast.dtype) and given.dtype.kind == "f":
        return bool((np.isfinite(cast.astype(np.float64)) == np.isfinite(given)).all())
    return np.array_equal(cast.astype(given.dtype), given)


def bind_inputs(graph: gs.Graph, bound: Mapping[str, Any]) -> None:
    """Make inputs constants of the given values, in the input's dtype.

    Raises:
        UsageError: no such input, a value that its dtype cannot hold, or a shape that does not fit.
    """
    for name, value in bound.items():
        tensor = _input(graph, name, "--bind")
        dtype = dtypes.of(tensor)
        if dtype is None or tensor.type != "tensor_type":
            raise UsageError(f"--bind {name}: the input is no tensor of a known dtype")
        try:
            array = np.asarray(value)
            with np.errstate(all="ignore"):
                cast = array.astype(dtype)
                held = array.dtype.kind not in "biuf" or _holds(cast, array)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"--bind {name}: {value!r} is no {dtypes.name(dtype)}") from error
        if not held:
            raise UsageError(f"--bind {name}: {value!r} cannot be held by {dtypes.name(dtype)}")
        shape = shapes.of(tensor)
        if shape is not None:
            if cast.size == 1 and all(dim == 1 for dim in shape):
                cast = cast.reshape([1] * len(shape))
            fits = len(shape) == cast.ndim and all(
                not isinstance(d, int) or d == n for d, n in zip(shape, cast.shape, strict=True)
            )
            if not fits:
                raise UsageError(
                    f"--bind {name}: the input is {shapes.text(shape)}, the value {shapes.text(cast.shape)}"
                )
        constant = new_constant(name, cast)
        for node in list(tensor.outputs):
            for slot, read in enumerate(node.inputs):
                if read is tensor:
                    node.inputs[slot] = constant
        graph.inputs = [other for other in graph.inputs if other is not tensor]
        for scope in scopes(graph):
            scope.outputs[:] = [constant if out is tensor else out for out in scope.outputs]
        extras(tensor).default = None
    if bound:
        declared = [(tensor, shapes.of(tensor)) for tensor in graph.outputs]
        forget(graph)
        for tensor, shape in declared:
            if isinstance(tensor, gs.Variable):
                tensor.shape = shape
