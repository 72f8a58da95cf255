"""Batches made of requests: which rows belong together, how they are joined, and how results are cut apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir import dtypes

Arrays = dict[str, Any]


class Port(Protocol):
    """What is known of an input or output."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def dims(self) -> Sequence[int]:
        """-1 where it is known only at run time."""

    @property
    def profiles(self) -> Sequence[Sequence[Sequence[int]]]:
        """Of an input: (least, typical, largest) shape in each optimization profile."""


class Runner(Protocol):
    """What batches are given to: an Engine, or whatever is called like one."""

    @property
    def inputs(self) -> Mapping[str, Port]: ...

    @property
    def outputs(self) -> Mapping[str, Port]: ...

    def __call__(self, feeds: Mapping[str, Any], /) -> Mapping[str, Any]: ...


class Axes:
    """Where the rows of each input and output lie, and how many of them the engine takes at once.

    axis: the batch axis, of all, or by name. shared: inputs that have no rows, given once for all requests.

    Raises UsageError where an input or output has no such axis, or not of a free size.
    """

    def __init__(
        self, runner: Runner, axis: int | Mapping[str, int], shared: Mapping[str, Any], batch: int | None
    ) -> None:
        self.shared = dict(shared)
        known = {*runner.inputs, *runner.outputs}
        for name in {*(axis if isinstance(axis, Mapping) else ()), *shared} - known:
            raise UsageError(f"the engine has no input or output {name!r}", hint=f"it has {', '.join(sorted(known))}")
        self.ports = {name: port for name, port in runner.inputs.items() if name not in shared}
        self.axis = {
            name: _axis(name, port, axis.get(name, 0) if isinstance(axis, Mapping) else axis)
            for name, port in {**self.ports, **runner.outputs}.items()
        }
        if not self.ports:
            raise UsageError("every input is shared: there are no rows to batch")
        fixed = {port.dims[self.axis[name]] for name, port in self.ports.items()}
        self._check_outputs(runner, fixed)
        low, typical, high = self._bounds()
        if len(fixed - {-1}) > 1:
            raise UsageError(f"the inputs hold {' and '.join(map(str, sorted(fixed)))} rows: these are no batches")
        self.least, self.most = low, high
        self.batch = batch if batch is not None else typical
        if self.batch < low or (high and self.batch > high):
            raise UsageError(f"batches of {self.batch} rows: the engine takes {low} to {high}")

    def _check_outputs(self, runner: Runner, fixed: set[int]) -> None:
        for name, port in runner.outputs.items():
            at = self.axis[name]
            if port.dims[at] not in (-1, *fixed):
                raise UsageError(
                    f"output {name!r} has {port.dims[at]} elements on axis {at} for any number of rows",
                    hint=f"say where its rows are: axis={{{name!r}: ...}}; it has the dims {list(port.dims)}",
                )

    def _bounds(self) -> tuple[int, int, int]:
        """(least, typical, largest) rows over all profiles; largest is 0 where nothing bounds them."""
        found = []
        for name, port in self.ports.items():
            at = self.axis[name]
            if port.dims[at] >= 0:
                found.append((port.dims[at],) * 3)
            elif port.profiles:
                bounds = [[int(shape[at]) for shape in one] for one in port.profiles]
                found.append((min(b[0] for b in bounds), max(b[1] for b in bounds), max(b[2] for b in bounds)))
        if not found:
            return 1, 8, 0
        low, typical, high = zip(*found, strict=True)
        return max(1, *low), min(typical), min(high)

    def check(self, feeds: Mapping[str, Any]) -> int:
        """The number of rows of a request. Raises UsageError where it does not fit the engine."""
        if feeds.keys() != self.ports.keys():
            missing, extra = self.ports.keys() - feeds.keys(), feeds.keys() - self.ports.keys()
            what = f"input {min(missing)!r} is missing" if missing else f"the engine has no input {min(extra)!r}"
            raise UsageError(what, hint=f"inputs: {', '.join(self.ports)}")
        counts = {}
        for name, value in feeds.items():
            port, at = self.ports[name], self.axis[name]
            kind = str(value.dtype).removeprefix("torch.")
            if kind != str(port.dtype) and kind != dtypes.name(port.dtype):
                raise UsageError(f"input {name!r} is {kind}, the engine takes {port.dtype}", hint="convert it first")
            shape = tuple(value.shape)
            fits = len(shape) == len(port.dims) and all(
                want in (-1, dim) or axis == at for axis, (want, dim) in enumerate(zip(port.dims, shape, strict=True))
            )
            if not fits:
                raise UsageError(f"input {name!r} has the shape {list(shape)}, the engine takes {list(port.dims)}")
            counts[name] = shape[at]
        if len(set(counts.values())) > 1:
            raise UsageError(f"the inputs of one request differ in rows: {counts}")
        rows = int(next(iter(counts.values())))
        if rows == 0:
            raise UsageError("the request has no rows")
        return rows

    def key(self, feeds: Mapping[str, Any]) -> Any:
        """Requests of one key can be joined: what they differ in is the number of rows."""
        return tuple(
            (name, kind_of(value), *(dim for at, dim in enumerate(value.shape) if at != self.axis[name]))
            for name, value in sorted(feeds.items())
        )

    def of_size(self, feeds: Mapping[str, np.ndarray[Any, Any]], rows: int) -> dict[str, np.ndarray[Any, Any]]:
        """So many rows of these, repeated where there are fewer."""
        return {
            name: np.take(value, np.arange(rows) % value.shape[self.axis[name]], self.axis[name])
            if name in self.ports
            else value
            for name, value in feeds.items()
        }

    def cut(self, name: str, value: Any, start: int, stop: int) -> Any:
        """Rows start to stop, as a view."""
        at = self.axis[name]
        if start == 0 and stop == value.shape[at]:
            return value
        return value[(slice(None),) * at + (slice(start, stop),)]

    def join(self, name: str, pieces: Sequence[Any], rows: int) -> Any:
        """The pieces one after the other, and the last row again until there are so many rows."""
        at = self.axis[name]
        lacking = rows - sum(piece.shape[at] for piece in pieces)
        if not lacking and len(pieces) == 1:
            return pieces[0]
        last = pieces[-1].shape[at]
        again = self.cut(name, pieces[-1], last - 1, last)
        return concatenate([*pieces, *[again] * lacking], at)

    def apart(self, results: Mapping[str, Any], rows: int) -> Callable[[int, int], Arrays]:
        """Rows start to stop of every output. Raises GraphoptError where an output has another number of rows."""
        for name, value in results.items():
            found = value.shape[self.axis[name]] if len(value.shape) > self.axis[name] else None
            if found != rows:
                raise GraphoptError(
                    f"output {name!r} has the shape {list(value.shape)} for {rows} rows: it cannot be split",
                    hint="its rows are not those of the inputs; run it without batching",
                )
        return lambda start, stop: {name: self.cut(name, value, start, stop) for name, value in results.items()}


def _axis(name: str, port: Port, axis: int) -> int:
    rank = len(port.dims)
    if not -rank <= axis < rank:
        raise UsageError(
            f"{name!r} has {rank} axes, so no rows on axis {axis}",
            hint="an input that all requests share is given once with shared=; such an output cannot be batched",
        )
    return axis % rank


def kind_of(value: Any) -> str:
    """'numpy', 'cupy' or 'torch'."""
    return type(value).__module__.partition(".")[0]


def concatenate(pieces: Sequence[Any], axis: int) -> Any:
    """Arrays of one kind, one after the other."""
    kind = kind_of(pieces[0])
    if kind == "torch":
        import torch

        return torch.cat(list(pieces), dim=axis)
    if kind == "cupy":
        import cupy

        return cupy.concatenate(pieces, axis=axis)
    return np.concatenate(pieces, axis=axis)


def padded_sizes(least: int, batch: int) -> tuple[int, ...]:
    """least, the powers of two above it, and batch: few enough that each may have a CUDA graph of its own."""
    found = {least, batch}
    size = 1
    while size < batch:
        if size > least:
            found.add(size)
        size *= 2
    return tuple(sorted(found))


def smallest(sizes: Iterable[int], rows: int) -> int:
    """The least size that holds so many rows."""
    return next(size for size in sizes if size >= rows)
