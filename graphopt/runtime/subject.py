"""What `run`, `bench` and `profile` are about: a model or an engine, and inputs for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.config import Dims, Shapes
from graphopt.errors import UsageError
from graphopt.ir import dtypes
from graphopt.numerics.feeds import make_feeds
from graphopt.numerics.npz import check_feeds, load_npz
from graphopt.numerics.ports import Port as ModelPort
from graphopt.numerics.ports import read_outline
from graphopt.numerics.ranges import Input, read_inputs
from graphopt.numerics.shapes import sample_shapes

from .ports import Port


def is_model(path: Path) -> bool:
    """Whether it is an ONNX model, by its name; everything else is an engine."""
    return path.suffix in (".onnx", ".onnxtxt", ".pb", ".textproto", ".json")


def inputs_of(
    ports: Mapping[str, Port] | None,
    model: Path | None,
    *,
    given: str | None = None,
    shapes: Mapping[str, Dims] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Arrays for every input: from an .npz file, else seeded, in ranges that the model's operators can take.

    ports: of the engine that is to run, whose dtypes and typical shapes then count. model: the source, if known.
    Raises UsageError.
    """
    known: list[Input] = read_inputs(read_outline(model)) if model is not None else []
    if ports is not None:
        values = {one.name: one for one in known}
        known = [_as_input(port, values.get(name)) for name, port in ports.items()]
    if given is not None:
        return dict(load_npz(given, known))
    wanted = dict(shapes or {})
    if unknown := [name for name in wanted if name not in {one.name for one in known}]:
        raise UsageError(f"there is no input {unknown[0]!r}", where="--shapes")
    for name, port in (ports or {}).items():
        if name not in wanted and port.profiles and not port.is_host:
            wanted[name] = port.profiles[0][1]
    dims = sample_shapes(known, Shapes(opt=wanted), 1)[0]
    feeds = {name: np.asarray(value) for name, value in make_feeds(known, dims, seed).items()}
    return dict(check_feeds(feeds, known))


def _as_input(port: Port, known: Input | None) -> Input:
    dims = tuple(None if dim < 0 else dim for dim in port.dims)
    values = {} if known is None else {"values": known.values}
    if port.is_host and port.profiles:
        raise UsageError(
            f"the values of input {port.name!r} decide shapes: they cannot be made up", hint="give --inputs FILE.npz"
        )
    return Input(port.name, dtypes.to_onnx(port.dtype), dims, **values)  # type: ignore[arg-type]


def ports_of(model: Path) -> list[ModelPort]:
    """The inputs of a model."""
    return list(read_inputs(read_outline(model)))


def batch_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """The common first dimension of all inputs; 1 where they have none."""
    found = {array.shape[0] for array in arrays.values() if array.ndim}
    return int(found.pop()) if len(found) == 1 else 1
