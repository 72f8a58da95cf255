"""Lists of tensors, which TensorFlow's loops keep as one tensor, an element a row."""

from __future__ import annotations

import numpy as np

from .reader import Operator
from .scope import Scope


def replaced_element(scope: Scope, operator: Operator) -> str | None:
    """concat(x[:i], item, x[i + 1:]) = where(row == i, item, x): sizes stay known. None where it is something else.

    That i is a row of x, the declared sizes say: the result has as many rows as x.
    """
    graph = scope.graph
    if len(operator.inputs) != 3 or int(operator.option("Axis")) != 0:
        return None
    before, item, after = operator.inputs
    dims, rows = scope.tensor(operator.outputs[0]).dims, scope.tensor(item).dims
    head, tail = graph.maker(before), graph.maker(after)
    if head is None or tail is None or (head.op, tail.op) != ("SLICE", "SLICE") or head.inputs[0] != tail.inputs[0]:
        return None
    x = head.inputs[0]
    if min(dims, default=-1) < 0 or scope.tensor(x).dims != dims or rows != (1, *dims[1:]):
        return None
    first, rest = scope.const(head.inputs[1]), scope.const(tail.inputs[2])
    if first is None or first.any() or rest is None or (rest != -1).any():
        return None
    index, following = _row(scope, head.inputs[2], -1), _row(scope, tail.inputs[1], 0)
    step = None if following is None else graph.maker(following)
    if index is None or step is None or step.op != "ADD" or index not in step.inputs[:2]:
        return None
    one = scope.const(next((i for i in step.inputs[:2] if i != index), index))
    if one is None or one.size != 1 or int(one.reshape(())) != 1:
        return None
    build = scope.build
    numbers = build.const(np.arange(dims[0], dtype=scope.tensor(index).dtype).reshape(-1, *[1] * (len(dims) - 1)))
    return build("Where", build("Equal", numbers, scope.real(index)), scope.real(item), scope.real(x))


def _row(scope: Scope, index: int, others: int) -> int | None:
    """i of concat(reshape(i), (others, ...)), a scalar."""
    joined = scope.graph.maker(index)
    if joined is None or joined.op != "CONCATENATION" or len(joined.inputs) != 2:
        return None
    rest, shaped = scope.const(joined.inputs[1]), scope.graph.maker(joined.inputs[0])
    if rest is None or (rest != others).any() or shaped is None or shaped.op != "RESHAPE":
        return None
    found = shaped.inputs[0]
    return found if scope.tensor(found).dims == () else None
