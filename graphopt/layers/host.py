"""Drives a layer's plugin through the life cycle that TensorRT documents, without TensorRT's builder.

Source: TensorRT documentation, "Plugin life cycle" of IPluginV3: created for the build, asked for dtypes, shapes and
formats, configured, asked for workspace and tactics, serialized; created again for the runtime, attached to a context,
told of shapes, enqueued, destroyed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

from .layer import Layer
from .plugin import FAILURES, creator
from .specification import Fields, Specification, data_type, numpy_type
from .tensor import WHOLE


class Number:
    """An IDimensionExpr of a known value that does not say so, as in a network of dynamic shapes."""

    def __init__(self, value: int, size_of: int | None = None) -> None:
        self.value, self.size_of = value, size_of

    def is_constant(self) -> bool:
        return False

    def is_size_tensor(self) -> bool:
        return self.size_of is not None

    def get_constant_value(self) -> int:
        return int(np.iinfo(np.int64).min)


class ExprBuilder:
    """IExprBuilder over numbers."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        """Output indices that were declared as size tensors."""

    def constant(self, value: int) -> Number:
        return Number(operator.index(value))

    def operation(self, kind: Any, first: Number, second: Number) -> Number:
        return Number(WHOLE[kind.name](first.value, second.value))

    def declare_size_tensor(self, output: int, usual: Number, bound: Number) -> Number:
        if usual.value > bound.value:
            raise GraphoptError(f"output {output}: the typical size {usual.value} is above the bound {bound.value}")
        self.sizes.append(output)
        return Number(bound.value, output)


@dataclass
class Prepared:
    """A plugin that is attached to a context, for inputs of these shapes."""

    plugin: Any
    input_desc: list[Any]
    output_desc: list[Any]
    outputs: list[tuple[np.dtype[Any], tuple[int, ...]]]
    """dtype and shape (at the upper bound) of every output, size tensors last."""
    sizes: list[tuple[int, int, int]]
    """(output, axis, output that holds the size) of data-dependent axes."""
    workspace_bytes: int
    tactics: list[int]

    def enqueue(
        self, inputs: Sequence[int], outputs: Sequence[int], workspace: int, stream: int, tactic: int = 0
    ) -> None:
        """Launch on device addresses. Raises GraphoptError in the layer's name."""
        _called(self.plugin.set_tactic, tactic)
        _called(self.plugin.enqueue, self.input_desc, self.output_desc, list(inputs), list(outputs), workspace, stream)

    def twin(self) -> Prepared:
        """A clone, as TensorRT makes one for another context."""
        return Prepared(
            _called(self.plugin.clone), self.input_desc, self.output_desc, self.outputs, self.sizes,
            self.workspace_bytes, self.tactics,
        )  # fmt: skip

    def destroy(self) -> None:
        self.plugin.destroy()


def prepare(
    trt: Any,
    layer: Layer,
    present: Sequence[str],
    tensors: Sequence[tuple[Any, Sequence[int]]],
    op: str = "",
) -> Prepared:
    """Take a layer from creation to an attached plugin, for inputs of these (dtype, shape).

    Raises GraphoptError where a callback fails or answers what TensorRT would refuse.
    """
    op = op or layer.name
    maker = creator(trt, type(layer), op)
    given = Fields(trt, Specification(layer, op, present))
    plugin = _created(maker, op, given.collection, trt.TensorRTPhase.BUILD)
    for kind in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        _demand(_called(plugin.get_capability_interface, kind) is not None, op, f"no capability {kind.name}")
    count = int(plugin.num_outputs)
    types = _called(plugin.get_output_data_types, [data_type(trt, kind) for kind, _ in tensors])
    _demand(len(types) == count, op, f"{len(types)} output types for {count} outputs of enqueue()")
    builder = ExprBuilder()
    dims = [[Number(int(dim)) for dim in shape] for _, shape in tensors]
    shapes = _called(plugin.get_output_shapes, dims, [], builder)
    _demand(len(shapes) == count, op, f"{len(shapes)} output shapes for {count} outputs of enqueue()")
    outputs = [
        (numpy_type(kind), tuple(number.value for number in shape)) for kind, shape in zip(types, shapes, strict=True)
    ]
    sizes = [
        (at, axis, number.size_of)
        for at, shape in enumerate(shapes)
        for axis, number in enumerate(shape)
        if number.size_of is not None
    ]
    ins = [_dynamic(trt, data_type(trt, kind), tuple(shape)) for kind, shape in tensors]
    outs = [_dynamic(trt, data_type(trt, kind), shape) for kind, shape in outputs]
    for position in range(len(ins) + count):
        fits = _called(plugin.supports_format_combination, position, [*ins, *outs], len(ins))
        _demand(bool(fits), op, f"tensor {position} is refused in linear layout and its own dtype")
    _called(plugin.configure_plugin, ins, outs)
    workspace = int(_called(plugin.get_workspace_size, ins, outs))
    _demand(workspace >= 0, op, f"a workspace of {workspace} bytes")
    tactics = list(_called(plugin.get_valid_tactics))
    distinct = len(set(tactics)) == len(tactics) and all(tactic > 0 for tactic in tactics)
    _demand(distinct, op, f"tactics {tactics} are not positive and distinct")
    stored = _called(plugin.get_fields_to_serialize)
    arrays = [np.array(one.data) for one in stored]  # what TensorRT writes into the engine, and reads back
    kept = [trt.PluginField(one.name, array, one.type) for one, array in zip(stored, arrays, strict=True)]
    runtime = _created(maker, op, trt.PluginFieldCollection(kept), trt.TensorRTPhase.RUNTIME)
    before, after = plugin.specification, runtime.specification
    same = repr(after.layer) == repr(before.layer) and after.present == before.present
    _demand(same, op, f"it is {before.layer} when serialized, {after.layer} when read back")
    _demand(after.layer.values == layer_rounded(layer), op, f"its attributes do not survive: {after.layer}")
    attached = _called(runtime.attach_to_context, None)
    input_desc = [one.desc for one in ins]
    output_desc = [one.desc for one in outs]
    _called(attached.on_shape_change, input_desc, output_desc)
    plugin.destroy()
    return Prepared(attached, input_desc, output_desc, outputs, sizes, workspace, tactics)


def layer_rounded(layer: Layer) -> dict[str, Any]:
    """The attributes' values with floats as ONNX stores them, in float32."""

    def rounded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(rounded(item) for item in value)
        return float(np.float32(value)) if isinstance(value, float) else value

    return {name: rounded(value) for name, value in layer.values.items()}


def _dynamic(trt: Any, kind: Any, shape: tuple[int, ...]) -> Any:
    found = trt.DynamicPluginTensorDesc()
    desc = trt.PluginTensorDesc()
    desc.dims, desc.type, desc.format = trt.Dims(shape), kind, trt.TensorFormat.LINEAR
    found.desc = desc
    found.min = found.opt = found.max = trt.Dims(shape)
    return found


def _created(maker: Any, op: str, given: Any, phase: Any) -> Any:
    plugin = _called(maker.create_plugin, op, given, phase)
    if plugin is None:
        raise GraphoptError(FAILURES[-1] if FAILURES else f"layer {op}: its creator made nothing")
    return plugin


def _called(method: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return method(*arguments)
    except RuntimeError as error:
        raise GraphoptError(str(error)) from None


def _demand(fits: bool, op: str, what: str) -> None:
    if not fits:
        raise GraphoptError(f"layer {op}: {what}")
