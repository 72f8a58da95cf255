"""Random small graphs from a seed, dense in what rules look for: constants, shared values, outputs inside."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 11, 12, 13, 15, 17, 18, 20, 21)
FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Value = tuple[str, int, tuple[int, ...]]
"""(name, element type, shape at the typical size)."""


class Rejected(Exception):
    """No such node can be made here."""


class Graph:
    """A graph that grows; every value's shape is known because a node is kept only if ONNX infers it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.opset = self.rng.choice(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.dynamic: dict[str, tuple[str | int, ...]] = {}
        self.count = 0
        rank = self.rng.choice((1, 2, 2, 3, 3, 4, 4))
        first = tuple(self.rng.choice((1, 2, 3, 4, 6)) for _ in range(rank))
        if self.rng.random() < 0.15:
            first = (self.rng.choice((2, 3, 4)),) * rank  # a wrong order of axes shows in the numbers alone
        self._input(first)
        if self.rng.random() < 0.4:
            self._input(tuple(1 if self.rng.random() < 0.3 else size for size in first))

    def _input(self, shape: tuple[int, ...]) -> None:
        name = f"x{len(self.inputs)}"
        self.inputs.append((name, FLOAT, shape))
        self.values.append((name, FLOAT, shape))
        dims: tuple[str | int, ...] = shape
        if self.rng.random() < 0.35 and shape:
            dims = ("N", *shape[1:]) if len(self.inputs) == 1 or self.inputs[0][2][0] == shape[0] else shape
        self.dynamic[name] = dims

    # -- operands -----------------------------------------------------------------------------------------------

    def name(self, kind: str = "v") -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def pick(self, element: int = FLOAT, rank: int | None = None, least: int = 0) -> Value:
        fits = [
            value
            for value in self.values
            if value[1] == element and (rank is None or len(value[2]) == rank) and len(value[2]) >= least
        ]
        if not fits:
            raise Rejected
        chance = self.rng.random()
        if chance < 0.4:
            return fits[-1]  # rules look for chains
        return self.rng.choice(fits[-4:] if chance < 0.8 else fits)

    def const(self, array: Any, dtype: Any = None) -> str:
        name = self.name("c")
        tensor = numpy_helper.from_array(np.asarray(array, dtype=dtype), name)
        if self.rng.random() < 0.25:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def floats(self, shape: tuple[int, ...], positive: bool = False) -> np.ndarray[Any, Any]:
        kind = self.rng.random()
        if kind < 0.12:
            made = np.full(shape, self.rng.choice((0.0, -0.0) if not positive else (1.0,)))
        elif kind < 0.24:
            made = np.ones(shape)
        elif kind < 0.36:
            made = np.full(shape, self.rng.choice((2.0, -1.0, 0.5, 3.0)))
        else:
            made = self.numbers.uniform(-2, 2, shape)
            if self.rng.random() < 0.2 and made.size:
                made.reshape(-1)[0] = 0.0
        return np.asarray(np.abs(made) + 0.25 if positive else made, dtype=np.float32)

    def beside(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts with this one, in any form: scalar, [1], a suffix, ones inside, more dims."""
        kind = self.rng.random()
        if kind < 0.2:
            return ()
        if kind < 0.35:
            return (1,) * self.rng.randint(1, len(shape) + 1)
        if kind < 0.6:
            return shape
        made = tuple(1 if self.rng.random() < 0.4 else size for size in shape)
        if kind < 0.8:
            return made[self.rng.randint(0, len(made)) :]
        return made if kind < 0.95 else (1, *made)

    def axis(self, rank: int) -> int:
        found = self.rng.randrange(rank) if rank else 0
        return found - rank if self.rng.random() < 0.35 else found

    # -- growth -------------------------------------------------------------------------------------------------

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[Value]:
        node = helper.make_node(op, inputs, [self.name() for _ in range(outputs)], **attributes)
        self.nodes.append(node)
        inferred = onnx.shape_inference.infer_shapes(
            self.model([*node.output], typical=True), check_type=True, strict_mode=True, data_prop=True
        )
        types = {value.name: value.type.tensor_type for value in inferred.graph.output}
        found: list[Value] = []
        for name in node.output:
            type_ = types[name]
            if not type_.HasField("shape") or not all(dim.HasField("dim_value") for dim in type_.shape.dim):
                raise Rejected
            shape = tuple(dim.dim_value for dim in type_.shape.dim)
            if int(np.prod(shape)) > 5000 or len(shape) > 6:
                raise Rejected
            found.append((name, type_.elem_type, shape))
        self.values += found
        return found

    def grow(self, steps: int) -> None:
        for _ in range(steps):
            mark = len(self.nodes), len(self.weights), len(self.values)
            try:
                self.rng.choice(STEPS)(self)
            except (
                Rejected,
                onnx.shape_inference.InferenceError,
                onnx.defs.SchemaError,
                ArithmeticError,
                LookupError,
                ValueError,
            ):
                del self.nodes[mark[0] :], self.weights[mark[1] :], self.values[mark[2] :]

    def model(self, outputs: list[str] | None = None, *, typical: bool = False) -> onnx.ModelProto:
        """outputs: names; by default the last value, what nothing reads, and some inside."""
        types = {name: (element, shape) for name, element, shape in self.values}
        if outputs is None:
            read = {name for node in self.nodes for name in node.input}
            made = [name for node in self.nodes if node.op_type != "Constant" for name in node.output]
            leaves = [name for name in made if name not in read]
            inside = [name for name in made if name in read and self.rng.random() < 0.08]
            outputs = [*leaves[-3:], *inside[:2]] or made[-1:]
        ports = [
            helper.make_tensor_value_info(name, element, shape if typical else self.dynamic[name])
            for name, element, shape in self.inputs
        ]
        results = []
        for name in outputs:
            info = onnx.ValueInfoProto(name=name)
            if name in types:
                info.type.tensor_type.elem_type = types[name][0]
            results.append(info)
        graph = helper.make_graph(self.nodes, "g", ports, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def feeds(self, batch: int | None = None, special: bool = False) -> dict[str, np.ndarray[Any, Any]]:
        found = {}
        for name, _, shape in self.inputs:
            sizes = tuple(
                batch if batch and dim == "N" else size for dim, size in zip(self.dynamic[name], shape, strict=True)
            )
            made = self.numbers.uniform(-3, 3, sizes).astype(np.float32)
            if special and made.size:
                flat = made.reshape(-1)
                for number in (0.0, np.inf, -np.inf, np.nan, -0.0):
                    flat[self.rng.randrange(flat.size)] = number
            found[name] = made
        return found


Step = Callable[[Graph], Any]


def _unary(g: Graph) -> None:
    names = "Relu Neg Abs Sigmoid Tanh Identity Floor Ceil Sign Exp Erf Softplus Sqrt Reciprocal Dropout Log"
    op = g.rng.choice(names.split())
    x = g.pick()
    inputs = [x[0]]
    if op in ("Exp", "Softplus"):
        inputs = [g.add("Tanh", inputs)[0][0]]
    if op in ("Sqrt", "Log", "Reciprocal"):
        inputs = [g.add("Abs", inputs)[0][0]]
        inputs = [g.add("Add", [inputs[0], g.const(g.floats(g.beside(x[2]), positive=True))])[0][0]]
    g.add(op, inputs)


def _binary(g: Graph) -> None:
    op = g.rng.choice("Add Add Mul Mul Sub Sub Div Max Min Pow PRelu".split())
    x = g.pick()
    if g.rng.random() < 0.65:
        shape = g.beside(x[2])
        if op == "PRelu" and len(shape) > len(x[2]):
            raise Rejected  # its slope broadcasts to x, not the other way round
        other = g.const(g.floats(shape, positive=op == "Div"))
        if op == "Pow":
            other = g.const(np.full(shape, g.rng.choice((2.0, 3.0, 1.0, 0.0, 2.0))), np.float32)
    else:
        other = g.pick()[0]
        if op in ("Pow", "Div", "PRelu"):
            raise Rejected
    inputs = [x[0], other]
    if g.rng.random() < 0.35 and op not in ("Pow", "PRelu", "Div"):
        inputs.reverse()
    g.add(op, inputs)


def _variadic(g: Graph) -> None:
    op = g.rng.choice(("Sum", "Max", "Min", "Mean"))
    x = g.pick()
    others = [g.const(g.floats(g.beside(x[2]))) if g.rng.random() < 0.5 else x[0] for _ in range(g.rng.randint(0, 2))]
    g.add(op, [x[0], *others])


def _transpose(g: Graph) -> None:
    x = g.pick()
    perm = list(range(len(x[2])))
    g.rng.shuffle(perm)
    g.add("Transpose", [x[0]], **({} if g.rng.random() < 0.15 else {"perm": perm}))


def _transposed_twice(g: Graph) -> None:
    x = g.pick(least=3)
    for _ in range(2):
        perm = list(range(len(x[2])))
        g.rng.shuffle(perm)
        x = g.add("Transpose", [x[0]], perm=perm)[0]


def _activated(g: Graph) -> None:
    """An activation after arithmetic."""
    x = g.pick()
    y = g.add(g.rng.choice(("Add", "Mul", "Sub")), [x[0], g.const(g.floats(g.beside(x[2])))])[0]
    g.add(g.rng.choice(("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu")), [y[0]])


def _factors(g: Graph, size: int) -> list[int]:
    found = []
    rest = size
    for _ in range(g.rng.randint(0, 3)):
        choices = [k for k in range(1, rest + 1) if rest % k == 0]
        found.append(g.rng.choice(choices))
        rest //= found[-1]
    return [*found, rest]


def _reshape(g: Graph) -> None:
    x = g.pick()
    size = int(np.prod(x[2]))
    dims = _factors(g, size)
    if g.rng.random() < 0.3 and x[2]:  # merge or split one dimension, zeros elsewhere
        dims = [0 if i < len(x[2]) - 1 and g.rng.random() < 0.7 else d for i, d in enumerate(x[2])]
    if size and g.rng.random() < 0.5:
        dims[g.rng.randrange(len(dims))] = -1
    g.add("Reshape", [x[0], g.const(dims, np.int64)])


def _squeeze(g: Graph) -> None:
    x = g.pick()
    op = g.rng.choice(("Squeeze", "Unsqueeze"))
    if op == "Squeeze":
        axes = [i for i, size in enumerate(x[2]) if size == 1 and g.rng.random() < 0.7]
        if not axes:
            raise Rejected
        rank = len(x[2])
    else:
        rank = len(x[2]) + g.rng.choice((1, 1, 2))
        axes = g.rng.sample(range(rank), rank - len(x[2]))
    axes = [axis - rank if g.opset >= 11 and g.rng.random() < 0.3 else axis for axis in axes]
    if g.opset >= 13:
        g.add(op, [x[0], g.const(axes, np.int64)])
    else:
        g.add(op, [x[0]], axes=sorted(axes) if min(axes) >= 0 else axes)


def _reduce(g: Graph) -> None:
    names = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL2 ReduceL1 ReduceSumSquare ReduceMean"
    op = g.rng.choice(names.split())
    x = g.pick(least=1)
    rank = len(x[2])
    axes = g.rng.sample(range(rank), g.rng.randint(1, rank))
    axes = [axis - rank if g.opset >= 11 and g.rng.random() < 0.3 else axis for axis in axes]
    keep = {} if g.rng.random() < 0.3 else {"keepdims": g.rng.randint(0, 1)}
    whole = g.rng.random() < 0.1
    if g.opset >= 18 or (g.opset >= 13 and op == "ReduceSum"):
        if g.rng.random() < 0.1:
            g.add(op, [x[0], g.const([], np.int64)], noop_with_empty_axes=g.rng.randint(0, 1), **keep)
        else:
            g.add(op, [x[0]] if whole else [x[0], g.const(axes, np.int64)], **keep)
    else:
        g.add(op, [x[0]], **keep, **({} if whole else {"axes": axes}))


def _concat(g: Graph) -> None:
    x = g.pick(least=1)
    axis = g.axis(len(x[2]))
    parts = [x[0]]
    for _ in range(g.rng.randint(0, 2)):
        same = [v for v in g.values if v[1] == FLOAT and v[2] == x[2]]
        parts.append(g.rng.choice(same)[0] if g.rng.random() < 0.6 else g.const(g.floats(x[2])))
    g.rng.shuffle(parts)
    g.add("Concat", parts, axis=axis if g.opset >= 11 else axis % len(x[2]))


def _split(g: Graph) -> None:
    x = g.pick(least=1)
    axis = g.rng.randrange(len(x[2]))
    size = x[2][axis]
    if size < 2:
        raise Rejected
    cuts = [size // 2, size - size // 2] if g.rng.random() < 0.6 else [1, size - 1]
    if g.rng.random() < 0.2 and size > 2:
        cuts = [1, 1, size - 2]
    if g.rng.random() < 0.35 and g.opset >= 11:
        axis -= len(x[2])
    if g.opset >= 13:
        made = g.add("Split", [x[0], g.const(cuts, np.int64)], len(cuts), axis=axis)
    else:
        made = g.add("Split", [x[0]], len(cuts), axis=axis, split=cuts)
    if g.rng.random() < 0.5:
        names = [value[0] for value in made]
        if g.rng.random() < 0.4:
            g.rng.shuffle(names)
        g.add("Concat", names, axis=axis)


def _slice(g: Graph) -> None:
    x = g.pick(least=1)
    rank = len(x[2])
    axes = g.rng.sample(range(rank), g.rng.randint(1, min(2, rank)))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x[2][axis]
        start, end = sorted((g.rng.randint(0, size), g.rng.randint(0, size)))
        step = g.rng.choice((1, 1, 1, 2))
        if g.rng.random() < 0.3:
            start, end = 0, g.rng.choice((size, 2**31 - 1, 2**63 - 1))
        if g.rng.random() < 0.2 and g.opset >= 10:
            start, end, step = size - 1, g.rng.choice((-size - 1, -(2**31))), g.rng.choice((-1, -2))
        elif g.rng.random() < 0.25:
            start, end = start - size if start < size else start, end - size if end < size else end
        starts.append(start)
        ends.append(end)
        steps.append(step)
    if g.opset < 10:
        g.add("Slice", [x[0]], axes=axes, starts=starts, ends=ends)
        return
    axes = [axis - rank if g.rng.random() < 0.3 and g.opset >= 11 else axis for axis in axes]
    inputs = [x[0], *(g.const(v, np.int64) for v in (starts, ends, axes))]
    if any(step != 1 for step in steps) or g.rng.random() < 0.5:
        inputs.append(g.const(steps, np.int64))
    g.add("Slice", inputs)


def _pad(g: Graph) -> None:
    x = g.pick(least=1)
    rank = len(x[2])
    pads = [g.rng.choice((0, 0, 0, 1, 2)) for _ in range(2 * rank)]
    mode = g.rng.choice(("constant", "constant", "constant", "edge"))
    if g.opset < 11:
        g.add("Pad", [x[0]], pads=pads, mode=mode, value=g.rng.choice((0.0, 0.0, 1.5)))
        return
    inputs = [x[0], g.const(pads, np.int64)]
    if g.rng.random() < 0.5:
        inputs.append(g.const(g.rng.choice((0.0, 0.0, -1.5)), np.float32))
    g.add("Pad", inputs, mode=mode)


def _expand(g: Graph) -> None:
    x = g.pick()
    shape = [g.rng.choice((2, 3)) if size == 1 and g.rng.random() < 0.5 else g.rng.choice((size, 1)) for size in x[2]]
    if g.rng.random() < 0.2:
        shape = [g.rng.choice((1, 2)), *shape]
    if g.rng.random() < 0.25:
        g.add("Tile", [x[0], g.const([g.rng.choice((1, 1, 2)) for _ in x[2]], np.int64)])
    else:
        g.add("Expand", [x[0], g.const(shape, np.int64)])


def _gather(g: Graph) -> None:
    x = g.pick(least=1)
    axis = g.axis(len(x[2]))
    size = x[2][axis]
    shape = g.rng.choice(((), (1,), (2,), (2, 2), (size,)))
    low = -size if g.opset >= 11 else 0
    indices = np.asarray(g.numbers.integers(low, size, shape), dtype=np.int64)
    if g.rng.random() < 0.3:
        indices = np.arange(size)[:: g.rng.choice((1, -1, 2))]
    g.add("Gather", [x[0], g.const(indices, np.int64)], axis=axis if g.opset >= 11 else axis % len(x[2]))


def _matmul(g: Graph) -> None:
    x = g.pick(least=1)
    k, n = x[2][-1], g.rng.choice((1, 2, 3, 4))
    batch = x[2][:-2] if g.rng.random() < 0.3 else ()
    if batch and g.rng.random() < 0.5:
        batch = (1,) * len(batch)
    weight = g.const(g.floats((*batch, k, n)))
    made = g.add("MatMul", [x[0], weight])[0] if g.rng.random() < 0.85 else None
    if made is None:
        left = g.const(g.floats((n, x[2][-2] if len(x[2]) > 1 else x[2][0])))
        made = g.add("MatMul", [left, x[0]])[0]
    if g.rng.random() < 0.5:
        bias = g.const(g.floats(g.rng.choice(((n,), (), (1, n), g.beside(made[2])))))
        g.add("Add", [made[0], bias] if g.rng.random() < 0.7 else [bias, made[0]])


def _gemm(g: Graph) -> None:
    x = g.pick(rank=2)
    first, second = g.rng.randint(0, 1), g.rng.randint(0, 1)
    k, n = x[2][0] if first else x[2][1], g.rng.choice((1, 2, 3))
    m = x[2][1] if first else x[2][0]
    inputs = [x[0], g.const(g.floats((n, k) if second else (k, n)))]
    if g.rng.random() < 0.6 or g.opset < 11:
        inputs.append(g.const(g.floats(g.rng.choice(((n,), (1, n), (), (m, n), (m, 1), (1,))))))
    scales: dict[str, Any] = {"transA": first, "transB": second}
    if g.rng.random() < 0.4:
        scales |= {"alpha": g.rng.choice((1.0, 0.5, 0.0, 2.0)), "beta": g.rng.choice((1.0, 0.5, 0.0))}
    g.add("Gemm", inputs, **scales)


def _conv(g: Graph) -> None:
    x = g.pick(rank=g.rng.choice((3, 4, 4)))
    channels, spatial = x[2][1], len(x[2]) - 2
    group = g.rng.choice((1, 1, channels))
    maps = group * g.rng.choice((1, 2))
    kernel = [g.rng.choice((1, 1, 2, 3)) for _ in range(spatial)]
    transposed = g.rng.random() < 0.2
    shape = (channels, maps // group, *kernel) if transposed else (maps, channels // group, *kernel)
    inputs = [x[0], g.const(g.floats(shape))]
    if g.rng.random() < 0.5:
        inputs.append(g.const(g.floats((maps,))))
    attributes: dict[str, Any] = {"group": group}
    if g.rng.random() < 0.6:
        attributes["pads"] = [g.rng.choice((0, 1)) for _ in range(2 * spatial)]
    if g.rng.random() < 0.3:
        attributes["strides"] = [g.rng.choice((1, 2)) for _ in range(spatial)]
    if g.rng.random() < 0.5:
        attributes["kernel_shape"] = kernel
    made = g.add("ConvTranspose" if transposed else "Conv", inputs, **attributes)[0]
    if g.rng.random() < 0.5:
        _normalize(g, made)
    elif g.rng.random() < 0.6:
        shape = g.rng.choice(((), (maps, *[1] * spatial), (1, maps, *[1] * spatial), g.beside(made[2])))
        g.add(g.rng.choice(("Mul", "Add", "Sub")), [made[0], g.const(g.floats(shape))])


def _normalize(g: Graph, x: Value) -> None:
    channels = (x[2][1],)
    factors = [g.const(g.floats(channels)) for _ in range(3)] + [g.const(g.floats(channels, positive=True))]
    g.add("BatchNormalization", [x[0], *factors], **({} if g.rng.random() < 0.5 else {"epsilon": 1e-3}))


def _batch_norm(g: Graph) -> None:
    _normalize(g, g.pick(least=2))


def _pool(g: Graph) -> None:
    x = g.pick(rank=4)
    op = g.rng.choice(("MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    if op.startswith("Global"):
        g.add(op, [x[0]])
        return
    attributes: dict[str, Any] = {"kernel_shape": [g.rng.choice((1, 2)), g.rng.choice((1, 2))]}
    if g.rng.random() < 0.5:
        attributes["pads"] = [g.rng.choice((0, 1)) if k > 1 else 0 for k in attributes["kernel_shape"] * 2]
    if g.rng.random() < 0.5:
        attributes["strides"] = [g.rng.choice((1, 2)), 1]
    if op == "AveragePool" and g.rng.random() < 0.5:
        attributes["count_include_pad"] = 1
    g.add(op, [x[0]], **attributes)


def _clip(g: Graph) -> None:
    x = g.pick()
    low, high = sorted((g.rng.choice((-1.0, 0.0, -3.0)), g.rng.choice((6.0, 1.0, 0.0))))
    if g.rng.random() < 0.1:
        low, high = high, low
    if g.opset < 11:
        g.add("Clip", [x[0]], **({"min": low} if g.rng.random() < 0.7 else {}), max=high)
        return
    inputs = [x[0], g.const(low, np.float32) if g.rng.random() < 0.7 else ""]
    if g.rng.random() < 0.7:
        inputs.append(g.const(high, np.float32))
    g.add("Clip", inputs)


def _softmax(g: Graph) -> None:
    x = g.pick(least=1)
    rank = len(x[2])
    axis = g.axis(rank) if g.opset >= 11 else g.rng.randrange(rank)
    g.add(g.rng.choice(("Softmax", "LogSoftmax")), [x[0]], **({} if g.rng.random() < 0.3 else {"axis": axis}))


def _flatten(g: Graph) -> None:
    x = g.pick(least=1)
    g.add("Flatten", [x[0]], axis=g.rng.randint(0, len(x[2])))


def _compare(g: Graph) -> None:
    x = g.pick()
    made = g.add(g.rng.choice(("Less", "Greater")), [x[0], g.const(g.floats(g.beside(x[2])))])[0]
    if g.rng.random() < 0.4:
        made = g.add("Not", [made[0]])[0]
    if g.rng.random() < 0.5:
        made = g.add("Cast", [made[0]], to=FLOAT)[0]
    elif g.rng.random() < 0.8:
        same = g.pick()
        g.add("Where", [made[0], same[0], g.const(g.floats(g.beside(made[2])))])


def _where(g: Graph) -> None:
    x = g.pick()
    mask = g.const(g.numbers.integers(0, g.rng.choice((1, 2, 2)), g.beside(x[2])).astype(bool) ^ (g.rng.random() < 0.3))
    parts = [x[0], g.const(g.floats(g.beside(x[2])))]
    if g.rng.random() < 0.5:
        parts.reverse()
    g.add("Where", [mask, *parts])


def _cast(g: Graph) -> None:
    x = g.pick()
    there = g.rng.choice((TensorProto.DOUBLE, TensorProto.INT32, INT, FLOAT, TensorProto.DOUBLE, BOOL))
    source = x[0]
    if there in (INT, TensorProto.INT32):
        source = g.add("Tanh", [source])[0][0]  # what is out of range has no defined result
    made = g.add("Cast", [source], to=there)[0]
    if g.rng.random() < 0.7:
        g.add("Cast", [made[0]], to=FLOAT)


def _shape_arithmetic(g: Graph) -> None:
    x = g.pick(least=1)
    shape = g.add("Shape", [x[0]])[0]
    axis = g.rng.randrange(len(x[2]))
    kind = g.rng.random()
    if kind < 0.4:
        one = g.add("Gather", [shape[0], g.const([axis], np.int64)], axis=0)[0]
        rest = [d for i, d in enumerate(x[2]) if i != axis]
        full = g.add("Concat", [one[0], g.const([int(np.prod(rest))] if rest else [], np.int64)], axis=0)[0]
        if axis:
            raise Rejected
        g.add("Reshape", [x[0], full[0]])
    elif kind < 0.7:
        g.add("Expand", [g.const(g.floats(g.beside(x[2]))), shape[0]])
    elif kind < 0.85:
        full = g.add(
            "ConstantOfShape", [shape[0]], value=helper.make_tensor("", FLOAT, [1], [g.rng.choice((0.0, 2.0))])
        )
        g.add(g.rng.choice(("Add", "Mul", "Sub")), [x[0], full[0][0]])
    else:
        made = g.add("Cast", [shape[0]], to=FLOAT)[0]
        g.add("ReduceSum", [made[0]], keepdims=g.rng.randint(0, 1))


def _norm_form(g: Graph) -> None:
    """Layer or RMS normalization spelled out, in one of many ways."""
    x = g.pick(least=1)
    axis = -1 if g.opset >= 11 else len(x[2]) - 1

    def mean(name: str) -> str:
        if g.opset >= 18:
            return g.add("ReduceMean", [name, g.const([axis], np.int64)], keepdims=1)[0][0]
        return g.add("ReduceMean", [name], axes=[axis], keepdims=1)[0][0]

    d = x[0]
    if g.rng.random() < 0.6:
        pair = [x[0], mean(x[0])]
        d = g.add("Sub", pair if g.rng.random() < 0.85 else pair[::-1])[0][0]
    square = (
        g.add("Pow", [d, g.const(g.rng.choice((2.0, 2.0, 2.0, 3.0)), np.float32)])
        if g.rng.random() < 0.5
        else g.add("Mul", [d, d])
    )
    variance = mean(square[0][0])
    root = g.add("Sqrt", [g.add("Add", [variance, g.const(g.rng.choice((1e-5, 1e-2)), np.float32)])[0][0]])[0][0]
    y = g.add("Div", [d if g.rng.random() < 0.85 else x[0], root])[0]
    if g.rng.random() < 0.7:
        y = g.add("Mul", [y[0], g.const(g.floats(g.rng.choice(((x[2][-1],), g.beside(x[2])))))])[0]
        if g.rng.random() < 0.7:
            g.add("Add", [y[0], g.const(g.floats(g.rng.choice(((x[2][-1],), g.beside(x[2])))))])


def _gelu_form(g: Graph) -> None:
    x = g.pick()
    kind = g.rng.random()
    if kind < 0.5:
        scaled = g.add("Div", [x[0], g.const(g.rng.choice((np.sqrt(2), np.sqrt(2), 1.5)), np.float32)])[0]
        e = g.add("Erf", [scaled[0]])[0]
        one = g.add("Add", [e[0], g.const(g.rng.choice((1.0, 1.0, 0.5)), np.float32)])[0]
        y = g.add("Mul", [x[0], one[0]])[0]
        g.add("Mul", [y[0], g.const(0.5, np.float32)])
    elif kind < 0.75:
        g.add("Mul", [x[0], g.add("Sigmoid", [x[0]])[0][0]])
    else:
        three = g.add("Add", [x[0], g.const(3.0, np.float32)])[0]
        low, high = 0.0, g.rng.choice((6.0, 6.0, 5.0))
        if g.opset >= 11:
            c = g.add("Clip", [three[0], g.const(low, np.float32), g.const(high, np.float32)])[0]
        else:
            c = g.add("Clip", [three[0]], min=low, max=high)[0]
        y = g.add("Mul", [x[0], c[0]])[0]
        g.add("Div", [y[0], g.const(6.0, np.float32)])


def _attention_form(g: Graph) -> None:
    x = g.pick(least=2)
    rank = len(x[2])
    perm = [*range(rank - 2), rank - 1, rank - 2]
    t = g.add("Transpose", [x[0]], perm=perm)[0]
    if g.rng.random() < 0.5:
        t = g.add("Mul", [t[0], g.const(0.5, np.float32)])[0]
    s = g.add("MatMul", [x[0], t[0]])[0]
    if g.rng.random() < 0.5:
        s = g.add(g.rng.choice(("Div", "Mul")), [s[0], g.const(2.0, np.float32)])[0]
    p = g.add("Softmax", [s[0]], axis=-1 if g.opset >= 11 else rank - 1)[0]
    g.add("MatMul", [p[0], x[0]])


def _if(g: Graph) -> None:
    x = g.pick()
    condition = g.const(g.rng.random() < 0.5, bool)
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = g.name("b")
        info = helper.make_tensor_value_info(out, FLOAT, None)
        branches[name] = helper.make_graph([helper.make_node(op, [x[0]], [out])], name, [], [info])
    g.add("If", [condition], **branches)


def _repeat(g: Graph) -> None:
    """The same node again: equal twins, or twins that only look equal."""
    nodes = [node for node in g.nodes if node.op_type not in ("Constant", "If")]
    if not nodes:
        raise Rejected
    node = g.rng.choice(nodes)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if any(a.HasField("t") or a.HasField("g") for a in node.attribute):
        raise Rejected
    made = g.add(node.op_type, list(node.input), len(node.output), **attributes)
    types = {name: shape for name, _, shape in g.values}
    if made[0][1] == FLOAT and types[node.output[0]] == made[0][2]:
        g.add(g.rng.choice(("Add", "Sub")), [made[0][0], node.output[0]])


STEPS: tuple[Step, ...] = (
    _unary, _unary, _binary, _binary, _binary, _binary, _variadic, _transpose, _transposed_twice, _activated, _reshape,
    _reshape, _squeeze, _squeeze, _reduce, _concat, _split, _slice, _slice, _pad, _expand, _gather, _matmul, _matmul,
    _gemm, _conv, _conv, _batch_norm, _pool, _clip, _softmax, _flatten, _compare, _where, _cast, _shape_arithmetic,
    _norm_form, _gelu_form, _attention_form, _if, _repeat, _repeat,
)  # fmt: skip


def random_graph(seed: int) -> Graph:
    """A graph of two to ten steps."""
    graph = Graph(seed)
    graph.grow(graph.rng.choice((2, 3, 4, 6, 10)))
    return graph
