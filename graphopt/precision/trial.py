"""What a plan does to the outputs: the model it makes, run with rounding after every operator."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.folders import cache_folder
from graphopt.ir.infer import Custom
from graphopt.ir.load import load
from graphopt.layers.layer import Layer
from graphopt.numerics.difference import Value
from graphopt.numerics.execute import Runner
from graphopt.numerics.program import put
from graphopt.numerics.rounding import rounded_copy

from .flow import is_single
from .metric import Metric, error_of, judged, relative_l2
from .observe import Feeds, observe
from .plan import Entry, Plan
from .types import know_types
from .write import write_plan

_SPREAD = 8.0
_AT_ONCE = 12


@dataclass
class Outcome:
    """error[output]: the worst over the samples."""

    error: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        return max(self.error.values(), default=0.0)


class Trials:
    """The float32 model, its outputs on the samples, and models that plans make of it."""

    def __init__(
        self,
        graph: gs.Graph,
        samples: Sequence[Feeds],
        runner: Runner,
        folder: Path,
        layers: Mapping[str, type[Layer]],
        custom: Custom | None,
        measure: Metric = relative_l2,
    ) -> None:
        self.samples = samples
        self.runner = runner
        self.folder = folder
        self.layers = layers
        self.custom = custom
        self.measure = measure
        self.base = folder / "base.onnx"
        put(graph, self.base)
        runner.open(self.base)
        self.expected: list[Mapping[str, Value]] = [runner.run(feeds) for feeds in samples]
        runner.close()
        self.tried: list[tuple[float, float]] = []
        """(share of tensors that are low, error) of every plan that was run."""
        self.memory = Memory(self.base, samples)

    def remembered(self, plan: Plan) -> Outcome:
        """run(plan), unless that was measured before, in this run or in one that was interrupted."""
        known = self.memory.get(plan)
        if known is None:
            known = self.run(plan)
            self.memory.put(plan, known)
        return known

    def forget(self) -> None:
        """The search is over: nothing needs to be remembered."""
        self.memory.path.unlink(missing_ok=True)

    def graph(self, plan: Plan | None) -> gs.Graph:
        """The model afresh, with the plan written into it; None: as it is."""
        gc.collect()  # graphs are webs of cycles: each trial's would stay, with all its weights
        graph = load(self.base)
        if plan is None:
            know_types(graph, self.custom)
        else:
            write_plan(graph, plan, self.layers, self.custom)
        return graph

    def feeds_of(self, graph: gs.Graph) -> Feeds:
        """The first sample, in the dtypes of the graph's inputs."""
        return fitting(self.samples[0], graph)

    def run(self, plan: Plan, only: int | None = None) -> Outcome:
        """The outcome of a plan. only: of this sample. Raises ExecutionError and NoRounding."""
        graph = self.graph(plan)
        found = Outcome()
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder, "trial.onnx")
            put(graph, path)
            copied = Path(folder, "rounded.onnx")
            copied.write_bytes(rounded_copy(path))
            self.runner.open(copied)
            for number, feeds in enumerate(self.samples):
                if only is not None and number != only:
                    continue
                actual = self.runner.run(fitting(feeds, graph))
                for name, want in self.expected[number].items():
                    if judged(want, actual[name]):
                        error = error_of(self.measure, want, actual[name])
                        found.error[name] = max(found.error.get(name, 0.0), error)
            self.runner.close()
        self.tried.append((plan.share_low, found.worst))
        return found

    def culprits(self, plan: Plan, worst: int = 0) -> list[tuple[str, str]]:
        """(tensor, why) of values of the main graph where the plan brings in most of its error, the worst first.

        A value that is finite in float32 and not in low precision, though all that it is made of is; else one that is
        far more wrong than all that it is made of: then those operands must be kept, too, and are named with it.
        """
        exact, low = self.graph(None), self.graph(plan)
        here = {t.name for node in low.nodes for t in node.outputs if t.name}
        nodes = [n for n in exact.nodes if any(t.name in here and is_single(t) for t in n.outputs)]
        names = [t.name for n in nodes for t in n.outputs if t.name in here and is_single(t)]
        of_exact = {t.name: t for n in exact.nodes for t in n.outputs}
        of_low = {t.name: t for n in low.nodes for t in n.outputs}
        feeds = self.samples[worst]
        error: dict[str, float] = {}
        with Runner() as other:
            pairs = zip(
                observe(exact, [of_exact[name] for name in names], [feeds], self.runner),
                observe(low, [of_low[name] for name in names], [fitting(feeds, low)], other, rounded=True),
                strict=False,
            )
            for (_, want), (_, got) in pairs:
                for name in want.keys() & got.keys():
                    error[name] = error_of(relative_l2, want[name], got[name])
        found: list[tuple[float, str, str]] = []
        for node in nodes:
            before = max((error.get(t.name, 0.0) for t in node.inputs), default=0.0)
            for tensor in node.outputs:
                after = error.get(tensor.name, 0.0)
                if np.isinf(after) and not np.isinf(before):
                    found.append((np.inf, tensor.name, "not finite in low precision"))
                elif np.isfinite(after) and after > 1e-2 and after > _SPREAD * before:
                    found.append((after / max(before, 1e-4), tensor.name, f"off by {after:.2g} in low precision"))
                    operands = [t.name for t in node.inputs if t.inputs and is_single(t)]
                    found += [(after / max(before, 1e-4), name, f"operand of {tensor.name}") for name in operands]
        found.sort(key=lambda one: -one[0])
        return list(dict.fromkeys((name, why) for _, name, why in found))[:_AT_ONCE]


class Memory:
    """Outcomes of plans of one model on the same samples: $GRAPHOPT_CACHE/search/DIGEST.json."""

    def __init__(self, base: Path, samples: Sequence[Feeds]) -> None:
        state = hashlib.sha256(graphopt_version().encode())
        with base.open("rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
        for feeds in samples:
            for name, value in feeds.items():
                state.update(name.encode() + np.asarray(value).tobytes())
        self.path = cache_folder() / "search" / f"{state.hexdigest()[:24]}.json"
        try:
            self.known: dict[str, dict[str, float]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.known = {}

    def get(self, plan: Plan) -> Outcome | None:
        found = self.known.get(key_of(plan))
        return None if found is None else Outcome(dict(found))

    def put(self, plan: Plan, outcome: Outcome) -> None:
        self.known[key_of(plan)] = outcome.error
        with contextlib.suppress(OSError):  # a cache that cannot be written to only costs time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self.known))
            temporary.replace(self.path)


def key_of(plan: Plan) -> str:
    """Equal for plans that make the same model: reasons and notes do not count, nor what is float32 anyway."""
    plain = {name: replace(one, why="") for name, one in plan.tensors.items()}
    bare = Plan("", plan.io, {name: one for name, one in plain.items() if one != Entry()})
    return hashlib.sha256(bare.to_text().encode()).hexdigest()[:24]


def graphopt_version() -> str:
    """The package's version: another one may round or place differently."""
    from graphopt import __version__

    return __version__


def fitting(feeds: Feeds, graph: gs.Graph) -> Feeds:
    """The feeds in the dtypes of the graph's inputs, which --io change may have made low."""
    kinds = {tensor.name: tensor.dtype for tensor in graph.inputs}
    found: dict[str, Value] = {}
    for name, value in feeds.items():
        wanted = kinds.get(name)
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and wanted is not None:
            found[name] = value.astype(np.dtype(wanted))
        else:
            found[name] = value
    return found
