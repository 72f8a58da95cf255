"""A traced body as ONNX nodes at an opset: inside a function (attributes referred to), or as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.spelling import moved, schema

from .trace import Body, Made, Symbol, Traced, symbols_in

CAST_LIKE = 15
"""From this opset on a constant can follow the dtype of a value."""
SYMBOLIC_CONSTANT = 12
"""From this opset on a Constant can refer to an attribute of the function."""
_KINDS = {float: AttributeProto.FLOAT, int: AttributeProto.INT, bool: AttributeProto.INT, str: AttributeProto.STRING}


class Open:
    """The layer's dtype, in a function that all dtypes share."""


OPEN = Open()


@dataclass
class Emitter:
    """Emits one body.

    kinds: dtype of each input; None where it is left open. values: what the attributes are; those left out are
    referred to by name. double: every float is float64 (the truth).
    """

    body: Body
    opset: int
    prefix: str
    kinds: Mapping[str, Any]
    values: Mapping[str, Any]
    double: bool = False
    narrow: bool = False
    """Leave out casts between floats: the spelling of a model that was converted to half precision as a whole."""
    nodes: list[NodeProto] = field(default_factory=list)
    templates: dict[Any, Any] = field(default_factory=dict)
    """Where symbols went: name of a constant, or (node name, attribute) -> the value with Symbols in it."""
    baked: set[str] = field(default_factory=set)
    """Attributes that could not be referred to: they need values."""
    _names: dict[Any, str] = field(default_factory=dict)
    _kinds: dict[Any, Any] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Emit the nodes; the names of the outputs. Raises Skip where the body cannot be said at this opset."""
        for name in self.body.present:
            self._names[name] = self.prefix + name
            self._kinds[name] = self.wide(self.kinds[name]) if self.kinds.get(name) is not None else OPEN
        for made in self.body.nodes:
            self._made(made)
        outputs = []
        for output in self.body.outputs:
            name = self._name(output)
            if name in outputs or output.made is None:
                name = self._node("Identity", [name], {})
            outputs.append(name)
        return outputs

    def wide(self, dtype: Any) -> Any:
        widened = self.double and dtypes.is_float(dtype) and not dtypes.is_stored(dtype)
        return np.dtype(np.float64) if widened else np.dtype(dtype)

    def _key(self, value: Traced) -> Any:
        return value.name if value.made is None else (id(value.made), value.index)

    def _name(self, value: Traced) -> str:
        return self._names[self._key(value)]

    def kind(self, value: Traced) -> Any:
        return self._kinds.get(self._key(value))

    def _fresh(self, stem: str) -> str:
        return f"{self.prefix}{stem}_{len(self.nodes)}"

    def _node(self, op: str, inputs: list[str], attrs: dict[str, Any], outputs: int = 1) -> str:
        name = self._fresh(op)
        outs = [name if index == 0 else f"{name}.{index}" for index in range(outputs)]
        node = helper.make_node(op, inputs, outs, name=name)
        for key, value in attrs.items():
            node.attribute.append(self._attribute(name, key, value))
        self.nodes.append(node)
        return name

    def _attribute(self, node: str, key: str, value: Any) -> AttributeProto:
        found = symbols_in(value)
        if found:
            self.templates[(node, key)] = value
            if isinstance(value, Symbol) and value.name not in self.values:
                default = value.default
                return AttributeProto(name=key, ref_attr_name=value.name, type=_attribute_type(default))
            value = self._value(value)
        return helper.make_attribute(key, _plain(value))

    def _value(self, value: Any) -> Any:
        """The value with symbols replaced."""
        if isinstance(value, Symbol):
            if value.name not in self.values:
                self.baked.add(value.name)
            return self.values.get(value.name, value.default)
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value

    def _made(self, made: Made) -> None:
        operands = list(made.operands)
        attrs = dict(made.attrs)
        if made.op == "Cast":
            target: Any = self.wide(attrs["to"])
            self._cast(made, operands[0], target)
            return
        if made.op == "CastLike":
            like = self.kind(operands[1])
            if not isinstance(like, np.dtype):
                self._cast_like(made, operands)
            else:
                self._cast(made, operands[0], like)
            return
        for entry in moved(made.op, self.opset):
            value = operands[entry.slot] if entry.slot < len(operands) else None
            if value is None:
                continue
            if isinstance(value, Traced):
                raise Skip(f"{made.op} needs constant {entry.attribute} at opset {self.opset}")
            single = entry.attribute in ("min", "max", "value", "k", "ratio")
            attrs[entry.attribute] = _single(value) if single else _list(value)
            operands[entry.slot] = None
        while operands and operands[-1] is None:
            operands.pop()
        found = schema(made.op, self.opset)
        if found is None:
            raise Skip(f"{made.op} does not exist at opset {self.opset}")
        for key in attrs:
            if key not in found.attributes:
                raise Skip(f"{made.op} has no attribute {key!r} at opset {self.opset}")
        if len(operands) > found.max_input:
            raise Skip(f"{made.op} takes at most {found.max_input} inputs at opset {self.opset}")
        slots = [slot.type_str for slot in found.inputs]
        names = [self._operand(slot, operands, slots) for slot in range(len(operands))]
        name = self._node(made.op, names, attrs, made.outputs)
        for index in range(made.outputs):
            self._names[(id(made), index)] = name if index == 0 else f"{name}.{index}"
            kind = found.outputs[min(index, len(found.outputs) - 1)].type_str
            self._kinds[(id(made), index)] = self._slot_kind(kind, operands, slots)

    def _slot_kind(self, kind: str, operands: list[Any], slots: list[str]) -> Any:
        """The dtype of a slot: what it demands, or that of a value in a slot of the same type variable."""
        if kind.startswith("tensor("):
            name = kind[7:-1]
            return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
        for at, operand in enumerate(operands):
            if isinstance(operand, Traced) and slots[min(at, len(slots) - 1)] == kind:
                return self.kind(operand)
        return None

    def _operand(self, slot: int, operands: list[Any], slots: list[str]) -> str:
        value = operands[slot]
        if value is None:
            return ""
        if isinstance(value, Traced):
            return self._name(value)
        if isinstance(value, np.ndarray):
            return self._constant(value, self.wide(value.dtype), None)
        kind = slots[min(slot, len(slots) - 1)]
        dtype = self._slot_kind(kind, operands, slots)
        beside: Traced | None = None
        for at, operand in enumerate(operands):
            if isinstance(operand, Traced) and (slots[min(at, len(slots) - 1)] == kind or _is_float(value)):
                beside = operand
                break
        if dtype is None and beside is not None:
            dtype = self.kind(beside)
        return self._constant(value, dtype, beside)

    def _constant(self, value: Any, dtype: Any, like: Traced | None) -> str:
        """A constant in a known dtype, or in that of a value."""
        found = symbols_in(value)
        own = np.dtype(np.float32) if _is_float(value) else np.dtype(np.int64)
        if isinstance(value, np.ndarray):
            own = value.dtype
        known = dtype if isinstance(dtype, np.dtype) else None
        if isinstance(value, Symbol) and value.name not in self.values and self.opset >= SYMBOLIC_CONSTANT:
            name = self._node("Constant", [], {_constant_attribute(value.default): value})
            if known is not None and known != own:
                return self._node("Cast", [name], {"to": dtypes.to_onnx(known)})
        else:
            plain = self._value(value)
            array = np.asarray(plain, known if known is not None else own)
            name = self._fresh("c")
            attribute = helper.make_attribute("value", numpy_helper.from_array(array, name))
            node = helper.make_node("Constant", [], [name], name=name)
            node.attribute.append(attribute)
            self.nodes.append(node)
            if found:
                self.templates[name] = value
        if known is None and like is not None and self.kind(like) is OPEN:
            self._need_cast_like()
            return self._node("CastLike", [name, self._name(like)], {})
        return name

    def _need_cast_like(self) -> None:
        if self.opset < CAST_LIKE:
            raise Skip(f"CastLike needs opset {CAST_LIKE}")

    def _is_same(self, a: Any, b: np.dtype[Any]) -> bool:
        if not isinstance(a, np.dtype):
            return False
        return a == b or (self.narrow and dtypes.is_float(a) and dtypes.is_float(b))

    def _cast(self, made: Made, value: Any, dtype: Any) -> None:
        key = (id(made), 0)
        self._kinds[key] = dtype
        if not isinstance(value, Traced):
            self._names[key] = self._constant(value, dtype, None)
        elif self._is_same(self.kind(value), dtype):
            self._names[key], self._kinds[key] = self._name(value), self.kind(value)
        else:
            self._names[key] = self._node("Cast", [self._name(value)], {"to": dtypes.to_onnx(dtype)})

    def _cast_like(self, made: Made, operands: list[Any]) -> None:
        key, like = (id(made), 0), operands[1]
        self._kinds[key] = self.kind(like)
        if not isinstance(operands[0], Traced):
            self._names[key] = self._constant(operands[0], None, like)
            return
        if self.kind(operands[0]) is OPEN and self.kind(like) is OPEN:
            self._names[key] = self._name(operands[0])
            return
        self._need_cast_like()
        self._names[key] = self._node("CastLike", [self._name(operands[0]), self._name(like)], {})


def _attribute_type(default: Any) -> Any:
    if isinstance(default, tuple):
        return AttributeProto.FLOATS if any(isinstance(item, float) for item in default) else AttributeProto.INTS
    return _KINDS[type(default)]


def _constant_attribute(default: Any) -> str:
    if isinstance(default, tuple):
        return "value_floats" if any(isinstance(item, float) for item in default) else "value_ints"
    return "value_float" if isinstance(default, float) else "value_int"


def _is_float(value: Any) -> bool:
    if isinstance(value, Symbol):
        return _is_float(value.default)
    if isinstance(value, (list, tuple)):
        return any(_is_float(item) for item in value)
    return isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def _single(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return value[0]
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    listed = isinstance(value, (list, tuple)) or (isinstance(value, Symbol) and isinstance(value.default, tuple))
    return value if listed else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return numpy_helper.from_array(value)
    if isinstance(value, np.generic):
        return value.item()
    return int(value) if isinstance(value, bool) else value


def body_model(
    body: Body,
    opset: int,
    kinds: Mapping[str, Any],
    values: Mapping[str, Any],
    dims: Mapping[str, Any] | None = None,
    *,
    double: bool = False,
    narrow: bool = False,
) -> tuple[onnx.ModelProto, Emitter]:
    """The body as a model: its inputs are the layer's, of these dtypes and shapes; attributes have these values."""
    emitter = Emitter(body, opset, "", kinds, values, double, narrow)
    results = emitter.run()
    inputs = [
        helper.make_tensor_value_info(name, dtypes.to_onnx(emitter.wide(kinds[name])), (dims or {}).get(name))
        for name in body.present
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph(emitter.nodes, body.layer.name, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model), emitter
