"""Applies rules until none of them matches anywhere: indexed by operator, driven by a worklist.

A rewrite puts only its neighbourhood back on the list; a last scan over all nodes proves the fixpoint.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import onnx_graphsurgeon as gs
from onnx import helper

from graphopt.errors import GraphoptError, PassError
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import Editor, inherit
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.graph import scopes
from graphopt.ir.infer import Custom, Inference
from graphopt.ir.operator_shapes import clash

from .authoring import place_in
from .budget import Budget, Enough
from .build import Ops, Skip
from .guard import index
from .match import Match, Matcher
from .observer import Observer
from .rule import Entry, Rule
from .value import Value

NEAR = 64
"""At most this many nodes are re-examined around one rewrite at once."""


@dataclass
class Fired:
    """What one pass did: the number of changes, where, why not elsewhere, and for how long."""

    name: str
    stage: str
    plugin: str
    doc: str = ""
    changes: int = 0
    seconds: float = 0.0
    nodes: list[str] = field(default_factory=list)
    """Roots of the matches, in order."""
    vetoes: dict[str, str] = field(default_factory=dict)
    """Node -> reason, for matches that `check` left alone."""


Veto = Callable[[Entry, Match], str | None]


_Queued = tuple[tuple[int, int], int, gs.Node]
"""(place, number, node): in this order."""
_BEFORE_ALL, _AFTER_ALL = (-1, 0), (1 << 62, 0)


class Model:
    """A graph under rewriting: its editor, its inference, its opsets."""

    def __init__(self, graph: gs.Graph, custom: Custom | None = None) -> None:
        self.graph = graph
        self.source_bytes: int | None = None
        """The weights before anything was folded, once that is asked for."""
        self.left: dict[str, str] = {}
        """Why a function pass left the node of this name alone, where it says so."""
        self.inference = Inference(graph, custom)
        self._edits = 0
        self._opsets: dict[int, list[Any]] = {}
        self.renew()

    @property
    def version(self) -> int:
        """Grows with every edit."""
        return self._edits + self.editor.changes

    def renew(self) -> None:
        """Take notice of changes made without the editor."""
        self._edits = self.version + 1 if hasattr(self, "editor") else 0
        self.editor = Editor(self.graph)
        self._inferred = -1
        self._looked_at: dict[str, int] = {}
        self._news: tuple[tuple[int, int, int], list[gs.Node]] = (0, 0, -1), []
        """The latest answer of `fresh`: neighbours in the pipeline ask for the same."""
        self.memory: dict[str, Any] = {}
        """What function passes remember from one run to the next, as long as all edits go through the editor."""
        self._home: dict[int, gs.Graph] = {}
        for home in (self.graph, *self.graph.functions):
            for scope in scopes(home, functions=False):
                self._home[id(scope)] = home

    def infer(self) -> None:
        """Bring types and shapes up to date with all edits."""
        editor, inference = self.editor, self.inference
        if self._inferred < 0:
            inference.run()
        elif self._inferred < len(editor.retyped):
            inference.update(editor.retyped[self._inferred :], editor)
            for tensor in inference.news:
                editor.log.extend(tensor.inputs)
                editor.log.extend(tensor.outputs)
        inference.news.clear()
        self._inferred = len(editor.retyped)

    def fresh(self, reader: str) -> list[gs.Node]:
        """The nodes that were added or edited since `reader` last asked; every node at first."""
        log, start = self.editor.log, self._looked_at.get(reader)
        self._looked_at[reader] = len(log)
        if start is None:
            return self.editor.nodes()
        if start == len(log):
            return []
        window = start, len(log), self.editor.changes
        if self._news[0] != window:
            self._news = window, self.editor.living({id(node): node for node in log[start:]}.values())
        return list(self._news[1])

    def home(self, node: gs.Node) -> gs.Graph:
        """The model or function whose opset governs a node."""
        scope = self.editor.scope(node)
        found = self._home.get(id(scope))
        if found is None:
            for home in (self.graph, *self.graph.functions):
                for inner in scopes(home, functions=False):
                    self._home[id(inner)] = home
            found = self._home[id(scope)]
        return found

    def opset(self, node: gs.Node) -> int:
        return int((self.home(node) if self.graph.functions else self.graph).opset)

    def imports(self, node: gs.Node) -> list[Any]:
        home = self.home(node) if self.graph.functions else self.graph
        if id(home) not in self._opsets:
            self._opsets[id(home)] = list(home.import_domains or [helper.make_opsetid("", home.opset)])
        return self._opsets[id(home)]

    def ops(self, node: gs.Node, match: Match) -> Ops:
        """The `op` of a rewrite at this node, known to the values that the match has bound."""
        ops = Ops(self.editor, self.inference, node, self.opset(node), self.imports(node), match.nodes)
        for value in match.bound.values():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Value):
                    item._ops = ops
        return ops


class Worklist:
    """One group of rules over one model."""

    def __init__(self, model: Model, entries: list[Entry], fired: dict[str, Fired], budget: Budget) -> None:
        self.model = model
        self.fired = fired
        self.budget = budget
        self.veto: Veto | None = None
        self.observer: Observer | None = None
        self.last: tuple[str, str] | None = None
        """(pass, root node) of the latest rewrite."""
        self.entries = entries
        self.index = index(entries)
        self.rules, self.depth = self.index.rules, self.index.depth
        self._ahead: list[_Queued] = []
        """All nodes of a first look, the last one first; what edits bring up again goes to the heap."""
        self._heap: list[_Queued] = []
        self._queued: set[int] = set()
        self._seq = 0
        self._editor: Editor | None = None
        self._seen = 0
        """Length of the editor's log up to which its nodes were looked at."""
        self._missed = False
        """Whether a neighbourhood was too large to be looked at as a whole."""
        self._frontier = _BEFORE_ALL
        """Every node beyond this place is queued, or of no rule's operator."""

    def run(self) -> int:
        """Rewrite to a fixpoint; the number of rewrites. A later run looks only at what was edited since."""
        editor = self.model.editor
        if self._editor is not editor or len(editor.log) - self._seen > editor.size // 8:
            self._editor, self._missed = editor, True  # a look at every node is less work than at so many surroundings
        budget = 8 * len(editor.log) + 1000
        total = 0
        while True:
            if self._missed:
                nodes, place = editor.census.of(self.rules), editor.places
                budget = 8 * len(nodes) + 1000
                self._missed, self._seen = False, len(editor.log)
                self._heap = []
                self._ahead = sorted([(place[id(node)], seq, node) for seq, node in enumerate(nodes)], reverse=True)
                self._queued = set(map(id, nodes))
                self._seq = len(nodes)
                self._frontier = _BEFORE_ALL
            changed = self._drain(budget)
            self._frontier = _AFTER_ALL
            editor.flush()
            total += changed
            if not (changed and self._missed):
                return total
            if total > 4 * budget:
                raise PassError(f"rewriting does not end: {self._busiest()}")

    def _push(self, nodes: Iterable[gs.Node]) -> None:
        queued, rules = self._queued, self.rules
        alive, place = self.model.editor.alive, self.model.editor.places
        for node in nodes:
            if node.op in rules:
                mark = id(node)
                if mark not in queued and mark in alive:
                    queued.add(mark)
                    self._seq += 1
                    heapq.heappush(self._heap, (place[mark], self._seq, node))

    def _catch_up(self) -> None:
        """Queue what the latest edits may have made ready for a rule."""
        log = self.model.editor.log
        if self._seen < len(log):
            edited = log[self._seen :]
            self._seen = len(log)
            self._push(self._downstream(edited))

    def _drain(self, budget: int) -> int:
        matcher = Matcher(self.model.editor, self.model.opset)
        alive, entries = self.model.editor.alive, self.entries
        seen: dict[str, str] = {}
        done = 0
        self._catch_up()
        heap, ahead, at, discard = self._heap, self._ahead, self.index.at, self._queued.discard
        while heap or ahead:
            place, _, node = heapq.heappop(heap) if heap and not (ahead and ahead[-1] < heap[0]) else ahead.pop()
            discard(id(node))
            if id(node) not in alive:
                continue
            if place > self._frontier:
                self._frontier = place
            for number, glances, fits in at(node):
                if not fits(node):
                    continue
                one = entries[number]
                if glances and not one.run.glance(node):  # type: ignore[union-attr]
                    continue
                started = perf_counter()
                try:
                    changed = self._try(one, node, matcher)
                except PassError as error:
                    error.culprit = error.culprit or one.name
                    raise
                self.fired[one.name].seconds += perf_counter() - started
                if changed:
                    done += 1
                    if done > budget:
                        self._look_for_a_circle(seen, one.name)
                    self._catch_up()
                    self._push([node])
                    break
        return done

    def _look_for_a_circle(self, seen: dict[str, str], name: str) -> None:
        self.model.editor.flush()
        mark = fingerprint(self.model.graph)
        if mark in seen:
            names = list(dict.fromkeys([*list(seen.values())[list(seen).index(mark) :], name]))
            raise PassError(
                f"passes undo each other for ever: {' <-> '.join(names)}", hint="switch one off with --skip"
            )
        seen[mark] = name
        if len(seen) > 256:
            raise PassError(f"rewriting does not end: {self._busiest()}", hint="switch one off with --skip")

    def _busiest(self) -> str:
        rules = [f for f in sorted(self.fired.values(), key=lambda f: -f.changes)[:3] if f.changes]
        return ", ".join(f"{f.name} of plugin {f.plugin} fired {f.changes} times" for f in rules)

    def _try(self, one: Entry, node: gs.Node, matcher: Matcher) -> bool:
        rule, traced = one.run, one.traced
        assert isinstance(rule, Rule)
        assert traced is not None
        match = matcher.match(traced, node, shared_inner=rule.shared_inner)
        if match is None:
            return False
        ops = self.model.ops(node, match)
        reason: str | None
        try:
            reason = traced.call(rule.check, ops, match.bound)
            if reason is None and self.veto is not None:
                reason = self.veto(one, match)
            if reason is None:
                self.budget.check()
                token = self.observer.before(one, match) if self.observer is not None else None
                result = traced.call(rule.rewrite, ops, match.bound)
                new = self._results(one, node, match, result, ops)
        except Skip as skip:
            reason = str(skip) or "the rule skipped it"
        except (GraphoptError, Enough):
            raise
        except (Exception, SystemExit) as error:
            raise PassError(
                f"pass {one.name} of plugin {one.plugin} raised {type(error).__name__}: {error}"
                f"{place_in(rule.rewrite, error)}",
                where=f"node {node.name!r} ({node.op})",
                hint=f"leave it out with --skip {one.name}",
            ) from error
        if reason is not None:
            ops.abort()
            if not isinstance(reason, str):
                raise PassError(f"check() of pass {one.name} returned {reason!r}: it must return None or a reason")
            self.fired[one.name].vetoes[node.name] = reason
            return False
        self.budget.used += 1
        if self.observer is not None:
            self.observer.after(token, new, ops.made)
        self._apply(one, match, new, ops)
        return True

    def _results(self, one: Entry, node: gs.Node, match: Match, result: Any, ops: Ops) -> list[gs.Tensor]:
        where = f"pass {one.name} of plugin {one.plugin}, node {node.name!r}"
        results = result if isinstance(result, (tuple, list)) and len(match.outputs) > 1 else (result,)
        if len(results) != len(match.outputs):
            raise PassError(f"rewrite() returned {len(results)} values for {len(match.outputs)}", where=where)
        for made in ops.made:
            self.model.inference.node(made, ops._imports)
        new = []
        for old, value in zip(match.outputs, results, strict=True):
            if value is None:
                raise PassError("rewrite() returned None", where=where, hint="raise graphopt.Skip(reason) to leave it")
            tensor = ops.value(value, old)
            if wrong := clash((dtypes.of(old), shapes.of(old)), (dtypes.of(tensor), shapes.of(tensor))):
                self._blame_the_model(match, ops)
                raise PassError(f"the rewrite changes {old.name!r} {wrong}", where=where)
            new.append(tensor)
        return new

    def _blame_the_model(self, match: Match, ops: Ops) -> None:
        """Raise Skip where a node of the match does not fit its operands, or what the model declares of its outputs."""
        for node in match.nodes:
            given = self.model.inference.outputs(node, ops._imports)
            if given is None:
                raise Skip(f"what {node.op} {node.name!r} gives cannot be told: its operands may not fit it")
            for tensor, kind in zip(node.outputs, given, strict=False):
                if wrong := clash(kind, (dtypes.of(tensor), shapes.of(tensor))):
                    raise Skip(f"the model changes {tensor.name!r} {wrong} by what it declares")

    def _apply(self, one: Entry, match: Match, new: list[gs.Tensor], ops: Ops) -> None:
        editor = self.model.editor
        last = max(match.nodes[:1] + [old.inputs[0] for old in match.outputs if old.inputs], key=editor.place)
        fired = self.fired[one.name]
        fired.changes += 1
        fired.nodes.append(match.root.name)
        self.last = (one.name, match.root.name)
        for made in ops.made:
            editor.attach(made, last)
            inherit(made, match.nodes, one.name)
        editor.replace_all(zip(match.outputs, new, strict=True), at=last)
        editor.prune([*match.nodes, *ops.made])

    def _downstream(self, start: list[gs.Node]) -> list[gs.Node]:
        """The nodes within reach of the deepest pattern that are not queued anyway."""
        seen: dict[int, gs.Node] = {}
        front = self._behind(start, seen)
        for _ in range(self.depth - 1):
            users: list[gs.Node] = []
            for node in front:
                for tensor in node.outputs:
                    readers = tensor.outputs
                    if len(readers) > NEAR:
                        readers, self._missed = readers[:NEAR], True
                    users.extend(readers)
            front = self._behind(users, seen)
            if not front:
                break
            if len(seen) > NEAR * len(start):
                self._missed = True
                break
        return list(seen.values())

    def _behind(self, nodes: Iterable[gs.Node], seen: dict[int, gs.Node]) -> list[gs.Node]:
        """Those of `nodes` that are new or not beyond the frontier, each once."""
        alive, places, frontier = self.model.editor.alive, self.model.editor.places, self._frontier
        found = []
        for node in nodes:
            mark = id(node)
            if mark not in seen and mark in alive:
                place = places[mark]
                if place[1] or place <= frontier:
                    seen[mark] = node
                    found.append(node)
        return found
