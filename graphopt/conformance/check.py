"""`graphopt check-layer`: is a layer's function what its body means, and its kernel too, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes
from graphopt.layers.facts import outputs_of
from graphopt.layers.function import check_name
from graphopt.layers.layer import Layer
from graphopt.layers.specification import upper
from graphopt.layers.trace import spellings
from graphopt.rewrite.authoring import place_in

from . import launches
from . import truth as meaning
from .cases import Case, cases

FUNCTION_SLACK = 8.0
"""The function rounds after each operator, the kernel once."""
PER_CASE_BYTES = 64 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    check: str
    case: str
    ok: bool
    detail: str = ""
    error: float = 0.0


@dataclass
class Outcome:
    """All that was found about a layer."""

    layer: str
    gpu: str = ""
    findings: list[Finding] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What could not be checked, and why."""

    @property
    def ok(self) -> bool:
        return all(one.ok for one in self.findings)

    @property
    def failures(self) -> list[Finding]:
        return [one for one in self.findings if not one.ok]

    def _largest(self, check: str) -> float:
        errors = [one.error for one in self.findings if one.check == check and np.isfinite(one.error)]
        return max(errors, default=0.0)

    def to_json(self) -> dict[str, Any]:
        checks: dict[str, int] = {}
        for one in self.findings:
            checks[one.check] = checks.get(one.check, 0) + 1
        return {
            "layer": self.layer,
            "gpu": self.gpu,
            "ok": self.ok,
            "checks": checks,
            "largest_error": {
                name: max(
                    (one.error for one in self.findings if one.check == name and np.isfinite(one.error)), default=0.0
                )
                for name in checks
            },
            "failures": [{"check": one.check, "case": one.case, "detail": one.detail} for one in self.failures],
            "timings": self.timings,
            "remarks": self.remarks,
        }


def check_layer(
    layer: type[Layer],
    *,
    gpu: bool = True,
    quick: bool = False,
    dtypes_only: Sequence[str] = (),
    cuda: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """Check a layer: function, spellings, shapes without a GPU; the kernel through the plugin's life cycle on one.

    cuda: without a GPU, compile what `enqueue` launches, if a compiler is installed.

    Raises GraphoptError where the layer breaks its contract so that nothing can be tested, or there is no GPU.
    """
    check_name(layer())
    outcome = Outcome(layer.__name__)
    every = cases(layer(), quick=quick, only=dtypes_only)
    device: Any = None
    if gpu:
        from .device import Device

        device = Device()
        outcome.gpu = device.name
    known: dict[Any, list[np.ndarray[Any, Any]]] = {}
    for number, case in enumerate(every):
        if progress is not None:
            progress(layer.__name__, number, len(every))
        outcome.findings += _without_gpu(case, known)
        if device is not None:
            outcome.findings += device.check(case, known[_key(case)])
    if device is None:
        outcome.findings += _launches(every, outcome, cuda)
    elif outcome.ok:
        outcome.timings = device.timings(every)
    return outcome


def _launches(every: Sequence[Case], outcome: Outcome, cuda: bool) -> Iterable[Finding]:
    """What enqueue does in Python, its grids, and whether its kernels compile."""
    made = []
    for case in every:
        try:
            for tactic in case.layer.tactics() or [0]:
                made += launches.enqueue(case, tactic).launches
        except NotImplementedError:
            outcome.remarks.append("the kernel was not looked at: enqueue() is not written yet")
            return
        except ImportError as error:
            outcome.remarks.append(f"the kernel was not looked at: enqueue() needs a package: {error}")
            return
        except Exception as error:
            if type(error).__module__.startswith("cupy"):
                outcome.remarks.append("the kernel was not looked at: enqueue() calls CuPy, which needs a GPU")
                return
            told = f"enqueue() raised {type(error).__name__}: {error}{place_in(case.layer.enqueue, error)}"
            yield Finding("launch", str(case), False, told)
            return
        wrong = next((text for text in map(launches.wrong_launch, made) if text), "")
        yield Finding("launch", str(case), not wrong, wrong)
        if wrong:
            return
    if cuda and not launches.compiler():
        outcome.remarks.append("the CUDA source was not compiled: neither nvcc nor CuPy is installed")
    elif cuda:
        for name, text in launches.compiled(made):
            yield Finding("compile", f"kernel {name}", not text, text)


def _key(case: Case) -> Any:
    return str(case), case.present, tuple(case.kinds.items())


def _without_gpu(case: Case, known: dict[Any, list[np.ndarray[Any, Any]]]) -> Iterable[Finding]:
    arrays = case.arrays()
    want = known[_key(case)] = meaning.truth(case, arrays)
    told = outputs_of(case.layer, dict(zip(case.present, case.tensors(), strict=True)))
    yield _shapes(case, told, want)
    small = sum(array.size for array in arrays.values()) <= 1 << 14
    if small:
        for spelling in list(spellings(case.layer))[1:]:
            yield _spelling(case, arrays, want, spelling)
        yield _function(case, arrays, want, [one.dtype for one in told])


def _shapes(case: Case, told: Sequence[Any], want: Sequence[np.ndarray[Any, Any]]) -> Finding:
    if len(told) != len(want):
        return Finding("infer", str(case), False, f"infer() tells {len(told)} outputs, the body makes {len(want)}")
    for at, (one, array) in enumerate(zip(told, want, strict=True)):
        bound = upper(one)
        fits = len(bound) == array.ndim and all(
            size == limit or (not isinstance(dim, int) and size <= limit)
            for size, limit, dim in zip(array.shape, bound, one.shape, strict=True)
        )
        if not fits:
            return Finding("infer", str(case), False, f"output {at} is {array.shape}, infer() says {bound}")
    return Finding("infer", str(case), True)


def _spelling(case: Case, arrays: Any, want: Sequence[np.ndarray[Any, Any]], spelling: str) -> Finding:
    from graphopt.rewrite.build import Skip

    try:
        got = meaning.truth(case, arrays, spelling)
    except Skip:
        return Finding("spelling", str(case), True, f"{spelling} cannot be said here")
    for at, (a, b) in enumerate(zip(got, want, strict=True)):
        error, detail = meaning.difference(a, b, b.dtype)
        if error > 1e-9:
            return Finding("spelling", str(case), False, f"{spelling}() is not the body: output {at}: {detail}", error)
    return Finding("spelling", str(case), True)


def _function(case: Case, arrays: Any, want: Sequence[np.ndarray[Any, Any]], kinds: Sequence[Any]) -> Finding:
    model = meaning.call_model(case, meaning.opset_of(case))
    try:
        if case.dtype == "float32":
            got = meaning.evaluate(model, arrays)
        else:
            got = meaning.round_each(model, arrays)
    except GraphoptError as failure:
        empty = not any(array.size for array in want)
        return Finding("function", str(case), empty, failure.what)  # of nothing, the shape is all that can be held
    worst = 0.0
    for at, (a, b, kind) in enumerate(zip(got, want, kinds, strict=True)):
        error, detail = meaning.difference(a, b, kind)
        worst = max(worst, error)
        allowed = FUNCTION_SLACK * meaning.limit(kind) if dtypes.is_float(kind) else 0.0
        if a.dtype != kind or error > allowed:
            what = f"output {at} is {a.dtype}, infer() says {kind}" if a.dtype != kind else f"output {at}: {detail}"
            return Finding("function", str(case), False, what, error)
    return Finding("function", str(case), True, error=worst)
