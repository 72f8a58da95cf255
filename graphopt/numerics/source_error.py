"""How sure the source itself is: does it repeat, and what is its float32 worth against float64?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .difference import Difference, Value, compare
from .double import NoDouble, double_copy
from .execute import ExecutionError, Runner

Expected = Callable[[int], Mapping[str, Value]]


def unrepeatable(
    runner: Runner, source: Path, feeds: Mapping[int, Mapping[str, Value]], expected: Expected
) -> set[str]:
    """Names of outputs that the source, loaded again and run twice on the same feeds, gives differently.

    feeds, expected: by sample. Raises ExecutionError.
    """
    runner.open(source)
    found: set[str] = set()
    for sample, one in feeds.items():
        for _ in range(2):
            before = expected(sample)
            found |= {name for name, value in runner.run(one).items() if not compare(before[name], value).ok}
    return found


def own_differences(
    runner: Runner, source: Path, feeds: Mapping[int, Mapping[str, Value]], expected: Expected
) -> tuple[dict[tuple[int, str], Difference], str]:
    """found[sample, output] = float32 against float64 of the source on the same feeds, and a note where there is none.

    The float64 copy runs in onnxruntime, or in onnx's reference implementation where that lacks a kernel.
    """
    found: dict[tuple[int, str], Difference] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder, "float64.onnx")
            path.write_bytes(double_copy(source))
            runner.open(path)
            for sample, one in feeds.items():
                wide = runner.run({name: widened(value) for name, value in one.items()})
                for name, value in expected(sample).items():
                    if isinstance(value, np.ndarray) and value.dtype == np.float32:
                        exact = np.asarray(wide[name])
                        found[sample, name] = compare(exact, value.astype(exact.dtype))
    except (NoDouble, ExecutionError) as error:
        return found, f"the source could not be evaluated in float64: {str(error).splitlines()[0]}"
    return found, ""


def formulas_apart(
    runner: Runner, source: Path, result: Path, feeds: Mapping[int, Mapping[str, Value]]
) -> dict[tuple[int, str], Difference]:
    """found[sample, output] = source against result, both in float64: what is left when rounding is taken away.

    Empty where one of them has no float64 copy.
    """
    wide: list[dict[int, dict[str, Value]]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            for model in (source, result):
                path = Path(folder, "float64.onnx")
                path.write_bytes(double_copy(model))
                runner.open(path)
                given = {sample: {name: widened(value) for name, value in one.items()} for sample, one in feeds.items()}
                wide.append({sample: runner.run(one) for sample, one in given.items()})
    except (NoDouble, ExecutionError):
        return {}
    return {
        (sample, name): compare(value, wide[1][sample][name])
        for sample, values in wide[0].items()
        for name, value in values.items()
    }


def widened(value: Value) -> Value:
    """float32 as float64, everything else as it is."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value.astype(np.float64)
    return value
