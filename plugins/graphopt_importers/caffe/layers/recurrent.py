"""LSTM and RNN, whose second bottom marks with 0 where a sequence begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphopt.errors import ModelError
from graphopt_importers.caffe.caffemodel import Array
from graphopt_importers.caffe.emit import Graph, Value, fixed
from graphopt_importers.caffe.layer import Layer
from graphopt_importers.caffe.mapping import layer
from graphopt_importers.caffe.prototxt import Message


@layer("LSTM", param="recurrent_param", ignored=("debug_info",))
def lstm(g: Graph, one: Layer, p: Message, x: Value, marks: Value, *more: Value) -> Sequence[Value]:
    """i, f, o = sigmoid, g = tanh of W x[t] + b + mark[t] R h[t-1]; c[t] = mark[t] f c[t-1] + i g; h[t] = o tanh(c[t]).

    x: time x batch x ...; marks: time x batch. The state is zero at first, or expose_hidden gives it: Caffe's own
    would go on from where the last run ended.
    """
    hidden = p.integer("num_output")
    static, state = _bottoms(g, p, x, more, hidden, 2)
    given, weights = _transformed(g, one, x, static, 4 * hidden)
    recurrent = one.blob(weights, (4 * hidden, hidden), "recurrent weights")
    if _unbroken(g, marks) and not state and static is None:
        return _operator(g, one, x, recurrent, hidden)
    first = state or [_zeros(g, x, hidden)] * 2
    columns = [[hidden * i, hidden * (i + 1)] for i in range(4)]
    body = _Body()
    gates = body.gates(recurrent, hidden)
    i, f, o, c = (body.op("Slice", gates, body.ints([a]), body.ints([b]), body.ints([1])) for a, b in columns)
    kept = body.op("Mul", body.op("Mul", "mark_column", body.op("Sigmoid", f)), "state1")
    cell = body.op("Add", kept, body.op("Mul", body.op("Sigmoid", i), body.op("Tanh", c)))
    output = body.op("Mul", body.op("Sigmoid", o), body.op("Tanh", cell))
    h, last, last_cell = _scan(g, body, first, given, marks, [output, cell], hidden)
    return [h, *([_alone(g, last), _alone(g, last_cell)] if state else [])]


@layer("RNN", param="recurrent_param", ignored=("debug_info",))
def rnn(g: Graph, one: Layer, p: Message, x: Value, marks: Value, *more: Value) -> Sequence[Value]:
    """h[t] = tanh(W x[t] + b + mark[t] R h[t-1]); y[t] = tanh(V h[t] + d)."""
    hidden = p.integer("num_output")
    static, state = _bottoms(g, p, x, more, hidden, 1)
    given, weights = _transformed(g, one, x, static, hidden)
    body = _Body()
    output = body.op("Tanh", body.gates(one.blob(weights, (hidden, hidden), "recurrent weights"), hidden))
    h, last = _scan(g, body, state or [_zeros(g, x, hidden)], given, marks, [output], hidden)
    out = one.blob(weights + 1, (hidden, hidden), "output weights")
    bias = one.blob(weights + 2, (hidden,), "output bias")
    y = g.op("Tanh", g.op("Add", g.op("MatMul", h, g.const(out.T)), g.const(bias)))
    return [y, *([_alone(g, last)] if state else [])]


@layer("ContinuationIndicator", param="continuation_indicator_param")
def continuation_indicator(g: Graph, one: Layer, p: Message, x: Value | None = None) -> Value:
    """0 at the first step, 1 at the others: time x batch."""
    p.ignore("axis")
    steps = p.integer("time_step", 0) or (fixed(x, 0) if x else 0)
    batch = p.integer("batch_size", 0) or (fixed(x, 1) if x else 0)
    if steps < 1 or batch < 1 or steps * batch > 2**24:
        raise ModelError(f"time_step {steps}, batch_size {batch}")
    marks = np.ones((steps, batch), np.float32)
    marks[0] = 0
    return g.const(marks)


def _bottoms(
    g: Graph, p: Message, x: Value, more: Sequence[Value], hidden: int, states: int
) -> tuple[Value | None, list[Value]]:
    """(the input that is the same at each step, the first state) from the bottoms after the marks."""
    if hidden < 1 or hidden > 2**20 or x.rank < 2:
        raise ModelError(f"num_output {hidden}, and a bottom of {x.rank} dimensions")
    exposed = states if p.flag("expose_hidden", False) else 0
    if len(more) not in (exposed, exposed + 1):
        raise ModelError(f"{len(more) + 2} bottoms; with expose_hidden the last {states} are the state")
    state = [g.reshape(one, [x.shape[1], hidden]) for one in more[len(more) - exposed :]]
    return (more[0] if len(more) > exposed else None), state


def _transformed(g: Graph, one: Layer, x: Value, static: Value | None, rows: int) -> tuple[Value, int]:
    """(W x + b, with the part that is the same at each step, as time x batch x rows; blobs that were taken)."""
    flat, inputs = _flat(g, x, 2)
    weights, bias = one.blob(0, (rows, inputs), "weights"), one.blob(1, (rows,), "bias")
    y = g.op("Add", g.op("MatMul", flat, g.const(weights.T)), g.const(bias))
    if static is None:
        return y, 2
    flat, inputs = _flat(g, static, 1)
    return g.op("Add", y, g.op("MatMul", flat, g.const(one.blob(2, (rows, inputs), "static weights").T))), 3


def _flat(g: Graph, x: Value, axis: int) -> tuple[Value, int]:
    inputs = int(np.prod([fixed(x, i) for i in range(axis, x.rank)]))
    return g.reshape(x, [*x.shape[:axis], inputs]), inputs


def _unbroken(g: Graph, marks: Value) -> bool:
    """Whether a sequence begins at the first step only, or the user says so."""
    return g.options.get("sequences") == "whole" or (marks.array is not None and bool(np.all(marks.array[1:] == 1)))


def _operator(g: Graph, one: Layer, x: Value, recurrent: Array, hidden: int) -> list[Value]:
    """ONNX's LSTM; its gates are in the order i, o, f, c, Caffe's i, f, o, c."""

    def ordered(array: Array) -> Array:
        parts = array.reshape(4, hidden, -1)[[0, 2, 1, 3]].reshape(array.shape)
        return parts[None]

    flat, inputs = _flat(g, x, 2)
    weights, bias = one.blob(0, (4 * hidden, inputs), "weights"), one.blob(1, (4 * hidden,), "bias")
    biases = np.concatenate([ordered(bias), np.zeros((1, 4 * hidden), np.float32)], axis=1)
    y = g.op("LSTM", flat, g.const(ordered(weights)), g.const(ordered(recurrent)), g.const(biases), hidden_size=hidden)
    return [g.reshape(replace(y, shape=(x.shape[0], 1, x.shape[1], hidden)), [*x.shape[:2], hidden])]


def _zeros(g: Graph, x: Value, hidden: int) -> Value:
    if isinstance(x.shape[1], int):
        return g.filled((x.shape[1], hidden), 0.0)
    batch = g.slice(g.op("Shape", x), 0, 1, 2)
    return replace(g.op("ConstantOfShape", g.op("Concat", batch, g.ints([hidden]), axis=0)), shape=(x.shape[1], hidden))


def _alone(g: Graph, state: Value) -> Value:
    return g.reshape(state, [1, *state.shape])


class _Body:
    """The graph of one step: state0 (and state1), given, mark in; mark_column is made of mark."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.op("Unsqueeze", "mark", self.ints([1]), name="mark_column")

    def op(self, kind: str, *inputs: str, name: str = "") -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name))
        return name

    def const(self, array: Array) -> str:
        name = f"const_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.const(np.array(values, np.int64))

    def gates(self, recurrent: Array, hidden: int) -> str:
        """given + (mark h) R."""
        resumed = self.op("Mul", "mark_column", "state0")
        return self.op("Add", "given", self.op("MatMul", resumed, self.const(recurrent.T)))


def _scan(
    g: Graph, body: _Body, first: Sequence[Value], given: Value, marks: Value, states: Sequence[str], hidden: int
) -> list[Value]:
    """[the first state at every step, the last states]."""
    steps, batch = given.shape[:2]
    if marks.shape != (steps, batch):
        raise ModelError(f"marks of {'x'.join(map(str, marks.shape))} for {steps} steps of {batch} sequences")

    def info(name: str, *dims: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    body.op("Identity", states[0], name="shown")
    inputs = [info(f"state{i}", batch, hidden) for i in range(len(first))]
    inputs += [info("given", batch, given.shape[2]), info("mark", batch)]
    outputs = [info(name, batch, hidden) for name in (*states, "shown")]
    graph = helper.make_graph(body.nodes, f"{g.scope}/step", inputs, outputs, body.constants)
    shapes = [(batch, hidden)] * len(states) + [(steps, batch, hidden)]
    found = g.known("Scan", shapes, [*first, given, marks], body=graph, num_scan_inputs=2)
    return [found[-1], *found[:-1]]
