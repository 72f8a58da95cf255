"""Whether TensorRT takes a model: what blocks it, why, and what graphopt does about it. Nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from . import backends
from .backends.operators import CONSTANT_SLOTS, DTYPES, REFUSED, UNBUILDABLE, plain
from .backends.protocol import BuildOptions, ParseError
from .config import Dims, Limits, Shapes, Target
from .errors import BackendError, UsageError
from .importing.ask import Import
from .importing.door import open_source
from .ir import dtypes
from .ir.graph import flatten, peek, scopes
from .ir.save import stage
from .job import Job, Progress
from .registry import Registry
from .rewrite.manager import Manager


@dataclass(frozen=True)
class Blocker:
    """A node that TensorRT refuses."""

    node: str
    op: str
    source: tuple[str, ...]
    """The nodes of the model as exported that it stands for."""
    reason: str
    """In plain words."""
    message: str
    """In the parser's."""
    remedy: str
    """What is done about it, or what the user may do, or that nothing can be done."""


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
    source: Verdict
    result: Verdict
    predicted: bool
    """'will build', said before any build."""
    rewrites: list[dict[str, Any]]
    """Each legalizing pass that fired: name, what it does, the nodes of the source, nodes added."""
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
) -> Checked:
    """What the target's parser and builder make of a model, before and after graphopt's passes.

    Native code runs in child processes: a crash or a hang of theirs is a reason in the result. build: also build both
    forms, into files that are thrown away. Raises GraphoptError where the model cannot be read or a pass fails.
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
            )  # fmt: skip
        return replace(checked, imported=source.report)
    job = Job(model, target, registry, registry.select("default", list(skip)), limits or Limits(), show, "never", skip)
    job.open(freeze or {}, bind or {})
    backend = backends.get(target.backend, job.limits)
    missing = backend.available()
    ask = _Ask(backend if missing is None else None, shapes, build, show)
    with tempfile.TemporaryDirectory(prefix="graphopt-check-") as folder:
        before = ask.verdict(job.load(), Path(folder) / "source.onnx")
        job.promote_io = promote_io
        manager = job.manager()
        nodes_before = len(manager.graph.nodes)
        show("passes", 0, 0)
        fired = manager.run()
        after = ask.parsed(manager.graph, Path(folder) / "result.onnx")
        predicted = bool(after.parses) and not _never_built(manager.graph, target)
        ask.built(after, Path(folder) / "result.onnx")
    for found in (before, after):
        if found.parses and found.builds is False:
            found.blockers = _never_built(manager.graph, target)
    after.blockers = [_with_remedy(one, manager, registry) for one in after.blockers]
    rewrites = [
        {"pass": one.name, "does": one.doc, "changes": one.changes, "nodes": _made_by(manager.graph, one.name)}
        for one in fired
        if one.changes and one.stage == "legalize" and one.plugin.startswith("legalize")
    ]
    before.blockers = [_answered(one, manager.graph, after) for one in before.blockers]
    return Checked(
        target.backend, backend.version() if missing is None else "", before, after, predicted, rewrites,
        job.interface, job.report.opset, nodes_before, len(manager.graph.nodes),
    )  # fmt: skip


class _Ask:
    """The backend, or the table that stands in for it."""

    def __init__(self, backend: Any, shapes: Shapes | None, build: bool, show: Progress) -> None:
        self.backend, self.shapes, self.build, self.show = backend, shapes, build, show

    def verdict(self, graph: gs.Graph, path: Path) -> Verdict:
        found = self.parsed(graph, path)
        return self.built(found, path)

    def parsed(self, graph: gs.Graph, path: Path) -> Verdict:
        """What the parser says."""
        if self.backend is None:
            blockers = _by_table(graph)
            return Verdict(not blockers, None, blockers, "" if not blockers else "by the table of measurements")
        with stage(graph, path) as staged:
            staged.commit()
        named = {node.name: node for scope in scopes(graph) for node in scope.nodes}
        self.show("parse", 0, 0)
        try:
            self.backend.parse(path)
        except ParseError as error:
            found = [
                Blocker(one.node, one.op, _source(named.get(one.node)), plain(one.reason), one.reason, "")
                for one in error.errors
            ]
            return Verdict(False, False, found, plain(error.errors[0].reason) if error.errors else error.what)
        except BackendError as error:
            return Verdict(False, False, [], error.what)
        return Verdict(True)

    def built(self, found: Verdict, path: Path) -> Verdict:
        """What the builder says of what was parsed."""
        if self.backend is None or not self.build or not found.parses:
            return found
        self.show("build", 0, 0)
        try:
            self.backend.build(path, path.with_suffix(".engine"), self.shapes, BuildOptions(), self.show)
            found.builds = True
        except UsageError as error:
            found.reason = f"not built: {error.what}"
        except BackendError as error:
            found.builds, found.reason = False, plain(error.what)
        finally:
            path.with_suffix(".engine").unlink(missing_ok=True)
        return found


def _source(node: gs.Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    known = peek(node)
    return tuple(flatten(known.origin)) if known is not None and known.origin else (node.name,)


def _by_table(graph: gs.Graph) -> list[Blocker]:
    found = []
    for scope in scopes(graph):
        for node in scope.nodes:
            reason = ""
            if node.op in REFUSED or (node.domain not in (None, "", "ai.onnx") and not _is_function(node, graph)):
                reason = "TensorRT has no such operator"
            elif any(
                slot < len(node.inputs) and node.inputs[slot].name and not isinstance(node.inputs[slot], gs.Constant)
                and any(node.inputs[slot] is port for port in graph.inputs)
                for slot in CONSTANT_SLOTS.get(node.op, ())
            ):  # fmt: skip
                reason = "an operand must be a constant"
            else:
                names = [dtypes.name(dtypes.of(t)) for t in (*node.inputs, *node.outputs) if t.name]
                lacking = sorted({name for name in names if name != "?"} - DTYPES)
                reason = f"TensorRT has no {lacking[0]}" if lacking else ""
            if reason:
                found.append(Blocker(node.name, node.op, _source(node), reason, "", ""))
    return found


def _is_function(node: gs.Node, graph: gs.Graph) -> bool:
    return any(function.name == node.op for function in graph.functions)


def _never_built(graph: gs.Graph, target: Target) -> list[Blocker]:
    if target.backend != "tensorrt_rtx":
        return []
    why = "TensorRT-RTX parses it and then has no kernel for it"
    nodes = [node for scope in scopes(graph) for node in scope.nodes if node.op in UNBUILDABLE]
    return [Blocker(node.name, node.op, _source(node), why, "", "") for node in nodes]


def _made_by(graph: gs.Graph, name: str) -> int:
    count = 0
    for scope in scopes(graph):
        for node in scope.nodes:
            known = peek(node)
            count += known is not None and name in flatten(known.rules)
    return count


def _with_remedy(one: Blocker, manager: Manager, registry: Registry) -> Blocker:
    """What may be done about a node that still stands in the way."""
    graph = manager.graph
    node = next((n for scope in scopes(graph) for n in scope.nodes if n.name == one.node), None)
    remedy = ""
    if node is not None:
        ports = {id(port): port.name for port in graph.inputs}
        asked = [ports[id(node.inputs[s])] for s in CONSTANT_SLOTS.get(node.op, ())
                 if s < len(node.inputs) and id(node.inputs[s]) in ports]  # fmt: skip
        if asked:
            remedy = "make it a constant: " + " ".join(f"--bind {name}=VALUE" for name in asked)
        elif node.name in manager.model.left:
            remedy = f"not rewritten: {manager.model.left[node.name]}"
        else:
            layers = [name for _, layer in registry.layers() if (name := layer.__name__).endswith(node.op)]
            if layers:
                remedy = f"custom layer {layers[0]}"
    if not remedy and "dtype" in one.reason and not one.node:
        remedy = "inputs or outputs of such a dtype: --promote-io gives them the dtype that carries their values"
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
