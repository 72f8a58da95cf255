"""Example inputs of a module: given, or made from shapes, dtypes and names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from graphopt.errors import UsageError
from graphopt.importer import ImportRequest

from .sources import Read

_INTEGERS = re.compile(r"(^|_)(ids?|index|indices|tokens?|labels|positions?)$")
_MASK = re.compile(r"mask$")
_ORDINARY = (2, 8, 64, 96, 16, 24)
"""Sizes of dynamic dimensions, by axis: never 0 or 1, which an exporter would take for a constant."""


@dataclass
class Examples:
    """Arguments of the call, and the dynamic dimensions of each tensor by its place among all leaves."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    names: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Parameter -> dims, for those that are tensors and were given a shape."""
    notes: list[str] = field(default_factory=list)


def examples(found: Read, request: ImportRequest, dtypes: Mapping[str, str]) -> Examples:
    """From --inputs; else the source's own, at the asked shapes; else made up. Raises UsageError."""
    known = parameters(found)
    shapes = {_named(name, known, found): dims for name, dims in request.shapes.items()}
    made = Examples()
    own = dict(found.kwargs)
    for position, value in enumerate(found.args):
        own[known[position].name if position < len(known) else f"args_{position}"] = value
    given = {_named(name, known, found): torch.from_numpy(np.array(value)) for name, value in request.inputs.items()}
    if isinstance(found.thing, torch.nn.Module):
        needed = [one.name for one in known if one.default is one.empty]
    else:
        needed = [one.name for one in known]
    wanted = [one.name for one in known if one.name in {*given, *own, *shapes, *needed}]
    wanted += [name for name in own if name not in wanted]
    values: dict[str, Any] = {}
    for name in wanted:
        values[name] = _value(name, given, own, shapes, dtypes, found, request, made)
    _same_sizes(shapes, values)
    made.names = {name: dims for name, dims in shapes.items() if isinstance(values.get(name), torch.Tensor)}
    kinds = {one.name: one.kind for one in known}
    positional = [name for name in values if kinds.get(name) is not inspect.Parameter.KEYWORD_ONLY]
    if found.is_program or found.is_script or any(name not in kinds for name in values):
        keywords = set(found.kwargs)
        made.args = tuple(values[name] for name in values if name not in keywords)
        made.kwargs = {name: values[name] for name in values if name in keywords}
    else:
        leading = 0
        while leading < len(positional) and positional[leading] == known[leading].name:
            leading += 1
        made.args = tuple(values[name] for name in positional[:leading])
        made.kwargs = {name: value for name, value in values.items() if name not in positional[:leading]}
    return made


def parameters(found: Read) -> list[inspect.Parameter]:
    """What the call takes, without catch-alls."""
    if found.is_program:
        count = len(found.args)
        names = [*_program_names(found.thing)[:count], *found.kwargs]
        return [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    if found.is_script:
        schema = found.thing.forward.schema
        plain = [one for one in schema.arguments if one.name != "self"]
        return [
            inspect.Parameter(
                one.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=one.default_value if one.has_default_value() else inspect.Parameter.empty,
            )
            for one in plain
        ]
    listed = inspect.signature(found.thing.forward).parameters.values()
    return [one for one in listed if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def _program_names(program: Any) -> list[str]:
    return [str(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]


def _named(name: str, known: Sequence[inspect.Parameter], found: Read) -> str:
    names = [one.name for one in known]
    if not name and names:
        required = [one.name for one in known if one.default is one.empty]
        if len(required) > 1:
            raise UsageError(
                f"the model has {len(required)} inputs", where="--shapes", hint=f"name each: {', '.join(required)}"
            )
        return names[0]
    if name not in names and not (found.args and re.fullmatch(r"args_\d+", name)):
        raise UsageError(
            f"the model has no input {name!r}", where="--shapes or --inputs", hint=f"its inputs are: {', '.join(names)}"
        )
    return name


def _value(
    name: str, given: Mapping[str, Any], own: Mapping[str, Any], shapes: Mapping[str, Any], dtypes: Mapping[str, str],
    found: Read, request: ImportRequest, made: Examples,
) -> Any:  # fmt: skip
    if name in given:
        if name in shapes:
            _fits(name, given[name].shape, shapes[name])
        return given[name]
    example = own.get(name)
    if name not in shapes:
        if name in own:
            return example
        raise UsageError(
            f"input {name!r} has no example and no shape",
            where=request.source,
            hint=f"give --shapes {name}=1x3x224x224 (names for dynamic dimensions: Nx3x224x224), or --inputs FILE.npz, "
            "or return (module, example inputs)",
        )
    dims = shapes[name]
    if isinstance(example, torch.Tensor):
        if len(dims) != example.dim():
            raise UsageError(f"input {name!r} has {example.dim()} dimensions, not {len(dims)}", where="--shapes")
        size = tuple(
            dim if isinstance(dim, int) else request.sizes.get(dim, max(2, have))
            for dim, have in zip(dims, example.shape, strict=True)
        )
        return example if size == tuple(example.shape) else _random(name, size, example.dtype, found)
    size = tuple(dim if isinstance(dim, int) else _size(dim, axis, dims, request) for axis, dim in enumerate(dims))
    dtype = _dtype(name, dtypes, found, made)
    return _random(name, size, dtype, found)


def _size(dim: str, axis: int, dims: Sequence[int | str], request: ImportRequest) -> int:
    wanted = request.sizes.get(dim)
    if wanted is not None and wanted > 1:
        return wanted
    if axis and len(dims) <= 3:
        return 8 * axis
    return _ORDINARY[min(axis, len(_ORDINARY) - 1)]


def _dtype(name: str, dtypes: Mapping[str, str], found: Read, made: Examples) -> torch.dtype:
    if name in dtypes:
        dtype = getattr(torch, dtypes[name], None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(f"torch has no dtype {dtypes[name]!r}", where="--import-option dtypes")
        return dtype
    if _INTEGERS.search(name) or _MASK.search(name):
        made.notes.append(f"input {name} is int64, by its name; --import-option dtypes={name}=... says otherwise")
        return torch.int64
    floats = {one.dtype for one in _weights(found) if one.dtype.is_floating_point}
    return floats.pop() if len(floats) == 1 else torch.float32


def _weights(found: Read) -> list[torch.Tensor]:
    return list(found.thing.parameters()) if hasattr(found.thing, "parameters") else []


def _random(name: str, size: Sequence[int], dtype: torch.dtype, found: Read) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(tuple(size), generator=generator).to(dtype)
    if _MASK.search(name) or dtype is torch.bool:
        return torch.ones(tuple(size), dtype=dtype)
    modules = found.thing.modules() if isinstance(found.thing, torch.nn.Module) else ()
    limits = [one.num_embeddings for one in modules if isinstance(one, torch.nn.Embedding)]
    return torch.randint(0, max(1, min([*limits, 1000])), tuple(size), generator=generator).to(dtype)


def _fits(name: str, shape: Sequence[int], dims: Sequence[int | str]) -> None:
    fixed = all(isinstance(dim, str) or dim == size for dim, size in zip(dims, shape, strict=False))
    if len(shape) != len(dims) or not fixed:
        text = "x".join(map(str, dims))
        raise UsageError(f"input {name!r} is {'x'.join(map(str, shape))} in --inputs and {text} in --shapes")


def _same_sizes(shapes: Mapping[str, tuple[int | str, ...]], values: Mapping[str, Any]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, dims in shapes.items():
        for dim, size in zip(dims, getattr(values.get(name), "shape", ()), strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, (size, name))[0] != size:
                raise UsageError(
                    f"dimension {dim} is {sizes[dim][0]} in input {sizes[dim][1]!r} and {size} in {name!r}",
                    where="--shapes",
                )
