"""One model on its way through the passes: loaded, rewritten, staged as files, parsed, built."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from . import backends
from .backends.profiles import profile
from .backends.protocol import Backend, BuildOptions, BuildResult, NetworkInfo, TensorInfo
from .backends.tensorrt import FLAVORS
from .complaints import explained
from .config import Dims, Limits, Shapes, Target
from .engines.build import build_or_load
from .engines.key import engine_key
from .engines.request import NoKey
from .engines.store import Store
from .errors import BackendError, ModelError, PassError, UsageError
from .ir import dtypes
from .ir import shapes as dims_of
from .ir.convert import RAISED, convert_opset, raise_opset
from .ir.graph import Extras, peek
from .ir.infer import Custom
from .ir.load import collector_off, load
from .ir.notes import drop_exporters_notes
from .ir.promote import promote_interface
from .ir.save import Staged, stage, to_proto
from .ir.specialize import bind_inputs, freeze_dims
from .ir.staging import staging
from .lowering import Lowering, lowering
from .manifest import manifest, write_manifest
from .registry import Registry
from .report.result import Description, Report, describe
from .rewrite.deadline import deadline
from .rewrite.manager import Manager
from .rewrite.match import Match
from .rewrite.rule import Entry

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in total or 0)."""
_MORE_TIME = "give more with --time-limit"
_COUNTED_BYTES = 1_000_000_000


class Job:
    """One model on its way through the passes."""

    def __init__(
        self,
        model: Any,
        target: Target,
        registry: Registry,
        entries: list[Entry],
        limits: Limits,
        progress: Progress,
        lower: str = "auto",
        skip: Sequence[str] = (),
    ) -> None:
        self.given = model
        self.target = target
        self.registry = registry
        self.entries = entries
        self.limits = limits
        self.progress = progress
        self.source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
        """What the user named, for the manifest."""
        self.report = Report(warnings=registry.unavailable())
        self.frozen: Mapping[str, Dims] = {}
        self.bound: Mapping[str, Any] = {}
        self.opset: int | None = None
        self.lower = lower
        self.skip = skip
        self._lowering: Lowering | None = None
        self.keep_metadata = False
        self.lists_failures = False
        """Whether a pass that failed stands among the changes that were taken back, too."""
        self.strict = False
        """Whether a pass that fails ends the run; else it is left out, and a warning says so."""
        self.promote_io = False
        """Whether inputs and outputs of dtypes that no engine has become ones of the dtype that carries them."""
        self.interface: dict[str, str] = {}
        self.postponed: frozenset[str] = frozenset()
        """Stages that run after the precision stage only: legalize would spell out what a quantized source says."""
        self._unused: gs.Graph | None = None
        if isinstance(model, gs.Graph):
            self.given = to_proto(load(model))

    def open(
        self, frozen: Mapping[str, Dims], bound: Mapping[str, Any], opset: int | None = None, *, empty_too: bool = False
    ) -> None:
        """Load the source; what --freeze and --bind ask for is part of it from here on, an opset only of the result.

        empty_too: also where neither an input nor any output has elements.

        Raises:
            ModelError: it cannot be read, has no elements to compare, or cannot be said at that opset.
            UsageError: --freeze or --bind does not fit.
        """
        self.progress("load", 0, 0)
        self.frozen, self.bound, self.opset = frozen, bound, opset
        graph = self.load()
        empty = [tensor for tensor in graph.inputs if 0 in (dims_of.of(tensor) or ())]
        if empty and all(0 in (dims_of.of(tensor) or (0,)) for tensor in graph.outputs) and not empty_too:
            raise ModelError(
                f"its shape {dims_of.text(dims_of.of(empty[0]))} has no elements, and neither has any output: "
                "nothing can be compared",
                where=f"input {empty[0].name!r}",
            )
        self.report.source = describe(graph)
        self._unused = graph

    @property
    def changes_source(self) -> bool:
        """Whether what is compared with is not the file as it was given."""
        return bool(self.frozen or self.bound or self.promote_io)

    def check_profile(self, shapes: Shapes) -> None:
        """Say before any work which shapes a build will miss. Raises UsageError."""
        assert self._unused is not None
        inputs = {}
        for tensor in self._unused.inputs:
            dims = dims_of.of(tensor)
            if dims is not None and (peek(tensor) or Extras()).default is None:
                sizes = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
                names = tuple(dim if isinstance(dim, str) else "" for dim in dims)
                inputs[tensor.name] = TensorInfo(dtypes.name(dtypes.of(tensor)), sizes, names)
        known = {tensor.name for tensor in self._unused.inputs}
        given = {*shapes.min, *shapes.opt, *shapes.max}
        if given - known or any(-1 in info.dims and name not in shapes for name, info in inputs.items()):
            profile(
                inputs, Shapes(opt={name: shapes.of(name)[1] for name in given if name in inputs or name not in known})
            )

    def convert(self, graph: gs.Graph) -> gs.Graph:
        """The graph at the opset that was asked for."""
        if self.opset is not None:
            before = int(graph.opset)
            self.report.opset = {
                "before": before,
                "after": self.opset,
                "respelled": convert_opset(graph, self.opset),
            }
        elif self.target.backend in FLAVORS:
            try:
                raised = raise_opset(graph, FLAVORS[self.target.backend].least_opset, RAISED)
            except ModelError as error:
                self._warn(f"its opset {graph.opset} is too old for the parser and cannot be raised: {error.what}")
                return graph if self.changes_source else load(self.given)
            if raised is not None:
                self.report.opset = raised
        return graph

    def _warn(self, text: str) -> None:
        if text not in self.report.warnings:
            self.report.warnings.append(text)

    def load(self) -> gs.Graph:
        """The source, afresh."""
        if self._unused is not None:
            graph, self._unused = self._unused, None
            return graph
        graph = load(self.given, notes=self.keep_metadata)
        freeze_dims(graph, self.frozen)
        bind_inputs(graph, self.bound)
        if self.promote_io:
            self.interface = promote_interface(graph, self.target)
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

        graph = self.convert(self.load())
        if not self.keep_metadata:
            drop_exporters_notes(graph)
        tell = (lambda name, changes: self.registry.after_pass(graph, name, changes)) if (
            self.registry.has("graphopt_after_pass")
        ) else None  # fmt: skip
        if self._lowering is None:
            self._lowering = lowering(self.registry, graph, self.entries, self.target, self.lower, skip=self.skip)
            self.report.not_lowered = self._lowering.reasons
        return Manager(
            graph,
            [
                one
                for one in (*self.entries, *self._lowering.entries)
                if one.name not in whole and one.stage not in self.postponed
            ],
            self.target,
            self.limits,
            most=most,
            veto=veto if refused or ask else None,
            after_pass=tell,
            custom=self._lowering.custom,
        )

    def peek(self) -> gs.Graph:
        """The source, to be looked at only."""
        if self._unused is None:
            self._unused = self.load()
        return self._unused

    @property
    def custom(self) -> Custom | None:
        """The types of calls of custom layers, once the passes have run."""
        return self._lowering.custom if self._lowering is not None else None

    def rewrite(
        self, refused: Mapping[tuple[str, str], str] | None = None, observe: Callable[[Manager], None] | None = None
    ) -> gs.Graph:
        """Run the passes; fill in what they did. observe: called with the manager before it runs."""
        self.progress("passes", 0, 0)
        while True:
            try:
                with deadline(self.limits.pass_seconds), collector_off():
                    manager = self.manager(refused=refused)
                    if observe is not None:
                        observe(manager)
                    self.report.passes = manager.run()
            except PassError as error:
                self._leave_out(error)
                continue
            except TimeoutError as error:
                raise PassError(f"the passes: {error}", hint=_MORE_TIME) from error
            self.report.result = describe(manager.graph)
            return manager.graph

    def _leave_out(self, error: PassError) -> None:
        """Go on without the pass that failed, from the source again; raises the error where that cannot be."""
        if isinstance(error.__cause__, TimeoutError):
            raise PassError(error.what, where=error.where, hint=f"{error.hint}, or {_MORE_TIME}") from error
        lowered = self._lowering.entries if self._lowering is not None else []
        culprit = next((one for one in (*self.entries, *lowered) if one.name == error.culprit), None)
        if self.strict or culprit is None:
            raise error
        self.entries = [one for one in self.entries if one is not culprit]
        lowered[:] = [one for one in lowered if one is not culprit]
        where = f"{error.where}: " if error.where else ""
        self.report.warnings.append(f"pass {error.culprit} failed and was left out: {where}{error.what}")
        if self.lists_failures:
            node = re.search(r"node '([^']*)'", error.where)
            self.report.refuse(culprit.name, node[1] if node else "", culprit.plugin, f"it failed: {error.what}")

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
        store: Store | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> Built | None:
        """Build the engine under a temporary name, or take it from the store. made_by: for the manifest."""
        if engine is None:
            return None
        path = Path(engine)
        if not path.parent.is_dir():
            raise UsageError(f"folder {path.parent} does not exist", where=str(path), hint=f"mkdir -p {path.parent}")
        backend = backends.get(self.target.backend, self.limits)
        folder = stack.enter_context(staging(path.parent))
        capability = self.target.compute_capability
        if options is None:
            options = BuildOptions(compute_capabilities=(capability,) if capability else ())
        options = replace(
            options,
            plugins=self.registry.given,
            no_plugins=self.registry.switched_off,
            hooks=self.registry.has("graphopt_builder"),
        )
        target = folder / path.name
        key, why = "", "it was switched off"
        if store is not None:
            try:
                version, why = backend.version(), ""
                key = engine_key(staged.model_path, shapes, options, self.target, version, self.registry)
            except NoKey as error:
                why = str(error)
        made = {"key": key, **(made_by or {})}

        def make() -> BuildResult:
            try:
                found = self._segmented(backend, staged.model_path, target, shapes, options)
                return found or backend.build(staged.model_path, target, shapes, options, self.progress)
            except BackendError as error:
                raise explained(error, graph, (staged.model_path, self.source), (target, path)) from error

        def about(built: BuildResult) -> dict[str, Any]:
            return manifest(graph, self.source, built, shapes, options, made)

        hit = False
        if store is not None and key:
            built, hit, why = build_or_load(store, key, target, make, about, self.progress)
        else:
            built = make()
        if why and store is not None:
            self.report.warnings.append(f"the engine is not kept in the cache: {why}")
        return Built(built, path, shapes, about(built), {"hit": hit, "key": key, "off": why})

    def _segmented(
        self, backend: Backend, model: Path, engine: Path, shapes: Shapes | None, options: BuildOptions
    ) -> BuildResult | None:
        """A container of engines and kernels, where custom layers are to run that the backend has no plugins for."""
        plugins = options.segments == "auto" and self.target.backend == "tensorrt"
        if plugins or self.target.backend == "onnxruntime":
            return None
        from .runtime.segments import build_segments

        return build_segments(model, engine, backend, self.registry, options.segments, shapes, options, self.progress)


class Built:
    """A finished engine that waits under a temporary name until everything else is written."""

    def __init__(
        self, result: BuildResult, path: Path, shapes: Shapes | None, made_of: dict[str, Any], cache: dict[str, Any]
    ) -> None:
        self.cache = cache
        self.result = result
        self.path = path
        self.shapes = shapes
        self.made_of = made_of

    def finish(self) -> dict[str, Any]:
        write_manifest(self.path, self.made_of)
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
            "cache": self.cache,
            "log": list(found.log),
            "segments": list(found.segments),
        }
