"""Constant operands in the form that TensorRT's parser takes as it is.

Counted with TensorRT-RTX 1.6.1's parser: Slice with int64 places is 17 layers and with int32 places 1; Gather 2 and 1;
Mul by a scalar or a vector is 2 layers and by a constant of x's rank 1; LayerNormalization with vectors is 3 layers
and with scale and bias of x's rank 1. The values are the same, so the result is, bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes, shapes
from graphopt.ir.weights import nbytes, read
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

from .elementwise import BINARY, VARIADIC

_PLACES = {"Gather": (1,), "GatherElements": (1,), "Slice": (1, 2, 3, 4)}
"""Inputs that may be int32 or int64; those of one node are of one dtype."""
_SPREAD = {**dict.fromkeys(BINARY | VARIADIC), "LayerNormalization": (1, 2), "RMSNormalization": (1,)}
"""Inputs that are broadcast to the rank of the result; None: all."""
_MOST_BYTES = 1 << 20
_COPIED_BYTES = 1 << 12
"""Larger constants that others read in their old form too are left alone."""
_INT32 = np.iinfo(np.int32)


def _for_tensorrt(target: Target) -> bool:
    return target.backend in ("tensorrt", "tensorrt_rtx")


@graphopt.pass_("legalize", ops=tuple(_PLACES))
def narrow_places(graph: gs.Graph, target: Target, model: Model) -> int:
    """Slice and Gather by int64 constants = by the same int32 constants; for TensorRT only.

    An end beyond int32 ("to the end") becomes the largest or least int32: TensorRT has no longer dimensions. Not where
    any of a Slice's places is computed, since all must be of one dtype, nor inside functions.
    """
    if not _for_tensorrt(target):
        return 0
    edit = model.editor
    made: dict[int, gs.Constant] = {}
    changes = 0
    for node in edit.of(*_PLACES):
        slots = _PLACES[node.op]
        if not is_standard(node) or (node.op == "Slice" and model.opset(node) < 10):
            continue
        given = [slot for slot in slots if slot < len(node.inputs) and node.inputs[slot].name]
        if model.home(node) is not graph or not all(_is_narrow(node, slot, made) for slot in given):
            continue
        if all(dtypes.name(node.inputs[slot].dtype) == "int32" for slot in given):
            continue
        for slot in given:
            tensor = node.inputs[slot]
            if dtypes.name(tensor.dtype) == "int64":
                node.inputs[slot] = made.setdefault(id(tensor), _narrowed(model, tensor))
        if node.op == "Slice" and len(node.inputs) == 4 and node.inputs[3].name:
            # Without steps the parser takes as many int32 steps as x has axes, and refuses the node.
            node.inputs.append(edit.constant(np.ones(read(node.inputs[1]).shape, np.int32), "steps"))
        edit.edited(node)
        changes += 1
    return changes


def _is_narrow(node: gs.Node, slot: int, made: dict[int, gs.Constant]) -> bool:
    """Whether the operand is a constant that means the same in int32."""
    tensor = node.inputs[slot]
    if not isinstance(tensor, gs.Constant) or dtypes.name(tensor.dtype) not in ("int32", "int64"):
        return False
    if nbytes(tensor) > _MOST_BYTES:
        return False
    if id(tensor) in made or node.op == "Slice" or not (values := read(tensor)).size:
        return True
    return bool(values.min() >= _INT32.min and values.max() <= _INT32.max)


def _narrowed(model: Model, tensor: gs.Constant) -> gs.Constant:
    values = np.clip(read(tensor), _INT32.min, _INT32.max).astype(np.int32)
    return model.editor.constant(values, f"{tensor.name}_int32")


@graphopt.pass_("legalize", after=["narrow-places"], ops=tuple(_SPREAD))
def align_constants(graph: gs.Graph, target: Target, model: Model) -> int:
    """x * c = x * reshape(c, ones in front up to x's rank), and so for all that broadcast; for TensorRT only.

    The constant stands alone at the result's rank, which some other operand is known to have. Small constants only; one
    that is also read in its old form is copied up to 4 KiB. Not inside functions.
    """
    if not _for_tensorrt(target):
        return 0
    edit = model.editor
    wanted: dict[int, tuple[gs.Constant, dict[int, list[tuple[gs.Node, int]]]]] = {}
    for node in edit.of(*_SPREAD):
        if not is_standard(node):
            continue
        if not any(isinstance(tensor, gs.Constant) for tensor in node.inputs) or model.opset(node) < 8:
            continue
        rank = _rank(node)
        if rank is None or model.home(node) is not graph:
            continue
        for slot in _SPREAD[node.op] or range(len(node.inputs)):
            tensor = node.inputs[slot] if slot < len(node.inputs) else None
            if isinstance(tensor, gs.Constant) and tensor.name and len(tensor.shape) < rank:
                by_rank = wanted.setdefault(id(tensor), (tensor, {}))[1]
                by_rank.setdefault(rank, []).append((node, slot))
    changes = 0
    for tensor, by_rank in wanted.values():
        size = nbytes(tensor)
        moves = len(by_rank) == 1 and sum(map(len, by_rank.values())) == edit.use_count(tensor)
        if size > (_MOST_BYTES if moves else _COPIED_BYTES) or edit.is_input(tensor):
            continue
        values = read(tensor)
        for rank, uses in by_rank.items():
            shape = (1,) * (rank - values.ndim) + values.shape
            new = edit.constant(values.reshape(shape), tensor.name or "constant")
            for node, slot in uses:
                node.inputs[slot] = new
                edit.edited(node)
                changes += 1
    return changes


def _rank(node: gs.Node) -> int | None:
    """The rank of the result, where an operand that is no constant has it; None where one is unknown."""
    if node.op in ("LayerNormalization", "RMSNormalization", "PRelu"):
        shape = shapes.of(node.inputs[0])
        return None if shape is None else len(shape)
    rank = 0
    ranks = []
    for tensor in node.inputs:
        shape = shapes.of(tensor)
        if shape is None:
            return None
        rank = max(rank, len(shape))
        if not isinstance(tensor, gs.Constant):
            ranks.append(len(shape))
    return rank if rank in ranks else None


@graphopt.pass_("legalize", ops=["Split"])
def split_evenly(graph: gs.Graph, target: Target, model: Model) -> int:
    """Split(x, [n, n, ...]) = Split(x) into as many parts, where the dimension is their sum; for TensorRT only.

    For dynamic shapes the parser makes two layers fewer. From opset 13 on; not inside functions.
    """
    if not _for_tensorrt(target):
        return 0
    edit = model.editor
    changes = 0
    for node in edit.of("Split"):
        if not is_standard(node) or len(node.inputs) != 2 or model.opset(node) < 13:
            continue
        sizes, shape, axis = node.inputs[1], shapes.of(node.inputs[0]), node.attrs.get("axis", 0)
        if not isinstance(sizes, gs.Constant) or shape is None or not isinstance(axis, int):
            continue
        values = read(sizes).reshape(-1).tolist()
        if model.home(node) is not graph or len(set(values)) != 1 or shape[axis] != sum(values) or not values[0]:
            continue
        if len(values) != len(node.outputs):
            continue
        del node.inputs[1]
        if model.opset(node) >= 18:
            node.attrs["num_outputs"] = len(values)
        edit.edited(node)
        changes += 1
    return changes


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [narrow_places, align_constants, split_evenly]
