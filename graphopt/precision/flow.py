"""A model as what takes one float dtype as a whole (atoms: nodes, ports of bodies), and the values between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphopt.ir import dtypes
from graphopt.ir.graph import peek, scopes, subgraphs
from graphopt.layers.layer import Layer

from .slots import CONTROL, HEAVY, KEPT, Slots, slots

HIGH = 0
"""The atom of all that is float32 whatever the plan says."""
_ANY = 10**6


@dataclass(slots=True)
class Atom:
    """A node, or a value that bodies of control flow pass on, whose float slots have one dtype."""

    node: gs.Node | None
    weight: int
    """What it costs to leave it in float32, where a cast costs 2."""
    pinned: str = ""
    """Why it stays in float32; '' where it need not."""


@dataclass(slots=True)
class Value:
    """A float32 tensor (of several names where bodies pass it on): who makes it, who reads it."""

    tensor: gs.Tensor
    producer: int
    readers: set[int] = field(default_factory=set)


class Flow:
    """The atoms and values of one model, for one low dtype."""

    def __init__(
        self,
        graph: gs.Graph,
        low: str,
        io: str,
        layers: Mapping[str, type[Layer]],
        refused: frozenset[str] = frozenset(),
    ) -> None:
        self.graph = graph
        self.refused = refused
        self.low = low
        self.layers = layers
        self.atoms: list[Atom] = [Atom(None, 0, "fixed")]
        self.values: dict[int, Value] = {}
        self.of: dict[int, int] = {}
        """id(node) -> its atom"""
        self._ports: dict[int, int] = {}
        self._slots: dict[int, Slots] = {}
        for tensor in graph.inputs:
            default = (note := peek(tensor)) is not None and note.default is not None
            self._made(tensor, HIGH if io == "keep" or default else self._atom(None, 0))
        for scope in scopes(graph, functions=False):
            for node in scope.nodes:
                self._node(node)
        for scope in scopes(graph, functions=False):
            for node in scope.nodes:
                self._reads(node)
        if io == "keep":
            for tensor in graph.outputs:
                self._read(tensor, HIGH)

    def slots(self, node: gs.Node) -> Slots:
        """The slots whose dtype is the node's own."""
        return self._slots[id(node)]

    def _atom(self, node: gs.Node | None, weight: int, pinned: str = "") -> int:
        self.atoms.append(Atom(node, weight, pinned))
        return len(self.atoms) - 1

    def _made(self, tensor: gs.Tensor, atom: int) -> None:
        if is_single(tensor):
            self.values[id(tensor)] = Value(tensor, atom)

    def _read(self, tensor: gs.Tensor, atom: int) -> None:
        value = self.values.get(id(tensor))
        if value is not None:
            value.readers.add(atom)

    def _node(self, node: gs.Node) -> None:
        if node.op in CONTROL and not node.domain:
            self._slots[id(node)] = Slots(frozenset(), frozenset())
            for group in ports(node):
                plain = all(is_single(tensor) for tensor in group.all())
                atom = self._atom(None, 0) if plain and group.made else HIGH
                for tensor in group.made:
                    self._made(tensor, atom)
                for tensor in group.read:
                    self._ports[id(tensor)] = atom
            return
        found = self._slots[id(node)] = slots(node, int(self.graph.opset), self.low, self.layers)
        floats = [i for i in found.inputs if is_single(node.inputs[i])]
        results = [i for i in found.outputs if is_single(node.outputs[i])]
        atom = HIGH
        if floats or results:
            heavy = node.op in HEAVY or node.domain not in (None, "", "ai.onnx")
            atom = self._atom(node, _ANY if heavy else 1 if results else 0)
            if node.op in self.refused and not node.domain:
                self.atoms[atom].pinned = f"{node.op} does not build in {self.low}"
            if self._is_unsure(node, found):
                self.atoms[atom].pinned = "the dtype of an operand or result is not known"
        elif node.op in KEPT:
            atom = self._atom(node, 0, KEPT[node.op])
        self.of[id(node)] = atom
        for number, tensor in enumerate(node.outputs):
            self._made(tensor, atom if number in found.outputs else HIGH)

    @staticmethod
    def _is_unsure(node: gs.Node, found: Slots) -> bool:
        """Whether a slot of the node's own dtype holds a value of which no dtype is known."""
        mine = [*(node.inputs[i] for i in found.inputs), *(node.outputs[i] for i in found.outputs)]
        return any(tensor.name and tensor.dtype is None for tensor in mine)

    def _reads(self, node: gs.Node) -> None:
        if node.op in CONTROL and not node.domain:
            for group in ports(node):
                made = next((self.values[id(t)].producer for t in group.made if id(t) in self.values), HIGH)
                for tensor in group.read:
                    self._read(tensor, made)
            for tensor in node.inputs[:2] if node.op == "Loop" else ():
                self._read(tensor, HIGH)
            return
        found, atom = self._slots[id(node)], self.of[id(node)]
        for number, tensor in enumerate(node.inputs):
            self._read(tensor, atom if number in found.inputs else HIGH)

    def pin(self, node: gs.Node, why: str) -> None:
        """Keep a node in float32."""
        atom = self.atoms[self.of.get(id(node), HIGH)]
        atom.pinned = atom.pinned or why

    def pin_tensor(self, tensor: gs.Tensor, why: str) -> None:
        """Keep a value in float32, and so whoever makes or reads it."""
        value = self.values.get(id(tensor))
        if value is not None:
            for number in (value.producer, *value.readers):
                if number != HIGH:
                    self.atoms[number].pinned = self.atoms[number].pinned or why


@dataclass(slots=True)
class Port:
    """One value on its way into, through and out of bodies."""

    read: list[gs.Tensor] = field(default_factory=list)
    made: list[gs.Tensor] = field(default_factory=list)

    def all(self) -> Iterable[gs.Tensor]:
        return (*self.read, *self.made)


def ports(node: gs.Node) -> Iterator[Port]:
    """What must have one dtype at an If, Loop or Scan: results of branches, values carried from turn to turn."""
    bodies = list(subgraphs(node))
    if node.op == "If":
        for number, tensor in enumerate(node.outputs):
            yield Port([body.outputs[number] for body in bodies], [tensor])
        return
    body = bodies[0]
    if node.op == "Loop":
        carried = len(body.inputs) - 2
        for number in range(carried):
            made = [body.inputs[2 + number], *node.outputs[number : number + 1]]
            yield Port([*node.inputs[2 + number : 3 + number], body.outputs[1 + number]], made)
        for number in range(carried, len(node.outputs)):
            yield Port([body.outputs[1 + number]], [node.outputs[number]])
        return
    scanned = int(node.attrs.get("num_scan_inputs", 0))
    states = len(body.inputs) - scanned
    for number, inner in enumerate(body.inputs):
        if number < states:
            yield Port(
                [*node.inputs[number : number + 1], body.outputs[number]],
                [inner, *node.outputs[number : number + 1]],
            )
        else:
            yield Port([node.inputs[number]], [inner])
    for number in range(states, len(node.outputs)):
        yield Port([body.outputs[number]], [node.outputs[number]])


def is_single(tensor: gs.Tensor) -> bool:
    """Whether it is a plain float32 tensor."""
    return getattr(tensor, "type", "tensor_type") == "tensor_type" and dtypes.name(dtypes.of(tensor)) == "float32"
