"""The precision stage: a float32 graph, a request, samples -> a plan, written and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.config import Shapes, Target
from graphopt.engines.request import gpu
from graphopt.errors import GraphoptError, UsageError, VerificationError
from graphopt.ir.convert import convert_opset
from graphopt.ir.graph import scopes
from graphopt.ir.infer import Custom
from graphopt.ir.save import to_proto
from graphopt.layers.layer import Layer
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.program import put
from graphopt.numerics.rounding import NoRounding

from .capability import LEAST_CAPABILITY, loses, refused
from .cost import Cost
from .float_search import low_floats
from .floats import Floats
from .metric import BUDGET, metric
from .observe import Feeds
from .plan import LOW, Plan
from .quantization import DTYPES, kept, needs_samples, prepare, within
from .samples import Samples, random_samples
from .sparsity import count, prune
from .times import merged, read_times
from .trial import Outcome, Trials
from .types import know_types
from .unquantize import Source, is_quantized, unquantize
from .watch import Clock, Watch
from .write import Written, write_plan

LEAST_OPSET = {"bf16": 13, "int8": 19, "fp8": 19, "int4": 21, "auto": 19}
"""From here on ONNX can say the dtype: Cast to bfloat16, QuantizeLinear of float16, float8, int4. A model of an older
opset is converted, which the report says."""
_ROUNDS = 6
_HELPS = 0.8
"""What repair must bring the error down to, of what it was, where it does not reach the budget."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What the user asks of the precision stage."""

    precision: str = "fp16"
    io: str = "keep"
    """keep: inputs and outputs keep their dtypes. change: they become what is computed next to them."""
    keep: tuple[str, ...] = ()
    """Operators and nodes that stay in float32, as regular expressions."""
    calib: Any = None
    """Samples: an .npz file, a folder of them, MODULE:FUNCTION, or an iterable of {name: array}; 'random' on demand."""
    max_error: float | None = None
    metric: str = "l2"
    plan: str | Path | Plan | None = None
    """A plan to be replayed as it is."""
    plan_output: str | Path | None = None
    """Where the plan that was followed is written."""
    method: str = "max"
    """How activation ranges are chosen: max, percentile, entropy, mse."""
    samples: int = 2
    """How many samples the error is measured on."""
    calib_samples: int = 64
    """How many samples ranges are measured on, at most."""
    weights_only: bool = False
    """Quantize weights, and compute in float16."""
    layer_times: Mapping[str, Mapping[str, float]] | Sequence[str | Path] = field(default_factory=dict)
    """Measured times, for auto, in place of bytes and FLOPs: files that `graphopt profile -o` wrote of engines of this
    model in float32, float16, int8, ...; or node -> {dtype: seconds}."""
    version: str = ""
    """Of the backend that is planned for; the installed one if not given."""
    prune: bool = False
    """Make weights 2:4 sparse first."""
    seed: int = 0
    judge: bool = True
    """Whether the result is evaluated with rounding after every operator, and what breaks it kept high."""

    @property
    def is_low(self) -> bool:
        """Whether there is anything to do."""
        return self.precision not in ("tf32", "fp32") or self.plan is not None or self.prune


@dataclass
class Precision:
    """What the precision stage did, for the report."""

    plan: Plan
    error: dict[str, float] = field(default_factory=dict)
    budget: float = 0.0
    metric: str = "l2"
    writes: Written = field(default_factory=Written)
    samples: int = 0
    judged: bool = False
    trials: list[tuple[float, float]] = field(default_factory=list)
    """(share of tensors that are low, error) of every plan that was tried, in order."""
    sparse: dict[str, int] = field(default_factory=dict)
    """How many weights of large products are 2:4 sparse: sparse, of, bytes."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the report prints it."""
        kept = {n: e.why for n, e in self.plan.tensors.items() if e.why and not e.quantized}
        return {
            "precision": self.plan.precision,
            "tensors": self.plan.counts(),
            "share_low": round(self.plan.share_low, 4),
            "casts": self.writes.casts,
            "quantize_nodes": self.writes.quantize_nodes,
            "error": {name: _finite(value) for name, value in self.error.items()},
            "metric": self.metric,
            "max_error": self.budget,
            "judged": self.judged,
            "trials": [{"share_low": round(share, 4), "error": _finite(error)} for share, error in self.trials],
            "sparse": self.sparse,
            "samples": self.samples,
            "kept": dict(list(kept.items())[:200]),
            "notes": self.notes,
        }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def lower(
    graph: gs.Graph,
    request: Request,
    target: Target,
    *,
    layers: Mapping[str, type[Layer]] | None = None,
    custom: Custom | None = None,
    shapes: Shapes | None = None,
    inputs: Any = None,
    progress: Progress | None = None,
    runner_options: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> Precision:
    """Make the graph what the request asks for, in place; what was decided, and how far it is off.

    clock: how long a graph takes on the GPU at hand, and its layers; what `auto` then goes by.

    Raises:
        UsageError: the request, the plan or the samples do not fit the model.
        VerificationError: with rounding after every operator, the result is further off than the budget.
    """
    layers = layers or {}
    given = Plan.load(request.plan) if isinstance(request.plan, (str, Path)) else request.plan
    name = given.precision if given is not None else request.precision
    if not is_quantized(graph):
        needs_samples(request.precision, request.calib, request.weights_only or request.plan is not None)
    tell = progress or (lambda what, done, total: None)
    know_types(graph, custom)
    _name_nodes(graph)
    source = Source()
    if name in LOW and is_quantized(graph):
        source = unquantize(graph)
        needed = max(LEAST_OPSET.get(name, 0), LEAST_OPSET["int8"])
        if int(graph.opset) < needed:
            source.opset = needed
            convert_opset(graph, needed)
        know_types(graph, custom)
    budget = request.max_error or (given.max_error if given is not None else None) or BUDGET[name]
    if not budget > 0 or request.max_error == 0:
        raise UsageError(f"an error of {budget:g} cannot be kept", where="--max-error", hint="choose more than 0")
    measure = metric(request.metric)
    if request.calib not in (None, "random") and not isinstance(request.calib, Samples):
        request = replace(request, calib=Samples(request.calib, to_proto(graph, weights="omit")))
    with (
        tempfile.TemporaryDirectory(prefix="graphopt-") as folder,
        Runner(**(runner_options or {})) as runner,
    ):
        tell("precision: samples", 0, 0)
        feeds, notes = _samples(graph, request, inputs, shapes, runner, Path(folder))
        trials = None
        try:
            wanted = feeds and request.judge
            trials = Trials(graph, feeds, runner, Path(folder), layers, custom, measure) if wanted else None
        except (ExecutionError, GraphoptError) as error:
            notes.append(f"the source does not run here: {str(error).splitlines()[0]}")
            feeds = []
        if source.nodes:
            notes.append(f"the source was quantized: {source.nodes} operators were brought to float, and the error is "
                         "measured against that")  # fmt: skip
            if source.opset:
                notes.append(f"converted to opset {source.opset}, which can say the dtypes")
        notes += [f"{count} {op} of the source stay" for op, count in sorted(source.left.items())]
        if request.prune:
            notes.append(f"{prune(graph)} weights were made 2:4 sparse")
            if trials is not None:
                put(graph, trials.base)
        found = Precision(
            Plan(request.precision, request.io), budget=budget, metric=request.metric, samples=len(feeds), notes=notes
        )
        if given is not None:
            found.plan = given
            outcome = _judge(trials, found.plan, found)
        else:
            decision = _Decision(
                graph, request, target, layers, feeds, runner, trials, found, tell, source.ranges, clock
            )
            outcome = decision.run()
    if trials is not None:
        found.trials = trials.tried
    if outcome is not None:
        found.error, found.judged = outcome.error, True
        if not outcome.worst <= budget:
            where = max(outcome.error, key=lambda key: outcome.error[key])
            raise VerificationError(
                f"output {where!r} is off by {outcome.worst:.3g} ({request.metric}), {budget:g} are allowed: "
                "computed with rounding after every operator",
                where=f"--precision {name}",
                hint="allow more with --max-error, keep nodes high with --keep, or try --precision bf16 or auto",
            )
    found.sparse = count(graph)
    found.plan.max_error = budget
    found.writes = write_plan(graph, found.plan, layers, custom)
    know_types(graph, custom)
    return found


def _name_nodes(graph: gs.Graph) -> None:
    """Plans name nodes: those without a name get that of their first result."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if not node.name and node.outputs:
                node.name = node.outputs[0].name


def _samples(
    graph: gs.Graph, request: Request, inputs: Any, shapes: Shapes | None, runner: Runner, folder: Path
) -> tuple[list[Feeds], list[str]]:
    model = to_proto(graph, weights="omit")
    given = request.calib if isinstance(request.calib, Samples) else inputs
    if given is not None:
        one = given if not isinstance(given, Mapping) else [given]
        held = one if isinstance(one, Samples) else Samples(one, model)
        return [feeds for _, feeds in zip(range(max(request.samples, 1)), held, strict=False)], []
    path = folder / "source.onnx"
    put(graph, path)
    found = random_samples(model, path, shapes, request.samples, request.seed, runner)
    path.unlink(missing_ok=True)
    note = "measured on random inputs: bring real ones with --calib" if found else "no sample could be run"
    return found, [note]


class _Decision:
    """One run of the stage: floats first, then what can be quantized on top."""

    def __init__(
        self, graph: gs.Graph, request: Request, target: Target, layers: Mapping[str, type[Layer]],
        feeds: Sequence[Feeds], runner: Runner, trials: Trials | None, found: Precision, tell: Progress,
        ranges: Mapping[str, float], clock: Clock | None,
    ) -> None:  # fmt: skip
        self.ranges = ranges
        self.graph, self.request, self.target, self.layers = graph, request, target, layers
        self.feeds, self.runner, self.trials, self.found, self.tell = feeds, runner, trials, found, tell
        given = request.layer_times
        if not isinstance(given, Mapping):
            given = merged(*(read_times(path, graph) for path in given))
        watched = clock is not None and trials is not None and request.precision == "auto" and not given
        self.watch = Watch(graph, trials, clock, found.notes) if watched and trials and clock else None
        self.cost = Cost(given)

    def run(self) -> Outcome | None:
        request, found = self.request, self.found
        if request.precision not in LOW:
            return _judge(self.trials, found.plan, found)
        low = LOW[request.precision]
        floats = Floats(self.graph, request.precision, low, request.io, self.layers, request.keep,
                        refused(self.target.backend, low))  # fmt: skip
        self.tell("precision: ranges", 0, 0)
        floats.measure(self.feeds, self.runner)
        outcome = self._repaired(floats)
        if outcome is not None and outcome.worst > found.budget and request.precision == "auto":
            self._watched(Plan(request.precision, request.io), "float32")
            self._watched(found.plan, low)
            found.plan, outcome = low_floats(floats, self.trials, found.budget, self.cost, self.tell)
        for name in self._quantized():
            outcome = self._quantize(name, outcome)
        if self.trials is not None and outcome is not None:
            outcome = _judge(self.trials, found.plan, found)  # not what was remembered of an earlier run
            self.trials.forget()
        found.notes += [note for note in found.plan.notes if note not in found.notes]
        return outcome

    def _repaired(self, floats: Floats) -> Outcome | None:
        """The float plan, with what breaks the budget kept high, as far as it can be found."""
        found, trials = self.found, self.trials
        found.plan = floats.plan()
        first = outcome = _judge(trials, found.plan, found)
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
            after = _judge(trials, plan, found)
            if after is None:
                break
            found.plan, outcome = plan, after
        if outcome is not None and first is not None and outcome.worst > max(_HELPS * first.worst, found.budget):
            found.plan, outcome = fewest, first  # more casts for nothing
        return outcome

    def _quantized(self) -> Sequence[str]:
        """Which quantized dtypes are tried, the fastest first."""
        if self.ranges and self.request.precision in ("fp16", "bf16"):
            return ["int8"]  # a quantized source stays quantized
        if self.request.precision != "auto":
            return [self.request.precision] if self.request.precision in DTYPES else []
        if (self.request.calib in (None, "random") and not self.ranges) or not self.request.judge:
            self.found.notes.append("auto quantizes nothing without real samples: add --calib")
            return []
        if (
            self.watch is None
            and not self.request.layer_times
            and loses(self.target.backend, self.target.version, gpu())
        ):
            self.found.notes.append(f"auto quantizes nothing: products of 8 bits are slower than float16 on {gpu()}")
            return []
        capability = self.target.compute_capability
        return ["fp8" if capability is not None and capability >= LEAST_CAPABILITY["float8e4m3fn"] else "int8"]

    def _quantize(self, precision: str, outcome: Outcome | None) -> Outcome | None:
        request, found = self.request, self.found
        weights_only = request.weights_only or precision == "int4"
        calib = request.calib if isinstance(request.calib, Samples) else self.feeds
        samples = _First(calib, request.calib_samples)
        made = prepare(self.graph, precision, self.target.backend, self.target.version, kept(request.keep), samples,
                       self.runner, request.method, weights_only, self.tell,
                       {} if isinstance(request.calib, Samples) else self.ranges)  # fmt: skip
        found.notes += made.notes
        if not made.places:
            return outcome
        before = found.plan
        if self.watch is not None:
            self._watched(before, "float16")
            self._watched(made.plan(before, [place.name for place in made.places]), made.quantized)
        plan, judged = within(made, found.plan, self.trials, found.budget, self.cost, self.tell)
        if judged is not None and outcome is not None and judged.worst > found.budget >= outcome.worst:
            return outcome
        if self.watch is not None and self.watch.is_slower(plan, before):
            found.notes.append(f"nothing is quantized: on this GPU it takes {self.watch.told(plan, before)}")
            return outcome
        found.plan = plan
        return judged

    def _watched(self, plan: Plan, dtype: str) -> None:
        if self.watch is not None:
            self.tell(f"precision: layer times in {dtype}", 0, 0)
            self.cost.measured = self.watch.learn(plan, dtype)


class _First:
    """The first samples of many, again and again."""

    def __init__(self, samples: Iterable[Feeds], most: int) -> None:
        self.samples, self.most = samples, most

    def __iter__(self) -> Iterator[Feeds]:
        return islice(iter(self.samples), self.most)


def _judge(trials: Trials | None, plan: Plan, found: Precision) -> Outcome | None:
    if trials is None:
        return None
    try:
        return trials.run(plan)
    except (NoRounding, ExecutionError) as error:
        found.notes.append(f"not evaluated with rounding after every operator: {str(error).splitlines()[0]}")
        return None
