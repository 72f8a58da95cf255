"""The precision stage: a float32 graph, a request, samples -> a plan, written and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.config import Shapes, Target
from graphopt.errors import GraphoptError, UsageError, VerificationError
from graphopt.ir.infer import Custom, Inference
from graphopt.ir.save import to_proto
from graphopt.layers.layer import Layer
from graphopt.numerics.execute import ExecutionError, Runner
from graphopt.numerics.rounding import NoRounding

from .floats import Floats
from .metric import BUDGET, metric
from .observe import Feeds
from .plan import LOW, Plan
from .samples import Samples, random_samples
from .trial import Outcome, Trials
from .write import write_plan

_ROUNDS = 6
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
    method: str = "entropy"
    """How activation ranges are chosen: max, percentile, entropy, mse."""
    samples: int = 2
    """How many samples the error is measured on."""
    calib_samples: int = 64
    """How many samples ranges are measured on, at most."""
    prune: bool = False
    """Make weights 2:4 sparse first."""
    seed: int = 0
    judge: bool = True
    """Whether the result is evaluated with rounding after every operator, and what breaks it kept high."""

    @property
    def is_low(self) -> bool:
        """Whether there is anything to do."""
        return self.precision not in ("tf32", "fp32") or self.plan is not None


@dataclass
class Precision:
    """What the precision stage did, for the report."""

    plan: Plan
    error: dict[str, float] = field(default_factory=dict)
    budget: float = 0.0
    metric: str = "l2"
    writes: int = 0
    samples: int = 0
    judged: bool = False
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the report prints it."""
        low = [n for n, e in self.plan.tensors.items() if e.quantized or e.dtype != "float32"]
        kept = {n: e.why for n, e in self.plan.tensors.items() if not e.quantized and e.dtype == "float32" and e.why}
        return {
            "precision": self.plan.precision,
            "tensors": self.plan.counts(),
            "share_low": round(len(low) / max(len(self.plan.tensors), 1), 4),
            "casts": self.writes,
            "error": {name: _finite(value) for name, value in self.error.items()},
            "metric": self.metric,
            "max_error": self.budget,
            "judged": self.judged,
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
) -> Precision:
    """Make the graph what the request asks for, in place; what was decided, and how far it is off.

    Raises:
        UsageError: the request, the plan or the samples do not fit the model.
        VerificationError: with rounding after every operator, the result is further off than the budget.
    """
    layers = layers or {}
    tell = progress or (lambda what, done, total: None)
    Inference(graph, custom).run()
    budget = request.max_error if request.max_error is not None else BUDGET[request.precision]
    if budget <= 0:
        raise UsageError(f"an error of {budget:g} cannot be kept", where="--max-error", hint="choose more than 0")
    measure = metric(request.metric)
    with (
        tempfile.TemporaryDirectory(prefix="graphopt-") as name,
        Runner(**(runner_options or {})) as runner,
    ):
        tell("precision: samples", 0, 0)
        feeds, notes = _samples(graph, request, inputs, shapes, runner, Path(name))
        trials = None
        try:
            wanted = feeds and request.judge
            trials = Trials(graph, feeds, runner, Path(name), layers, custom, measure) if wanted else None
        except (ExecutionError, GraphoptError) as error:
            notes.append(f"the source does not run here: {str(error).splitlines()[0]}")
            feeds = []
        found = Precision(Plan(), budget=budget, metric=request.metric, samples=len(feeds), notes=notes)
        if request.plan is not None:
            found.plan = request.plan if isinstance(request.plan, Plan) else Plan.load(request.plan)
            outcome = _judge(trials, found.plan, found)
        else:
            outcome = _decide(graph, request, target, layers, feeds, runner, trials, found, tell)
    if outcome is not None:
        found.error, found.judged = outcome.error, True
        if not outcome.worst <= budget:
            where = max(outcome.error, key=lambda key: outcome.error[key])
            raise VerificationError(
                f"output {where!r} is off by {outcome.worst:.3g} ({request.metric}), {budget:g} are allowed: "
                "computed with rounding after every operator",
                where=f"--precision {request.precision}",
                hint="allow more with --max-error, keep nodes high with --keep, or try --precision bf16 or auto",
            )
    found.writes = write_plan(graph, found.plan, layers)
    Inference(graph, custom).run()
    return found


def _samples(
    graph: gs.Graph, request: Request, inputs: Any, shapes: Shapes | None, runner: Runner, folder: Path
) -> tuple[list[Feeds], list[str]]:
    model = to_proto(graph, weights="omit")
    given = request.calib if request.calib not in (None, "random") else inputs
    if given is not None:
        one = given if not isinstance(given, Mapping) else [given]
        held = one if isinstance(one, Samples) else Samples(one, model)
        return [feeds for _, feeds in zip(range(max(request.samples, 1)), held, strict=False)], []
    path = folder / "source.onnx"
    from graphopt.numerics.program import put

    put(graph, path)
    found = random_samples(model, path, shapes, request.samples, request.seed, runner)
    path.unlink(missing_ok=True)
    note = "measured on random inputs: bring real ones with --calib" if found else "no sample could be run"
    return found, [note]


def _decide(
    graph: gs.Graph,
    request: Request,
    target: Target,
    layers: Mapping[str, type[Layer]],
    feeds: Sequence[Feeds],
    runner: Runner,
    trials: Trials | None,
    found: Precision,
    tell: Progress,
) -> Outcome | None:
    floats = Floats(graph, request.precision, LOW[request.precision], request.io, layers, request.keep)
    tell("precision: ranges", 0, 0)
    floats.measure(feeds, runner)
    found.plan = floats.plan()
    outcome = _judge(trials, found.plan, found)
    tensors = {t.name: t for node in graph.nodes for t in node.outputs if t.name}
    for number in range(_ROUNDS):
        if trials is None or outcome is None or outcome.worst <= found.budget:
            break
        tell("precision: repair", number, _ROUNDS)
        named = [(name, why) for name, why in trials.culprits(found.plan) if name in tensors]
        if not named:
            break
        for name, why in named:
            floats.flow.pin_tensor(tensors[name], why)
        plan = floats.plan()
        if plan.tensors == found.plan.tensors:
            break
        found.plan = plan
        outcome = _judge(trials, plan, found)
    found.notes += [note for note in found.plan.notes if note not in found.notes]
    return outcome


def _judge(trials: Trials | None, plan: Plan, found: Precision) -> Outcome | None:
    if trials is None:
        return None
    try:
        return trials.run(plan)
    except (NoRounding, ExecutionError) as error:
        found.notes.append(f"not evaluated with rounding after every operator: {str(error).splitlines()[0]}")
        return None
