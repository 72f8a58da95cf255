"""Metamorphic checks: what must hold of any network that treats the rows of a batch alike, without a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.numerics.difference import compare
from graphopt.numerics.tolerance import engine_tolerance, tolerance_for

Call = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """One statement about a network, and whether it held."""

    what: str
    ok: bool
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.ok, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.what}{': ' if self.detail else ''}{self.detail}"


def checks(call: Call, inputs: Mapping[str, Any], *, exact: bool) -> list[Check]:
    """Repetition, equal rows, and a batch against its rows, where all inputs and outputs share their first dimension.

    exact: full float32; else within the tolerance of an engine in TF32.
    """
    first = call(dict(inputs))
    found = [_same("the same inputs give the same outputs", first, call(dict(inputs)), exact)]
    sizes = {array.shape[0] if array.ndim else 0 for array in map(np.asarray, [*inputs.values(), *first.values()])}
    if len(sizes) != 1 or 0 in sizes:
        return [*found, Check("equal rows, and rows alone", True, "not checked: there is no common batch dimension")]
    size = sizes.pop()
    equal = {name: np.repeat(array[:1], size, axis=0) for name, array in inputs.items()}
    try:
        rows = call(equal)
        found.append(
            _same(
                f"{size} equal rows give equal rows",
                {name: np.repeat(array[:1], size, axis=0) for name, array in rows.items()}, rows, exact,
            )
        )  # fmt: skip
        alone = [call({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(min(size, 4))]
    except GraphoptError as error:
        return [*found, Check("rows alone", True, f"not checked: {error.what}")]
    joined = {name: np.concatenate([one[name] for one in alone]) for name in first}
    part = {name: array[: len(alone)] for name, array in first.items()}
    return [*found, _same("a batch gives what its rows give alone", joined, part, exact)]


def _same(what: str, want: Mapping[str, Any], got: Mapping[str, Any], exact: bool) -> Check:
    bound = tolerance_for if exact else engine_tolerance
    for name in want:
        difference = compare(want[name], got[name], bound(str(np.asarray(want[name]).dtype)), name=name)
        if not difference.ok:
            return Check(what, False, f"{name}: {difference.reason}")
    return Check(what, True)
