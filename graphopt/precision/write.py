"""The one pass that writes a plan: dtypes of values and constants, casts, QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import UsageError, nearest
from graphopt.ir import dtypes
from graphopt.ir.edits import Editor
from graphopt.ir.graph import new_constant, new_variable, scopes
from graphopt.ir.infer import Custom
from graphopt.ir.weights import read
from graphopt.layers.layer import Layer

from .constants import Converted, largest_for
from .flow import is_single, is_unsure, ports, sealed_scopes
from .plan import Plan, named
from .quantized import Quantizer, mark
from .slots import CONTROL, Slots, slots
from .types import know_types


@dataclass(frozen=True)
class Written:
    """Nodes that a plan put into a model."""

    casts: int = 0
    quantize_nodes: int = 0
    """QuantizeLinear and DequantizeLinear."""


_SINGLE = np.dtype(np.float32)


def write_plan(graph: gs.Graph, plan: Plan, layers: Mapping[str, type[Layer]], custom: Custom | None = None) -> Written:
    """Make every tensor what the plan says; how many nodes that took.

    A tensor that one node makes together with others gets their widest dtype. custom: types of calls of layers.
    Raises UsageError where the plan names a tensor that the model has not.
    """
    know_types(graph, custom)
    return _Writer(graph, plan, layers).run()


class _Writer:
    def __init__(self, graph: gs.Graph, plan: Plan, layers: Mapping[str, type[Layer]]) -> None:
        self.graph = graph
        self.plan = plan
        self.layers = layers
        self.edit = Editor(graph)
        self.wanted: dict[int, Any] = {}
        """id(tensor) -> the dtype that the plan gives it"""
        self.home: dict[int, gs.Graph] = {}
        """id(tensor) -> the graph or body that it is an input of"""
        self.casts: dict[tuple[int, Any], gs.Tensor] = {}
        self.constants: dict[tuple[int, Any, float], gs.Constant] = {}
        self.count = 0
        self._lowered: set[int] = set()
        """ids of the values that were float32 and are low now"""
        self.sealed = sealed_scopes(graph)
        self._resolve()
        self.quantizer = Quantizer(graph, plan, self.edit)

    def _resolve(self) -> None:
        known = {}
        for name, scope, node, tensor in named(self.graph):
            known[name] = tensor
            if node is None:
                self.home[id(tensor)] = scope
        quantized_constants = {
            tensor.name for scope in scopes(self.graph, functions=False) for node in scope.nodes
            for tensor in node.inputs if isinstance(tensor, gs.Constant)
        }  # fmt: skip
        for name, entry in self.plan.tensors.items():
            if name in known:
                self.wanted[id(known[name])] = np.dtype(dtypes.from_onnx(_number(entry.dtype)))
            elif name not in quantized_constants:
                hint = nearest(name, known, "the plan was made for another model, or for other passes")
                raise UsageError(f"the model has no float tensor {name!r}", where="precision plan", hint=hint)

    def run(self) -> Written:
        if self.plan.io == "change":
            for tensor in self.graph.inputs:
                if id(tensor) in self.wanted and is_single(tensor):
                    tensor.dtype = self.wanted[id(tensor)]
                    self._lowered.add(id(tensor))
        kept = {id(tensor) for tensor in self.graph.outputs} if self.plan.io == "keep" else set()
        self._ports()
        for node in self.edit.nodes():
            scope = self.edit.scope(node)
            if isinstance(scope, gs.Function):
                continue
            if node.op in CONTROL and not node.domain:
                continue
            self._node(node, kept)
        for node in self.edit.nodes():
            if node.op in CONTROL and not node.domain and not isinstance(self.edit.scope(node), gs.Function):
                self._border(node)
        self.edit.flush()
        return Written(self.count, self.quantizer.count)

    # -- nodes -------------------------------------------------------------------------------------------------

    def _node(self, node: gs.Node, kept: set[int]) -> None:
        free = self._free(node)
        dtype = self._dtype(node, free)
        for number, tensor in enumerate(node.inputs):
            wants = dtype if number in free.inputs else _SINGLE
            if not self._computed(tensor):
                continue
            self._feed(node, number, tensor, wants)
        if dtype != _SINGLE:
            for number in free.outputs:
                tensor = node.outputs[number]
                if is_single(tensor) and tensor.name:
                    self._produce(node, number, tensor, dtype, id(tensor) in kept)
            _attributes(node, dtype)

    def _free(self, node: gs.Node) -> Slots:
        low = next((self.wanted[id(t)] for t in node.outputs if self.wanted.get(id(t), _SINGLE) != _SINGLE), None)
        if low is None:
            low = next((t.dtype for t in node.inputs if self._computed(t) and t.dtype != _SINGLE), _SINGLE)
        return slots(node, int(self.graph.opset), dtypes.name(low), self.layers)

    def _dtype(self, node: gs.Node, free: Slots) -> Any:
        """The dtype that the node computes in: that of its results; of what only reads, what takes the fewest casts."""
        if is_unsure(node, free) or id(self.edit.scope(node)) in self.sealed:
            return _SINGLE
        results = [node.outputs[i] for i in free.outputs if is_single(node.outputs[i]) and node.outputs[i].name]
        if results:
            kinds = {self.wanted.get(id(tensor), _SINGLE) for tensor in results}
            return _SINGLE if len(kinds) > 1 else kinds.pop()
        floats = [node.inputs[i] for i in free.inputs if self._computed(node.inputs[i])]
        kinds = {dtypes.of(t) for t in floats if not isinstance(t, gs.Constant)}
        if len(kinds) < 2:
            return kinds.pop() if kinds else _SINGLE
        missing = {
            kind: sum(not self._has(t, kind) for t in floats if not isinstance(t, gs.Constant)) for kind in kinds
        }
        return min(sorted(kinds, key=lambda kind: -kind.itemsize), key=lambda kind: missing[kind])

    def _has(self, tensor: gs.Tensor, dtype: Any) -> bool:
        """Whether the value is in dtype, or is cast to it for somebody else."""
        if dtypes.of(tensor) == dtype or (id(tensor), dtype) in self.casts:
            return True
        return any(self.wanted.get(id(out), _SINGLE) == dtype for user in tensor.outputs for out in user.outputs)

    def _computed(self, tensor: gs.Tensor) -> bool:
        """Whether it is a float value that takes part."""
        return bool(tensor.name) and (is_single(tensor) or id(tensor) in self._lowered)

    def _feed(self, node: gs.Node, number: int, tensor: gs.Tensor, wants: Any) -> None:
        source = self.quantizer.weight(node, number, tensor, wants) or tensor
        if source is tensor:
            if isinstance(tensor, gs.Constant):
                source = self._constant(tensor, wants, node) if wants != _SINGLE else tensor
            else:
                source = self._cast(tensor, wants, node)
                source = self.quantizer.value(node, number, tensor, source, wants) or source
        if source is not tensor:
            node.inputs[number] = source
            self.edit.edited(node)

    def _constant(self, constant: gs.Constant, dtype: Any, node: gs.Node) -> gs.Constant:
        top = largest_for(node, dtype)
        key = (id(constant), dtype, top)
        if key not in self.constants:
            name = self.edit.fresh(f"{constant.name}_{_SHORT[dtypes.name(dtype)]}")
            self.constants[key] = new_constant(name, Converted(constant, dtype, top))
        return self.constants[key]

    def _cast(self, tensor: gs.Tensor, dtype: Any, at: gs.Node) -> gs.Tensor:
        """The value in dtype; one Cast per value and dtype, where the value is made."""
        if dtypes.of(tensor) == dtype:
            return tensor
        key = (id(tensor), dtype)
        if key not in self.casts:
            made = new_variable(self.edit.fresh(f"{tensor.name}_{_SHORT[dtypes.name(dtype)]}"), dtype, tensor.shape)
            self._insert(tensor, made, self._anchor(tensor, at))
            self.casts[key] = made
        return self.casts[key]

    def _insert(self, source: gs.Tensor, made: gs.Tensor, at: gs.Node) -> None:
        attrs = {"to": dtypes.to_onnx(dtypes.of(made))}
        node = self.edit.insert("Cast", [source], attrs, at=at, outputs=[made], name=f"cast_{made.name}")
        mark(node, source.inputs[0] if source.inputs else at)
        self.count += 1

    def _anchor(self, tensor: gs.Tensor, at: gs.Node) -> gs.Node:
        """A node of the scope that makes the tensor."""
        home = self.edit.scope(tensor.inputs[0]) if tensor.inputs else self.home.get(id(tensor))
        if home is None or self.edit.scope(at) is home:
            return at
        return tensor.inputs[0] if tensor.inputs else home.nodes[0]

    def _produce(self, node: gs.Node, number: int, tensor: gs.Tensor, dtype: Any, is_kept: bool) -> None:
        if not is_kept:
            tensor.dtype = dtype
            self._lowered.add(id(tensor))
            return
        made = new_variable(self.edit.fresh(f"{tensor.name}_{_SHORT[dtypes.name(dtype)]}"), dtype, tensor.shape)
        node.outputs[number] = made
        self.edit.edited(node)
        self.edit.replace_uses(tensor, made)
        self._insert(made, tensor, node)
        self._lowered.add(id(made))
        self.casts[id(made), _SINGLE] = tensor
        entry = self.plan.tensors.get(tensor.name)
        if entry is not None:
            self.quantizer.alias(tensor, made)

    # -- control flow ------------------------------------------------------------------------------------------

    def _ports(self) -> None:
        """Values that bodies pass on: one dtype for all their names."""
        for node in self.edit.nodes():
            if node.op not in CONTROL or node.domain or isinstance(self.edit.scope(node), gs.Function):
                continue
            for group in ports(node):
                if not group.made or not all(self._computed(tensor) for tensor in group.all()):
                    continue
                kinds = {self.wanted.get(id(tensor), _SINGLE) for tensor in group.made}
                dtype = kinds.pop() if len(kinds) == 1 else _SINGLE
                for tensor in group.made:
                    self.wanted[id(tensor)] = dtype
                    if dtype != _SINGLE:
                        tensor.dtype = dtype
                        self._lowered.add(id(tensor))

    def _border(self, node: gs.Node) -> None:
        """Casts where a value enters the bodies of a node, and where their results leave them."""
        for group in ports(node):
            wanted = next((dtypes.of(tensor) for tensor in group.made), _SINGLE)
            if not group.made or wanted not in _LOW_KINDS:
                continue
            for owner, number in group.at:
                if isinstance(owner, gs.Node):
                    if self._computed(owner.inputs[number]):
                        self._replace_input(owner, number, owner.inputs[number], wanted)
                elif self._computed(owner.outputs[number]):
                    self._replace_output(owner, number, owner.outputs[number], wanted, node)

    def _replace_input(self, node: gs.Node, number: int, tensor: gs.Tensor, wanted: Any) -> None:
        if dtypes.of(tensor) == wanted:
            return
        made = self._constant(tensor, wanted, node) if isinstance(tensor, gs.Constant) else None
        node.inputs[number] = made if made is not None else self._cast(tensor, wanted, node)
        self.edit.edited(node)

    def _replace_output(self, body: gs.Graph, number: int, tensor: gs.Tensor, wanted: Any, node: gs.Node) -> None:
        if dtypes.of(tensor) == wanted:
            return
        if isinstance(tensor, gs.Constant):
            self.edit.set_output(body, number, self._constant(tensor, wanted, node))
            return
        at = body.nodes[0] if body.nodes else node
        self.edit.set_output(body, number, self._cast(tensor, wanted, at))


_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_LOW_KINDS = tuple(np.dtype(dtypes.from_onnx(kind)) for kind in (1, 10, 16))


def _number(name: str) -> int:
    kinds = onnx.TensorProto
    return {"float32": kinds.FLOAT, "float16": kinds.FLOAT16, "bfloat16": kinds.BFLOAT16}[name]


def _attributes(node: gs.Node, dtype: Any) -> None:
    """Dtypes that are written into a node."""
    if node.op in ("Cast", "EyeLike") and not node.domain:
        key = "to" if node.op == "Cast" else "dtype"
        if key in node.attrs and _is_float(node.attrs[key]):
            node.attrs[key] = dtypes.to_onnx(dtype)
    elif node.op in ("Constant", "ConstantOfShape") and not node.domain:
        held = node.attrs.get("value")
        if isinstance(held, gs.Constant):
            node.attrs["value"] = new_constant(held.name, read(held).astype(dtype))
        elif "value_float" in node.attrs or "value_floats" in node.attrs:
            value = node.attrs.pop("value_float", None)
            value = node.attrs.pop("value_floats", None) if value is None else value
            node.attrs["value"] = new_constant("value", np.asarray(value, np.float32).astype(dtype))
        elif node.op == "ConstantOfShape":
            node.attrs["value"] = new_constant("value", np.zeros(1, dtype))


def _is_float(value: Any) -> bool:
    return dtypes.to_onnx(value) == onnx.TensorProto.FLOAT
