"""Operators of torch.library that a custom layer stands for: their calls become calls of the layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from graphopt.errors import ModelError
from graphopt.layers.function import call_attributes, function_of
from graphopt.layers.layer import DOMAIN, Layer
from graphopt.rewrite.build import Skip

_ANY = sorted(f"tensor({name})" for name in (
    "float float16 bfloat16 double int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
))  # fmt: skip


class LayerCalls:
    """Translations of operators into calls; `finish` gives the model the functions that they call."""

    def __init__(self, layers: Sequence[type[Layer]]) -> None:
        self.used: dict[tuple[str, str], tuple[Layer, tuple[str, ...], dict[str, Any]]] = {}
        """(domain, name) of a call in the exported model -> layer, present inputs, their dtypes."""
        self.table: dict[Any, Callable[..., Any]] = {}
        self.names: dict[str, str] = {}
        for layer in layers:
            if layer.torch_op:
                overload = _overload(layer)
                if overload is not None:
                    self.table[overload] = self._translation(layer, overload)
                    self.names[layer.torch_op] = layer.__name__

    def _translation(self, cls: type[Layer], overload: Any) -> Callable[..., Any]:
        def translate(*args: Any, **kwargs: Any) -> Any:
            bound = dict(zip((one.name for one in overload._schema.arguments), args, strict=False)) | kwargs
            inputs, values = _arguments(cls, overload, bound)
            layer = cls(**values)
            present = tuple(name for name in layer.inputs if inputs.get(name) is not None)
            kinds = {name: np.dtype(inputs[name].dtype.numpy()) for name in present}
            domain = overload.namespace
            key = (domain, f"{cls.__name__}_{len(self.used)}")
            self.used[key] = (layer, present, kinds)
            return _call(key, [inputs[name] for name in present], len(overload._schema.returns))

        return translate

    def finish(self, path: Path) -> list[str]:
        """Writes the functions into the model file; what was done, one line a layer. Raises ModelError."""
        if not self.used:
            return []
        model = onnx.load(path, load_external_data=False)
        opset = next(one.version for one in model.opset_import if not one.domain)
        known: set[str] = set()
        for node in _nodes(model):
            if (node.domain, node.op_type) not in self.used:
                continue
            layer, present, kinds = self.used[node.domain, node.op_type]
            function = _function(layer, opset, present, kinds)
            if function.name not in known:
                known.add(function.name)
                model.functions.append(function)
            node.domain, node.op_type = DOMAIN, function.name
            del node.attribute[:]
            attributes = call_attributes(layer, present, layer.values)
            node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        others = [one for one in model.opset_import if one.domain not in {domain for domain, _ in self.used}]
        del model.opset_import[:]
        model.opset_import.extend([*others, onnx.helper.make_opsetid(DOMAIN, 1)])
        path.write_bytes(model.SerializeToString())
        return [
            f"{op} is layer {name}" for op, name in self.names.items() if any(one.startswith(name) for one in known)
        ]


def _function(layer: Layer, opset: int, present: tuple[str, ...], kinds: dict[str, Any]) -> onnx.FunctionProto:
    values = layer.values
    fixed = [one for one in layer.variants if all(values[name] == value for name, value in one.items())]
    if not fixed:
        raise ModelError(f"layer {layer!r}: none of its variants has these attributes", where=layer.torch_op)
    try:
        return function_of(layer, opset, present, fixed[0], kinds, values)
    except Skip as skip:
        raise ModelError(f"layer {layer.name} cannot be said at opset {opset}: {skip}", where=layer.torch_op) from skip


def _overload(layer: type[Layer]) -> Any:
    """The operator, or None where nothing has registered it: then no model can call it."""
    space, mark, name = layer.torch_op.partition("::")
    if not mark or not name:
        raise ModelError(f"torch_op {layer.torch_op!r} is no operator: write namespace::name", where=layer.__name__)
    name, _, overload = name.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, space), name), overload or "default")
    except AttributeError:
        return None


def _arguments(cls: type[Layer], overload: Any, bound: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(layer input -> value, attribute -> value) of a call."""
    layer = cls()
    tensors: list[tuple[str, Any]] = []
    values: dict[str, Any] = {}
    for argument in overload._schema.arguments:
        given = bound.get(argument.name, argument.default_value if argument.has_default_value() else None)
        if "Tensor" in str(argument.type):
            tensors.append((argument.name, given))
        elif argument.name in layer.attributes:
            if given is not None:
                default = layer.attributes[argument.name]
                values[argument.name] = tuple(given) if isinstance(default, tuple) else type(default)(given)
        elif given is not None and not (argument.has_default_value() and given == argument.default_value):
            raise ModelError(
                f"layer {cls.__name__} has no attribute {argument.name!r}, which {cls.torch_op} is called with"
            )
    if len(tensors) > len(layer.inputs):
        raise ModelError(f"{cls.torch_op} takes {len(tensors)} tensors, layer {cls.__name__} {len(layer.inputs)}")
    same = {name for name, _ in tensors} <= set(layer.inputs)
    names = [name for name, _ in tensors] if same else layer.inputs
    return dict(zip(names, (value for _, value in tensors), strict=False)), values


def _call(key: tuple[str, str], inputs: list[Any], count: int) -> Any:
    """A node of that domain and name, traced into the graph that is being exported."""
    import onnxscript

    schema = onnx.defs.OpSchema
    ports = [schema.FormalParameter(f"i{index}", f"T{index}") for index in range(len(inputs))]
    results = [schema.FormalParameter(f"o{index}", f"R{index}") for index in range(count)]
    kinds = [(one.type_str, _ANY, "") for one in (*ports, *results)]
    made = schema(key[1], key[0], 1, inputs=ports, outputs=results, type_constraints=kinds)
    return onnxscript.values.Op(onnxscript.values.Opset(key[0], 1), key[1], made)(*inputs)


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.append(node)
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
    return [*found, *(node for function in model.functions for node in function.node)]
