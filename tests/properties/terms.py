"""Random small graphs from a rule's own pattern: its nodes with legal shapes and attributes, found by trial.

What the pattern leaves open is drawn: rank, dtype, opset, attributes, forms of broadcasting, constants. Whether the
result is a model at all is for onnx.checker and onnxruntime to say; `judge.py` throws the others away.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.rewrite.pattern import (
    Const,
    Either,
    Literal,
    Maybe,
    NodePattern,
    Operand,
    Output,
    Traced,
    Var,
    is_absent,
)

from .shapes import attributes, constant_shape, rank_for, rest_attributes

AXES_ARE_INPUTS_SINCE = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}
VALUES = (0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 6.0, 1 / 6, -0.25, 1e-5, 1e-30, 1e6, 1e30, math.inf, -math.inf, math.nan)
MIXED = (0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 6.0, -0.25, 1e-5, 1e-30)
"""Side by side in one constant; 1e30 beside 1 would only show cancellation."""
NAMED: dict[str, float] = {"one": 1, "one2": 1, "half": 0.5, "two": 2, "three": 3, "zero": 0, "epsilon": 1e-5}
"""What a constant of this name mostly is."""
_TANH = math.sqrt(2 / math.pi)
HINTS: dict[str, dict[str, float]] = {
    "fuse-gelu": {"k": math.sqrt(0.5)},
    "fuse-gelu-divided": {"k": math.sqrt(2)},
    "fuse-gelu-tanh": {"k": _TANH, "c": 0.044715},
    "fuse-gelu-tanh-multiplied": {"k": _TANH, "c": 0.044715},
    "fuse-gelu-tanh-factored": {"k": _TANH, "c": 0.044715},
    "sigmoid-instead-of-tanh": {"k": 0.5},
    "use-relu-for-clip": {"low": 0},
    "use-clip-for-min-max": {"a": -1, "b": 2},
    "fuse-hard-sigmoid": {"low": 0, "high": 6, "m": 6},
    "fuse-hard-sigmoid-times": {"low": 0, "high": 6, "k": 1 / 6},
    "fuse-hard-sigmoid-of-scaled": {"low": 0, "high": 1, "a": 0.2, "b": 0.5},
    "split-hard-swish": {"c": 3, "low": 0, "high": 6, "m": 6},
    "split-hard-swish-times": {"c": 3, "low": 0, "high": 6, "k": 1 / 6},
    "fuse-hard-swish": {"alpha": 1 / 6, "beta": 0.5},
    "remove-add-zero": {"c": 0},
    "remove-sub-zero": {"c": 0},
    "remove-mul-one": {"c": 1},
    "remove-div-one": {"c": 1},
    "remove-pow-one": {"c": 1},
    "remove-and-true": {"c": 1},
    "remove-or-false": {"c": 0},
    "remove-threshold-of-softplus": {"t": 20},
    "fuse-leaky-relu": {"a": 0.01},
    "fuse-prelu": {"c": -0.25},
    "negate-in-constant": {"c": 2},
    "fold-pad-into-conv": {"value": 0},
    "fold-pad-into-average-pool": {"value": 0},
    "fold-pad-into-max-pool": {"value": -math.inf},
    "remove-zero-bias": {"b": 0},
    "remove-zero-bias-of-conv-transpose": {"b": 0},
    "narrow-layer-norm": {"wide": 1, "narrow": 10},
    "narrow-rms-norm": {"wide": 1, "narrow": 10},
}
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
INTEGER_OPS = frozenset(
    "Add Sub Mul Div Max Min Relu Clip Neg Abs Sign Pow Where Cast Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat "
    "Gather Expand Tile Identity MatMul Shape ReduceSum ReduceMax ReduceMin ReduceProd ReduceMean ReduceSumSquare Sum".split()
)
BOOLEAN_OPS = frozenset({"And", "Or", "Xor", "Not"})


class NoTerm(Exception):
    """This draw leads to no legal model."""


class Builder:
    """Grows one graph; `types[name]` is (element type, shape)."""

    def __init__(self, rng: Random, rule: str = "") -> None:
        self.rng = rng
        self.hints = HINTS.get(rule, {})
        self.opset = rng.choice((12, 13, 15, 17, 18, 20, 21, 23))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self.inputs: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.types: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.bound: dict[str, Any] = {}
        self.done: dict[int, list[str]] = {}
        self.dtype = rng.choice(FLOATS) if rng.random() < 0.3 else TensorProto.FLOAT
        self.rank = rng.randint(0, 5)
        self.square = rng.random() < 0.3

    def fresh(self, stem: str) -> str:
        return f"{stem}{len(self.types)}"

    def input(self, shape: tuple[int, ...], dtype: int | None = None) -> str:
        name = self.fresh("x")
        self.inputs[name] = self.types[name] = (dtype or self.dtype, shape)
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = self.fresh("c")
        self.types[name] = (helper.np_dtype_to_tensor_dtype(array.dtype), tuple(array.shape))
        self.weights[name] = array
        return name

    def base(self) -> tuple[int, ...]:
        dims = [self.rng.choice((1, 2, 3, 4)) for _ in range(self.rank)]
        return tuple(dims[:1] * self.rank if self.square else dims)

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attrs: Any) -> list[str]:
        if self.opset < AXES_ARE_INPUTS_SINCE.get(op, 18 if op.startswith("Reduce") else 0) and len(inputs) > 1:
            if inputs[1]:
                if inputs[1] not in self.weights:
                    raise NoTerm
                attrs["axes"] = [int(a) for a in self.weights[inputs[1]]]
            inputs = inputs[:1]
            attrs.pop("noop_with_empty_axes", None)
        if op == "Pad" and self.opset < 18:
            inputs = inputs[:3]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        if op == "Transpose" and len(attrs.get("perm", self.types[inputs[0]][1])) != len(self.types[inputs[0]][1]):
            raise NoTerm("onnxruntime takes such a perm, ONNX doesn't")
        if attrs.get("axes") == []:
            raise NoTerm("no axes")
        attrs = {key: value for key, value in attrs.items() if value != []}
        names = [self.fresh("v") + f"_{i}" for i in range(outputs)]
        made = helper.make_node(op, inputs, names, **attrs)
        try:
            schema = onnx.defs.get_schema(op, self.opset, "")
            known = {n: helper.make_tensor_type_proto(*self.types[n]) for n in inputs if n}
            data = {n: numpy_helper.from_array(self.weights[n], n) for n in inputs if n in self.weights}
            found = onnx.shape_inference.infer_node_outputs(
                schema, made, known, data, opset_imports=[helper.make_opsetid("", self.opset)]
            )
        except Exception as error:
            raise NoTerm(str(error)) from error
        for name in names:
            if name not in found or not found[name].tensor_type.HasField("shape"):
                raise NoTerm(f"{op}: no shape")
            tensor = found[name].tensor_type
            if any(not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim):
                raise NoTerm(f"{op}: open shape")
            self.types[name] = (tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim))
        self.nodes.append(made)
        return names

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        def info(name: str, kind: tuple[int, tuple[int, ...]]) -> Any:
            return helper.make_tensor_value_info(name, *kind)

        graph = helper.make_graph(
            self.nodes,
            "g",
            [info(n, t) for n, t in self.inputs.items()],
            [info(n, self.types[n]) for n in dict.fromkeys(outputs)],
            [numpy_helper.from_array(w, n) for n, w in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    # --- the pattern

    def term(self, pattern: Operand, op: str, slot: int, known: list[str], attrs: dict[str, Any]) -> str:
        if isinstance(pattern, Either):
            key = id(pattern)
            if key not in self.bound:
                self.bound[key] = self.rng.choice(pattern.options)  # type: ignore[index]
            return self.term(self.bound[key], op, slot, known, attrs)  # type: ignore[index]
        if isinstance(pattern, Maybe):
            if is_absent(pattern) or self.rng.random() < 0.4:
                return ""
            return self.term(pattern.inner, op, slot, known, attrs)
        if isinstance(pattern, NodePattern):
            return self.grow(pattern)[0]
        if isinstance(pattern, Output):
            return self.grow(pattern.node)[pattern.index]
        name = pattern.name if isinstance(pattern, Var) else ""
        if isinstance(pattern, Const) and isinstance(pattern.inner, Var):
            name = pattern.inner.name
        if name and name in self.bound:
            return str(self.bound[name])
        made = self.leaf(pattern, name, op, slot, known, attrs)
        if name:
            self.bound[name] = made
        return made

    def leaf(self, pattern: Operand, name: str, op: str, slot: int, known: list[str], attrs: dict[str, Any]) -> str:
        kinds = [self.types.get(n) for n in known]
        fixed = isinstance(pattern, (Const, Literal))
        if not fixed and slot == 0 and all(kind is None for kind in kinds):
            return self.source(op)
        if op == "Where" and kinds[0] and not any(kinds[1:]):
            return self.input(kinds[0][1])
        value = constant_shape(self.rng, op, slot, kinds, attrs)
        if isinstance(value, np.ndarray):
            return self.constant(value)
        shape, positive = value
        kind = next((k[0] for k in kinds if k), self.dtype)
        kind = TensorProto.BOOL if op in BOOLEAN_OPS or (op == "Where" and slot == 0) else kind
        if not fixed and self.rng.random() < 0.8:
            return self.input(shape, kind)
        literal = pattern.value if isinstance(pattern, Literal) else None
        if (name in self.hints or name in NAMED) and self.rng.random() < 0.6:
            shape = self.rng.choice(((), (1,)))
        return self.constant(self.numbers(shape, kind, name, positive, literal))

    def source(self, op: str) -> str:
        """A fresh operand: an input, perhaps seen through a node that some rules look back at."""
        kind = TensorProto.BOOL if op in BOOLEAN_OPS or op == "Where" else self.dtype
        x = self.input(self.base(), kind)
        if self.rng.random() < 0.7:
            return x
        shape = self.types[x][1]
        before = self.rng.choice(("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Cast"))
        if before == "Reshape":
            return self.node(before, [x, self.constant(np.array([-1] if self.rng.random() < 0.5 else [*shape, 1]))])[0]
        if before == "Unsqueeze":
            return self.node(before, [x, self.constant(np.array([self.rng.randint(0, len(shape))]))])[0]
        if before == "Squeeze":
            return self.node(before, [x])[0]
        if before == "Cast":
            return self.node(before, [x], to=kind)[0]
        return self.node(before, [x])[0]

    def numbers(self, shape: tuple[int, ...], kind: int, name: str, positive: bool, literal: Any) -> Any:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        random = np.random.default_rng(self.rng.getrandbits(32))
        hint = literal if literal is not None else self.hints.get(name, NAMED.get(name))
        if hint is not None and self.rng.random() < 0.93:
            with np.errstate(all="ignore"):
                return np.full(shape, hint).astype(dtype)
        with np.errstate(all="ignore"):
            draw = self.rng.random()
            if draw < 0.2:
                values = np.full(shape, self.rng.choice(VALUES))
            elif draw < 0.3:
                values = random.choice(np.array(MIXED), size=shape)
            else:
                values = random.normal(0, 2, size=shape)
            values = np.abs(values) if positive else values
            if dtype.kind in "iub":
                values = np.nan_to_num(values, nan=1, posinf=2, neginf=-2)
            return np.asarray(values).astype(dtype)

    def grow(self, pattern: NodePattern) -> list[str]:
        if id(pattern) in self.done:
            return self.done[id(pattern)]
        if pattern.domain:
            raise NoTerm("a foreign domain")
        slots: list[str] = [""] * len(pattern.inputs)
        filled = [False] * len(slots)
        extra: list[str] = []

        def order(i: int) -> int:
            inner = pattern.inputs[i]
            node = isinstance(inner, (NodePattern, Output, Either))
            return 0 if node else 1 if isinstance(inner, Var) else 2

        attrs: dict[str, Any] = {}
        for count, i in enumerate(sorted(range(len(slots)), key=order)):
            inner = pattern.inputs[i]
            if isinstance(inner, Var) and inner.rest:
                extra = self.several(inner)
                continue
            if count == 1 or order(i) == 2:
                self.attrs(pattern, slots, attrs)
            slots[i] = self.term(inner, pattern.op, i, slots, attrs)
            filled[i] = True
        self.attrs(pattern, slots + extra, attrs)
        made = self.node(pattern.op, [*slots[: len(slots) - bool(extra)], *extra], pattern.outputs, **attrs)
        self.done[id(pattern)] = made
        return made

    def attrs(self, pattern: NodePattern, slots: list[str], attrs: dict[str, Any]) -> None:
        """Draws the attributes once, as soon as an operand is known."""
        if attrs or not any(slots):
            return
        kind = next(self.types[s] for s in slots if s)
        for key, value in pattern.attrs.items():
            if isinstance(value, Var):
                if value.name not in self.bound:
                    hint = self.hints.get(value.name)
                    self.bound[value.name] = attributes(self.rng, pattern.op, key, kind) if hint is None else hint
                value = self.bound[value.name]
            if value is not None and not (key == "noop_with_empty_axes" and not value):
                attrs[key] = value
        if pattern.rest_attrs is not None:
            attrs |= rest_attributes(self.rng, pattern.op, kind)
        attrs.setdefault("", None)
        del attrs[""]

    def several(self, rest: Var) -> list[str]:
        if rest.name not in self.bound:
            shape = self.base()
            self.bound[rest.name] = [self.input(shape) for _ in range(self.rng.randint(1, 3))]
        return list(self.bound[rest.name])


def graph_of(traced: Traced, rule: str, rng: Random) -> onnx.ModelProto:
    """A model around one instance of the pattern, with other readers and other outputs now and then. Raises NoTerm."""
    builder = Builder(rng, rule)
    builder.rank = rank_for(rng, operators(traced))
    ops = operators(traced)
    if rng.random() < 0.15 and ops <= INTEGER_OPS:
        builder.dtype = rng.choice(INTEGERS)
    if rule.startswith("narrow-"):
        builder.dtype = TensorProto.FLOAT16
    builder.opset = (
        23 if "RMSNormalization" in ops else max(builder.opset, 17) if "LayerNormalization" in ops else builder.opset
    )
    outputs = [builder.term(output, "", 0, [], {}) for output in traced.outputs]
    inner = [name for node in builder.nodes for name in node.output if name not in outputs]
    if inner and rng.random() < 0.15:
        outputs.append(rng.choice(inner))
    if inner and rng.random() < 0.15:
        outputs += builder.node("Identity", [rng.choice(inner)])
    if rng.random() < 0.3:
        outputs = [builder.node("Identity", [outputs[0]])[0], *outputs[1:]]
    return builder.model(outputs)


def operators(traced: Traced) -> frozenset[str]:
    found: set[str] = set()

    def walk(pattern: Any) -> None:
        if isinstance(pattern, NodePattern):
            found.add(pattern.op)
            for inner in pattern.inputs:
                walk(inner)
        elif isinstance(pattern, Either):
            for inner in pattern.options:
                walk(inner)
        elif isinstance(pattern, Output):
            walk(pattern.node)
        elif isinstance(pattern, (Const, Maybe)):
            walk(pattern.inner)

    for output in traced.outputs:
        walk(output)
    return frozenset(found)
