"""2:4 sparsity: of each four consecutive weights along the summed axis at most two are not zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir import dtypes
from graphopt.ir.graph import new_constant
from graphopt.ir.weights import Array, nbytes, read, stored_bytes

LEAST_ROWS = 64
"""Sums of fewer products than this are left alone."""
_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})


def summed_axis(node: gs.Node) -> int | None:
    """The axis of the weight along which four neighbours are one group; None where TensorRT has no sparse kernel."""
    if node.op not in _PRODUCTS or node.domain or len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        return None
    dims = tuple(node.inputs[1]._values.shape)
    if node.op == "Conv":
        axis = 1 if len(dims) >= 3 and int(node.attrs.get("group", 1)) == 1 else None
    else:
        axis = None if len(dims) != 2 else 1 if node.attrs.get("transB", 0) else 0
    if axis is None or dims[axis] % 4 or dims[axis] < LEAST_ROWS:
        return None
    return axis


def is_sparse(weight: Array, axis: int) -> bool:
    """Whether a weight is 2:4 sparse along the axis, whose size is a multiple of four."""
    grouped = _grouped(weight, axis)
    return bool(np.all(np.count_nonzero(grouped, axis=-1) <= 2))


def pruned(weight: Array, axis: int) -> Array:
    """The weight with the two smaller of each four set to zero; of equals the first ones stay."""
    moved = np.moveaxis(weight, axis, -1)
    grouped = np.ascontiguousarray(moved).reshape(*moved.shape[:-1], -1, 4)
    order = np.argsort(-np.abs(grouped.astype(np.float32)), axis=-1, kind="stable")
    keep = np.zeros(grouped.shape, bool)
    np.put_along_axis(keep, order[..., :2], True, axis=-1)
    result = np.where(keep, grouped, np.zeros((), weight.dtype)).reshape(moved.shape)
    return np.asarray(np.ascontiguousarray(np.moveaxis(result, -1, axis)))


def _grouped(weight: Array, axis: int) -> Array:
    moved = np.moveaxis(weight, axis, -1)
    return np.asarray(moved.reshape(*moved.shape[:-1], -1, 4))


class Pruned(LazyValues):  # type: ignore[misc]
    """Values of a weight, pruned when they are asked for."""

    def __init__(self, source: gs.Constant, axis: int) -> None:
        self.source, self.axis = source, axis
        self.dtype, self.shape = np.dtype(source._values.dtype), tuple(source._values.shape)
        self.nbytes = stored_bytes(self.dtype, self.shape)

    @property
    def tensor(self) -> Any:
        """graphsurgeon's view of lazy values."""
        from onnx import numpy_helper

        return numpy_helper.from_array(self.load())

    def load(self) -> Array:
        return pruned(read(self.source), self.axis)


def prune(graph: gs.Graph) -> int:
    """Make the weights of large products and convolutions of the main graph 2:4 sparse, in place; how many changed.

    A weight that anything else reads, or that two nodes sum along different axes, stays as it is.
    """
    axes: dict[int, set[int | None]] = {}
    held: dict[int, gs.Constant] = {}
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                axes.setdefault(id(tensor), set()).add(summed_axis(node) if slot == 1 else None)
                held[id(tensor)] = tensor
    fresh: dict[int, gs.Constant] = {}
    for key, found in axes.items():
        axis = next(iter(found)) if len(found) == 1 else None
        tensor = held[key]
        if axis is not None and dtypes.is_float(tensor._values.dtype) and not is_sparse(read(tensor), axis):
            fresh[key] = new_constant(tensor.name, Pruned(tensor, axis))
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if id(tensor) in fresh:
                node.inputs[slot] = fresh[id(tensor)]
    return len(fresh)


def count(graph: gs.Graph) -> dict[str, int]:
    """How many weights of large products are 2:4 sparse, of how many, and their bytes."""
    seen: dict[int, bool] = {}
    size = 0
    for node in graph.nodes:
        axis = summed_axis(node)
        weight = node.inputs[1] if axis is not None else None
        if isinstance(weight, gs.Constant) and axis is not None and id(weight) not in seen:
            seen[id(weight)] = is_sparse(read(weight), axis)
            size += nbytes(weight) if seen[id(weight)] else 0
    return {"sparse": sum(seen.values()), "of": len(seen), "bytes": size}
