"""import -> load -> rewrite passes -> verify -> build engine: the main job, as one function."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from . import backends
from .backends.protocol import BuildOptions, BuildResult, NetworkInfo, ParseError, ParserError
from .config import Dims, Limits, Shapes, Target
from .errors import BackendError, GraphoptError, UsageError, VerificationError
from .ir.graph import flatten, peek, scopes
from .ir.load import load
from .ir.save import Staged, stage, to_proto
from .ir.specialize import bind_inputs, freeze_dims
from .numerics.verify import Verification, verify
from .registry import Registry
from .report.result import Description, Report, Result, describe
from .rewrite.manager import Manager
from .rewrite.match import Match
from .rewrite.rule import Entry
from .rewrite.worklist import Fired

__all__ = ["Result", "optimize"]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in total or 0)."""

VERIFY = ("end", "each", "none")
_MOST_REFUSED = 16
_COUNTED_BYTES = 1_000_000_000


def optimize(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | gs.Graph,
    *,
    output: str | os.PathLike[str] | None = None,
    target: Target | None = None,
    pipeline: str = "default",
    skip: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    no_plugins: Sequence[str] = (),
    shapes: Shapes | None = None,
    freeze: Mapping[str, Dims] | None = None,
    bind: Mapping[str, Any] | None = None,
    verify: str = "end",
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    samples: int = 3,
    seed: int = 0,
    engine: str | os.PathLike[str] | None = None,
    build_options: BuildOptions | None = None,
    count_layers: bool = False,
    strict: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Result:
    """The model, rewritten to a fixpoint, proved against its source, and built into an engine if asked.

    output: where to write the optimized model; None writes nothing. engine: where to write an engine; None builds none.
    shapes: the optimization profile, and the shapes to verify at. freeze: dims made static; bind: inputs made
    constants.
    verify: 'end' compares the result with the source; 'each' takes back the changes that broke the numbers and goes
    on; 'none' compares nothing. inputs: arrays or an .npz to verify with. count_layers: ask the backend's parser
    how many layers it makes of source and result. strict: what was refused or could not be verified is an error.

    Raises:
        GraphoptError: the model cannot be read, a pass or plugin failed, the numbers differ, the build failed.
            Nothing has been written then.
    """
    if verify not in VERIFY:
        raise UsageError(f"--verify {verify}: choose one of {', '.join(VERIFY)}")
    began = perf_counter()
    target = target or Target()
    registry = Registry(plugins, no_plugins)
    job = _Job(model, target, registry, registry.select(pipeline, skip), limits or Limits(), progress or _silent)
    job.specialize(freeze or {}, bind or {})
    if output is not None:
        _keep_input(model, output)
    with ExitStack() as stack:
        graph, report = job.rewrite(), job.report
        check = _Check(job, verify, shapes, inputs, samples, seed)
        if check.wanted or output is not None or engine is not None or count_layers:
            staged = stack.enter_context(job.staged(graph, output))
            graph, staged = check.settle(stack, graph, staged, output, strict)
            if count_layers:
                report.layers_before, report.layers_after = (
                    job.layers(check.source(stack), report.source),
                    job.layers(staged.model_path, report.result),
                )
            built = job.build(graph, staged, engine, shapes, build_options, stack)
            if output is not None:
                report.outputs["model"] = [str(path) for path in staged.commit()]
            if built is not None:
                report.build = built.finish()
                report.outputs["engine"] = [report.build["engine"]]
    report.seconds = perf_counter() - began
    return Result(graph, report)


class _Job:
    """One model on its way through the passes."""

    def __init__(
        self, model: Any, target: Target, registry: Registry, entries: list[Entry], limits: Limits, progress: Progress
    ) -> None:
        self.given = model
        self.target = target
        self.registry = registry
        self.entries = entries
        self.limits = limits
        self.progress = progress
        self.report = Report(warnings=registry.unavailable())
        self.frozen: Mapping[str, Dims] = {}
        self.bound: Mapping[str, Any] = {}
        if isinstance(model, gs.Graph):
            self.given = to_proto(load(model))
        progress("load", 0, 0)
        graph = self.load()
        self.report.source = describe(graph)

    def specialize(self, frozen: Mapping[str, Dims], bound: Mapping[str, Any]) -> None:
        """What --freeze and --bind ask for is part of the source from here on."""
        self.frozen, self.bound = frozen, bound
        if frozen or bound:
            self.load()  # so that a wrong name is an error before any work

    def load(self) -> gs.Graph:
        """The source, afresh."""
        graph = load(self.given)
        freeze_dims(graph, self.frozen)
        bind_inputs(graph, self.bound)
        return graph

    def manager(self, most: int | None = None, refused: Mapping[tuple[str, str], str] | None = None) -> Manager:
        """A manager over a fresh copy of the source."""
        refused = refused or {}
        ask = self.registry.has("graphopt_check")
        whole = {name for name, node in refused if not node}

        def veto(one: Entry, match: Match) -> str | None:
            if (one.name, match.root.name) in refused:
                return "it changed the numbers here"
            return self.registry.veto(one.name, match.nodes, self.target) if ask else None

        graph = self.load()
        tell = (lambda name, changes: self.registry.after_pass(graph, name, changes)) if (
            self.registry.has("graphopt_after_pass")
        ) else None  # fmt: skip
        return Manager(
            graph,
            [one for one in self.entries if one.name not in whole],
            self.target,
            self.limits,
            most=most,
            veto=veto if refused or ask else None,
            after_pass=tell,
        )

    def rewrite(self, refused: Mapping[tuple[str, str], str] | None = None) -> gs.Graph:
        """Run the passes; fill in what they did."""
        self.progress("passes", 0, 0)
        manager = self.manager(refused=refused)
        self.report.passes = manager.run()
        self.report.result = describe(manager.graph)
        return manager.graph

    @contextmanager
    def staged(self, graph: gs.Graph, output: str | os.PathLike[str] | None) -> Iterator[Staged]:
        """The result as files: beside the output, or in a temporary folder."""
        if output is not None:
            with stage(graph, output) as staged:
                yield staged
        else:
            with (
                tempfile.TemporaryDirectory(prefix="graphopt-") as folder,
                stage(graph, Path(folder) / "model.onnx") as staged,
            ):
                yield staged

    def layers(self, path: str | os.PathLike[str], about: Description) -> NetworkInfo | str:
        """What the backend's parser makes of a file, or why nothing."""
        if about.weights_bytes > _COUNTED_BYTES:
            return "not counted beyond 1 GB of weights, which the parser would read into memory"
        self.progress("count layers", 0, 0)
        backend = backends.get(self.target.backend, self.limits)
        reason = backend.available()
        if reason:
            return reason
        try:
            return backend.parse(path)
        except BackendError as error:
            return error.what

    def build(
        self,
        graph: gs.Graph,
        staged: Staged,
        engine: str | os.PathLike[str] | None,
        shapes: Shapes | None,
        options: BuildOptions | None,
        stack: ExitStack,
    ) -> _Built | None:
        """Build the engine under a temporary name."""
        if engine is None:
            return None
        path = Path(engine)
        if not path.parent.is_dir():
            raise UsageError(f"folder {path.parent} does not exist", where=str(path), hint=f"mkdir -p {path.parent}")
        backend = backends.get(self.target.backend, self.limits)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".graphopt-", dir=path.parent))
        capability = self.target.compute_capability
        if options is None:
            options = BuildOptions(compute_capabilities=(capability,) if capability else ())
        try:
            built = backend.build(staged.model_path, Path(folder) / path.name, shapes, options, self.progress)
        except ParseError as error:
            raise _explained(error, graph) from error
        return _Built(built, path, shapes)


class _Built:
    """A finished engine that waits under a temporary name until everything else is written."""

    def __init__(self, result: BuildResult, path: Path, shapes: Shapes | None) -> None:
        self.result = result
        self.path = path
        self.shapes = shapes

    def finish(self) -> dict[str, Any]:
        os.replace(self.result.engine_path, self.path)
        found = self.result
        shapes = self.shapes or Shapes()
        names = sorted({*shapes.min, *shapes.opt, *shapes.max})
        return {
            "engine": str(self.path),
            "bytes": found.bytes,
            "seconds": round(found.seconds, 3),
            "layers": found.layers,
            "backend": found.backend,
            "version": found.version,
            "profile": {name: [list(dims) for dims in shapes.of(name)] for name in names},
            "log": list(found.log),
        }


class _Check:
    """Verification, and what happens on a breach."""

    def __init__(self, job: _Job, mode: str, shapes: Shapes | None, inputs: Any, samples: int, seed: int) -> None:
        self.job = job
        self.mode = mode
        self.shapes = shapes
        self.inputs = inputs
        self.samples = samples
        self.seed = seed
        self._source: Path | None = None

    @property
    def wanted(self) -> bool:
        return self.mode != "none"

    def source(self, stack: ExitStack) -> Path:
        """The source as a file, with freeze and bind applied."""
        if self._source is None:
            given = self.job.given
            if isinstance(given, (str, os.PathLike)) and not self.job.frozen and not self.job.bound:
                self._source = Path(given)
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-"))
                staged = stack.enter_context(stage(self.job.load(), Path(folder) / "source.onnx"))
                self._source = Path(staged.model_path)
        return self._source

    def _compare(self, stack: ExitStack, path: str | os.PathLike[str]) -> Verification:
        self.job.progress("verify", 0, 0)
        source = self.source(stack)
        if self.inputs is None and self.job.registry.has("graphopt_inputs"):
            self.inputs = self.job.registry.inputs(str(source))
        inputs = self.inputs
        return verify(
            source, Path(path), shapes=self.shapes, inputs=inputs, samples=self.samples, seed=self.seed
        )  # fmt: skip

    def settle(
        self, stack: ExitStack, graph: gs.Graph, staged: Staged, output: Any, strict: bool
    ) -> tuple[gs.Graph, Staged]:
        """Compare; on a breach name the culprit, or take its change back and go on."""
        report = self.job.report
        if not self.wanted:
            return graph, staged
        refused: dict[tuple[str, str], str] = {}
        while True:
            found = report.verification = self._compare(stack, staged.model_path)
            if found.status == "passed" or (found.status == "unverified" and not strict):
                break
            if found.status == "unverified":
                raise VerificationError(f"the source could not be run: {_reasons(found)}", hint="leave out --strict")
            culprit, node = self._culprit(stack, refused)
            what = f"pass {culprit}{f' at node {node!r}' if node else ''}" if culprit else "writing the model"
            worst = next((str(one) for one in found.outputs if not one.ok), "; ".join(found.notes))
            if self.mode != "each" or not culprit or len(refused) >= _MOST_REFUSED:
                raise VerificationError(
                    f"the result does not compute what its source computes: {worst}",
                    where=what,
                    hint=f"leave it out with --skip {culprit}, or undo its changes with --verify each"
                    if culprit
                    else "",
                )
            refused[culprit, node] = worst
            report.refused.append(
                {"pass": culprit, "node": node, "plugin": _plugin(report.passes, culprit), "why": worst}
            )
            graph = self.job.rewrite(refused)
            staged = stack.enter_context(self.job.staged(graph, output))
        if report.refused and strict:
            one = report.refused[0]
            raise VerificationError(
                f"refused: pass {one['pass']} at node {one['node']!r}: {one['why']}", where="--strict"
            )
        return graph, staged

    def _culprit(self, stack: ExitStack, refused: Mapping[tuple[str, str], str]) -> tuple[str, str]:
        """(pass, node) of the first change after which the numbers differ, by bisection over the changes."""
        whole = self.job.manager(refused=refused)
        whole.run()
        low, high = 0, whole.changes
        if not self._breaks(stack, high, refused)[0]:
            return whole.last
        while high - low > 1:
            middle = (low + high) // 2
            self.job.progress("bisect", whole.changes - (high - low), whole.changes)
            if self._breaks(stack, middle, refused)[0]:
                high = middle
            else:
                low = middle
        if low == 0 and self._breaks(stack, 0, refused)[0]:
            return "", ""
        return self._breaks(stack, high, refused)[1]

    def _breaks(
        self, stack: ExitStack, most: int, refused: Mapping[tuple[str, str], str]
    ) -> tuple[bool, tuple[str, str]]:
        manager = self.job.manager(most, refused)
        manager.run()
        with self.job.staged(manager.graph, None) as staged:
            found = self._compare(stack, staged.model_path)
        return found.status == "failed", manager.last


def _reasons(found: Verification) -> str:
    return "; ".join([*found.notes, *(one.reason for one in found.shapes_dropped[:2])]) or "no reason given"


def _plugin(passes: Sequence[Fired], name: str) -> str:
    return next((one.plugin for one in passes if one.name == name), "?")


def _explained(error: ParseError, graph: gs.Graph) -> ParseError:
    """The parser's complaint, led back to the nodes and passes that it is about."""
    nodes = {node.name: node for scope in scopes(graph) for node in scope.nodes}

    def story(one: ParserError) -> str:
        known = peek(nodes[one.node]) if one.node in nodes else None
        if known is None or not known.rules:
            return ""
        names, rules = flatten(known.origin), flatten(known.rules)
        return f"{one.node} was made by {', '.join(rules[-3:])} from {', '.join(names[:5])}"

    stories = [text for one in error.errors if (text := story(one))]
    hint = "\n  ".join(text for text in [error.hint, *stories] if text)
    return ParseError(error.what, where=error.where, hint=hint, errors=error.errors)


def _keep_input(model: Any, output: str | os.PathLike[str]) -> None:
    if isinstance(model, (str, os.PathLike)) and os.path.exists(output) and os.path.samefile(model, output):
        raise UsageError("the output is the input file", where=str(output), hint="choose another name with -o")


def _silent(what: str, done: int, total: int) -> None:
    return None


__all__ += ["GraphoptError"]
