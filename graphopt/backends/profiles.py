"""From the shapes that were asked for to the optimization profile of a network. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.config import Dims, Shapes
from graphopt.errors import UsageError

from .protocol import TensorInfo

Profile = dict[str, tuple[Dims, Dims, Dims]]
_BOUNDS = ("--min-shapes", "--shapes", "--max-shapes")


def profile(inputs: Mapping[str, TensorInfo], shapes: Shapes) -> Profile:
    """(min, typical, max) of each input that needs them: dimensions, or for a shape tensor its values.

    Raises UsageError if a shape is missing, names no input, or contradicts the model.
    """
    unknown = sorted({*shapes.min, *shapes.opt, *shapes.max} - inputs.keys())
    if unknown:
        raise UsageError(
            f"the model has no input {unknown[0]!r}", hint=f"its inputs: {', '.join(map(_describe, inputs.items()))}"
        )
    for name, info in inputs.items():
        if name in shapes:
            _check(name, info, shapes)
    missing = [name for name, info in inputs.items() if _is_open(info) and name not in shapes]
    if missing:
        raise UsageError(
            f"the shape of {_describe((missing[0], inputs[missing[0]]))} is known only at run time: "
            "the builder needs a typical one",
            hint=f"add (and adapt the numbers): {example(inputs, missing)}",
        )
    found = {name: shapes.of(name) for name, info in inputs.items() if _is_open(info)}
    _check_symbols(inputs, found)
    return found


def example(inputs: Mapping[str, TensorInfo], names: list[str]) -> str:
    """The words that give these inputs a shape: '--shapes x=1x3x224x224'; one symbol gets one number everywhere."""
    known: dict[str, int] = {}
    words = []
    for name in names:
        info = inputs[name]
        dims = (
            (1,) * _values(info)
            if info.is_shape
            else tuple(_guess(info, axis, known) for axis in range(len(info.dims)))
        )
        words.append(f"--shapes {name}={'x'.join(map(str, dims))}")
    return " ".join(words)


def placeholders(inputs: Mapping[str, TensorInfo]) -> list[tuple[str, int]]:
    """(input, axis) of each dimension whose name is a mere placeholder that an earlier dimension also bears.

    Exporters write '?' for every dimension that they do not know, while a builder takes equal names for equal sizes.
    """
    seen: set[str] = set()
    found = []
    for name, info in inputs.items():
        for axis, symbol in enumerate(info.names):
            if symbol and not _is_symbol(symbol):
                if symbol in seen:
                    found.append((name, axis))
                seen.add(symbol)
    return found


def _check(name: str, info: TensorInfo, shapes: Shapes) -> None:
    for option, bound in zip(_BOUNDS, (shapes.min, shapes.opt, shapes.max), strict=True):
        if name not in bound:
            continue
        dims = bound[name]
        given = f"{option} {name}={'x'.join(map(str, dims))}"
        if info.is_shape:
            if len(dims) != _values(info):
                raise UsageError(
                    f"{given} gives {len(dims)} values, but {_describe((name, info))} holds {_values(info)}",
                    hint="this input decides shapes: give its values, like dimensions",
                )
        elif len(dims) != len(info.dims):
            raise UsageError(f"{given} has {len(dims)} dimensions, but the model says {_describe((name, info))}")
        elif any(fixed not in (-1, dim) for fixed, dim in zip(info.dims, dims, strict=True)):
            raise UsageError(f"{given} contradicts the model, which says {_describe((name, info))}")


def _check_symbols(inputs: Mapping[str, TensorInfo], found: Profile) -> None:
    for option, bound in zip(_BOUNDS, range(3), strict=True):
        sizes: dict[str, tuple[int, str]] = {}
        for name, bounds in found.items():
            info = inputs[name]
            if info.is_shape:
                continue
            for symbol, dim in zip(info.names, bounds[bound], strict=False):
                first, owner = sizes.setdefault(symbol, (dim, name))
                if _is_symbol(symbol) and first != dim:
                    raise UsageError(
                        f"dimension {symbol!r} is {first} in input {owner!r} and {dim} in input {name!r} ({option})",
                        hint="the model says that they are equal: give both the same size",
                    )


def _is_symbol(name: str) -> bool:
    return any(letter.isalpha() for letter in name)


def _is_open(info: TensorInfo) -> bool:
    return info.is_shape or -1 in info.dims


def _values(info: TensorInfo) -> int:
    return info.dims[0] if info.dims else 1


def _guess(info: TensorInfo, axis: int, known: dict[str, int]) -> int:
    if info.dims[axis] != -1:
        return info.dims[axis]
    rank = len(info.dims)
    size = 1 if axis == 0 else 128 if rank < 4 else 3 if axis == 1 else 224
    symbol = info.names[axis] if info.names else ""
    return known.setdefault(symbol, size) if _is_symbol(symbol) else size


def _describe(item: tuple[str, TensorInfo]) -> str:
    name, info = item
    names = info.names or ("",) * len(info.dims)
    dims = [str(dim) if dim != -1 else symbol or "?" for dim, symbol in zip(info.dims, names, strict=True)]
    return f"{name}[{', '.join(dims)}]"
