"""Where a scope runs: the values of its tensors in one run of a body, or in one call of a function."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import peek

from .program import Program, Unknown, called
from .steps import Frozen, Step

MOST_CALLS = 3
"""A function is looked at in at most this many of its calls."""


class Instance:
    """One run of a scope: tensor -> value. given: the attributes of the call, where the scope is a function."""

    def __init__(
        self, program: Program, name: str, outer: Instance | None = None, given: dict[str, Any] | None = None
    ) -> None:
        self.program = program
        self.name = name
        self.outer = outer
        self.given = given
        self._values: dict[int, tuple[gs.Tensor, str]] = {}

    def find(self, tensor: gs.Tensor) -> str:
        """The tensor's value, '' if it has none here."""
        found = self._values.get(id(tensor))
        if found is not None:
            return found[1]
        return self.outer.find(tensor) if self.outer is not None else ""

    def value(self, tensor: gs.Tensor) -> str:
        """The tensor's value, '' for an operand left out. Raises Unknown."""
        if isinstance(tensor, gs.Constant):
            return self.program.constant(tensor)
        if not tensor.name and not tensor.inputs:
            return ""
        found = self.find(tensor)
        if not found:
            raise Unknown(f"the value of {tensor.name!r} is known only while its body runs")
        return "" if found == "-" else found

    def bind(self, tensors: Iterable[gs.Tensor], values: Iterable[str]) -> None:
        for tensor, value in zip(tensors, values, strict=True):
            self._values[id(tensor)] = (tensor, value or "-")

    def attrs(self, step: Step) -> dict[str, Any] | None:
        """The step's attributes, with those of the call put in where it refers to them."""
        if not any(isinstance(value, gs.Node.AttributeRef) for value in step.attrs.values()):
            return None
        if self.given is None:
            raise Unknown("an attribute refers to a function's, outside of one")
        found = {}
        for name, value in step.attrs.items():
            if isinstance(value, gs.Node.AttributeRef):
                if self.given.get(value.name) is None:
                    continue
                value = self.given[value.name]
            found[name] = value
        return found


class Instances:
    """All scopes of a model, each run when it is first asked for."""

    def __init__(self, program: Program, graph: gs.Graph, frozen: dict[int, Frozen]) -> None:
        self.program = program
        self._frozen: dict[int, Frozen] = {}
        self._owner: dict[int, tuple[Step, gs.Graph]] = {}
        self._calls: dict[tuple[str, str, str], list[tuple[Step, gs.Graph]]] = {}
        self._rooms: dict[int, list[Instance]] = {}
        main = Instance(program, "")
        self.learn(frozen)
        self._rooms[id(graph)] = [main]
        for tensor in graph.inputs:
            note = peek(tensor)
            default = note.default if note is not None else None
            main.bind([tensor], [program.input(tensor) if default is None else program.constant(default)])
        self._run(frozen[id(graph)], main)

    def learn(self, frozen: dict[int, Frozen]) -> None:
        """Take notice of scopes that were not there before."""
        for key, body in frozen.items():
            if key in self._frozen:
                continue
            self._frozen[key] = body
            scope = body.scope
            if isinstance(scope, gs.Function):
                self.program.functions.setdefault(called(scope), body)
            for step in body.steps:
                for inner in step.bodies():
                    self._owner.setdefault(id(inner.scope), (step, scope))
                self._calls.setdefault((step.domain, step.op, step.overload), []).append((step, scope))

    def of(self, scope: gs.Graph) -> list[Instance]:
        """The runs of a scope. Raises Unknown where it cannot be run on its own."""
        if id(scope) not in self._rooms:
            frozen = self._frozen.get(id(scope))
            if frozen is None:
                raise Unknown("the body was made by a rewrite")
            self._rooms[id(scope)] = []
            self._rooms[id(scope)] = self._entered(scope, frozen)
        if not self._rooms[id(scope)]:
            raise Unknown("the scope is never run")
        return self._rooms[id(scope)]

    def _entered(self, scope: gs.Graph, frozen: Frozen) -> list[Instance]:
        found: list[Instance] = []
        if isinstance(scope, gs.Function):
            for step, home in self._calls.get(called(scope), []):
                for outer in self.of(home):
                    if len(found) < MOST_CALLS:
                        name = f"{step.name or step.op}#{len(found)}"
                        room = Instance(self.program, name, None, {**scope.attrs, **step.attrs})
                        for slot, tensor in enumerate(frozen.inputs):
                            room.bind([tensor], [outer.value(step.ins[slot]) if slot < len(step.ins) else ""])
                        found.append(self._run(frozen, room))
            return found
        if id(scope) not in self._owner:
            raise Unknown("the body was made by a rewrite")
        step, home = self._owner[id(scope)]
        for number, outer in enumerate(self.of(home)):
            room = Instance(self.program, f"{outer.name}/{step.name}.{scope.name}#{number}", outer, outer.given)
            room.bind(frozen.inputs, self._first(step, frozen, outer))
            found.append(self._run(frozen, room))
        return found

    def _first(self, step: Step, body: Frozen, outer: Instance) -> list[str]:
        """What a body gets the first time that it runs."""
        if step.op == "If":
            return []
        if step.op == "Loop":
            states = [outer.value(tensor) for tensor in step.ins[2:]]
            return [self.program.literal(np.array(0)), self.program.literal(np.array(True)), *states]
        if step.op != "Scan" or "directions" in step.attrs or "num_scan_inputs" not in step.attrs:
            raise Unknown(f"bodies of {step.op} are not run on their own")
        count = int(step.attrs["num_scan_inputs"])
        axes = list(step.attrs.get("scan_input_axes") or [0] * count)
        given = [outer.value(tensor) for tensor in step.ins]
        if "" in given or len(given) != len(body.inputs):
            raise Unknown("bodies of this form of Scan are not run on their own")
        found = given[: len(given) - count]
        zero = self.program.literal(np.array(0))
        for axis, value, tensor in zip(axes, given[len(found) :], body.inputs[len(found) :], strict=True):
            found.append(self.program.plain("Gather", [value, zero], tensor, axis=int(axis)))
        return found

    def _run(self, body: Frozen, room: Instance) -> Instance:
        for step in body.steps:
            room.bind(step.outs, self.program.add(step, room.value, "", room.attrs(step)))
        return room
