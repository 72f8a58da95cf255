"""Verification of a job, and what happens on a breach: the culprit is named, or its change is taken back."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .config import Shapes
from .errors import VerificationError
from .ir.save import Staged, stage
from .job import Job
from .numerics.each import check_each
from .numerics.history import Recorder
from .numerics.repro import write_repro
from .numerics.slices import Breach
from .numerics.verify import RANDOM_NOTE, Verification, verify
from .rewrite.worklist import Fired

_MOST_REFUSED = 16


class Check:
    """Verification, and what happens on a breach."""

    def __init__(
        self, job: Job, mode: str, shapes: Shapes | None, inputs: Any, samples: int, seed: int,
        repro: Path | None = None,
    ) -> None:  # fmt: skip
        self.job = job
        self.mode = mode
        self.shapes = shapes
        self.inputs = inputs
        self.samples = samples
        self.seed = seed
        self.repro = repro
        self.refused: dict[tuple[str, str], str] = {}
        """(pass, root node) -> why; the node is '' for a whole function pass"""
        self._source: Path | None = None
        job.lists_failures = mode == "each"

    @property
    def wanted(self) -> bool:
        return self.mode != "none"

    def source(self, stack: ExitStack) -> Path:
        """The source as a file, with freeze and bind applied."""
        if self._source is None:
            given = self.job.given
            if isinstance(given, (str, os.PathLike)) and not self.job.changes_source:
                self._source = Path(given)
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-"))
                staged = stack.enter_context(stage(self.job.load(), Path(folder) / "source.onnx"))
                self._source = Path(staged.model_path)
        return self._source

    def _compare(self, stack: ExitStack, path: str | os.PathLike[str]) -> Verification:
        self.job.progress("verify", 0, 0)
        source = self.source(stack)
        self._ask_for_inputs(source)
        return verify(
            source, Path(path), shapes=self.shapes, inputs=self.inputs, samples=self.samples, seed=self.seed,
            seconds=self.job.limits.run_seconds, memory_bytes=self.job.limits.memory_bytes,
        )  # fmt: skip

    def rewrite(self, stack: ExitStack) -> gs.Graph:
        """Run the passes; under 'each', again without the changes that broke something, until none does."""
        if self.mode != "each":
            return self.job.rewrite()
        while True:
            graph, recorder = self._recorded()
            self.job.progress("verify each", 0, 0)
            source = self.source(stack)
            self._ask_for_inputs(source)
            found = self.job.report.each = check_each(
                recorder, source, profile=self.shapes, inputs=self.inputs, samples=self.samples, seed=self.seed
            )
            breaches = [one for one in found.breaches if not self._is_harmless(stack, one)]
            if not breaches:
                return graph
            if len(self.refused) >= _MOST_REFUSED * len(breaches):
                one = breaches[0]
                raise VerificationError(
                    f"changes are wrong however many are taken back: {one.what}",
                    where=f"pass {one.change.name} at node {one.change.node!r}",
                    hint=f"leave it out with --skip {one.change.name}",
                )
            for one in breaches:
                self._refuse(one)

    def _recorded(self) -> tuple[gs.Graph, Recorder]:
        recorders: list[Recorder] = []
        graph = self.job.rewrite(self.refused, lambda manager: recorders.append(Recorder(manager)))
        return graph, recorders[-1]

    def _refuse(self, breach: Breach) -> None:
        change = breach.change
        key = (change.name, change.node)
        if key in self.refused:
            return
        self.refused[key] = breach.what
        repro = ""
        if self.repro is not None:
            entry = next((one for one in self.job.entries if one.name == change.name), None)
            repro = str(write_repro(breach, self.repro, entry, self.job.target))
        self.job.report.refuse(
            change.name, change.node, change.plugin, breach.what,
            sample=breach.sample, source_nodes=change.origin, repro=repro,
        )  # fmt: skip

    def _is_harmless(self, stack: ExitStack, breach: Breach) -> bool:
        """Whether a function pass gave a tensor inside another meaning, and the model as a whole computes the same."""
        change = breach.change
        if change.node or change.problems or not breach.feeds:
            return False
        found = []
        for most in (change.number, change.number + 1):
            manager = self.job.manager(most, self.refused)
            manager.run()
            found.append(stack.enter_context(self.job.staged(manager.graph, None)).model_path)
        arrays = {name: value for name, value in breach.feeds.items() if isinstance(value, np.ndarray)}
        whole = verify(found[0], found[1], inputs=arrays)
        return whole.status == "passed" and not any(one.reason == RANDOM_NOTE for one in whole.outputs)

    def _ask_for_inputs(self, source: Path) -> None:
        if self.inputs is None and self.job.registry.has("graphopt_inputs"):
            self.inputs = self.job.registry.inputs(str(source))

    def settle(
        self, stack: ExitStack, graph: gs.Graph, staged: Staged, output: Any, strict: bool
    ) -> tuple[gs.Graph, Staged]:
        """Compare; on a breach name the culprit, or take its change back and go on."""
        report = self.job.report
        if not self.wanted:
            return graph, staged
        refused = self.refused
        while True:
            found = report.verification = self._compare(stack, staged.model_path)
            if found.status == "failed" and self._is_amplified(found):
                note = "every change computes what it replaced: the network amplifies rounding"
                found = report.verification = dataclasses.replace(
                    found, status="unverified", notes=[*found.notes, note]
                )
            if found.status == "passed" or (found.status == "unverified" and not strict):
                break
            if found.status == "unverified":
                what = "nothing was proved as a whole" if found.outputs else "the source could not be run"
                raise VerificationError(f"{what}: {_reasons(found)}", hint="leave out --strict")
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
            report.refuse(culprit, node, _plugin(report.passes, culprit), worst)
            graph = self.job.rewrite(refused)
            staged = stack.enter_context(self.job.staged(graph, output))
        if report.refused and strict:
            one = report.refused[0]
            raise VerificationError(
                f"refused: pass {one['pass']} at node {one['node']!r}: {one['why']}", where="--strict"
            )
        return graph, staged

    def _is_amplified(self, found: Verification) -> bool:
        """Whether each change was compared on its own and is right, and the outputs differ in finite numbers only.

        A tie in a TopK falls differently after a rounding; the change that moved it is not to blame.
        """
        each = self.job.report.each
        if each is None or each.unseen or not each.samples or not found.outputs:
            return False
        wrong = [one for one in found.outputs if not one.ok]
        return bool(wrong) and all("relative L2" in one.reason or "elements differ" in one.reason for one in wrong)

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
