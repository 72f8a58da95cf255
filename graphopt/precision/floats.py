"""The float part of a plan: which tensors are computed in float16 or bfloat16, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import UsageError
from graphopt.ir import dtypes
from graphopt.ir.graph import scopes
from graphopt.layers.layer import Layer
from graphopt.numerics.execute import ExecutionError, Runner

from .constants import trouble
from .cut import Weights, settle
from .flow import HIGH, Flow, is_single
from .observe import Feeds
from .plan import Entry, Plan, named
from .ranges import measured, pin_by_meaning, pin_by_range

_SAVES = "between float32 nodes: saves casts"
_FASTER = "faster in float32 here, by the times of layers"
MIXED = "the source has low precision already: its float32 parts are deliberate"


Pins = list[tuple[gs.Node, str]]
"""Nodes that stay in float32, and why."""


class Floats:
    """Decides in rounds: what is pinned stays pinned, `plan` is the best plan for it."""

    def __init__(
        self,
        graph: gs.Graph,
        precision: str,
        low: str,
        io: str,
        layers: Mapping[str, type[Layer]],
        keep: Sequence[str] = (),
        refused: frozenset[str] = frozenset(),
    ) -> None:
        self.precision = precision
        self.low = low
        self.io = io
        self.flow = Flow(graph, low, io, layers, refused)
        self.notes: list[str] = []
        self._node_pins: dict[str, str] = {}
        if self._is_mixed():
            self.notes.append(MIXED)
            for atom in self.flow.atoms[1:]:
                atom.pinned = atom.pinned or MIXED
        self._keep(keep)
        self._constants()
        pin_by_meaning(self.flow)

    def _is_mixed(self) -> bool:
        """Whether anything is computed in float16 or bfloat16 already."""
        kinds = {dtypes.name(dtypes.of(t)) for scope in scopes(self.flow.graph, functions=False)
                 for node in scope.nodes for t in node.outputs if t.name}  # fmt: skip
        return bool(kinds & {"float16", "bfloat16"})

    def _keep(self, patterns: Sequence[str]) -> None:
        """--keep: operators or node names, as regular expressions that match the whole."""
        for text in patterns:
            try:
                wanted = re.compile(text)
            except re.error as error:
                raise UsageError(f"{text!r} is no regular expression: {error}", where="--keep") from error
            hit = False
            for scope in scopes(self.flow.graph, functions=False):
                for node in scope.nodes:
                    if wanted.fullmatch(node.op) or (node.name and wanted.fullmatch(node.name)):
                        self.flow.pin(node, f"--keep {text}")
                        hit = True
            if not hit:
                raise UsageError(f"{text!r} matches no operator and no node", where="--keep")

    def _constants(self) -> None:
        dtype = np.dtype(dtypes.from_onnx(10 if self.low == "float16" else 16))
        for scope in scopes(self.flow.graph, functions=False):
            for node in scope.nodes:
                if self.flow.of.get(id(node), HIGH) == HIGH:
                    continue
                free = self.flow.slots(node).inputs
                for slot, tensor in enumerate(node.inputs):
                    if slot in free and isinstance(tensor, gs.Constant) and is_single(tensor):
                        why = trouble(node, slot, tensor, dtype)
                        if why:
                            self.flow.pin(node, why)

    def measure(self, samples: Sequence[Feeds], runner: Runner) -> None:
        """Keep what overflows on the samples."""
        if not samples:
            self.notes.append("no sample could be run: nothing is kept for its range")
            return
        try:
            pin_by_range(self.flow, measured(self.flow, samples, runner))
        except ExecutionError as error:
            self.notes.append(f"ranges were not measured: {str(error).splitlines()[0]}")

    def plan(self, more: Iterable[tuple[gs.Node, str]] = (), weights: Weights | None = None) -> Plan:
        """The plan of fewest casts that keeps all that is pinned; with weights, the one of least cost.

        more: nodes that are kept in this plan only, and why.
        """
        own = self.pins()
        for node, why in more:
            self.flow.pin(node, why)
        try:
            return self._settled(weights)
        finally:
            self.unpin(own)

    def pins(self) -> list[str]:
        """Why each atom is pinned, to go back to with `unpin`."""
        return [atom.pinned for atom in self.flow.atoms]

    def unpin(self, own: Sequence[str]) -> None:
        """Pin what `pins` said, and nothing else."""
        for atom, pinned in zip(self.flow.atoms, own, strict=True):
            atom.pinned = pinned

    def _settled(self, weights: Weights | None) -> Plan:
        high = settle(self.flow, weights)
        plan = Plan(self.precision, self.io, notes=list(self.notes))
        for name, _, node, tensor in named(self.flow.graph):
            value = self.flow.values.get(id(tensor))
            if value is None:
                plan.tensors[name] = Entry(dtypes.name(dtypes.of(tensor)), why="as in the source")
                continue
            atom = self.flow.atoms[value.producer]
            if not high[value.producer]:
                plan.tensors[name] = Entry(self.low)
            elif value.producer == HIGH:
                plan.tensors[name] = Entry("float32", why="input" if node is None else f"{node.op} is always float32")
            else:
                plan.tensors[name] = Entry("float32", why=atom.pinned or (_SAVES if weights is None else _FASTER))
        return plan
