"""Shapes at which a model is tried: the profile's, or several plausible assignments of its dynamic dims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.config import Dims, Shapes
from graphopt.errors import UsageError

from .ports import Dim, Port

_UNKNOWN_RANK: Dims = (2, 8)


@dataclass(frozen=True)
class _Sizes:
    batch: int
    height: int
    width: int
    length: int
    """Any other dimension."""


# Best first: sizes that most networks take, then odd ones, then large and degenerate ones.
_SIZES = (
    _Sizes(1, 32, 64, 8),
    _Sizes(2, 64, 96, 5),
    _Sizes(3, 47, 33, 1),
    _Sizes(2, 64, 64, 16),
    _Sizes(1, 48, 320, 32),
    _Sizes(1, 224, 224, 64),
    _Sizes(1, 1, 1, 1),
    _Sizes(1, 299, 299, 128),
    _Sizes(1, 640, 640, 80),
    _Sizes(1, 800, 800, 3),
)


def sample_shapes(inputs: Sequence[Port], profile: Shapes, count: int) -> list[dict[str, Dims]]:
    """Up to `count` different assignments, best first; a symbol has one size in all inputs of an assignment.

    profile: gives its typical, min and max shapes, then what lies between; inputs that it does not name follow its
    symbols. Without it, dynamic dims get small, odd and image-like sizes. Inputs with a default are left out.
    Raises UsageError where the profile does not fit the model.
    """
    _check(inputs, profile)
    required = [port for port in inputs if port.required or port.name in profile]
    found: list[dict[str, Dims]] = []
    for sizes, given in _plans(inputs, profile):
        symbols: dict[str, int] = {}
        for port in required:
            for dim, size in zip(port.dims or (), given.get(port.name, ()), strict=False):
                if isinstance(dim, str):
                    symbols.setdefault(dim, size)
        shapes = {port.name: given.get(port.name) or _assign(port, sizes, symbols) for port in required}
        if shapes not in found:
            found.append(shapes)
        if len(found) == count:
            break
    return found


def _plans(inputs: Sequence[Port], profile: Shapes) -> list[tuple[_Sizes, dict[str, Dims]]]:
    if not profile:
        return [(sizes, {}) for sizes in _SIZES]
    bounds = {port.name: profile.of(port.name) for port in inputs if port.name in profile}
    points: list[dict[str, Dims]] = [{name: bounds[name][i] for name in bounds} for i in (1, 0, 2)]
    for part in (0.25, 0.75):
        points.append({n: tuple(a + int((b - a) * part) for a, b in zip(lo, hi, strict=True))
                       for n, (lo, _, hi) in bounds.items()})  # fmt: skip
    # Inputs outside the profile keep one set of sizes first, so that a point fails for its own reason only.
    return [(sizes, point) for sizes in _SIZES for point in points]


def _check(inputs: Sequence[Port], profile: Shapes) -> None:
    ports = {port.name: port for port in inputs}
    for name in sorted({*profile.min, *profile.opt, *profile.max}):
        if name not in ports:
            raise UsageError(f"the model has no input {name!r}", hint=f"its inputs are: {', '.join(ports)}")
        for dims in profile.of(name):
            if problem := misfit(ports[name], dims):
                raise UsageError(f"shape {'x'.join(map(str, dims))} does not fit input {name!r}: {problem}")


def misfit(port: Port, shape: Dims) -> str:
    """Why a shape cannot be fed to the port; '' where it can."""
    if port.dims is None:
        return ""
    if len(port.dims) != len(shape):
        more = ": add the batch dimension" if len(shape) == len(port.dims) - 1 and _fits(port.dims, (1, *shape)) else ""
        return f"its rank is {len(port.dims)}, not {len(shape)}{more}"
    for axis, (dim, size) in enumerate(zip(port.dims, shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            last = len(shape) > 2 and _fits(port.dims, (shape[0], shape[-1], *shape[1:-1]))
            return f"dimension {axis} is {dim}, not {size}" + (": its channels come first" if last else "")
    return ""


def _fits(dims: Sequence[Dim], shape: Dims) -> bool:
    return all(not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True))


def _assign(port: Port, sizes: _Sizes, symbols: dict[str, int]) -> Dims:
    if port.dims is None:
        return _UNKNOWN_RANK
    return tuple(_size(port, axis, dim, sizes, symbols) for axis, dim in enumerate(port.dims))


def _size(port: Port, axis: int, dim: Dim, sizes: _Sizes, symbols: dict[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim is None:
        return _by_role(port, axis, "", sizes)
    if dim not in symbols:
        terms = [term.strip() for term in dim.split("+")]
        if len(terms) > 1 and all(term.isidentifier() or term.isdigit() for term in terms):
            # Exporters write the length of a cache and what is added to it as 'past + 1'.
            symbols[dim] = sum(int(t) if t.isdigit() else _size(port, axis, t, sizes, symbols) for t in terms)
        else:
            symbols[dim] = _by_role(port, axis, dim, sizes)
    return symbols[dim]


def _by_role(port: Port, axis: int, symbol: str, sizes: _Sizes) -> int:
    word = symbol.lower()
    if "batch" in word:
        return sizes.batch
    if "height" in word:
        return sizes.height
    if "width" in word:
        return sizes.width
    if any(part in word for part in ("seq", "len", "past", "time", "token")):
        return sizes.length
    rank = len(port.dims or ())
    if axis == 0 and rank > 1:
        return sizes.batch
    if rank in (4, 5) and port.dtype.kind in "fu":
        dims = port.dims or ()
        channels_last = dims[-1] in (1, 3, 4) and dims[1] not in (1, 3, 4)
        axes = range(1, rank - 1) if channels_last else range(2, rank)
        if axis in axes:
            return sizes.width if axis == axes[-1] else sizes.height
        return 3
    return sizes.length
