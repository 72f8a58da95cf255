"""The precision stage: a float32 graph, a request, samples -> a plan, written and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.config import Shapes, Target
from graphopt.errors import GraphoptError, UsageError, VerificationError
from graphopt.ir.convert import convert_opset
from graphopt.ir.graph import scopes
from graphopt.ir.infer import Custom
from graphopt.ir.save import to_proto
from graphopt.layers.layer import Layer
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.program import put

from .decision import Decision, judge
from .metric import BUDGET, metric
from .observe import Feeds
from .opsets import LEAST_OPSET
from .plan import LOW, Plan
from .quantization import needs_samples
from .samples import Samples, random_samples
from .sparsity import count, prune
from .trial import Trials
from .types import know_types
from .unquantize import Source, is_quantized, unquantize
from .watch import Clock
from .write import Written, write_plan

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
    builds: int = 12
    """Engines that auto may build and time on the GPU at hand, at most."""
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
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """What auto chose from: name, error, ms (None: not timed)."""
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
            "candidates": [{**one, "error": _finite(one["error"])} for one in self.candidates],
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
        if isinstance(request.calib, Samples):
            notes += request.calib.notes
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
            outcome = judge(trials, found.plan, found)
        else:
            decision = Decision(
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
