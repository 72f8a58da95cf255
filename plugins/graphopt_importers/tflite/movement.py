"""Operators that move elements: reshapes, slices, joins, gathers, paddings."""

from __future__ import annotations

import numpy as np

from .handlers import activated, axis_of, handles, known, operands
from .lists import replaced_element
from .reader import Operator
from .scope import FIRST, Scope


@handles("RESHAPE")
def reshape(scope: Scope, operator: Operator) -> None:
    """The shape is an input, an option, or the output's own; a size of -1 is what is left."""
    x, out = operator.inputs[0], operator.outputs[0]
    wanted = scope.const(operator.inputs[1]) if len(operator.inputs) > 1 else None
    if wanted is None and len(operator.inputs) > 1 and operator.inputs[1] >= 0:
        scope.put(
            out, scope.build("Reshape", scope.real(x), scope.build.cast(scope.real(operator.inputs[1]), np.int64))
        )
        return
    if wanted is not None:
        dims = [int(d) for d in wanted.reshape(-1)]
    elif operator.options is not None and operator.options.NewShapeLength():
        dims = [int(d) for d in operator.options.NewShapeAsNumpy()]
    else:
        dims = list(scope.tensor(out).dims)
    if dims == [0] and scope.rank(out) == 0:
        dims = []  # how old files write a scalar
    scope.put(out, scope.build("Reshape", scope.real(x), scope.build.ints(*dims), allowzero=1 if 0 in dims else None))


@handles("SQUEEZE")
def squeeze(scope: Scope, operator: Operator) -> None:
    x, out = operator.inputs[0], operator.outputs[0]
    given = operator.options is not None and operator.options.SqueezeDimsLength()
    axes = [int(a) for a in operator.options.SqueezeDimsAsNumpy()] if given else []
    axes = axes or [axis for axis, dim in enumerate(scope.tensor(x).dims) if dim == 1]
    scope.put(out, scope.build("Squeeze", scope.real(x), scope.build.ints(*axes)))


@handles("EXPAND_DIMS")
def expand_dims(scope: Scope, operator: Operator) -> None:
    axis = int(known(scope, operator, 1, "axis").reshape(-1)[0])
    scope.put(operator.outputs[0], scope.build("Unsqueeze", scope.real(operator.inputs[0]), scope.build.ints(axis)))


@handles("TRANSPOSE")
def transpose(scope: Scope, operator: Operator) -> None:
    """A permutation of a value that stands channels first is one of that order; none where it asks for just this."""
    perm = [int(axis) for axis in known(scope, operator, 1, "permutation")]
    x = operator.inputs[0]
    if scope.is_first([x]):
        scope.put(operator.outputs[0], scope.build.transpose(scope.first(x), *[FIRST.index(axis) for axis in perm]))
        return
    scope.put(operator.outputs[0], scope.build.transpose(scope.real(x), *perm))


@handles("CONCATENATION")
def concatenation(scope: Scope, operator: Operator) -> None:
    replaced = replaced_element(scope, operator)
    if replaced is not None:
        scope.put(operator.outputs[0], replaced)
        return
    first = scope.is_first(operator.inputs) and all(scope.rank(i) == 4 for i in operator.inputs)
    values = [scope.first(i) if first else scope.real(i) for i in operator.inputs]
    axis = axis_of(int(operator.option("Axis")), scope.rank(operator.outputs[0]), first)
    scope.put(operator.outputs[0], activated(scope, operator, scope.build("Concat", *values, axis=axis)), first)


@handles("PACK")
def pack(scope: Scope, operator: Operator) -> None:
    axis = scope.build.ints(int(operator.option("Axis")))
    values = [scope.build("Unsqueeze", scope.real(i), axis) for i in operator.inputs]
    scope.put(operator.outputs[0], scope.build("Concat", *values, axis=int(operator.option("Axis"))))


@handles("UNPACK")
def unpack(scope: Scope, operator: Operator) -> None:
    axis, x = int(operator.option("Axis")), scope.real(operator.inputs[0])
    for number, out in enumerate(operator.outputs):
        scope.put(out, scope.build("Gather", x, scope.build.const(np.int64(number)), axis=axis))


@handles("SPLIT", "SPLIT_V")
def split(scope: Scope, operator: Operator) -> None:
    """Into equal parts, or into parts of given sizes, where -1 is what is left."""
    equal = operator.op == "SPLIT"
    x = operator.inputs[1 if equal else 0]
    axis = int(known(scope, operator, 0 if equal else 2, "axis").reshape(-1)[0])
    first = scope.is_first([x])
    rank = scope.rank(x)
    dim = scope.tensor(x).dims[axis]
    if equal:
        sizes = [dim // len(operator.outputs)] * len(operator.outputs) if dim > 0 else []
    else:
        sizes = [int(size) for size in known(scope, operator, 1, "sizes")]
        sizes = [dim - sum(s for s in sizes if s >= 0) if size < 0 else size for size in sizes]
    value = scope.first(x) if first else scope.real(x)
    inputs = [value, scope.build.ints(*sizes)] if sizes else [value]
    count = len(operator.outputs) if not sizes and scope.build.opset >= 18 else None
    parts = scope.build.several(
        "Split", inputs, len(operator.outputs), axis=axis_of(axis, rank, first), num_outputs=count
    )
    for out, part in zip(operator.outputs, parts, strict=True):
        scope.put(out, part, first)


@handles("SLICE")
def slice_(scope: Scope, operator: Operator) -> None:
    """x[begin : begin + size]; a size of -1 is what is left."""
    build = scope.build
    x, begin, size = operator.inputs
    starts, sizes = scope.const(begin), scope.const(size)
    rank = scope.rank(x)
    axes = build.ints(*range(rank))
    if starts is not None and sizes is not None:
        most = np.iinfo(np.int64).max
        ends = [most if s < 0 else int(b) + int(s) for b, s in zip(starts, sizes, strict=True)]
        scope.put(
            operator.outputs[0], build("Slice", scope.real(x), build.ints(*map(int, starts)), build.ints(*ends), axes)
        )
        return
    low, count = build.cast(scope.real(begin), np.int64), build.cast(scope.real(size), np.int64)
    end = build(
        "Where", build("Less", count, build.ints(0)), build.ints(np.iinfo(np.int64).max), build("Add", low, count)
    )
    scope.put(operator.outputs[0], build("Slice", scope.real(x), low, end, axes))


@handles("STRIDED_SLICE")
def strided_slice(scope: Scope, operator: Operator) -> None:
    """NumPy's x[begin:end:stride, ...] with masks: absent bounds, single indices, new axes, the ellipsis."""
    build = scope.build
    x, begin, end = operator.inputs[:3]
    steps = known(scope, operator, 3, "strides")
    rank, parts = scope.rank(x), len(steps)
    mask = {
        name: int(operator.option(name))
        for name in ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask")
    }
    starts, stops = scope.const(begin), scope.const(end)
    low = None if starts is not None else build.cast(scope.real(begin), np.int64)
    high = None if stops is not None else build.cast(scope.real(end), np.int64)
    bounds: list[tuple[str, str]] = []
    where: list[tuple[int, int]] = []
    shrink: list[tuple[int, str]] = []
    added: list[int] = []
    axis = place = 0
    used = sum(1 for n in range(parts) if not (mask["NewAxisMask"] | mask["EllipsisMask"]) >> n & 1)
    for n in range(parts):
        bit = 1 << n
        if mask["EllipsisMask"] & bit:
            axis, place = axis + rank - used, place + rank - used
            continue
        if mask["NewAxisMask"] & bit:
            added.append(place)
            place += 1
            continue
        at = build.ints(int(starts[n])) if starts is not None else build("Gather", str(low), build.ints(n))
        if mask["ShrinkAxisMask"] & bit:
            shrink.append((axis, at))
            axis += 1
            continue
        step = int(steps[n])
        most = np.iinfo(np.int64).max
        first = build.ints(0 if step > 0 else most) if mask["BeginMask"] & bit else at
        if mask["EndMask"] & bit:
            last = build.ints(most if step > 0 else -most)
        elif operator.option("Offset", False):
            last = build(
                "Add", at, build.ints(int(stops[n])) if stops is not None else build("Gather", str(high), build.ints(n))
            )
        else:
            last = build.ints(int(stops[n])) if stops is not None else build("Gather", str(high), build.ints(n))
        whole = mask["BeginMask"] & bit and mask["EndMask"] & bit and step == 1
        if not whole:
            bounds.append((first, last))
            where.append((axis, step))
        axis, place = axis + 1, place + 1
    value = scope.real(x)
    if bounds:
        starts_at, ends_at = (_joined(scope, [bound[part] for bound in bounds]) for part in (0, 1))
        axes, strides = (build.ints(*[pair[part] for pair in where]) for part in (0, 1))
        value = build("Slice", value, starts_at, ends_at, axes, strides)
    for axis, at in reversed(shrink):
        found = build.value(at)
        index = build.const(found.reshape(())) if found is not None else build("Squeeze", at)
        value = build("Gather", value, index, axis=axis)
    if added:
        value = build("Unsqueeze", value, build.ints(*added))
    scope.put(operator.outputs[0], value)


def _joined(scope: Scope, values: list[str]) -> str:
    found = [scope.build.value(value) for value in values]
    if all(one is not None for one in found):
        return scope.build.ints(*[int(one[0]) for one in found if one is not None])
    return values[0] if len(values) == 1 else scope.build("Concat", *values, axis=0)


@handles("GATHER")
def gather(scope: Scope, operator: Operator) -> None:
    """x[..., indices, ...]; with batch dims, where the axis follows them."""
    x, indices = operator.inputs[:2]
    batch, axis = int(operator.option("BatchDims")), int(operator.option("Axis"))
    axis = axis + scope.rank(x) if axis < 0 else axis
    if batch == 0:
        made = scope.build("Gather", scope.real(x), scope.real(indices), axis=axis)
    elif axis == batch:
        last = scope.build("Unsqueeze", scope.build.cast(scope.real(indices), np.int64), scope.build.ints(-1))
        made = scope.build("GatherND", scope.real(x), last, batch_dims=batch)
    else:
        raise scope.error(operator, f"{batch} batch dims and axis {axis} have no counterpart")
    scope.put(operator.outputs[0], made)


@handles("EMBEDDING_LOOKUP")
def embedding_lookup(scope: Scope, operator: Operator) -> None:
    indices, table = operator.inputs[:2]
    scope.put(operator.outputs[0], scope.build("Gather", scope.real(table), scope.real(indices), axis=0))


@handles("GATHER_ND")
def gather_nd(scope: Scope, operator: Operator) -> None:
    x, indices = operator.inputs[:2]
    scope.put(
        operator.outputs[0], scope.build("GatherND", scope.real(x), scope.build.cast(scope.real(indices), np.int64))
    )


@handles("SCATTER_ND")
def scatter_nd(scope: Scope, operator: Operator) -> None:
    """Sums of updates at equal indices, over zeros."""
    build = scope.build
    indices, updates, shape = operator.inputs
    zero = build.const(np.zeros((), scope.tensor(updates).dtype if scope.tensor(updates).quant is None else np.float32))
    base = build("Expand", zero, build.cast(scope.real(shape), np.int64))
    made = build("ScatterND", base, build.cast(scope.real(indices), np.int64), scope.real(updates), reduction="add")
    scope.put(operator.outputs[0], made)


@handles("PAD", "PADV2", "MIRROR_PAD")
def pad(scope: Scope, operator: Operator) -> None:
    build = scope.build
    edges = known(scope, operator, 1, "paddings")
    (x,), first = operands(scope, operator.inputs[:1])
    order = FIRST if first else range(len(edges))
    pads = build.ints(*[int(edges[axis][side]) for side in (0, 1) for axis in order])
    if operator.op == "MIRROR_PAD":
        if int(operator.option("Mode")) != 0:
            raise scope.error(operator, "symmetric padding has no counterpart")
        made = build("Pad", x, pads, mode="reflect")
    elif operator.op == "PADV2":
        value = known(scope, operator, 2, "value")
        made = build("Pad", x, pads, build.const(value.reshape(())))
    else:
        made = build("Pad", x, pads)
    scope.put(operator.outputs[0], made, first)


@handles("TILE")
def tile(scope: Scope, operator: Operator) -> None:
    x, times = operator.inputs
    scope.put(operator.outputs[0], scope.build("Tile", scope.real(x), scope.build.cast(scope.real(times), np.int64)))


@handles("BROADCAST_TO", "FILL")
def broadcast(scope: Scope, operator: Operator) -> None:
    x, shape = operator.inputs if operator.op == "BROADCAST_TO" else reversed(operator.inputs)
    scope.put(operator.outputs[0], scope.build("Expand", scope.real(x), scope.build.cast(scope.real(shape), np.int64)))


@handles("SHAPE", "RANK")
def shape(scope: Scope, operator: Operator) -> None:
    """Sizes that the file fixes are constants."""
    out, x = operator.outputs[0], operator.inputs[0]
    dims, dtype = scope.tensor(x).dims, scope.tensor(out).dtype
    if operator.op == "RANK":
        scope.put(out, scope.build.const(np.array(len(dims), dtype)))
    elif all(dim >= 0 for dim in dims):
        scope.put(out, scope.build.const(np.array(dims, dtype)))
    else:
        scope.put(out, scope.build.cast(scope.build("Shape", scope.real(x)), dtype))


@handles("RANGE")
def range_(scope: Scope, operator: Operator) -> None:
    scope.put(operator.outputs[0], scope.build("Range", *map(scope.real, operator.inputs)))


@handles("REVERSE_V2")
def reverse(scope: Scope, operator: Operator) -> None:
    """Slices with a step of -1."""
    build = scope.build
    axes = [int(axis) for axis in known(scope, operator, 1, "axes").reshape(-1)]
    least, many = np.iinfo(np.int64).min, len(axes)
    made = build(
        "Slice",
        scope.real(operator.inputs[0]),
        build.ints(*[-1] * many),
        build.ints(*[least] * many),
        build.ints(*axes),
        build.ints(*[-1] * many),
    )
    scope.put(operator.outputs[0], made)


@handles("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(scope: Scope, operator: Operator) -> None:
    """The update lies at the start indices, moved so that it fits; here only along one axis of equal other sizes."""
    build = scope.build
    x, update, start = operator.inputs
    dims, part = scope.tensor(x).dims, scope.tensor(update).dims
    axes = [axis for axis, (a, b) in enumerate(zip(dims, part, strict=True)) if a != b]
    if len(axes) > 1 or any(d < 0 for d in (*dims, *part)):
        raise scope.error(operator, "it writes along several axes")
    if not axes:
        scope.alias(operator.outputs[0], update)
        return
    axis = axes[0]
    at = build("Gather", build.cast(scope.real(start), np.int64), build.ints(axis))
    at = build("Clip", at, build.const(np.int64(0)), build.const(np.int64(dims[axis] - part[axis])))
    before = build("Slice", scope.real(x), build.ints(0), at, build.ints(axis))
    after = build(
        "Slice", scope.real(x), build("Add", at, build.ints(part[axis])), build.ints(dims[axis]), build.ints(axis)
    )
    scope.put(operator.outputs[0], build("Concat", before, scope.real(update), after, axis=axis))
