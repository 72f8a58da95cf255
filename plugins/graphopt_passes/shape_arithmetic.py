"""Arithmetic on shapes, as exporters leave it: what it computes is constant, or is known to Reshape anyway.

Equal symbols are equal numbers; what has neither number nor symbol is followed by where it comes from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import scopes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

from . import integer_vectors as integer_vectors
from .elementwise import UNARY
from .intervals import END
from .partly_known import Element, Unknown, same
from .shape_facts import WHOLE, Facts

_SHAPED_BY_OPERAND = frozenset(("Reshape", "Expand", "Slice"))


class ShapeOfOperand(graphopt.Rule):
    """Shape(f(x)) = Shape(x) for f that works element by element."""

    stage = "canonicalize"

    def pattern(self, op: Any, y: Any, rest: Any) -> Any:
        return op.Shape(y, attrs=rest)

    def check(self, op: Any, y: Value) -> str | None:
        maker = y.producer
        alike = maker is not None and maker.op in UNARY and is_standard(maker)
        return None if alike else "its operand is not computed element by element"

    def rewrite(self, op: Any, y: Value, rest: dict[str, Any]) -> Any:
        assert y.producer is not None
        return op.Shape(y.producer.inputs[0], **rest)


@graphopt.pass_("canonicalize", after=["fold-constants"])
def evaluate_shapes(graph: gs.Graph, target: Target, model: Model) -> int:
    """What is computed from known sizes is a constant, what is computed twice from unknown ones is computed once.

    Reshape(x, shape) gets a constant shape where all sizes but one are known, or are those of x in the same place
    (written 0); Expand and Slice that are proved to change nothing are x. A vector with two unknown sizes that are
    not those of x stays. An empty x with symbolic sizes may be refused where a -1 stands for the unknown size.
    """
    if not any(map(_may_tell, model.fresh("evaluate-shapes"))):
        return 0
    nodes = model.editor.nodes()
    if not any(
        node.op in ("Shape", "Size")
        or (node.op in _SHAPED_BY_OPERAND and any(constant_of(operand) is None for operand in node.inputs[1:2]))
        for node in nodes
    ):
        return 0
    return sum(_Evaluation(model, scope).run() for scope in scopes(graph))


def _may_tell(node: gs.Node) -> bool:
    """Whether a new or edited node may tell of sizes or small integers more than its outputs' declared types do."""
    if node.op in ("Shape", "Size") or node.op in _SHAPED_BY_OPERAND:
        return True
    for tensor in node.outputs:
        shape, dtype = shapes.of(tensor), dtypes.of(tensor)
        if shape is None or None in shape or dtype is None or (dtype in WHOLE and len(shape) < 2):
            return True
    return False


class _Evaluation:
    """One walk over one scope."""

    def __init__(self, model: Model, scope: gs.Graph) -> None:
        self.model, self.edit, self.scope = model, model.editor, scope
        self.facts = Facts(model.graph.outputs)
        self.first: dict[Any, gs.Tensor] = {}
        self.learnt: set[int] = set()
        """The tensors of which this walk has made the shape better known."""
        self.changes = 0

    def run(self) -> int:
        for node in list(self.scope.nodes):
            if self._says_nothing(node) or not self.edit.has(node) or not is_standard(node) or node.op == "Constant":
                continue
            if not self.learnt.isdisjoint(map(id, node.inputs)):
                self._infer(node)
            self.facts.learn(node, self.model.opset(node))
            if node.op in ("Reshape", "Expand", "Slice"):
                self._resolve(node)
            if self.edit.has(node) and node.outputs:
                self._evaluate(node)
                self._describe(node)
        return self.changes

    def _says_nothing(self, node: gs.Node) -> bool:
        """Whether all there is to know of a node's outputs is what their types declare."""
        if node.op in _SHAPED_BY_OPERAND:
            return False
        for tensor in node.outputs:
            shape, dtype = tensor.shape, dtypes.of(tensor)
            if shape is None or dtype is None or (len(shape) < 2 and dtype in WHOLE) or self.edit.is_result(tensor):
                return False
            for dim in shape:
                if not isinstance(dim, int) and (dim is None or shapes.is_placeholder(dim)):
                    return False
        return True

    def _infer(self, node: gs.Node) -> None:
        """What its operator tells now that its operands are better known, so that one walk is enough for a chain."""
        news = self.model.inference.news
        before = len(news)
        self.model.inference.node(node, self.model.imports(node))
        self.learnt.update(map(id, news[before:]))

    def _evaluate(self, node: gs.Node) -> None:
        tensor = node.outputs[0]
        known = self.facts.vector(tensor)
        if known is None or self.edit.is_result(tensor) or not self.edit.is_used(tensor):
            return
        if not any(isinstance(element, Unknown) for element in known.elements):
            values = np.array(known.elements, dtypes.of(tensor) or np.int64)
            constant = self.edit.constant(values.reshape(()) if known.is_scalar else values, tensor.name)
            self._replace(node, constant)
            return
        key = (known, dtypes.of(tensor))
        earlier = self.first.get(key)
        if earlier is None or not earlier.inputs:  # none, or it has been pruned since
            self.first[key] = tensor
        else:
            self._replace(node, earlier)

    def _replace(self, node: gs.Node, new: gs.Tensor) -> None:
        self.edit.replace(node.outputs[0], new)
        self.edit.prune([node])
        self.changes += 1

    def _resolve(self, node: gs.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        before, after = self.facts.dims(source), self.facts.dims(result)
        if before is None:
            return
        if node.op == "Slice":
            unchanged = self._takes_all(node, before)
        elif after is None:
            return
        else:
            unchanged = len(before) == len(after) and all(map(same, before, after))
        if unchanged:
            if not self._would_come_back(node):
                self._replace(node, source)
        elif node.op != "Slice" and after is not None and constant_of(node.inputs[1]) is None:
            wanted = _target(before, after) if node.op == "Reshape" else _expansion(before, after)
            if wanted is not None:
                old = list(node.inputs[1].inputs)
                node.inputs[1] = self.edit.constant(np.array(wanted, np.int64), f"{result.name}_shape")
                node.attrs.pop("allowzero", None)
                self.edit.edited(node)
                self.edit.prune(old)
                self.changes += 1

    def _would_come_back(self, node: gs.Node) -> bool:
        """As an Identity, which is no gain: where a graph output would be a graph input, a constant or an output."""
        source = node.inputs[0]
        return self.edit.is_result(node.outputs[0]) and (not source.inputs or self.edit.is_result(source))

    def _takes_all(self, node: gs.Node, dims: tuple[Element, ...]) -> bool:
        if self.model.opset(node) < 10 or len(node.inputs) < 3:
            return False
        start, end = self.facts.integers(node.inputs[1]), self.facts.vector(node.inputs[2])
        if start is None or end is None or any(start):
            return False
        axes, steps = (
            self.facts.integers(node.inputs[slot]) if len(node.inputs) > slot and node.inputs[slot].name else default
            for slot, default in ((3, list(range(len(start)))), (4, [1] * len(start)))
        )
        if axes is None or steps is None or any(step != 1 for step in steps):
            return False
        pairs = zip(axes, end.elements, strict=True)
        return all(
            (isinstance(last, int) and last >= END) or (-len(dims) <= axis < len(dims) and same(dims[axis], last))
            for axis, last in pairs
        )

    def _describe(self, node: gs.Node) -> None:
        """Write what was learnt about sizes into the graph, where other rules see it."""
        for tensor in node.outputs:
            if not isinstance(tensor, gs.Variable) or tensor.type != "tensor_type" or self.edit.is_result(tensor):
                continue
            shape, dims = shapes.of(tensor), self.facts.dims(tensor)
            if dims is not None and (shape is None or None in shape):
                learnt = shapes.merge(shape, tuple(dim.symbol if isinstance(dim, Unknown) else dim for dim in dims))
                if learnt != shape:
                    self.edit.reshaped(tensor, learnt)
                    self.learnt.add(id(tensor))


def _target(before: tuple[Element, ...], after: tuple[Element, ...]) -> list[int] | None:
    """The constant shape of a Reshape: numbers, 0 = as before in the same place, and at most one -1."""
    if any(isinstance(dim, int) and dim == 0 for dim in after):
        return None
    unknown = [axis for axis, dim in enumerate(after) if isinstance(dim, Unknown)]
    copied = {axis for axis in unknown if axis < len(before) and same(before[axis], after[axis])}
    if len(unknown) == 1:
        copied = set()
    if len(unknown) - len(copied) > 1:
        return None
    return [dim if isinstance(dim, int) else 0 if axis in copied else -1 for axis, dim in enumerate(after)]


def _expansion(before: tuple[Element, ...], after: tuple[Element, ...]) -> list[int] | None:
    """The constant shape of an Expand: numbers, and 1 where the size stays; None if it is not all known."""
    padded = (1,) * (len(after) - len(before)) + before
    wanted = [
        dim if isinstance(dim, int) else 1 if same(old, dim) else None for old, dim in zip(padded, after, strict=True)
    ]
    return None if None in wanted else [dim for dim in wanted if dim is not None]


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [ShapeOfOperand(), evaluate_shapes]
