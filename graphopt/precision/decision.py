"""From a request to a plan: floats first, then 8 bits on top; for `auto` the fastest of what fits the budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from graphopt.config import Target
from graphopt.engines.request import gpu
from graphopt.layers.layer import Layer
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.rounding import NoRounding

from .capability import LEAST_CAPABILITY, loses, refused
from .contest import CLASSES, FASTER, HAND_RULE, Contest, matching
from .cost import Cost, machine_of
from .cut import Weights
from .every import every_combination
from .float_search import low_floats
from .floats import Floats, Pins
from .observe import Feeds
from .plan import LOW, Plan
from .price import Price
from .quantization import DTYPES, Quantization, as_told, kept, prepare, within, worthwhile
from .samples import Samples
from .times import gpus_of, merged, read_times
from .trial import Outcome, Trials, key_of
from .watch import Clock, Watch

if TYPE_CHECKING:
    from .stage import Precision, Progress, Request

_ROUNDS = 6
_HELPS = 0.8
"""What repair must bring the error down to, of what it was, where it does not reach the budget."""
_UNIT = 1e9
"""Seconds as whole numbers, for the cut."""


@dataclass
class Decision:
    """One run of the stage."""

    graph: gs.Graph
    request: Request
    target: Target
    layers: Mapping[str, type[Layer]]
    feeds: Sequence[Feeds]
    runner: Runner
    trials: Trials | None
    found: Precision
    tell: Progress
    ranges: Mapping[str, float]
    """Largest magnitudes that a quantized source tells."""
    clock: Clock | None

    def __post_init__(self) -> None:
        given, request = self.request.layer_times, self.request
        files = [] if isinstance(given, Mapping) else list(given)
        self.given = given if isinstance(given, Mapping) else merged(*(read_times(path, self.graph) for path in files))
        self.cost = Cost(self.given, machine_of(self.target.compute_capability))
        self.watch: Watch | None = None
        here = not self.given or gpu() in {name for path in files for name in gpus_of(path)}
        if self.clock is not None and self.trials is not None and request.precision == "auto" and here:
            self.watch = Watch(self.trials, self.clock, self.found.notes, request.builds)

    def run(self) -> Outcome | None:
        """The outcome of the plan that `found` has then; None where it could not be evaluated."""
        request, found = self.request, self.found
        if request.precision not in LOW:
            return judge(self.trials, found.plan, found)
        low = LOW[request.precision]
        floats = Floats(self.graph, request.precision, low, request.io, self.layers, request.keep,
                        refused(self.target.backend, low))  # fmt: skip
        self.tell("precision: ranges", 0, 0)
        floats.measure(self.feeds, self.runner)
        if request.precision == "auto":
            outcome = self._auto(floats)
        else:
            outcome = self._repaired(floats)
            for name in self._quantized():
                outcome = self._quantize(name, outcome)
        if self.trials is not None and outcome is not None:
            outcome = judge(self.trials, found.plan, found)  # not what was remembered of an earlier run
            self.trials.forget()
        found.notes += [note for note in found.plan.notes if note not in found.notes]
        return outcome

    def _repaired(self, floats: Floats) -> Outcome | None:
        """The float plan, with what breaks the budget kept high, as far as it can be found."""
        found, trials, own = self.found, self.trials, floats.pins()
        found.plan = floats.plan()
        first = outcome = judge(trials, found.plan, found)
        fewest = found.plan
        tensors = {t.name: t for node in self.graph.nodes for t in node.outputs if t.name}
        for number in range(_ROUNDS):
            if trials is None or outcome is None or outcome.worst <= found.budget:
                break
            self.tell("precision: repair", number, _ROUNDS)
            named = [(name, why) for name, why in trials.culprits(found.plan) if name in tensors]
            if not named:
                break
            for name, why in named:
                floats.flow.pin_tensor(tensors[name], why)
            plan = floats.plan()
            if plan.tensors == found.plan.tensors:
                break
            after = judge(trials, plan, found)
            if after is None:
                break
            found.plan, outcome = plan, after
        if outcome is not None and first is not None and outcome.worst > max(_HELPS * first.worst, found.budget):
            found.plan, outcome = fewest, first  # more casts for nothing
            floats.unpin(own)
        return outcome

    # -- told to quantize --------------------------------------------------------------------------------------

    def _quantized(self) -> Sequence[str]:
        if self.ranges and self.request.precision in ("fp16", "bf16"):
            return ["int8"]  # a quantized source stays quantized
        return [self.request.precision] if self.request.precision in DTYPES else []

    def _quantize(self, precision: str, outcome: Outcome | None) -> Outcome | None:
        found = self.found
        made = self._prepared(precision)
        if not made.places:
            return outcome
        gains = as_told(made, self.cost)
        plan, judged = within(made, found.plan, self.trials, found.budget, gains, {}, self.tell)
        if judged is not None and outcome is not None and judged.worst > found.budget >= outcome.worst:
            return outcome
        found.plan = plan
        return judged

    def _prepared(self, precision: str) -> Quantization:
        request = self.request
        weights_only = request.weights_only or precision == "int4"
        calib = request.calib if isinstance(request.calib, Samples) else self.feeds
        made = prepare(self.graph, precision, self.target.backend, self.target.version, kept(request.keep),
                       _First(calib, request.calib_samples), self.runner, request.method, weights_only, self.tell,
                       {} if isinstance(request.calib, Samples) else self.ranges)  # fmt: skip
        self.found.notes += made.notes
        return made

    # -- auto --------------------------------------------------------------------------------------------------

    def _auto(self, floats: Floats) -> Outcome | None:
        found, io = self.found, self.request.io
        free = floats.pins()
        outcome = self._repaired(floats)
        if outcome is None or self.trials is None:
            return outcome
        whole = Plan("auto", io)
        if self.watch is not None and self.watch.timed(found.plan) is None and self.watch.timed(whole) is None:
            self.watch = None
        contest = self.contest = Contest(
            self._remembered, self._seconds, found.budget, FASTER if self.watch is not None else 1.0
        )
        held: Pins = []
        if outcome.worst > found.budget:
            self._learn(whole)
            found.plan, outcome, held = low_floats(floats, self.trials, found.budget, self.cost, self.tell)
        contest.enter("float16" if key_of(found.plan) != key_of(whole) else "float32", found.plan)
        if self._compares():
            contest.enter("float32", whole)
            self._learn()
            contest.enter("by layer times", floats.plan(held, self._weights()))
            repaired = floats.pins()
            floats.unpin(free)
            by_hand = matching(self.graph, HAND_RULE)
            contest.enter("hand rule", floats.plan([(node, "kept by hand") for node in by_hand]))
            floats.unpin(repaired)
        made = self._eight_bits(floats, outcome)
        if self.watch is not None:
            self._classes(floats, held)
        floats.unpin(free)
        if self.watch is None or self.watch.left > 0:
            every = every_combination(floats, made, self._price(), self._remembered, found.budget, self.tell)
            if every is not None:
                contest.enter("every combination", every)
        if self.watch is not None:
            self.watch.race([one.plan for one in contest.finalists()])
            contest.settle()
            self.watch.unload()
        if contest.best is None:
            return outcome
        found.plan = contest.best.plan
        found.candidates = [one.to_json() for one in contest]
        if self._compares():
            where = f"timed on {self.watch.gpu}" if self.watch is not None else "by the given times of layers"
            found.notes.append(f"{where}: {contest.told()}. Taken: {contest.best.name}")
        return contest.best.outcome

    def _compares(self) -> bool:
        """Whether plans of floats can be told apart by their speed; float16 is believed to be the faster otherwise."""
        if self.watch is not None:
            return True
        kinds = {kind for by_dtype in self.given.values() for kind in by_dtype}
        return {"float32", "float16"} <= kinds

    def _seconds(self, plan: Plan) -> float | None:
        if self.watch is None:
            return self._price()(plan)
        self.tell("precision: an engine on the GPU", 0, 0)
        found = self.watch.seconds(plan)
        self.watch.unload(but=[one.plan for one in self.contest.finalists()] + [plan])
        return found

    def _price(self) -> Price:
        return Price(self.graph, self.cost, casts=self._compares())

    def _remembered(self, plan: Plan) -> Outcome | None:
        return judge(self.trials, plan, self.found, again=False)

    def _learn(self, *plans: Plan) -> None:
        """Take the times of layers of all plans that were timed, and of these."""
        if self.watch is not None:
            for plan in plans:
                self._seconds(plan)
            self.cost.measured = merged(self.given, self.watch.times(self.graph))

    def _weights(self) -> Weights:
        """Seconds that float32 takes beyond float16, and those of casts, for the cut."""
        cost = self.cost
        low = "float16"
        return Weights(
            atom=lambda one: int(_UNIT * (cost.seconds(one.node, "float32") - cost.seconds(one.node, low)))
            if one.node is not None else 0,
            cast=lambda value: int(_UNIT * cost.border(value.tensor, "float32", low)),
            is_free=lambda one: True,
        )  # fmt: skip

    def _classes(self, floats: Floats, held: Pins) -> None:
        """Classes of operators in float32, each kept where the engine is the faster for it."""
        chosen = list(held)
        for name, pattern in CLASSES.items():
            more = [(node, f"{name} are faster in float32 here") for node in matching(self.graph, pattern)]
            if self.watch is None or self.watch.left <= 0:
                return
            if more and self.contest.enter(f"{name} in float32", floats.plan([*chosen, *more])):
                chosen += more

    def _eight_bits(self, floats: Floats, outcome: Outcome) -> Quantization | None:
        """8 bits on top of the best so far, where they are worth it; what could be quantized, if anything."""
        found, contest, best = self.found, self.contest, self.contest.best
        name = self._which_8_bits()
        if not name or best is None or self.trials is None:
            return None
        made = self._prepared(name)
        if not made.places:
            return None
        base, names = best.plan, [place.name for place in made.places]
        if self.watch is not None:
            self._learn(made.plan(base, names))
        gains, slower = worthwhile(made, base, self._price())
        if gains or self.watch is None:
            plan, _ = within(made, base, self.trials, found.budget, gains, slower, self.tell)
            taken = {reader for entry in plan.tensors.values() if entry.quantized for reader in entry.readers}
            order = sorted((one for one in gains if one in taken), key=lambda one: -gains[one])
            if not order:
                best.plan = plan  # the same, with the reasons
            shares = (1, 2, 4) if self.watch is not None else (1,)
            for share in shares if order else ():
                if self.watch is not None and self.watch.left <= 0:
                    break
                some = order[: len(order) // share]
                if some and contest.enter(
                    f"{len(some)} products in {name}", plan if share == 1 else made.plan(base, some)
                ):
                    break
        return made

    def _which_8_bits(self) -> str:
        request, target = self.request, self.target
        if request.calib in (None, "random") and not self.ranges:
            self.found.notes.append("auto quantizes nothing without real samples: add --calib")
            return ""
        measured = {kind for by_dtype in self.given.values() for kind in by_dtype}
        if self.watch is None and not measured & {"int8", "float8e4m3fn"}:
            where = next(iter(gpus_of(path) for path in self._files()), []) or [gpu()]
            if any(loses(target.backend, target.version, one) for one in where):
                self.found.notes.append(
                    f"auto quantizes nothing: products of 8 bits are slower than float16 on {where[0]}"
                )
                return ""
        capability = target.compute_capability
        return "fp8" if capability is not None and capability >= LEAST_CAPABILITY["float8e4m3fn"] else "int8"

    def _files(self) -> Sequence[str | Path]:
        given = self.request.layer_times
        return [] if isinstance(given, Mapping) else list(given)


class _First:
    """The first samples of many, again and again."""

    def __init__(self, samples: Iterable[Feeds], most: int) -> None:
        self.samples, self.most = samples, most

    def __iter__(self) -> Iterator[Feeds]:
        return islice(iter(self.samples), self.most)


def judge(trials: Trials | None, plan: Plan, found: Precision, again: bool = True) -> Outcome | None:
    """What a plan does to the outputs; None, and a note, where it cannot be evaluated. again: not from memory."""
    if trials is None:
        return None
    try:
        return trials.run(plan) if again else trials.remembered(plan)
    except (NoRounding, ExecutionError) as error:
        note = f"not evaluated with rounding after every operator: {str(error).splitlines()[0]}"
        if note not in found.notes:
            found.notes.append(note)
        return None
