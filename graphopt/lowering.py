"""The rules of the lower stage for one model: of the layers that plugins bring, those that could pay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from .config import Target
from .errors import PassError, UsageError
from .ir.infer import Custom
from .ir.load import load
from .layers.decide import LOWER, Decision
from .layers.facts import inference
from .layers.layer import Layer
from .layers.lower import STAGE, lowerings
from .registry import Registry
from .rewrite.manager import Manager
from .rewrite.rule import STAGES, Entry, kebab


@dataclass
class Lowering:
    """What is known of the layers of one run."""

    entries: list[Entry] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """Pass -> why the layer has no rule here."""
    custom: Custom | None = None


def lowering(
    registry: Registry,
    graph: gs.Graph,
    entries: Iterable[Entry],
    target: Target,
    mode: str,
    *,
    skip: Iterable[str] = (),
    every: bool = False,
) -> Lowering:
    """The rules that lower to layers in this model. every: also where the mode rules it out, for `explain`.

    Raises UsageError for an unknown mode.
    """
    if mode not in LOWER:
        raise UsageError(f"--lower {mode}: choose one of {', '.join(LOWER)}")
    known = registry.layers()
    if not known:
        return Lowering()
    decision = Decision(mode, target)
    wanted: list[tuple[str, type[Layer]]] = []
    skipped = set(skip)
    reasons = {}
    for plugin, layer in known:
        name = kebab(layer.__name__)
        if name in skipped:
            continue
        if every or decision.wants(layer()):
            wanted.append((plugin, layer))
        else:
            reasons[name] = "--lower never" if mode == "never" else "no measurement says that it is faster on this GPU"
    early = STAGES[: STAGES.index(STAGE)]
    before = [one for one in entries if one.stage in early]

    def simplify(model: onnx.ModelProto) -> gs.Graph:
        entries = before
        while True:
            small = load(model)
            try:
                Manager(small, entries, target).run()
                return small
            except PassError as error:  # what fails here is named where it fails in the model, if it does
                if not error.culprit or isinstance(error.__cause__, TimeoutError):
                    raise
                entries = [one for one in entries if one.name != error.culprit]

    by = target, tuple([(one.order, one.traced or one.run) for one in before])
    rules, missing = lowerings(graph, wanted, simplify, decision.pays, registry.preferred, by)
    rules = [one for one in rules if one.name not in skipped]
    reasons.update({kebab(name): reason for name, reason in missing.items()})
    custom = inference({layer.__name__: layer for _, layer in known})
    return Lowering(rules, reasons, custom)
