"""Runs scheduled passes over a graph: each stage to a fixpoint, the stages again until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import groupby
from operator import attrgetter
from time import perf_counter

import onnx_graphsurgeon as gs

from graphopt.config import Limits, Target
from graphopt.errors import GraphoptError, PassError
from graphopt.ir.fingerprint import fingerprint, signature
from graphopt.ir.infer import Custom
from graphopt.ir.load import collector_off

from .authoring import place_in
from .budget import Budget, Enough
from .match import Match
from .observer import Observer
from .parameters import parameters
from .rule import Entry, FunctionPass, Rule
from .schedule import schedule
from .worklist import Fired, Model, Worklist

_PATIENCE = 4
"""Turns of a stage before a circle is suspected."""
AfterPass = Callable[[str, int], None]


class Manager:
    """Applies passes to one model.

    `most`: stop after this many changes (each match is one, each function pass that changed something is one),
    so that a search can find the change that broke something.
    """

    def __init__(
        self,
        graph: gs.Graph,
        entries: Iterable[Entry],
        target: Target,
        limits: Limits | None = None,
        *,
        most: int | None = None,
        veto: Callable[[Entry, Match], str | None] | None = None,
        after_pass: AfterPass | None = None,
        custom: Custom | None = None,
    ) -> None:
        self.graph = graph
        self.target = target
        self.limits = limits or Limits()
        self.stages = schedule(entries)
        self.kinds = {
            name: [(kind[0], list(group)) for kind, group in groupby(stage, key=attrgetter("kind"))]
            for name, stage in self.stages.items()
        }
        """Of each stage the groups that run together; whether they are rules."""
        self.veto = veto
        self.after_pass = after_pass
        self.custom = custom
        self.observer: Observer | None = None
        self.budget = Budget(most)
        self._marks: dict[str, str] = {}
        self._clean: dict[str, int] = {}
        self._groups: dict[str, Worklist] = {}
        self.last: tuple[str, str] = ("", "")
        """(pass, node) of the latest change."""
        self.fired = {
            one.name: Fired(one.name, one.stage, one.plugin, one.doc) for stage in self.stages.values() for one in stage
        }
        for stage in self.stages.values():
            for one in stage:
                if isinstance(one.run, Rule):
                    one.run.target = target

    @property
    def changes(self) -> int:
        """How many changes were made: each match is one, each function pass that changed something is one."""
        return self.budget.used

    def run(self, stop_before: str = "") -> list[Fired]:
        """All stages to a common fixpoint (or up to the first run of the pass `stop_before`); what each pass did.

        Raises:
            PassError: a pass raised, claimed what is not so, or passes undo each other.
        """
        with collector_off():
            self.model = Model(self.graph, self.custom)
            try:
                self._sweeps(stop_before)
            except Enough:
                self.model.editor.flush()
            self.model.infer()
        return list(self.fired.values())

    def _sweeps(self, stop_before: str) -> None:
        for _ in range(self.limits.rounds):
            later = 0
            for number, stage in enumerate(self.stages):
                if stop_before and any(one.name == stop_before for one in self.stages[stage]):
                    return
                changed = self._stage(stage)
                later += changed if number else 0
            if not later:
                return
        raise PassError(f"the stages reach no fixpoint in {self.limits.rounds} sweeps")

    def _stage(self, stage: str) -> int:
        total = 0
        seen: dict[str, int] = {}
        for turn in range(self.limits.rounds):
            before = {name: fired.changes for name, fired in self.fired.items()} if turn >= _PATIENCE else {}
            changed = 0
            for is_rules, entries in self.kinds[stage]:
                if is_rules:
                    changed += self._unless_clean(entries[0].name, partial(self._rules, entries), proves=True)
                else:
                    for one in entries:
                        try:
                            changed += self._unless_clean(one.name, partial(self._function, one))
                        except PassError as error:
                            error.culprit = error.culprit or one.name
                            raise
            if not changed:
                return total
            total += changed
            if turn >= _PATIENCE:
                mark = fingerprint(self.graph)
                if mark in seen:
                    names = [name for name, fired in self.fired.items() if fired.changes > before[name]]
                    raise PassError(
                        f"passes undo each other for ever in stage {stage}: {' <-> '.join(names)}",
                        hint="switch one off with --skip",
                    )
                seen[mark] = turn
        raise PassError(f"stage {stage} reaches no fixpoint in {self.limits.rounds} rounds")

    def _unless_clean(self, name: str, run: Callable[[], int], *, proves: bool = False) -> int:
        """Run passes, unless nothing was edited since they last found nothing to do.

        proves: the run ends with a look at every node that found nothing.
        """
        if self._clean.get(name) == self.model.version:
            return 0
        changed = run()
        if proves or not changed:
            self._clean[name] = self.model.version
        return changed

    def _rules(self, entries: list[Entry]) -> int:
        work = self._groups.get(entries[0].name)
        if work is None:
            work = self._groups[entries[0].name] = Worklist(self.model, entries, self.fired, self.budget)
            work.veto = self.veto
            work.observer = self.observer
        told = self.after_pass is not None
        before = {one.name: self.fired[one.name].changes for one in entries} if told else {}
        self.model.infer()
        try:
            changed = work.run()
        finally:
            self.last = work.last or self.last
        if self.after_pass is not None:
            self.model.infer()
            for one in entries:
                self.after_pass(one.name, self.fired[one.name].changes - before[one.name])
        return changed

    def _function(self, one: Entry) -> int:
        run, fired = one.run, self.fired[one.name]
        assert isinstance(run, FunctionPass)
        if run.ops and not self.model.editor.census.has_any(run.ops):
            return 0
        self.budget.check()
        if run.typed:
            self.model.infer()
        through_editor = _edits_through_model(run.function)
        token = self.observer.before(one, None) if self.observer is not None else None
        before = self._mark(through_editor)
        started = perf_counter()
        where = f"pass {one.name} of plugin {one.plugin}"
        try:
            claimed = run.function(self.graph, self.target, **({"model": self.model} if through_editor else {}))
        except GraphoptError:
            raise
        except (Exception, SystemExit) as error:
            told = f"it raised {type(error).__name__}: {error}{place_in(run.function, error)}"
            raise PassError(told, where=where, hint=f"leave it out with --skip {one.name}") from error
        finally:
            fired.seconds += perf_counter() - started
        if not isinstance(claimed, int):
            raise PassError(f"it returned {claimed!r}, not the number of changes", where=where)
        if through_editor:
            self.model.editor.flush()
        changed = self._mark(through_editor) != before
        if claimed and not changed:  # only values of constants may have changed
            changed = self._marks.get(one.name) != (mark := fingerprint(self.graph))
            self._marks[one.name] = mark
        if changed != bool(claimed):
            did = "changed the graph" if changed else "left the graph as it was"
            raise PassError(f"it claims {claimed} changes but {did}", where=where)
        if claimed:
            self.budget.used += 1
            self.last = (one.name, "")
            fired.changes += claimed
            if not through_editor:
                self.model.renew()
            if self.observer is not None:
                self.observer.after(token, [], [])
        if self.after_pass is not None:
            self.model.infer()
            self.after_pass(one.name, claimed)
        return claimed

    def _mark(self, through_editor: bool) -> int:
        """What a claim is checked against: the editor's count where a pass edits through it, else the graph."""
        return self.model.version if through_editor else signature(self.graph)


@cache
def _edits_through_model(function: Callable[..., int]) -> bool:
    wanted = parameters(function)
    return "model" in (*wanted.positional, *wanted.keywords)
