"""The `op` of a rewrite: `op.Name(inputs..., attribute=value)` makes a node, spelled as the model's opset wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import PassError
from graphopt.ir import dtypes
from graphopt.ir.edits import Editor
from graphopt.ir.graph import new_node, new_variable
from graphopt.ir.infer import Inference

from .authoring import wrong_call
from .spelling import moved, room, schema
from .value import Value


class Skip(Exception):
    """Raised inside `rewrite` to leave the match alone; the reason is shown by `graphopt explain`."""


class Ops:
    """Makes the nodes of one rewrite; they join the graph when it succeeds, and vanish when it does not."""

    def __init__(
        self,
        editor: Editor,
        inference: Inference,
        at: gs.Node,
        opset: int,
        imports: Sequence[Any],
        replaced: Sequence[gs.Node] = (),
    ) -> None:
        self._editor = editor
        self._inference = inference
        self._at = at
        self._domain = ""
        self._imports = imports
        self._replaced = replaced
        self.opset = opset
        """The opset of the model or function that is being rewritten."""
        self.made: list[gs.Node] = []

    def domain(self, name: str) -> Ops:
        """Operators of another domain: `op.domain("com.x").Foo(...)`."""
        other = object.__new__(Ops)
        other.__dict__.update(self.__dict__)
        other._domain = name
        return other

    def const(self, values: Any, dtype: Any = None) -> Value:
        """A constant of these values."""
        return Value(self._editor.constant(np.asarray(values, dtype)), ops=self)

    def infer(self, tensor: gs.Tensor) -> None:
        """Work out the type of a value that this rewrite made."""
        for node in self.made:
            if any(made is tensor for made in node.outputs):
                self._inference.node(node, self._imports)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not name[0].isupper():
            raise AttributeError(name)
        return partial(self._node, name)

    def _node(self, name: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> Any:
        operands: list[Any] = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        attrs = {key: _plain(value) for key, value in attrs.items() if value is not None}
        if not self._domain:
            operands = self._respell(name, operands, attrs)
            found = room(name, self.opset)
            if found is None or len(operands) > found[1] or not found[0].issuperset(attrs):
                wrong = wrong_call(name, attrs, len(operands))
                if wrong is not None:
                    raise PassError(wrong[0], where="rewrite()", hint=wrong[1])
                if found is None:
                    raise Skip(f"{name} does not exist at opset {self.opset}")
                for key in attrs:
                    if key not in found[0]:
                        raise Skip(f"{name} has no attribute {key!r} at opset {self.opset}")
                raise Skip(f"{name} takes at most {found[1]} inputs at opset {self.opset}")
        tensors = [self._tensor(name, slot, value, operands) for slot, value in enumerate(operands)]
        called = self._editor.fresh(self._stem(name))
        made = [new_variable(self._editor.fresh(f"{called}_out")) for _ in range(outputs)]
        node = new_node(name, tensors, made, attrs, name=called, domain=self._domain)
        self.made.append(node)
        values = tuple(Value(tensor, ops=self) for tensor in made)
        return values[0] if outputs == 1 else values

    def raw(self, name: str, inputs: Sequence[Any], attrs: dict[str, Any], outputs: int) -> tuple[Value, ...]:
        """A node spelled as the model's opset spells it already, with all its attributes; the values it makes."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        tensors = [self._tensor(name, slot, value, operands) for slot, value in enumerate(operands)]
        called = self._editor.fresh(self._stem(name))
        made = [new_variable(self._editor.fresh(f"{called}_out")) for _ in range(outputs)]
        self.made.append(new_node(name, tensors, made, attrs, name=called, domain=self._domain))
        return tuple(Value(tensor, ops=self) for tensor in made)

    def _stem(self, op: str) -> str:
        """A new node is called after the node it stands for: the matched one of its operator, else the root."""
        alike = next((node.name for node in self._replaced if node.op == op), "")
        return alike or (self._at.name if self._replaced else "") or op

    def _respell(self, name: str, operands: list[Any], attrs: dict[str, Any]) -> list[Any]:
        """Put the operands that this opset still keeps in attributes there."""
        for entry in moved(name, self.opset):
            value = operands[entry.slot] if entry.slot < len(operands) else None
            if value is None:
                continue
            array = value.const if isinstance(value, Value) else np.asarray(value)
            if array is None:
                raise Skip(f"{name} needs constant {entry.attribute} at opset {self.opset}")
            attrs[entry.attribute] = array.item() if array.size == 1 and _is_scalar(entry) else array.ravel().tolist()
            operands[entry.slot] = None
        while operands and operands[-1] is None:
            operands.pop()
        return operands

    def _tensor(self, name: str, slot: int, value: Any, operands: list[Any]) -> gs.Tensor:
        if value is None:
            return new_variable("")
        if isinstance(value, gs.Tensor):
            return value
        if isinstance(value, Value):
            if value.tensor is not None:
                return value.tensor
            value = value.array
        if not isinstance(value, (np.ndarray, np.generic)):
            value = np.asarray(value, self._dtype(name, slot, operands) or _guess(value))
        return self._editor.constant(value, f"{name}_const")

    def _dtype(self, name: str, slot: int, operands: list[Any]) -> Any:
        """The dtype that a Python number gets: the one its slot demands, or shares with a tensor beside it."""
        kinds = _slots(name, self.opset) if not self._domain else ()
        kind = kinds[min(slot, len(kinds) - 1)] if kinds else "T"
        if kind.startswith("tensor("):
            return {"tensor(float)": np.float32, "tensor(bool)": np.bool_}.get(kind, np.dtype(kind[7:-1]))
        for other, operand in enumerate(operands):
            same = not kinds or kinds[min(other, len(kinds) - 1)] == kind
            if same and isinstance(operand, (Value, gs.Tensor)):
                return operand.dtype if isinstance(operand, Value) else dtypes.of(operand)
        if isinstance(operands[slot], float):  # Pow's exponent may be of any dtype; its base's is the natural one
            first = next((o for o in operands if isinstance(o, (Value, gs.Tensor))), None)
            dtype = first.dtype if isinstance(first, Value) else dtypes.of(first) if first is not None else None
            return dtype if dtypes.is_float(dtype) else None
        return None

    def abort(self) -> None:
        """Unlink everything that was made."""
        for node in self.made:
            node.inputs.clear()
        self.made.clear()

    def value(self, result: Any, like: gs.Tensor) -> gs.Tensor:
        """What `rewrite` returned, as a tensor."""
        if isinstance(result, Value):
            if result.tensor is not None:
                return result.tensor
            result = result.array
        if isinstance(result, gs.Tensor):
            return result
        if isinstance(result, (np.ndarray, np.generic, int, float, list, tuple)):
            array = np.asarray(result, None if isinstance(result, (np.ndarray, np.generic)) else dtypes.of(like))
            return self._editor.constant(array, like.name)
        raise PassError(f"rewrite() returned {type(result).__name__}; it must return a value, or a tuple of them")


def _guess(value: Any) -> Any:
    array = np.asarray(value)
    return np.float32 if array.dtype.kind == "f" else np.int64 if array.dtype.kind in "iu" else array.dtype


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, bool) else value


def _is_scalar(entry: Any) -> bool:
    return entry.attribute in ("min", "max", "value", "k", "ratio")


@cache
def _slots(name: str, opset: int) -> tuple[str, ...]:
    found = schema(name, opset)
    return tuple(slot.type_str for slot in found.inputs) if found is not None else ()
