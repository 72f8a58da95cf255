"""A model's inputs as its framework declares them, with the shapes that the user asked for, and arrays that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphopt.errors import UsageError, nearest
from graphopt.importer import ImportRequest

Dim = int | str | None


@dataclass(frozen=True)
class Spec:
    """An input: its name, its dtype as numpy calls it, its dims (None: any size), or None where any rank is fine."""

    name: str
    dtype: str
    dims: tuple[Dim, ...] | None


def chosen(request: ImportRequest, specs: Sequence[Spec]) -> list[Spec]:
    """The specs with the user's shapes; what is still open gets a name: INPUT_AXIS.

    Raises UsageError for an unknown input, a wrong rank, a size that the model does not take, and any rank without one.
    """
    names = [spec.name for spec in specs]
    for name in [*request.shapes, *request.inputs]:
        if name == "" and len(specs) == 1:
            continue
        if name not in names:
            what = "the shape has no input name, and there are several" if name == "" else f"no input is named {name!r}"
            hint = f"inputs: {', '.join(map(described, specs))}"
            raise UsageError(what, where=request.source, hint=nearest(name, names, hint, 0.8) if name else hint)
    return [_chosen(request, spec, len(specs) == 1) for spec in specs]


def _chosen(request: ImportRequest, spec: Spec, only: bool) -> Spec:
    wanted: tuple[Dim, ...] | None = request.shapes.get(spec.name, request.shapes.get("") if only else None)
    if spec.dims is None:
        if wanted is None:
            example = request.inputs.get(spec.name)
            if example is None:
                hint = f"say it: --shapes {spec.name}=1x3"
                raise UsageError(f"input {spec.name!r} is of any rank", where=request.source, hint=hint)
            wanted = tuple(np.shape(example))
        return replace(spec, dims=wanted)
    if wanted is None:
        wanted = spec.dims
    hint = f"it takes {described(spec)}"
    if len(wanted) != len(spec.dims):
        raise UsageError(
            f"input {spec.name!r} is of rank {len(spec.dims)}, not {len(wanted)}", where=request.source, hint=hint
        )
    dims: list[Dim] = []
    for axis, (ours, own) in enumerate(zip(wanted, spec.dims, strict=True)):
        if isinstance(own, int) and isinstance(ours, int) and own != ours:
            raise UsageError(
                f"dimension {axis} of input {spec.name!r} is {own}, not {ours}", where=request.source, hint=hint
            )
        if isinstance(own, int):
            dims.append(own)
        elif ours is None:
            dims.append(f"{spec.name}_{axis}")
        else:
            dims.append(ours)
    return replace(spec, dims=tuple(dims))


def described(spec: Spec) -> str:
    """`image float32[?,224,224,3]`"""
    if spec.dims is None:
        return f"{spec.name} {spec.dtype}[...]"
    return f"{spec.name} {spec.dtype}[{','.join('?' if dim is None else str(dim) for dim in spec.dims)}]"


def batch_named(specs: Iterable[Spec], name: str = "batch") -> list[Spec]:
    """The specs with open first dims all named alike: frameworks whose first dimension is the batch promise that."""
    return [replace(s, dims=(name, *s.dims[1:])) if s.dims and s.dims[0] is None else s for s in specs]


def declare(model: onnx.ModelProto, specs: Sequence[Spec]) -> None:
    """Gives the ONNX inputs the dims of the specs, and drops what a converter guessed about all other values.

    Names that converters write for "unknown" go from the outputs, too; sizes stay.
    """
    del model.graph.value_info[:]
    by_name = {spec.name: spec for spec in specs}
    for value in model.graph.input:
        spec = by_name[value.name]
        tensor = value.type.tensor_type
        tensor.ClearField("shape")
        for dim in spec.dims or ():
            if isinstance(dim, str):
                tensor.shape.dim.add().dim_param = dim
            elif dim is None:
                tensor.shape.dim.add()
            else:
                tensor.shape.dim.add().dim_value = dim
        if not spec.dims:
            tensor.shape.SetInParent()
    for value in model.graph.output:
        for each in value.type.tensor_type.shape.dim:
            if each.dim_param:
                each.ClearField("dim_param")
