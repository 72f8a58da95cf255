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
    """Reshape(Gemm(Reshape(x, (-1, k)), w, b), (..., n)) = MatMul(x', w) + b, x' = x for x of shape (..., k).

    Else x' = Reshape(x, (..., k)), where all unknown dimensions of the result are those of x at their place, or there
    is but one, none is zero, and, with b, nothing else reads the flat x. Not where something else reads the product,
    with alpha, beta or transA, for a b with rows, and for results of fewer than three dimensions.
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
        lead = _leading(gemm, flat, shapes.of(node.outputs[0]), edit)
        right = None if lead is None else _right_side(gemm, edit)
        if lead is None or right is None:
            continue
        made = []
        if lead:
            wanted = edit.constant(np.array(lead, np.int64), "shape")
            made.append(edit.insert("Reshape", [flat.inputs[0], wanted], at=node))
        made.append(edit.insert("MatMul", [made[-1].outputs[0] if made else flat.inputs[0], right], at=node))
        if len(gemm.inputs) > 2 and gemm.inputs[2].name:
            made.append(edit.insert("Add", [made[-1].outputs[0], gemm.inputs[2]], at=node))
        for new in made:
            inherit(new, [node, gemm, flat], "unflatten-products")
            model.inference.node(new, model.imports(node))
        edit.replace(node.outputs[0], made[-1].outputs[0], at=node)
        edit.prune([node])
        changes += 1
    return changes


def _leading(gemm: gs.Node, flat: gs.Node, after: shapes.Shape, edit: Editor) -> list[int] | None:
    """The shape that x has to be given, nothing where it has it; None where the three nodes are no MatMul."""
    if any(gemm.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or gemm.attrs.get("transA", 0):
        return None
    matrix = shapes.of(gemm.inputs[1])
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 and gemm.inputs[2].name else None
    if matrix is None or after is None or len(after) < 3:
        return None
    inner, columns = matrix[::-1] if gemm.attrs.get("transB", 0) else matrix
    if after[-1] != columns or (bias is not None and not shapes.expands(shapes.of(bias), (columns,))):
        return None
    before = shapes.of(flat.inputs[0])
    if before is not None and before[-1:] == (inner,) and shapes.same(before[:-1], after[:-1]):
        return []
    wanted = [*after[:-1], inner]
    if 0 in (*wanted, columns) or (bias is not None and edit.use_count(flat.outputs[0]) > 1):
        return None
    unknown = [n for n, dim in enumerate(wanted) if not isinstance(dim, int)]
    stay = before is not None and all(n < len(before) and shapes.same_dim(before[n], wanted[n]) for n in unknown)
    if len(unknown) > 1 and not stay:
        return None
    return [dim if isinstance(dim, int) else 0 if stay else -1 for dim in wanted]


def _right_side(gemm: gs.Node, edit: Editor) -> gs.Tensor | None:
    """The constant matrix w, the way round that MatMul wants it."""
    weights = constant_of(gemm.inputs[1])
    if weights is None or not gemm.attrs.get("transB", 0):
        return None if weights is None else gemm.inputs[1]
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
