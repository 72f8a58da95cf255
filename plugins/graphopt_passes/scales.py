"""A factor of one number becomes part of constant weights, wherever only movement stands between them.

Attention's 1 / sqrt(d) goes into the projection of the queries, Gelu's 1 / 2 into the matrix that follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir.edits import inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Array, Value
from graphopt.rewrite.worklist import Model

from .activation import number
from .affine import exact, foldable, rounded, scaled

_MOVEMENT = frozenset("Reshape Transpose Squeeze Unsqueeze Flatten Identity".split())
_FARTHEST = 8
_LEAST = 1e-4
"""A smaller factor could push values into the subnormal numbers."""


class _Found(NamedTuple):
    """A product with constant weights that can take up a factor, and constants that are added to it on the way."""

    node: gs.Node
    weights: int
    """The slot of the weights."""
    added: tuple[tuple[gs.Node, int], ...] = ()
    least: float = 0.0
    most: float = np.inf
    """Between what the magnitude of the factor must be."""


@graphopt.pass_("fuse", before=["merge-projections"], ops=["Mul", "Div"])
def fold_scale_into_weights(graph: gs.Graph, target: Target, model: Model) -> int:
    """move(x @ w + b) * c = move(x @ (w * c) + b * c), and move(x * c) @ w = move(x) @ (w * c), c one finite number.

    move: any chain of Reshape, Transpose, Squeeze, Unsqueeze, Flatten that nothing else reads, and products with
    something else (queries @ keys * c, for |c| <= 1; x * c * gate, for |c| >= 1/2, so that nothing overflows that did
    not). Weights are rounded once
    (exact where c is a power of two). Not where w has other readers or would overflow or underflow, not for c = 0, not
    for weights larger than 64 MiB, nor inside functions, nor where whole numbers are summed, scaled and rounded.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Mul", "Div"):
        if not is_standard(node) or not edit.has(node) or len(node.inputs) != 2:
            continue
        if model.home(node) is not graph or model.opset(node) < 7:
            continue
        slot = 1 if isinstance(node.inputs[1], gs.Constant) else 0 if node.op == "Mul" else 1
        c, x = node.inputs[slot], node.inputs[1 - slot]
        if not isinstance(c, gs.Constant) or Value(c).size != 1 or isinstance(x, gs.Constant):
            continue
        found = _above(model, x) or _below(model, node.outputs[0])
        if found is None or exact(Value(found.node.inputs[found.weights]), Value(node.outputs[0])):
            continue
        try:
            k = number(Value(c), Value(x))
            if k == 0 or not np.isfinite(k):
                continue
            k = 1 / k if node.op == "Div" else k
            if not found.least <= abs(k) <= found.most:
                continue
            _scale(model, node, found, k)
        except graphopt.Skip:
            continue
        edit.replace(node.outputs[0], x)
        edit.prune([node])
        changes += 1
    return changes


def _only_reader(model: Model, tensor: gs.Tensor) -> gs.Node | None:
    if len(tensor.outputs) != 1 or model.editor.is_result(tensor):
        return None
    return tensor.outputs[0]


def _above(model: Model, x: gs.Tensor, through_product: bool = False) -> _Found | None:
    added: list[tuple[gs.Node, int]] = []
    for _ in range(_FARTHEST):
        maker = x.inputs[0] if x.inputs else None
        if maker is None or not is_standard(maker) or _only_reader(model, x) is None:
            return None
        if maker.op in _MOVEMENT:
            x = maker.inputs[0]
        elif maker.op == "Add" and any(isinstance(one, gs.Constant) for one in maker.inputs):
            slot = 1 if isinstance(maker.inputs[1], gs.Constant) else 0
            added.append((maker, slot))
            x = maker.inputs[1 - slot]
        elif maker.op == "MatMul" and isinstance(maker.inputs[1], gs.Constant):
            return _Found(maker, 1, tuple(added), most=1.0 if through_product else np.inf)
        elif maker.op == "MatMul" and not added and not through_product:
            return _above(model, maker.inputs[0], True) or _above(model, maker.inputs[1], True)
        else:
            return None
    return None


def _below(model: Model, y: gs.Tensor) -> _Found | None:
    least = 0.0
    for _ in range(_FARTHEST):
        user = _only_reader(model, y)
        if user is None or not is_standard(user):
            return None
        if user.op == "Mul":
            y, least = user.outputs[0], 0.5
        elif user.inputs[0] is not y:
            return None
        elif user.op in _MOVEMENT:
            y = user.outputs[0]
        elif user.op == "MatMul" and isinstance(user.inputs[1], gs.Constant):
            return _Found(user, 1, least=least)
        else:
            return None
    return None


def _scale(model: Model, node: gs.Node, found: _Found, k: float) -> None:
    """Multiply what was found by k. Raises Skip, with nothing changed, where that cannot be done."""
    edit = model.editor
    edits: list[tuple[gs.Node, int, Array]] = []
    for owner, slot in ((found.node, found.weights), *found.added):
        tensor = owner.inputs[slot]
        value = Value(tensor)
        if edit.use_count(tensor) != 1 and owner is found.node:
            raise graphopt.Skip("the weights have other readers")
        if edit.scope(owner) is not edit.scope(node) or edit.is_input(tensor):
            raise graphopt.Skip("the weights are in another body, or may be overridden")
        foldable(value)
        edits.append((owner, slot, scaled(value, np.array(k))))
    for owner, slot, array in edits:
        owner.inputs[slot] = edit.constant(array, owner.inputs[slot].name)
        edit.edited(owner)
        inherit(owner, [owner, node], "fold-scale-into-weights")


class GatherFactorsOfProduct(graphopt.Rule):
    """(x * a) @ (y * b) = (x * (a * b)) @ y, for constants a and b of one number. Rounded once less.

    Not where x * (a * b) could overflow though x * a did not, or where a * b is so small that digits are lost.
    """

    stage = "fuse"

    def pattern(self, op: Any, x: Any, a: Any, y: Any, b: Any) -> Any:
        return op.MatMul(op.Mul(x, op.Const(a)), op.Mul(y, op.Const(b)))

    def rewrite(self, op: Any, x: Value, a: Value, y: Value, b: Value) -> Any:
        foldable(x)
        k = np.array(number(a, x) * number(b, y))
        if x.is_const or y.is_const or not _LEAST <= abs(k) <= max(1.0, abs(number(a, x))):
            raise graphopt.Skip("an operand is constant, or the factors together are too large or too small")
        return op.MatMul(x * rounded(k, x.dtype, watch=False), y)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [fold_scale_into_weights, GatherFactorsOfProduct()]
