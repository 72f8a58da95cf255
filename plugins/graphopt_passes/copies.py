"""Copies of nodes with their bodies, for calls that become what they call and loops that become their turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import shapes
from graphopt.ir.graph import extras, new_constant, new_node, new_variable, peek, scopes, subgraphs

Names = Callable[[str], str]


class Copier:
    """Copies nodes: what they read is looked up in `known`, id(tensor) -> tensor, and is itself where it is not there.

    attrs: values of the attributes that an enclosing function refers to; None where a caller gives none.
    """

    def __init__(
        self, known: Mapping[int, gs.Tensor], fresh: Names, attrs: Mapping[str, Any] | None = None, opset: int = 0
    ) -> None:
        self.known = dict(known)
        self.fresh = fresh
        self.attrs = attrs
        self.opset = opset
        self._held: list[gs.Tensor] = []

    def tensor(self, tensor: gs.Tensor) -> gs.Tensor:
        """What stands for a tensor that is read."""
        if not tensor.name:
            return new_variable("")
        found = self.known.get(id(tensor))
        if found is None and self.attrs is not None and isinstance(tensor, gs.Constant):
            found = new_constant(self.fresh(tensor.name), tensor._values)
            self.known[id(tensor)] = found
            self._held.append(tensor)
        return tensor if found is None else found

    def _new(self, tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return new_variable("")
        made = new_variable(self.fresh(tensor.name), None, None, getattr(tensor, "type", "tensor_type"))
        if self.attrs is None and isinstance(tensor, gs.Variable):
            made.dtype = tensor.dtype  # but no shape: it may change from turn to turn
        self.known[id(tensor)] = made
        return made

    def node(self, node: gs.Node, name: str) -> gs.Node:
        """A copy of a node that reads and makes what stands for the old values."""
        inputs = [self.tensor(tensor) for tensor in node.inputs]
        attrs = {}
        for key, value in node.attrs.items():
            if isinstance(value, gs.Node.AttributeRef) and self.attrs is not None:
                value = self.attrs.get(value.name)
                if value is None:
                    continue
            elif isinstance(value, gs.Graph):
                value = self._body(value)
            elif type(value) is list and value and isinstance(value[0], gs.Graph):
                value = [self._body(body) for body in value]
            attrs[key] = value
        outputs = [self._new(tensor) for tensor in node.outputs]
        made = new_node(node.op, inputs, outputs, attrs, name=self.fresh(name), domain=node.domain or "")
        known = peek(node)
        if known is not None:
            entry = extras(made)
            entry.doc_string, entry.overload = known.doc_string, known.overload
            entry.metadata = dict(known.metadata)
            entry.origin, entry.rules = known.origin, known.rules
        return made

    def _body(self, body: gs.Graph) -> gs.Graph:
        inputs = []
        for tensor in body.inputs:
            made = self._new(tensor)
            shape = shapes.of(tensor)
            if isinstance(tensor, gs.Variable):
                made.dtype = tensor.dtype
                made.shape = None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)
            known = peek(tensor)
            if known is not None and known.type_proto is not None:
                extras(made).type_proto = known.type_proto
            inputs.append(made)
        nodes = [self.node(node, node.name) for node in body.nodes]
        outputs = [self.tensor(tensor) for tensor in body.outputs]
        made = gs.Graph([], inputs, outputs, body.name, body.doc_string, self.opset or body.opset, body.import_domains)
        made.nodes = nodes
        made._functions = body._functions
        return made


def size(nodes: list[gs.Node]) -> int:
    """How many nodes these are, with those of their bodies."""
    total = len(nodes)
    for node in nodes:
        for body in subgraphs(node):
            total += sum(len(scope.nodes) for scope in scopes(body, functions=False))
    return total
