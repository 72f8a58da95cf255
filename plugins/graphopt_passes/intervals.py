"""What a Slice with constant operands takes, axis by axis."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.ir import shapes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value

Interval = tuple[int, int, int]
"""(start, end, step)."""

END = 2**31 - 1
"""From here on, an end means the end of the axis, whatever its size."""
_LARGEST = 2**63 - 1


def intervals(
    starts: Value, ends: Value, axes: Value | None, steps: Value | None, rank: int | None
) -> dict[int, Interval] | None:
    """Axis -> interval; None if an operand is computed, or an axis is negative and the rank unknown."""
    columns = [None if value is None else value.const for value in (starts, ends, axes, steps)]
    if columns[0] is None or columns[1] is None or (axes is not None and columns[2] is None):
        return None
    if steps is not None and columns[3] is None:
        return None
    first, last = columns[0].ravel().tolist(), columns[1].ravel().tolist()
    along = list(range(len(first))) if columns[2] is None else columns[2].ravel().tolist()
    step = [1] * len(first) if columns[3] is None else columns[3].ravel().tolist()
    if not len(first) == len(last) == len(along) == len(step):
        return None  # no valid Slice
    if rank is None and any(axis < 0 for axis in along):
        return None
    along = [axis + rank if axis < 0 and rank is not None else axis for axis in along]
    return {axis: (a, b, by) for axis, a, b, by in zip(along, first, last, step, strict=True)}


def read_slice(node: gs.Node | None, opset: int) -> tuple[gs.Tensor, dict[int, Interval]] | None:
    """What a Slice node takes, and of what; None if it is none, or an operand is computed."""
    if node is None or node.op != "Slice" or not is_standard(node):
        return None
    operands: list[Value | None]
    if opset >= 10:
        operands = [Value(tensor) if tensor.name else None for tensor in node.inputs[1:5]]
    else:
        import numpy as np

        operands = [
            Value(None, np.array(node.attrs[name], np.int64)) if name in node.attrs else None
            for name in ("starts", "ends", "axes")
        ]
    operands += [None] * (4 - len(operands))
    starts, ends, axes, steps = operands
    if starts is None or ends is None:
        return None
    shape = shapes.of(node.inputs[0])
    found = intervals(starts, ends, axes, steps, None if shape is None else len(shape))
    return None if found is None else (node.inputs[0], found)


def cut_again(first: Interval, second: Interval, dim: shapes.Dim) -> Interval | None:
    """The one interval that two cuts of one axis make; None if it depends on what is not known."""
    (s1, e1, t1), (s2, e2, t2) = first, second
    if t1 != 1 or t2 != 1:
        return None
    if isinstance(dim, int):
        start, end, _ = slice(s1, e1).indices(dim)
        a, b, _ = slice(s2, e2).indices(max(end - start, 0))
        return start + a, start + max(a, b), 1
    if s1 < 0 or s2 < 0:
        return None
    if e1 >= 0 and e2 >= 0:
        return min(s1 + s2, _LARGEST), min(e1, s1 + e2, _LARGEST), 1
    if e2 >= END:
        return s1 + s2, e1, 1
    if e1 >= END:
        return s1 + s2, e2, 1
    return None
