"""The quantized part of a plan: which products, with scales from samples, as many of them as the budget allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from graphopt.errors import UsageError
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.rounding import NoRounding

from .calibrate import calibrate
from .capability import SUMS_BEFORE_SCALES, alternatives, quantizable
from .cost import Cost
from .observe import Feeds
from .places import Place, places, quantize_plan, residuals
from .plan import LARGEST, Entry, Plan
from .price import Price
from .search import Group, search
from .trial import Outcome, Trials

DTYPES = {"int8": "int8", "fp8": "float8e4m3fn", "int4": "int4"}
Tell = Callable[[str, int, int], None]


@dataclass
class Quantization:
    """What can be quantized in a model, and with which scales."""

    quantized: str
    places: list[Place]
    scales: dict[str, float]
    weights_only: bool
    notes: list[str]
    wide: bool = False
    """Whether results of products of 8 bits are float32, not float16."""

    def plan(self, base: Plan, names: Iterable[str]) -> Plan:
        """The base with the operands of these nodes quantized."""
        wanted = set(names)
        plan = copy.copy(base)
        plan.tensors = dict(base.tensors)
        chosen = [place for place in self.places if place.name in wanted]
        quantize_plan(plan, chosen, self.quantized, self.scales, weights_only=self.weights_only, wide=self.wide)
        return plan


def prepare(
    graph: gs.Graph,
    precision: str,
    backend: str,
    version: str,
    keep: Callable[[gs.Node], bool],
    samples: Iterable[Feeds],
    runner: Runner,
    method: str,
    weights_only: bool,
    tell: Tell,
    known: Mapping[str, float],
) -> Quantization:
    """Find the places, say what does not build, and calibrate. Raises UsageError and ExecutionError.

    known: largest magnitudes that a quantized source tells; then only what has one is quantized, without samples.
    """
    quantized = DTYPES[precision]
    wide = backend in SUMS_BEFORE_SCALES
    found, missing = places(graph, quantizable(backend, version, quantized))
    found = [place for place in found if not keep(place.node)]
    notes = [
        f"{quantized} {op} does not build on {backend} {version}: {count} of them stay in float16"
        + alternatives(backend, version, quantized, op)
        for op, count in sorted(missing.items())
    ]
    scales: dict[str, float] = {}
    if found and not weights_only:
        tensors = {place.activation.name: place.activation for place in found}
        tensors |= {tensor.name: tensor for tensor, _ in residuals(found).values()}
        inner = list(tensors.values())
        if known:
            scales = {name: known[name] / LARGEST[quantized] for name in tensors if name in known}
            found = [place for place in found if place.activation.name in scales]
            return Quantization(quantized, found, scales, weights_only, notes, wide)
        scales = calibrate(graph, inner, samples, runner, method, quantized, tell)
    if not found:
        notes.append(f"nothing is quantized: no product is large enough, or none builds in {quantized}")
    return Quantization(quantized, found, scales, weights_only, notes, wide)


def as_told(quantization: Quantization, cost: Cost) -> dict[str, float]:
    """Seconds that 8 bits save, of every product: who asks for 8 bits gets them where they save nothing, too."""
    return {
        place.name: cost.seconds(place.node, "float16") - cost.seconds(place.node, quantization.quantized)
        for place in quantization.places
    }


def worthwhile(quantization: Quantization, base: Plan, price: Price) -> tuple[dict[str, float], dict[str, float]]:
    """(seconds that each product saves beside the others, seconds that it would cost of those that are not worth it).

    From all, those are left out without which the whole is no slower: alone, or with all that read the same value,
    which is quantized once for them. Neighbours help each other, as what is made in 8 bits need not be quantized.
    """
    slower: dict[str, float] = {}
    readers: dict[str, list[str]] = {}
    for place in quantization.places:
        readers.setdefault(place.activation.name, []).append(place.name)
    names = [place.name for place in quantization.places]
    sets = [[name] for name in names] + [one for one in readers.values() if len(one) > 1]
    while True:
        whole = price(quantization.plan(base, names))
        left = [[name for name in one if name in names] for one in sets]
        gains = [(price(quantization.plan(base, [n for n in names if n not in one])) - whole, one)
                 for one in left if one]  # fmt: skip
        worse = [(gain, one) for gain, one in gains if gain <= 0]
        if not worse:
            return {one[0]: gain for gain, one in gains if len(one) == 1}, slower
        for gain, one in worse:
            for name in one:
                slower.setdefault(name, -gain / len(one))
        names = [name for name in names if name not in slower]


def within(
    quantization: Quantization, base: Plan, trials: Trials | None, budget: float, gains: Mapping[str, float],
    slower: Mapping[str, float], tell: Tell,
) -> tuple[Plan, Outcome | None]:  # fmt: skip
    """The base with as much quantized as the budget allows; everything where nothing can be evaluated.

    gains: seconds that quantizing each product saves. slower: of those that are left alone, what it would cost.
    """
    names = list(gains)
    if trials is None or not names:
        return _explained(quantization, quantization.plan(base, names), set(names), {}, slower), None
    groups = [Group(name, gain) for name, gain in gains.items()]
    try:
        found = search(
            groups,
            lambda chosen: quantization.plan(base, [one.name for one in chosen]),
            trials.remembered,
            budget,
            lambda done, total: tell("precision: sensitivity", done, total),
        )
    except (NoRounding, ExecutionError) as error:
        base.notes.append(f"not evaluated with rounding after every operator: {str(error).splitlines()[0]}")
        return quantization.plan(base, names), None
    chosen = {one.name for one in found.chosen}
    plan = _explained(quantization, quantization.plan(base, chosen), chosen, found.alone, slower)
    return plan, found.outcome


def _explained(
    quantization: Quantization, plan: Plan, chosen: set[str], alone: Mapping[str, float], slower: Mapping[str, float]
) -> Plan:
    """The plan, which says of each product that is not quantized why."""
    for place in quantization.places:
        if place.name not in chosen:
            out = place.node.outputs[0].name
            why = f"{place.node.op} not quantized: " + (
                f"it takes {slower[place.name] * 1e6:.2g} us more"
                if place.name in slower
                else f"alone it costs {alone.get(place.name, 0.0):.2g}"
            )
            entry = plan.tensors.get(out, Entry())
            plan.tensors[out] = replace(entry, why=why)
    return plan


def needs_samples(precision: str, calib: object, weights_only: bool) -> None:
    """Raise UsageError where ranges are needed and nobody brought samples."""
    if precision in ("int8", "fp8") and calib is None and not weights_only:
        raise UsageError(
            "ranges of activations come from real samples, and there are none",
            where=f"--precision {precision}",
            hint="add --calib DATA (.npz, folder, MODULE:FUNCTION); --weights-only needs none; "
            "--calib random makes a model to measure the speed of, not to use",
        )


def kept(patterns: Sequence[str]) -> Callable[[gs.Node], bool]:
    """Whether --keep names a node."""
    import re

    wanted = [re.compile(text) for text in patterns]
    return lambda node: any(one.fullmatch(node.op) or (node.name and one.fullmatch(node.name)) for one in wanted)
