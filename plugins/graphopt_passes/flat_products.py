"""Products of matrices that were made flat for Gemm, and the numbers that stand around products."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import Editor, inherit
from graphopt.ir.weights import nbytes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value, constant_of
from graphopt.rewrite.worklist import Model

_MOVEMENTS = frozenset("Reshape Transpose Squeeze Unsqueeze Flatten Identity".split())
_TURNED_BYTES = 64 << 20
"""Larger weights are left where they are: a transposed copy would have to be kept in memory."""
_LONGEST_WAY = 16
_SMALLEST = 1e-4
"""A smaller factor could push values into the subnormal numbers."""


@graphopt.pass_("simplify", ops=["Gemm"])
def unflatten_products(graph: gs.Graph, target: Target, model: Model) -> int:
    """Reshape(Gemm(Reshape(x, (-1, k)), w, b), (..., n)) = MatMul(x, w) + b for x of shape (..., k).

    Not where the leading dimensions of the result are not proved to be those of x, where something else reads the
    product, with alpha, beta or transA, and not for a b with rows.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Reshape"):
        if not is_standard(node) or not edit.has(node):
            continue
        gemm = _alone(node.inputs[0], node, edit)
        if gemm is None or gemm.op != "Gemm":
            continue
        flat = gemm.inputs[0].inputs[0] if gemm.inputs[0].inputs else None
        if flat is None or flat.op != "Reshape" or not is_standard(flat):
            continue
        right = _right_side(gemm, shapes.of(flat.inputs[0]), shapes.of(node.outputs[0]), edit)
        if right is None:
            continue
        product = edit.insert("MatMul", [flat.inputs[0], right], at=node)
        made = [product]
        if len(gemm.inputs) > 2 and gemm.inputs[2].name:
            made.append(edit.insert("Add", [product.outputs[0], gemm.inputs[2]], at=node))
        for new in made:
            inherit(new, [node, gemm, flat], "unflatten-products")
            model.inference.node(new, model.imports(node))
        edit.replace(node.outputs[0], made[-1].outputs[0], at=node)
        edit.prune([node])
        changes += 1
    return changes


def _right_side(gemm: gs.Node, before: shapes.Shape, after: shapes.Shape, edit: Editor) -> gs.Tensor | None:
    """The constant matrix w, the way round that MatMul wants it; None where the three nodes are no MatMul."""
    if any(gemm.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or gemm.attrs.get("transA", 0):
        return None
    weights = constant_of(gemm.inputs[1])
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 and gemm.inputs[2].name else None
    shape = shapes.of(weights) if weights is not None else None
    if weights is None or shape is None or before is None or after is None or len(before) != len(after):
        return None
    turned = gemm.attrs.get("transB", 0)
    inner, columns = (shape[1], shape[0]) if turned else shape
    if len(before) < 3 or before[-1] != inner or after[-1] != columns or not shapes.same(before[:-1], after[:-1]):
        return None
    if bias is not None and not shapes.expands(shapes.of(bias), (columns,)):
        return None
    if not turned:
        return gemm.inputs[1]
    if nbytes(weights) > _TURNED_BYTES:
        return None
    array = Value(weights).const
    return None if array is None else edit.constant(np.ascontiguousarray(array.T), weights.name)


def number(value: Value) -> float | None:
    """The one finite number that a small constant holds."""
    array = value.const if value.size == 1 else None
    if array is None or not dtypes.is_float(array.dtype):
        return None
    found = float(array.ravel()[0])
    return found if np.isfinite(found) else None


@graphopt.pass_("simplify", ops=["Mul", "Div"])
def move_scale_to_weights(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x @ w + b) * c = f((x @ w + b) * c), for f that only moves elements, so that w and b take the number c in.

    Nothing else may read what is in between. Not where it ends in anything but a product by constant weights.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Mul", "Div"):
        if not is_standard(node) or not edit.has(node) or model.opset(node) < 7:
            continue
        way = _way(node, edit)
        if way is not None:
            _move(node, way, edit, model)
            changes += 1
    return changes


def _way(node: gs.Node, edit: Editor) -> tuple[int, gs.Node, gs.Tensor] | None:
    """(slot of the moved operand, the first of the movements, what it reads) where the number can go to weights."""
    for slot in (0,) if node.op == "Div" else (0, 1):
        factor = node.inputs[1 - slot]
        constant = constant_of(factor)
        if constant is None or shapes.of(constant) != () or dtypes.name(dtypes.of(constant)) != "float32":
            continue
        value = number(Value(constant))
        if value is None or not _SMALLEST <= abs(value) <= 1 / _SMALLEST:
            continue
        tensor, first = node.inputs[slot], None
        for _ in range(_LONGEST_WAY):
            maker = _alone(tensor, node, edit)
            if maker is None or maker.op not in _MOVEMENTS:
                break
            first, tensor = maker, maker.inputs[0]
        if first is not None and _takes_in(_alone(tensor, node, edit), node, edit):
            return slot, first, tensor
    return None


def _alone(tensor: gs.Tensor, node: gs.Node, edit: Editor) -> gs.Node | None:
    """What makes the tensor, in the scope of the node and for one reader."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or not is_standard(maker) or edit.use_count(tensor) != 1:
        return None
    return maker if edit.scope(maker) is edit.scope(node) else None


def _takes_in(maker: gs.Node | None, node: gs.Node, edit: Editor) -> bool:
    """Whether other rules fold a factor after it into weights."""
    if maker is not None and maker.op == "Add":
        slots = [slot for slot in (0, 1) if constant_of(maker.inputs[slot]) is not None]
        maker = _alone(maker.inputs[1 - slots[0]], node, edit) if len(slots) == 1 else None
        return maker is not None and maker.op == "MatMul" and constant_of(maker.inputs[1]) is not None
    return (
        maker is not None
        and maker.op in ("MatMul", "Gemm", "Conv")
        and all(constant_of(weight) is not None for weight in maker.inputs[1:] if weight.name)
    )


def _move(node: gs.Node, way: tuple[int, gs.Node, gs.Tensor], edit: Editor, model: Model) -> None:
    slot, first, tensor = way
    operands = list(node.inputs)
    moved, factor = operands[slot], operands[1 - slot]
    made = edit.insert(node.op, [tensor, factor], at=first)
    inherit(made, [node], "move-scale-to-weights")
    model.inference.node(made, model.imports(node))
    first.inputs[0] = made.outputs[0]
    edit.edited(first)
    edit.replace(node.outputs[0], moved, at=node)
    edit.prune([node])


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [unflatten_products, move_scale_to_weights]
