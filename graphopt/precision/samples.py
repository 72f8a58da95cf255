"""Samples to measure with: what the user brings, checked before any work, or seeded random ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.config import Shapes
from graphopt.errors import UsageError
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.feeds import make_feeds
from graphopt.numerics.npz import check_feeds, load_npz
from graphopt.numerics.ports import Port, input_ports
from graphopt.numerics.ranges import read_inputs
from graphopt.numerics.shapes import sample_shapes

from .foreign import function_of
from .observe import Feeds

_HINT = "give an .npz file, a folder of them, or MODULE:FUNCTION (FILE.py:FUNCTION) that yields {input name: array}"


class Samples:
    """Samples that can be gone through again and again, one in memory at a time.

    Raises UsageError for what does not fit the model: names, dtypes, shapes, NaN, infinity, nothing at all.
    """

    def __init__(self, source: str | os.PathLike[str] | Iterable[Mapping[str, Any]], model: onnx.ModelProto) -> None:
        self.ports = input_ports(model)
        self.where = "--calib"
        self._make = self._opened(source)
        self.count = 0
        self._range: dict[str, tuple[float, float]] = {}
        for feeds in self:
            for name, value in feeds.items():
                _check(name, np.asarray(value), f"{self.where}, sample {self.count}")
            self.count += 1
            self._look(feeds)
        if not self.count:
            raise UsageError("there is no sample in it", where=self.where, hint=self._what_is_there() or _HINT)

    def __iter__(self) -> Iterator[Feeds]:
        return self._make()

    def __len__(self) -> int:
        return self.count

    @property
    def notes(self) -> list[str]:
        """What is allowed, and is hardly meant."""
        flat = [name for name, (low, high) in self._range.items() if low == high]
        return [f"input {name!r} is {self._range[name][0]:g} everywhere in all samples: are these real ones?"
                for name in flat]  # fmt: skip

    def _look(self, feeds: Feeds) -> None:
        for name, value in feeds.items():
            array = np.asarray(value)
            if array.dtype.kind == "f" and array.size > 1:
                low, high = self._range.get(name, (np.inf, -np.inf))
                self._range[name] = (min(low, float(array.min())), max(high, float(array.max())))

    def _what_is_there(self) -> str:
        folder = Path(self.where.removeprefix("--calib "))
        names = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        if not names:
            return ""
        fix = (
            "write each sample with numpy.savez(file, **{input name: array}), or give FILE.py:FUNCTION that reads them"
        )
        return f"no file in the folder is an .npz ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): {fix}"

    def _opened(self, source: Any) -> Callable[[], Iterator[Feeds]]:
        if not isinstance(source, (str, os.PathLike)):
            held = list(source)
            return lambda: (self._checked(one, "sample") for one in held)
        text = os.fspath(source)
        self.where = f"--calib {text}"
        path = Path(text)
        if path.is_dir():
            files = sorted(path.glob("*.npz"))
            return lambda: (_loaded(one, self.ports) for one in files)
        if path.suffix == ".npz" or path.is_file():
            return lambda: iter([_loaded(path, self.ports)])
        module, mark, name = text.rpartition(":")
        if not mark or not module or not name:
            raise UsageError("no such file or folder", where=self.where, hint=_HINT)
        function = _function(module, name, self.where)
        return lambda: (self._checked(one, f"sample {i}") for i, one in enumerate(_called(function, self.where)))

    def _checked(self, one: Any, what: str) -> Feeds:
        if not isinstance(one, Mapping):
            kind = type(one).__name__
            raise UsageError(f"{what} is a {kind}, not {{input name: array}}", where=self.where)
        return check_feeds({name: np.asarray(value) for name, value in one.items()}, self.ports, where=self.where)


def _loaded(path: Path, ports: Sequence[Port]) -> Feeds:
    return load_npz(path, ports)


def _check(name: str, array: np.ndarray[Any, Any], where: str) -> None:
    if array.size == 0:
        raise UsageError(f"input {name!r} is empty (shape {array.shape})", where=where)
    if array.dtype.kind == "f" or "float" in str(array.dtype):
        wide = array.astype(np.float32)
        if np.isnan(wide).any():
            raise UsageError(f"input {name!r} has {int(np.isnan(wide).sum())} NaN", where=where)
        if np.isinf(wide).any() and not np.isinf(array.astype(np.float64)).any():
            return
        if np.isinf(wide).any():
            raise UsageError(f"input {name!r} has infinities", where=where, hint="a scale cannot be taken from them")


def _function(module: str, name: str, where: str) -> Callable[[], Iterable[Any]]:
    try:
        found = function_of(module, name)
    except FileNotFoundError as error:
        raise UsageError(str(error), where=where, hint=_HINT) from error
    except AttributeError as error:
        raise UsageError(f"{module} has no {name}", where=where) from error
    except Exception as error:  # whatever the user's module raises on import
        raise UsageError(f"it cannot be imported: {type(error).__name__}: {error}", where=where, hint=_HINT) from error
    if not callable(found):
        raise UsageError(f"it is of type {type(found).__name__}, not a function", where=where, hint=_HINT)
    return found  # type: ignore[no-any-return]


def _called(function: Callable[[], Iterable[Any]], where: str) -> Iterator[Any]:
    try:
        yield from function()
    except UsageError:
        raise
    except Exception as error:  # the user's own
        raise UsageError(f"it raised {type(error).__name__}: {error}", where=where) from error


def random_samples(
    model: onnx.ModelProto, path: Path, shapes: Shapes | None, count: int, seed: int, runner: Runner
) -> list[Feeds]:
    """Up to `count` seeded random samples that the model runs on."""
    inputs = read_inputs(model)
    if any(port.required and port.kind != "tensor" for port in inputs):
        return []
    found: list[Feeds] = []
    try:
        runner.open(path)
    except ExecutionError:
        return []
    for dims in sample_shapes(inputs, shapes or Shapes(), 12):
        feeds = make_feeds(inputs, dims, seed + len(found))
        try:
            if runner.pid is None:
                runner.open(path)
            runner.run(feeds)
        except ExecutionError:
            continue
        found.append(feeds)
        if len(found) == count:
            break
    return found
