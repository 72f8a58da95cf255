"""Matrix products, reductions, and operators that sort or count."""

from __future__ import annotations

import numpy as np

from .handlers import activated, axis_of, handles, known
from .reader import Operator
from .scope import Scope

_REDUCTIONS = {
    "MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd", "REDUCE_ANY": "ReduceMax", "REDUCE_ALL": "ReduceMin",
}  # fmt: skip


@handles("FULLY_CONNECTED")
def fully_connected(scope: Scope, operator: Operator) -> None:
    """x @ w.T + b, w (out, in); x becomes a matrix unless its dims are to be kept."""
    build = scope.build
    x, w = operator.inputs[:2]
    if operator.option("WeightsFormat"):
        raise scope.error(operator, "its weights are shuffled", "convert the model for another target")
    value = scope.real(x)
    width = scope.tensor(w).dims[1]
    if not operator.option("KeepNumDims", False) and (scope.rank(x) != 2 or scope.tensor(x).dims[-1] != width):
        value = build.reshape(value, -1, width)
    made = build("MatMul", value, scope.weight(w, 1, 0))
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = scope.const(operator.inputs[2])
        if bias is None or bias.any():
            made = build("Add", made, scope.real(operator.inputs[2]))
    scope.put(operator.outputs[0], activated(scope, operator, made))


@handles("BATCH_MATMUL")
def batch_matmul(scope: Scope, operator: Operator) -> None:
    """x @ y, either of them with its last two dims swapped."""
    values = []
    for index, swapped in zip(operator.inputs[:2], ("AdjX", "AdjY"), strict=True):
        rank = scope.rank(index)
        perm = [*range(rank - 2), rank - 1, rank - 2]
        values.append(scope.weight(index, *perm) if operator.option(swapped, False) else scope.real(index))
    scope.put(operator.outputs[0], scope.build("MatMul", *values))


@handles(*_REDUCTIONS)
def reduction(scope: Scope, operator: Operator) -> None:
    """Means over the image of what stands channels first stay there. Truth values are reduced as int32."""
    build = scope.build
    x, out = operator.inputs[0], operator.outputs[0]
    axes = [int(axis) for axis in known(scope, operator, 1, "axes").reshape(-1)]
    keep, rank = bool(operator.option("KeepDims", False)), scope.rank(x)
    spatial = sorted(axis % rank for axis in axes) == [1, 2] if rank == 4 else False
    first = scope.is_first([x]) and (keep or spatial)
    value = scope.first(x) if first else scope.real(x)
    truth = operator.op in ("REDUCE_ANY", "REDUCE_ALL")
    if truth:
        value = build.cast(value, np.int32)
    where = [axis_of(axis, rank, first) for axis in axes]
    op = _REDUCTIONS[operator.op]
    if op == "ReduceSum" or build.opset >= 18:
        made = build(op, value, build.ints(*where), keepdims=int(keep))
    else:
        made = build(op, value, axes=where, keepdims=int(keep))
    if truth:
        made = build.cast(made, np.bool_)
    scope.put(out, made, first and keep)


@handles("ARG_MAX", "ARG_MIN")
def arg(scope: Scope, operator: Operator) -> None:
    """The first of equal ones."""
    axis = int(known(scope, operator, 1, "axis").reshape(-1)[0])
    op = "ArgMax" if operator.op == "ARG_MAX" else "ArgMin"
    made = scope.build(op, scope.real(operator.inputs[0]), axis=axis, keepdims=0)
    scope.put(operator.outputs[0], scope.build.cast(made, scope.tensor(operator.outputs[0]).dtype))


@handles("TOPK_V2")
def top_k(scope: Scope, operator: Operator) -> None:
    build = scope.build
    k = scope.const(operator.inputs[1])
    count = (
        build.ints(int(k.reshape(-1)[0]))
        if k is not None
        else build.reshape(build.cast(scope.real(operator.inputs[1]), np.int64), 1)
    )
    values, indices = build.several("TopK", [scope.real(operator.inputs[0]), count], 2, axis=-1)
    scope.put(operator.outputs[0], values)
    scope.put(operator.outputs[1], build.cast(indices, scope.tensor(operator.outputs[1]).dtype))


@handles("ONE_HOT")
def one_hot(scope: Scope, operator: Operator) -> None:
    build = scope.build
    indices, depth, on, off = operator.inputs
    values = [build.reshape(scope.real(i), 1) for i in (off, on)]
    known_values = [build.value(value) for value in values]
    if all(one is not None for one in known_values):
        pair = build.const(np.concatenate([one for one in known_values if one is not None]))
    else:
        pair = build("Concat", *values, axis=0)
    axis = int(operator.option("Axis", -1))
    made = build(
        "OneHot", build.cast(scope.real(indices), np.int64), build.cast(scope.real(depth), np.int64), pair, axis=axis
    )
    scope.put(operator.outputs[0], made)


@handles("CUMSUM")
def cumsum(scope: Scope, operator: Operator) -> None:
    made = scope.build(
        "CumSum",
        scope.real(operator.inputs[0]),
        scope.build.cast(scope.real(operator.inputs[1]), np.int64),
        exclusive=int(operator.option("Exclusive", False)),
        reverse=int(operator.option("Reverse", False)),
    )
    scope.put(operator.outputs[0], made)


@handles("WHERE")
def where(scope: Scope, operator: Operator) -> None:
    """Indices of what is true, one a row."""
    found = scope.build.transpose(scope.build("NonZero", scope.real(operator.inputs[0])), 1, 0)
    scope.put(operator.outputs[0], scope.build.cast(found, scope.tensor(operator.outputs[0]).dtype))
