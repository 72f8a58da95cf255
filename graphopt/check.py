"""Whether TensorRT takes a model: what blocks it, why, and what graphopt does about it. Nothing is written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from . import backends
from .backends.operators import CONSTANT_SLOTS, REMEDIES, plain, table
from .backends.protocol import BuildOptions, ParseError
from .config import Dims, Limits, Shapes, Target
from .errors import BackendError, UsageError
from .importing.ask import Import
from .importing.door import open_source
from .ir import dtypes
from .ir.graph import flatten, peek, scopes
from .ir.save import stage
from .job import Job, Progress
from .legality import Blocker, by_table, decided_by, located, never_built, ports, source_of, touches
from .registry import Registry
from .rewrite.manager import Manager
from .rewrite.spelling import is_standard


@dataclass
class Verdict:
    """What the backend says of one form of the model; None: not asked."""

    parses: bool | None = None
    builds: bool | None = None
    blockers: list[Blocker] = field(default_factory=list)
    reason: str = ""
    """Why it does not build."""


@dataclass
class Checked:
    """The model as it is, as graphopt makes it, and what stands between the two."""

    backend: str
    version: str
    """'' where no TensorRT is installed and the measured table answers."""
    basis: str
    """Where the answer comes from if no library was asked, and how far it is proved; else ''."""
    source: Verdict
    result: Verdict
    predicted: bool
    """'will build', said before any build."""
    rewrites: list[dict[str, Any]]
    """Each legalizing pass that fired: `pass`, `does`, `changes`; of the nodes that it made how many stand (`nodes`),
    and in which `dtypes` they compute; `accuracy`."""
    interface: dict[str, str]
    opset: dict[str, Any] | None
    nodes_before: int
    nodes_after: int
    imported: dict[str, Any] | None = None
    """How a model of another framework was taken in."""

    @property
    def ok(self) -> bool:
        """Whether an engine can be had."""
        return bool(self.result.builds if self.result.builds is not None else self.predicted)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def check(
    model: Any,
    *,
    importer: Import | str | None = None,
    target: Target | None = None,
    shapes: Shapes | None = None,
    freeze: Mapping[str, Dims] | None = None,
    bind: Mapping[str, Any] | None = None,
    promote_io: bool = False,
    build: bool = True,
    plugins: Sequence[Any] = (),
    no_plugins: Sequence[str] = (),
    skip: Sequence[str] = (),
    limits: Limits | None = None,
    progress: Progress | None = None,
    backend: Any = None,
) -> Checked:
    """What the target's parser and builder make of a model, before and after graphopt's passes.

    Native code runs in child processes: a crash or a hang of theirs is a reason in the result. build: also build both
    forms, into files that are thrown away. backend: whom to ask, if not the target's own.
    Raises GraphoptError where the model cannot be read or a pass fails.
    """
    target = target or Target()
    if target.backend == "onnxruntime":
        raise UsageError("onnxruntime builds no engines", where="--backend", hint="choose tensorrt_rtx or tensorrt")
    show = progress or (lambda what, done, total: None)
    registry = Registry(plugins, no_plugins)
    source = open_source(model, importer, registry, profile=shapes, limits=limits, progress=show)
    if source is not None:
        with source:
            checked = check(
                source.path, target=target, shapes=shapes, freeze=freeze, bind=bind, promote_io=promote_io,
                build=build, plugins=plugins, no_plugins=no_plugins, skip=skip, limits=limits, progress=progress,
                backend=backend,
            )  # fmt: skip
        return replace(checked, imported=source.report)
    job = Job(model, target, registry, registry.select("default", list(skip)), limits or Limits(), show, "never", skip)
    job.open(freeze or {}, bind or {}, empty_too=True)
    backend = backend or backends.get(target.backend, job.limits)
    missing = backend.available()
    ask = _Ask(backend if missing is None else None, shapes, build, show, target)
    with tempfile.TemporaryDirectory(prefix="graphopt-check-") as folder:
        before, _ = ask.verdict(job.load(), Path(folder) / "source.onnx")
        job.promote_io = promote_io
        manager = job.manager()
        nodes_before = len(manager.graph.nodes)
        show("passes", 0, 0)
        fired = manager.run()
        after, predicted = ask.verdict(manager.graph, Path(folder) / "result.onnx")
    after.blockers = [_with_remedy(one, manager, registry) for one in after.blockers]
    rewrites = [
        {"pass": one.name, "does": one.doc, "changes": one.changes, **_cost(manager, one.name)}
        for one in fired
        if one.changes and one.stage == "legalize" and one.plugin.startswith("legalize")
    ]
    before.blockers = [_answered(one, manager.graph, after) for one in before.blockers]
    return Checked(
        target.backend, backend.version() if missing is None else "",
        "" if missing is None else table(target.backend, target.version).basis, before, after, predicted, rewrites,
        job.interface, job.report.opset, nodes_before, len(manager.graph.nodes),
    )  # fmt: skip


class _Ask:
    """The backend, or the table that stands in for it."""

    def __init__(self, backend: Any, shapes: Shapes | None, build: bool, show: Progress, target: Target) -> None:
        self.backend, self.shapes, self.build, self.show, self.target = backend, shapes, build, show, target

    def verdict(self, graph: gs.Graph, path: Path) -> tuple[Verdict, bool]:
        """What is said of a graph; and whether it was expected to build, before any build."""
        found = self.parsed(graph, path)
        never = never_built(graph, self.target) if found.parses else []
        expected = bool(found.parses) and not never
        message = self.built(found, path)
        if found.parses and not found.builds:
            found.blockers = never or (located(graph, message) if found.builds is False else [])
        return found, expected

    def parsed(self, graph: gs.Graph, path: Path) -> Verdict:
        """What the parser says."""
        if self.backend is None:
            blockers = by_table(graph, self.target)
            return Verdict(not blockers, None, blockers, blockers[0].reason if blockers else "")
        with stage(graph, path) as staged:
            staged.commit()
        named = {node.name: node for scope in scopes(graph) for node in scope.nodes}
        self.show("parse", 0, 0)
        try:
            self.backend.parse(path)
        except ParseError as error:
            found = [
                Blocker(one.node, one.op, source_of(named.get(one.node)), plain(one.reason), one.reason, "")
                for one in error.errors
            ]
            if refused := ports(graph):
                names = {one.node for one in refused}  # casts there are refused as a consequence
                others = [one for one in found if one.node and not touches(named.get(one.node), names)]
                found = refused + others
            return Verdict(False, False, found, found[0].reason if found else error.what)
        except BackendError as error:
            return Verdict(False, False, [], error.what)
        return Verdict(True)

    def built(self, found: Verdict, path: Path) -> str:
        """Put into `found` what the builder says of what was parsed; its words."""
        if self.backend is None or not self.build or not found.parses:
            return ""
        self.show("build", 0, 0)
        try:
            self.backend.build(path, path.with_suffix(".engine"), self.shapes, BuildOptions(), self.show)
            found.builds = True
        except UsageError as error:
            found.reason = f"not built: {error.what}"
        except BackendError as error:
            found.builds, found.reason = False, plain(error.what)
            return error.what
        finally:
            path.with_suffix(".engine").unlink(missing_ok=True)
        return ""


def _cost(manager: Manager, name: str) -> dict[str, Any]:
    """How many nodes a pass made that still stand, in which dtypes they compute, and how exactly, as the pass says."""
    made = [
        node
        for scope in scopes(manager.graph)
        for node in scope.nodes
        if (known := peek(node)) is not None and name in flatten(known.rules)
    ]
    found = {dtypes.name(dtypes.of(tensor)) for node in made for tensor in node.outputs if tensor.name}
    entry = next(one for stage in manager.stages.values() for one in stage if one.name == name)
    text = getattr(entry.run, "function", type(entry.run)).__doc__ or ""
    said = re.search(r"^ *Accuracy: (.+?)(?:\n *\n|\Z)", text, re.S | re.M)
    accuracy = " ".join(said[1].split()) if said else "not said"
    return {"nodes": len(made), "dtypes": sorted(found - {"?"}), "accuracy": accuracy}


def _with_remedy(one: Blocker, manager: Manager, registry: Registry) -> Blocker:
    """What may be done about a node that still stands in the way."""
    if one.remedy:
        return one
    graph = manager.graph
    node = next((n for scope in scopes(graph) for n in scope.nodes if n.name == one.node), None)
    remedy = ""
    if node is not None:
        ports = {id(port): port.name for port in graph.inputs}
        asked = [ports[id(node.inputs[s])] for s in CONSTANT_SLOTS.get(node.op, ())
                 if s < len(node.inputs) and id(node.inputs[s]) in ports]  # fmt: skip
        layers = [name for _, layer in registry.layers() if (name := layer.__name__) == f"Fused{node.op}"]
        left = manager.model.left.get(node.name)
        if decided := decided_by(node, graph):
            remedy = decided
        elif asked:
            remedy = "make it a constant: " + " ".join(f"--bind {name}=VALUE" for name in asked)
        elif layers:
            remedy = f"custom layer {layers[0]}, run between two engines: a build takes it by itself"
        elif left:
            remedy = f"not rewritten: {left}"
        elif node.op in REMEDIES:
            remedy = REMEDIES[node.op]
        elif not is_standard(node):
            remedy = f"an operator of {node.domain}, not of ONNX: export the model without it, or bring a layer"
    return Blocker(one.node, one.op, one.source, one.reason, one.message, remedy or "nothing is known")


def _answered(one: Blocker, graph: gs.Graph, after: Verdict) -> Blocker:
    """Which passes took care of a node of the source."""
    if any(set(one.source) & set(other.source) for other in after.blockers):
        remedy = next(other.remedy for other in after.blockers if set(one.source) & set(other.source))
        return Blocker(one.node, one.op, one.source, one.reason, one.message, remedy)
    names: dict[str, None] = {}
    for scope in scopes(graph):
        for node in scope.nodes:
            known = peek(node)
            if known is not None and one.node and one.node in flatten(known.origin):
                names.update(dict.fromkeys(flatten(known.rules)))
    by = f"rewritten by {', '.join(names)}" if names else "gone after the passes"
    return Blocker(one.node, one.op, one.source, one.reason, one.message, by if after.parses else "")
