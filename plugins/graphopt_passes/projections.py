"""Products of one tensor with several constant matrices are one product: queries, keys and values of attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.edits import inherit
from graphopt.ir.weights import nbytes, read
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

_MOST_BYTES = 64 << 20
"""Larger weights stay where they are: joined ones would have to be kept in memory."""


class _Projection(NamedTuple):
    """x @ w, or x @ w + b."""

    matmul: gs.Node
    add: gs.Node | None
    weights: gs.Constant
    bias: gs.Constant | None

    @property
    def result(self) -> gs.Tensor:
        return (self.add or self.matmul).outputs[0]


@graphopt.pass_("fuse", ops=["MatMul"])
def merge_projections(graph: gs.Graph, target: Target, model: Model) -> int:
    """x @ w1 + b1, x @ w2 + b2, ... = Split(x @ [w1, w2, ...] + [b1, b2, ...]), the same products in the same order.

    Only where the nodes fall and TensorRT's layers do not rise: Split is one layer an output (for dynamic shapes two,
    and five), MatMul one, and one more where x is of a higher rank than the weights; so never for dynamic shapes. A
    missing bias is zero. Not where other nodes read a weight, where weights are large, below opset 13, or inside
    functions.
    """
    edit = model.editor
    groups: dict[tuple[int, int], list[_Projection]] = {}
    for node in edit.of("MatMul"):
        if not is_standard(node) or len(node.inputs) != 2:
            continue
        x, w = node.inputs
        if not isinstance(w, gs.Constant) or len(w.shape) != 2 or len(x.outputs) < 2:
            continue
        found = _read(model, node, w)
        if found is not None:
            groups.setdefault((id(x), id(edit.scope(node))), []).append(found)
    changes = 0
    for parts in groups.values():
        if _pays(parts):
            changes += _merge(graph, model, parts)
    return changes


def _pays(parts: list[_Projection]) -> bool:
    shape = shapes.of(parts[0].matmul.inputs[0])
    if shape is None or not shapes.is_static(shape):
        return False
    count, biases = len(parts), sum(part.bias is not None for part in parts)
    each = 2 if len(shape) > 2 else 1
    fewer_nodes = count + biases > 2 + bool(biases)
    return fewer_nodes and each * count + biases >= each + count + bool(biases)


def _read(model: Model, node: gs.Node, w: gs.Constant) -> _Projection | None:
    edit = model.editor
    columns = w.shape[1]
    if edit.use_count(w) != 1 or edit.is_input(w) or not dtypes.is_float(w.dtype) or not columns:
        return None
    y = node.outputs[0]
    user = y.outputs[0] if len(y.outputs) == 1 and not edit.is_result(y) else None
    if user is not None and user.op == "Add" and is_standard(user) and edit.scope(user) is edit.scope(node):
        b = user.inputs[1] if user.inputs[0] is y else user.inputs[0]
        if isinstance(b, gs.Constant) and tuple(b.shape) == (columns,) and b.dtype == w.dtype:
            return _Projection(node, user, w, b)
    return _Projection(node, None, w, None)


def _merge(graph: gs.Graph, model: Model, parts: list[_Projection]) -> int:
    edit = model.editor
    first = min((part.matmul for part in parts), key=edit.place)
    weights = [part.weights for part in parts]
    if model.opset(first) < 13 or model.home(first) is not graph or sum(map(nbytes, weights)) > _MOST_BYTES:
        return 0
    if len({(str(w.dtype), w.shape[0]) for w in weights}) != 1:
        return 0
    x, dtype = parts[0].matmul.inputs[0], weights[0].dtype
    sizes = [int(w.shape[1]) for w in weights]
    whole = edit.constant(np.concatenate([read(w) for w in weights], axis=1), weights[0].name)
    bias = np.concatenate(
        [np.zeros(n, dtype) if p.bias is None else read(p.bias) for p, n in zip(parts, sizes, strict=True)]
    )
    product = edit.insert("MatMul", [x, whole], at=first)
    steps = [product]
    if any(part.bias is not None for part in parts):
        steps.append(edit.insert("Add", [product.outputs[0], edit.constant(bias, "bias")], at=first))
    cut = edit.insert(
        "Split",
        [steps[-1].outputs[0], edit.constant(np.array(sizes, np.int64), "sizes")],
        {"axis": -1},
        at=first,
        outputs=len(parts),
    )
    nodes = [node for part in parts for node in (part.matmul, part.add) if node is not None]
    for made in (*steps, cut):
        inherit(made, nodes, "merge-projections")
        model.inference.node(made, model.imports(first))
    for part, piece in zip(parts, list(cut.outputs), strict=True):
        edit.replace(part.result, piece)
    edit.prune(nodes)
    return len(parts)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [merge_projections]
