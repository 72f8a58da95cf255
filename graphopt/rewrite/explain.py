"""Why a pass changes a node, or why it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import UsageError, nearest
from graphopt.ir.graph import flatten, peek, scopes

from .build import Skip
from .manager import Manager
from .match import Match, Matcher, NearMiss
from .pattern import Const, Either, Maybe, NodePattern, Output, roots
from .rule import Entry, FunctionPass, Rule
from .worklist import Model

Start = Callable[..., Manager]
"""start() = a manager over a fresh copy of the source; start(most=n) = one that stops after n changes."""

ORDER = ("no match", "vetoed", "fires")
"""Verdicts of a pattern, from the farthest to the nearest."""
_Held = tuple[str, str, list[gs.Node], int]
"""Verdict, reason, the nodes covered, and how far matching came."""


@dataclass(frozen=True)
class Explanation:
    """The answer to: why does this pass (not) change this node?

    verdict, of the model as it is when the pass's stage begins: 'fires'; 'vetoed' (the pattern holds, check or a
    plugin says no); 'no match'; 'gone' (an earlier pass took the node); 'function' (no pattern to hold against it).
    """

    pass_name: str
    stage: str
    plugin: str
    equation: str
    node: str
    op: str
    verdict: str
    reason: str
    covers: list[str] = field(default_factory=list)
    """The nodes of the match, or of the nearest miss."""
    changes: int = 0
    """How often the pass changed something in the whole run."""
    fired_here: bool = False
    """Whether a match in the whole run was rooted at this node."""
    taken_by: str = ""
    """The change of the whole run that took the node away: 'pass NAME at node NAME'; '' if it is still there."""
    heirs: list[str] = field(default_factory=list)
    """The nodes that stand for it in the end."""

    def to_json(self) -> dict[str, Any]:
        """The object that `explain --json` prints; docs/cli.md describes its keys."""
        found = asdict(self)
        return {"pass": found.pop("pass_name"), **found}


def explain(start: Start, pass_name: str, node_name: str) -> Explanation:
    """Hold a pass against a node of the source, named by itself or by an output.

    Raises:
        UsageError: there is no such pass or node; the nearest names are in the hint.
    """
    manager = start()
    one = _entry(manager, pass_name)
    named = _find(manager.graph, node_name)
    before = _Watch(start, manager, named.name if named is not None else node_name, one.name)
    manager.run(stop_before=one.name)
    now = _find(manager.graph, before.name)
    named = named if named is not None else now
    if named is None:
        raise _unknown(node_name, start().graph)
    full = start()
    end = _Watch(start, full, named.name, "")
    spellings = _spellings(manager, one)
    names = {other.name for other in spellings}
    fired = [found for found in full.run() if found.name in names]
    covers: list[gs.Node] = []
    if isinstance(one.run, FunctionPass):
        verdict, reason = "function", "it is a function of the whole graph and has no pattern"
    elif now is not None:
        verdict, reason, covers = _nearest(manager, spellings, now)
    else:
        verdict, reason = "gone", f"{before.taken_by()} took it before stage {one.stage} began"
        for heir in _heirs(manager.graph, named.name)[:1]:
            there, why, covers = _nearest(manager, spellings, heir)
            reason += f". {heir.name} ({heir.op}) stands for it; there: {there}{f', {why}' if why else ''}"
    return Explanation(
        one.name,
        one.stage,
        one.plugin,
        one.doc,
        named.name,
        named.op,
        verdict,
        reason,
        [node.name for node in covers],
        sum(found.changes for found in fired),
        any(named.name in found.nodes for found in fired),
        end.taken_by(),
        [f"{heir.name} ({heir.op})" for heir in _heirs(full.graph, named.name) if heir.name != named.name],
    )


def misses(manager: Manager, pass_name: str, most: int = 8) -> list[tuple[str, str]]:
    """(node, why not) for the nodes at which a rule's pattern could end, in the graph of a manager that has run."""
    one = _entry(manager, pass_name)
    if one.traced is None:
        return []
    ends = {root.op for root in roots(one.traced.outputs[0])}
    nodes = [node for scope in scopes(manager.graph) for node in scope.nodes if node.op in ends]
    tried = [(f"{node.name} ({node.op})", _try(manager.model, one, node, manager.veto)) for node in nodes[:most]]
    found = [(name, reason if verdict == "no match" else f"vetoed: {reason}") for name, (verdict, reason, *_) in tried]
    return found or [("no node", f"the pattern ends in {' or '.join(sorted(ends))}, and the model has none")]


def _entry(manager: Manager, name: str) -> Entry:
    known = {one.name: one for stage in manager.stages.values() for one in stage}
    if name not in known:
        raise UsageError(
            f"no pass of this run is named {name!r}",
            where="--pass",
            hint=nearest(name, known, "graphopt passes lists them"),
        )
    return known[name]


def _spellings(manager: Manager, one: Entry) -> list[Entry]:
    """The pass, and where it is a layer's those of the layer's other spellings: FusedX's are fused-x, fused-x-2, ..."""
    same = re.compile(re.escape(one.name) + r"-\d+")
    others = manager.stages.get(one.stage, [])
    kind = type(one.run)
    return [other for other in others if other is one or (type(other.run) is kind and same.fullmatch(other.name))]


def _nearest(manager: Manager, spellings: list[Entry], node: gs.Node) -> tuple[str, str, list[gs.Node]]:
    """What comes nearest to firing at the node."""
    held = [_at(manager.model, one, node, manager.veto) for one in spellings]
    verdict, reason, covers, _ = max(held, key=lambda one: (ORDER.index(one[0]), one[3]))
    return verdict, reason, covers


def _unknown(name: str, graph: gs.Graph) -> UsageError:
    names = [node.name for scope in scopes(graph) for node in scope.nodes]
    return UsageError(
        f"the model has no node {name!r}, and none with such an output",
        where="--node",
        hint=nearest(name, names, f"its nodes: {', '.join(names[:5])}, ..."),
    )


def _find(graph: gs.Graph, name: str) -> gs.Node | None:
    nodes = [node for scope in scopes(graph) for node in scope.nodes]
    by_name = next((node for node in nodes if node.name == name), None)
    if by_name is not None:
        return by_name
    return next((node for node in nodes if any(out.name == name for out in node.outputs)), None)


def _at(model: Model, one: Entry, node: gs.Node, veto: Callable[[Entry, Match], str | None] | None) -> _Held:
    """(verdict, reason, nodes covered) of a rule at a node; where its pattern ends elsewhere, at a node below."""
    assert one.traced is not None
    ends = {root.op for root in roots(one.traced.outputs[0])}
    if node.op in ends:
        return _try(model, one, node, veto)
    wanted = " or ".join(sorted(ends))
    if node.op not in _operators(one):
        return "no match", f"its pattern has no {node.op}; it ends in {wanted}", [], -1
    nearest = f"its pattern ends in {wanted}, and none is close below this node"
    most = -1
    for below in _below(node, one.traced.depth - 1):
        if below.op not in ends:
            continue
        verdict, reason, covers, reached = _try(model, one, below, veto)
        if any(other is node for other in covers):
            return (
                verdict,
                f"as part of the match at {below.name} ({below.op}){f': {reason}' if reason else ''}",
                covers,
                reached,
            )
        if verdict == "no match" and "held against" not in nearest:
            nearest = f"its pattern ends in {wanted}; held against {below.name}: {reason}"
            most = reached
    return "no match", nearest, [], most


def _try(model: Model, one: Entry, node: gs.Node, veto: Callable[[Entry, Match], str | None] | None) -> _Held:
    rule, traced = one.run, one.traced
    assert isinstance(rule, Rule)
    assert traced is not None
    miss = NearMiss()
    match = Matcher(model.editor, model.opset, miss).match(traced, node, shared_inner=rule.shared_inner)
    if match is None:
        return "no match", miss.reason + _sources(model.graph, miss.reason), [], miss.reached
    ops = model.ops(node, match)
    try:
        reason = traced.call(rule.check, ops, match.bound)
        if reason is None and veto is not None:
            reason = veto(one, match)
        if reason is None:
            traced.call(rule.rewrite, ops, match.bound)
    except Skip as skip:
        reason = str(skip) or "the rule skipped it"
    finally:
        ops.abort()
    if reason is not None:
        return "vetoed", str(reason), match.nodes, len(match.nodes)
    return "fires", "", match.nodes, len(match.nodes)


def _sources(graph: gs.Graph, reason: str) -> str:
    """' ('Sub' stands for neg2, add2)' for the nodes in a reason that the source has not."""
    quoted = set(re.findall(r"'([^']+)'", reason))
    told = [
        f"{node.name!r} stands for {', '.join(flatten(known.origin)[:4])}"
        for scope in scopes(graph)
        for node in scope.nodes
        if node.name in quoted and (known := peek(node)) is not None and known.rules
    ]
    return f" ({'; '.join(told)})" if told else ""


def _operators(one: Entry) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = list(one.traced.outputs) if one.traced is not None else []
    while pending:
        item = pending.pop()
        if isinstance(item, NodePattern):
            found.add(item.op)
            pending.extend(item.inputs)
        elif isinstance(item, Output):
            pending.append(item.node)
        elif isinstance(item, Either):
            pending.extend(item.options)
        elif isinstance(item, (Const, Maybe)):
            pending.append(item.inner)
    return found


def _below(node: gs.Node, depth: int) -> list[gs.Node]:
    """The nodes that read it, directly first."""
    seen: dict[int, gs.Node] = {}
    front = [node]
    for _ in range(depth):
        front = [user for one in front for tensor in one.outputs for user in tensor.outputs if id(user) not in seen]
        seen.update((id(user), user) for user in front)
    return list(seen.values())


def _heirs(graph: gs.Graph, name: str) -> list[gs.Node]:
    """The nodes that stand for a source node."""
    return [
        node
        for scope in scopes(graph)
        for node in scope.nodes
        if (known := peek(node)) is not None and known.origin and name in flatten(known.origin)
    ]


class _Watch:
    """Notes which change takes a node away while a manager runs."""

    def __init__(self, start: Start, manager: Manager, name: str, stop_before: str) -> None:
        self.start = start
        self.manager = manager
        self.name = name
        self.stop_before = stop_before
        self._culprit: str | None = None
        self._matched = ""
        self._functions = {
            one.name for stage in manager.stages.values() for one in stage if isinstance(one.run, FunctionPass)
        }
        self._asked, manager.veto = manager.veto, self._veto
        manager.after_pass = self._look

    def _veto(self, one: Entry, match: Match) -> str | None:
        reason = self._asked(one, match) if self._asked is not None else None
        if reason is None and any(node.name == self.name for node in match.nodes):
            self._matched = _words(one.name, match.root.name)
        return reason

    def _look(self, pass_name: str, changes: int) -> None:
        if self._culprit is None and changes and not self._is_there(self.manager):
            self._culprit = _words(pass_name, "") if pass_name in self._functions else self._matched

    def _is_there(self, manager: Manager) -> bool:
        return any(node.name == self.name for scope in scopes(manager.graph) for node in scope.nodes)

    def taken_by(self) -> str:
        """'pass NAME at node NAME'; '' while the node is there."""
        if self._is_there(self.manager):
            return ""
        return self._culprit or self._search()

    def _search(self) -> str:
        """By bisection over the changes: a node that went without being matched was left behind unread."""
        low, high = 0, self.manager.changes
        last = self.manager.last
        while high - low > 1:
            middle = (low + high) // 2
            some = self.start(most=middle)
            some.run(stop_before=self.stop_before)
            if self._is_there(some):
                low = middle
            else:
                high, last = middle, some.last
        return _words(*last)


def _words(pass_name: str, node: str) -> str:
    return f"pass {pass_name} at node {node}" if node else f"pass {pass_name}"
