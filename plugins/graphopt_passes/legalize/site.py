"""One node that is to be said otherwise: its operands, its attributes, and what stands in its place.

A handler is a function of a `Site`. It returns the values of the node's outputs (None for one that nothing reads), or
raises `graphopt.Skip` with the reason why this node must be left alone (none where it is of no concern). Types are
inferred before anything is applied: a handler that provably changes a dtype or a shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.config import Target
from graphopt.errors import PassError
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import inherit
from graphopt.ir.infer import BROADCAST, COMPARE
from graphopt.ir.operator_shapes import clash
from graphopt.rewrite.build import Ops, Skip
from graphopt.rewrite.spelling import attribute_operand, default, is_standard, moved
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

Handler = Callable[["Site"], Any]


class Site:
    """A node under a handler."""

    def __init__(self, node: gs.Node, model: Model, target: Target) -> None:
        self.node, self.model, self.target = node, model, target
        self.opset = model.opset(node)
        imports = {entry.domain: int(entry.version) for entry in model.imports(node)}
        self.domain_opset = imports.get(node.domain or "", self.opset)
        self.op = Ops(model.editor, model.inference, node, self.opset, model.imports(node), [node])
        given: list[Value | None] = [Value(t, ops=self.op) if t.name else None for t in node.inputs]
        if is_standard(node):
            for entry in moved(node.op, self.opset):
                array = attribute_operand(node, entry)
                given += [None] * (entry.slot + 1 - len(given))
                if array is not None:
                    given[entry.slot] = Value(None, array, self.op)
        self.inputs = given
        self.by_definition = False
        """What is put in its place is ONNX's own definition: where types clash, the node's operands contradict it."""

    def input(self, slot: int) -> Value | None:
        """An operand, or None where it is absent."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def __getitem__(self, slot: int) -> Value:
        """An operand. Raises Skip where it is absent."""
        found = self.input(slot)
        if found is None:
            raise Skip(f"input {slot} is absent")
        return found

    def attr(self, name: str, otherwise: Any = None) -> Any:
        """An attribute, or the default that ONNX gives it, or `otherwise`."""
        value = self.node.attrs.get(name)
        if isinstance(value, gs.Node.AttributeRef):
            raise Skip("an attribute is a parameter of a function")
        if value is None:
            value = default(self.node, name, self.domain_opset)
        return otherwise if value is None else value

    def dtype(self, slot: int = 0) -> np.dtype[Any]:
        """The dtype of an operand. Raises Skip where it is unknown."""
        found = self[slot].dtype
        if found is None:
            raise Skip(f"the dtype of input {slot} is unknown")
        return found

    def rank(self, slot: int = 0) -> int:
        """The rank of an operand. Raises Skip where it is unknown."""
        found = self[slot].rank
        if found is None:
            raise Skip(f"the rank of input {slot} is unknown")
        return found

    def dims(self, slot: int = 0) -> tuple[int, ...]:
        """The shape of an operand, in numbers. Raises Skip where one is dynamic."""
        found = self[slot].shape
        if found is None or not shapes.is_static(found):
            raise Skip(f"input {slot} has the dynamic shape {shapes.text(found)}")
        return tuple(int(dim) for dim in found if isinstance(dim, int))

    def const(self, slot: int) -> np.ndarray[Any, Any]:
        """The value of an operand. Raises Skip where it is computed."""
        found = self[slot].const
        if found is None:
            raise Skip(f"input {slot} ({self[slot].name!r}) is computed at run time; bind it with --bind")
        return found

    def axis(self, name: str = "axis", slot: int = 0) -> int:
        """The axis attribute as a number that is not negative."""
        return shapes.axis(int(self.attr(name)), self.rank(slot))

    def wants(self, slot: int) -> bool:
        """Whether anything reads an output."""
        outputs = self.node.outputs
        return slot < len(outputs) and bool(outputs[slot].name) and self.model.editor.is_used(outputs[slot])

    def out_dtype(self, slot: int = 0) -> np.dtype[Any]:
        found = dtypes.of(self.node.outputs[slot])
        if found is None:
            raise Skip("the dtype of the result is unknown")
        return found

    def cast(self, x: Value, dtype: Any) -> Value:
        """x as another dtype; x itself where it has it."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        made: Value = self.op.Cast(x, to=dtypes.to_onnx(dtype))
        return made


_DOMAINS = ("ai.onnx.preview", "ai.onnx.preview.training")


def rewrite(
    model: Model,
    target: Target,
    handlers: Mapping[str, Handler],
    name: str,
    glance: Callable[[gs.Node], bool] | None = None,
) -> int:
    """Offer every standard node of the main graph and its bodies to the handler of its operator; how many it took.

    glance: False for nodes that need not be offered.
    A node is offered again after an edit near it. Nodes of model-local functions are left alone.
    """
    changes = 0
    if target.backend not in ("tensorrt", "tensorrt_rtx"):
        return 0
    model.infer()
    for node in model.fresh(name):
        handler = handlers.get(node.op)
        if handler is None or not (is_standard(node) or node.domain in _DOMAINS):
            continue
        if not model.editor.has(node) or model.home(node) is not model.graph:  # gone by now, or of a layer's function
            continue
        if glance is not None and not glance(node):
            continue
        changes += attempt(node, model, target, handler, name)
    return changes


def attempt(node: gs.Node, model: Model, target: Target, handler: Handler, name: str) -> bool:
    """Put what the handler says in the place of a node; False where it leaves it alone."""
    site = Site(node, model, target)
    try:
        found = handler(site)
    except _MALFORMED as skip:
        site.op.abort()
        if str(skip):
            model.left[node.name] = f"{name}: {skip}"
        return False
    results = list(found) if isinstance(found, (tuple, list)) else [found]
    results = (results + [None] * len(node.outputs))[: len(node.outputs)]
    where = f"pass {name}, node {node.name!r} ({node.op})"
    for made in site.op.made:
        model.inference.node(made, site.op._imports)
    new = []
    for slot, (old, value) in enumerate(zip(node.outputs, results, strict=True)):
        if value is None:
            if site.wants(slot):
                raise PassError(f"output {slot} was not made", where=where)
            continue
        tensor = site.op.value(value, old)
        if wrong := clash((dtypes.of(old), shapes.of(old)), (dtypes.of(tensor), shapes.of(tensor))):
            if site.by_definition or _is_misdeclared(node, model):
                site.op.abort()
                model.left[node.name] = f"{name}: the model declares {old.name!r} as something else"
                return False
            raise PassError(f"the rewrite changes {old.name!r} {wrong}", where=where)
        new.append((old, tensor))
    edit = model.editor
    for made in site.op.made:
        edit.attach(made, node)
        inherit(made, [node], name)
    edit.replace_all(new, at=node)
    edit.prune([node, *site.op.made])
    return True


_MALFORMED = (Skip, ValueError, IndexError, KeyError, TypeError, onnx.defs.SchemaError)
"""What a handler may raise over a node that is not as its operator's definition has it: it is left to the parser."""


def _is_misdeclared(node: gs.Node, model: Model) -> bool:
    """Whether the node's own definition does not give what the model declares of its outputs, or gives nothing."""
    given = model.inference.outputs(node, model.imports(node))
    if node.op in BROADCAST | COMPARE and _cannot_meet([shapes.of(tensor) for tensor in node.inputs if tensor.name]):
        return True
    return given is None or any(
        clash(kind, (dtypes.of(tensor), shapes.of(tensor))) for tensor, kind in zip(node.outputs, given, strict=False)
    )


def _cannot_meet(operands: list[shapes.Shape]) -> bool:
    """Whether shapes contradict the rules of broadcasting."""
    known = [shape[::-1] for shape in operands if shape is not None]
    columns = zip_longest(*known, fillvalue=1)
    return any(len({dim for dim in column if isinstance(dim, int) and dim != 1}) > 1 for column in columns)
