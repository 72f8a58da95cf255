"""All that was ever computed in a run, as one straight program: source nodes, and those that rewrites made."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import extras, new_constant, new_node, new_variable, peek
from graphopt.ir.save import constants, to_proto, write
from graphopt.ir.weights import nbytes

from .steps import Frozen, Step

Resolve = Callable[[gs.Tensor], str]
"""The value that a tensor stands for; '' for an operand left out. Raises Unknown."""

_AT_ONCE = 512 << 20


class Unknown(Exception):
    """A tensor that has no value in the program."""


@dataclass(slots=True)
class Line:
    """One node of the program over its values. tag: '' for the source's, 'a7' made by change 7, 'b7' replaced by it."""

    step: Step
    attrs: dict[str, Any]
    ins: list[str]
    outs: list[str]
    tag: str
    captured: dict[int, str]


class Program:
    """Values in single assignment: @0, @1, ... Nothing is ever taken out of it."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.lines: list[Line] = []
        self.maker: dict[str, int] = {}
        self.inputs: dict[str, gs.Tensor] = {}
        self.constants: dict[str, Any] = {}
        self.about: dict[str, gs.Tensor] = {}
        """value -> a tensor that it stood for, which knows its dtype and shape"""
        self._known: dict[tuple[int, int], str] = {}
        self.functions: dict[Any, Frozen] = {}

    def fresh(self, tensor: gs.Tensor) -> str:
        name = f"@{len(self.about)}"
        self.about[name] = tensor
        return name

    def input(self, tensor: gs.Tensor) -> str:
        name = self.fresh(tensor)
        self.inputs[name] = tensor
        return name

    def constant(self, tensor: gs.Constant) -> str:
        """The value of a constant as it is now: new contents are a new value."""
        key = (id(tensor), id(tensor._values))
        if key not in self._known:
            name = self._known[key] = self.fresh(tensor)
            self.constants[name] = tensor._values
        return self._known[key]

    def literal(self, values: Any) -> str:
        return self.constant(new_constant("literal", values))

    def add(self, step: Step, resolve: Resolve, tag: str, attrs: dict[str, Any] | None = None) -> list[str]:
        """Compute a step; the values of its outputs. Raises Unknown, and adds nothing then."""
        ins = [resolve(tensor) for tensor in step.ins]
        captured = {id(tensor): resolve(tensor) for body in step.bodies() for tensor in body.read()}
        outs = [self.fresh(tensor) if tensor.name else "" for tensor in step.outs]
        for name in outs:
            if name:
                self.maker[name] = len(self.lines)
        self.lines.append(Line(step, step.attrs if attrs is None else attrs, ins, outs, tag, captured))
        return outs

    def plain(self, op: str, ins: list[str], like: gs.Tensor, **attrs: Any) -> str:
        """Compute one operator more; `like` has the result's type."""
        step = Step(new_node(op, [], []), "", op, "", "", attrs, (), (), (like,), ())
        out = self.fresh(like)
        self.maker[out] = len(self.lines)
        self.lines.append(Line(step, attrs, ins, [out], "", {}))
        return out

    def needed(self, values: Iterable[str], tags: Container[str] | None = None) -> tuple[list[int], list[str]]:
        """(lines that compute the values, in order; values that come from outside). tags: only lines of these."""
        pending, seen, lines, outside = list(values), set(), set(), []
        while pending:
            value = pending.pop()
            if value in seen or not value:
                continue
            seen.add(value)
            at = self.maker.get(value)
            if at is None or (tags is not None and self.lines[at].tag not in tags):
                outside.append(value)
                continue
            if at not in lines:
                lines.add(at)
                pending.extend(self.lines[at].ins)
                pending.extend(self.lines[at].captured.values())
        return sorted(lines), sorted(outside, key=lambda name: int(name[1:]))

    def model(
        self, lines: Iterable[int], inputs: dict[str, str], outputs: dict[str, str], *, typed: bool = False
    ) -> gs.Graph:
        """A graph of these lines. inputs, outputs: value -> its name in the model; constants come by themselves.

        typed: inputs and outputs have the shapes that were known of them, else only inputs of the source have.
        """
        made: dict[str, gs.Tensor] = {}
        nodes: list[gs.Node] = []
        for value, name in inputs.items():
            made[value] = self._variable(name, value, typed or value in self.inputs)
        for value, name in outputs.items():
            if value not in made and value not in self.constants:
                made[value] = self._variable(name, value, typed)

        def tensor(value: str) -> gs.Tensor:
            if not value:
                return new_variable("")
            if value not in made:
                held = self.constants.get(value)
                made[value] = self._variable(value, value, False) if held is None else new_constant(f"{value}c", held)
            return made[value]

        for number in lines:
            line = self.lines[number]
            held = {key: self._attribute(value, line.captured, tensor) for key, value in line.attrs.items()}
            node = new_node(
                line.step.op,
                [tensor(value) for value in line.ins],
                [tensor(value) for value in line.outs],
                held,
                name=line.step.name if typed else f"@{number}",
                domain=line.step.domain,
            )
            if line.step.overload:
                extras(node).overload = line.step.overload
            nodes.append(node)
        results = []
        for value, name in outputs.items():
            if value in inputs or value in self.constants:
                results.append(self._variable(name, value, typed))
                nodes.append(new_node("Identity", [tensor(value)], [results[-1]], name=f"{name}_identity"))
            else:
                results.append(tensor(value))
        home = self.graph
        functions = [_function(body) for body in self.functions.values()]
        functions += [one for one in home.functions if called(one) not in self.functions]  # layers', which stay as made
        graph = gs.Graph(
            nodes, [made[value] for value in inputs], results, name="slice", opset=home.opset,
            import_domains=home.import_domains, functions=functions,
        )  # fmt: skip
        graph.ir_version = home.ir_version
        return graph

    def _variable(self, name: str, value: str, shaped: bool) -> gs.Variable:
        about = self.about[value]
        kind = getattr(about, "type", None) or "tensor_type"
        found = new_variable(name, dtypes.of(about), shapes.of(about) if shaped else None, kind)
        note = peek(about)
        special = note.type_proto if note is not None else None
        if special is not None and special.WhichOneof("value") != "tensor_type":
            extras(found).type_proto = special
        return found

    def _attribute(self, value: Any, captured: dict[int, str], outer: Callable[[str], gs.Tensor]) -> Any:
        if isinstance(value, Frozen):
            return _thaw(value, lambda tensor: outer(captured[id(tensor)]) if id(tensor) in captured else None)
        if type(value) is list and value and isinstance(value[0], Frozen):
            return [self._attribute(body, captured, outer) for body in value]
        return value


def called(function: gs.Graph) -> tuple[str, str, str]:
    """What a call of the function says."""
    note = peek(function)
    return function.domain or "", function.name, note.overload if note is not None else ""


def put(graph: gs.Graph, path: Path) -> None:
    """Write a model that lives for one run only: no waiting for the disk. Raises GraphoptError."""
    if sum(map(nbytes, constants(graph))) > _AT_ONCE:
        write(graph, path)
    else:
        path.write_bytes(to_proto(graph).SerializeToString())


def _thaw(body: Frozen, outside: Callable[[gs.Tensor], gs.Tensor | None]) -> gs.Graph:
    """A graph of its own that computes what the frozen one did."""
    ins, nodes, outs = _copied(body, outside)
    scope = body.scope
    return gs.Graph(nodes, ins, outs, name=scope.name or "body", opset=scope.opset, import_domains=scope.import_domains)


def _function(body: Frozen) -> gs.Function:
    ins, nodes, outs = _copied(body, lambda tensor: None)
    scope = body.scope
    found = gs.Function(
        scope.name, scope.domain, nodes, ins, outs, scope.doc_string, scope.opset, scope.import_domains,
        attrs=dict(scope.attrs),
    )  # fmt: skip
    note = peek(scope)
    if note is not None and note.overload:
        extras(found).overload = note.overload
    return found


def _copied(
    body: Frozen, outside: Callable[[gs.Tensor], gs.Tensor | None]
) -> tuple[list[gs.Tensor], list[gs.Node], list[gs.Tensor]]:
    made: dict[int, gs.Tensor] = {}

    def tensor(one: gs.Tensor) -> gs.Tensor:
        if id(one) not in made:
            found = outside(one)
            if found is None:
                if isinstance(one, gs.Constant):
                    found = new_constant(one.name, one._values)
                else:
                    found = new_variable(one.name, dtypes.of(one), shapes.of(one), getattr(one, "type", "tensor_type"))
                note = peek(one)
                if note is not None and note.type_proto is not None:
                    extras(found).type_proto = note.type_proto
            made[id(one)] = found
        return made[id(one)]

    ins = [tensor(one) for one in body.inputs]
    nodes = []
    for step in body.steps:
        attrs: dict[str, Any] = {}
        for key, value in step.attrs.items():
            if isinstance(value, Frozen):
                attrs[key] = _thaw(value, _of_outer(tensor, value))
            elif type(value) is list and value and isinstance(value[0], Frozen):
                attrs[key] = [_thaw(one, _of_outer(tensor, one)) for one in value]
            else:
                attrs[key] = value
        nodes.append(
            new_node(
                step.op,
                [tensor(one) for one in step.ins],
                [tensor(one) for one in step.outs],
                attrs,
                name=step.name,
                domain=step.domain,
            )
        )
        if step.overload:
            extras(nodes[-1]).overload = step.overload
    return ins, nodes, [tensor(one) for one in body.outputs]


def _of_outer(tensor: Callable[[gs.Tensor], gs.Tensor], body: Frozen) -> Callable[[gs.Tensor], gs.Tensor | None]:
    """The outer tensors that an inner body reads; its own are its own."""
    read = {id(one) for one in body.read()}
    return lambda one: tensor(one) if id(one) in read else None
