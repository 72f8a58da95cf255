"""A layer as TensorRT's IPluginV3, and its creator.

Source: TensorRT's documentation of IPluginV3OneCore, IPluginV3OneBuildV2, IPluginV3OneRuntime, IPluginCreatorV3One.
Never register a creator with TensorRT-RTX: it has no plugins, and its parser ends the process on meeting one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np

from graphopt.errors import BackendError

from . import buffers
from .layer import DOMAIN, Layer
from .specification import DATA_TYPES, Fields, Specification, data_type, numpy_type, read_fields, sizes_of, upper
from .tensor import Dim, Size, Tensor

VERSION = "1"


class Failures(list[str]):
    """What went wrong inside callbacks, latest last."""


FAILURES = Failures()
"""Of this process: TensorRT tells its caller only that a plugin failed."""


def _told(method: Callable[..., Any]) -> Callable[..., Any]:
    """An exception leaves a callback as one sentence that names the layer; the bindings make a status of it."""

    @wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except Exception as error:
            what = f"layer {self.specification.op}, {method.__name__}(): {type(error).__name__}: {error}"
            FAILURES.append(what)
            raise RuntimeError(what) from None

    return call


_CLASSES: dict[tuple[int, bool], type] = {}


def plugin_class(trt: Any, in_place: bool) -> type:
    """The class of plugins over this module's interfaces (`tensorrt`, or another that has them)."""
    key = (id(trt), in_place)
    if key not in _CLASSES:
        _CLASSES[key] = _make_plugin_class(trt, trt.IPluginV3OneBuildV2 if in_place else trt.IPluginV3OneBuild)
    return _CLASSES[key]


def _make_plugin_class(trt: Any, build: Any) -> type:
    class LayerPlugin(trt.IPluginV3, trt.IPluginV3OneCore, build, trt.IPluginV3OneRuntime):  # type: ignore[misc]
        """A layer, as TensorRT sees it."""

        def __init__(self, specification: Specification) -> None:
            for base in (trt.IPluginV3, trt.IPluginV3OneCore, build, trt.IPluginV3OneRuntime):
                base.__init__(self)
            layer = specification.layer
            self.specification = specification
            self.plugin_name, self.plugin_version, self.plugin_namespace = specification.op, VERSION, DOMAIN
            self.num_outputs = len(layer.outputs)
            self.timing_cache_id = ""
            self.tactic = 0
            self._views: tuple[Any, list[Any]] | None = None
            self._fields: Fields | None = None

        def get_capability_interface(self, type: Any) -> Any:
            return self

        # -- build -------------------------------------------------------------------------------------------------

        @_told
        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            kinds, sizes = self.specification.kinds([numpy_type(kind) for kind in input_types])
            return [data_type(trt, kind) for kind in kinds] + [trt.DataType.INT32] * sizes

        @_told
        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], expr_builder: Any) -> list[Any]:
            layer, present = self.specification.layer, self.specification.present
            given = [
                Tensor(np.dtype(_some_dtype(layer, name)), tuple(_from_expression(dim) for dim in _items(dims)))
                for name, dims in zip(present, inputs, strict=True)
            ]
            outputs = self.specification.outputs(given)
            sizes = sizes_of(outputs)
            declared: list[Any] = []
            for at, size in enumerate(sizes):
                bound = _expression(trt, expr_builder, size.upper)
                usual = bound if size.typical is None else _expression(trt, expr_builder, size.typical)
                declared.append(expr_builder.declare_size_tensor(len(outputs) + at, usual, bound))

            def expression(dim: Any) -> Any:
                if isinstance(dim, Size):
                    return declared[next(at for at, size in enumerate(sizes) if size is dim)]
                return _expression(trt, expr_builder, dim)

            shapes = [[expression(dim) for dim in one.shape] for one in outputs] + [[] for _ in sizes]
            if inputs and not isinstance(inputs[0], trt.DimsExprs):
                return shapes
            return [trt.DimsExprs(shape) if shape else trt.DimsExprs(0) for shape in shapes]

        @_told
        def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
            desc = in_out[pos].desc
            if desc.format != trt.TensorFormat.LINEAR or desc.type.name not in DATA_TYPES.values():
                return False
            layer, present = self.specification.layer, self.specification.present
            kind = numpy_type(desc.type).name
            if pos < num_inputs:
                name = present[pos]
                allowed = layer.types.get(name, layer.dtypes)
                if kind not in ((allowed,) if isinstance(allowed, str) else allowed):
                    return False
                others = [in_out[at].desc.type for at in range(pos) if present[at] not in layer.types]
                return name in layer.types or all(other == desc.type for other in others)
            wanted = self.get_output_data_types([one.desc.type for one in in_out[:num_inputs]])
            return bool(wanted[pos - num_inputs] == desc.type)

        @_told
        def configure_plugin(self, inp: Sequence[Any], out: Sequence[Any]) -> None:
            return None

        @_told
        def get_workspace_size(self, inp: Sequence[Any], out: Sequence[Any]) -> int:
            given = [Tensor(numpy_type(one.desc.type), tuple(one.max)) for one in inp]
            made = [Tensor(one.dtype, upper(one)) for one in self.specification.outputs(given)]
            return int(self.specification.layer.workspace(*given, *made))

        @_told
        def get_valid_tactics(self) -> list[int]:
            return [int(tactic) for tactic in self.specification.layer.tactics()]

        @_told
        def get_aliased_input(self, output_index: int) -> int:
            layer = self.specification.layer
            source = layer.in_place.get(layer.outputs[output_index])
            return self.specification.present.index(source) if source in self.specification.present else -1

        # -- runtime -----------------------------------------------------------------------------------------------

        @_told
        def set_tactic(self, tactic: int) -> None:
            self.tactic = int(tactic)

        @_told
        def on_shape_change(self, inp: Sequence[Any], out: Sequence[Any]) -> None:
            self._views = None

        @_told
        def attach_to_context(self, resource_context: Any) -> Any:
            return self.clone()

        @_told
        def clone(self) -> Any:
            twin = type(self)(self.specification)
            twin.tactic = self.tactic
            return twin

        @_told
        def get_fields_to_serialize(self) -> Any:
            self._fields = Fields(trt, self.specification)
            return self._fields.collection

        @_told
        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            layer = self.specification.layer
            key = (*inputs, *outputs, workspace, *(tuple(one.dims) for one in input_desc))
            if self._views is None or self._views[0] != key:
                self._views = key, self._arguments(input_desc, inputs, outputs)
            arrays = self._views[1]
            extra: dict[str, Any] = {}
            if "workspace" in layer.named:
                given = [Tensor(numpy_type(one.type), tuple(one.dims)) for one in input_desc]
                made = [Tensor(one.dtype, upper(one)) for one in self.specification.outputs(given)]
                extra["workspace"] = buffers.array(workspace, np.uint8, (int(layer.workspace(*given, *made)),))
            if "tactic" in layer.named:
                extra["tactic"] = self.tactic or next(iter(layer.tactics()), 0)
            made_arrays = arrays[len(layer.inputs) :]
            if all(one.size == 0 for one in made_arrays):
                return
            with buffers.stream(stream):
                layer.enqueue(*arrays, **extra)

        def _arguments(self, input_desc: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int]) -> list[Any]:
            layer, present = self.specification.layer, self.specification.present
            given = [Tensor(numpy_type(one.type), tuple(one.dims)) for one in input_desc]
            views: dict[str, Any] = dict.fromkeys(layer.inputs)
            for name, tensor, pointer in zip(present, given, inputs, strict=True):
                views[name] = buffers.array(pointer, tensor.dtype, tensor.shape)
            made = self.specification.outputs(given)
            kinds = [(one.dtype, upper(one)) for one in made]
            kinds += [(np.dtype(np.int32), ())] * len(sizes_of(made))
            results = [buffers.array(at, *kind) for at, kind in zip(outputs, kinds, strict=True)]
            return [*views.values(), *results]

        def destroy(self) -> None:
            self._views = None

    return LayerPlugin


_CREATORS: dict[int, type] = {}


def creator(trt: Any, layer: type[Layer], op: str) -> Any:
    """The creator of plugins of this layer under this operator name (a specialization has a name of its own)."""
    if id(trt) not in _CREATORS:
        _CREATORS[id(trt)] = _make_creator_class(trt)
    return _CREATORS[id(trt)](layer, op)


def _make_creator_class(trt: Any) -> type:
    class LayerCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, layer: type[Layer], op: str) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.layer = layer
            self.specification = Specification(layer(), op, layer().inputs)
            self.name, self.plugin_version, self.plugin_namespace = op, VERSION, DOMAIN
            self._fields = Fields(trt, self.specification)
            self.field_names = self._fields.collection

        def create_plugin(self, name: str, field_collection: Any, phase: Any) -> Any:
            try:
                specification = read_fields(self.layer, self.name, field_collection)
                return plugin_class(trt, bool(self.layer.in_place))(specification)
            except Exception as error:
                FAILURES.append(f"layer {self.name}, create_plugin(): {type(error).__name__}: {error}")
                return None

    return LayerCreator


def register(trt: Any, registry: Any, layers: Mapping[str, type[Layer]], ops: Iterable[str]) -> list[Any]:
    """Register a creator for each operator name that is a layer's; keep what is returned while they are used.

    Raises BackendError where TensorRT has no plugins (TensorRT-RTX), or refuses one.
    """
    if not hasattr(trt.INetworkDefinition, "add_plugin_v3"):
        raise BackendError(f"{trt.__name__} has no plugins", hint="it runs the layers' bodies instead")
    made = []
    for op in sorted(set(ops)):
        layer = layers.get(op.partition("_")[0])
        if layer is None or registry.get_creator(op, VERSION, DOMAIN) is not None:
            continue
        one = creator(trt, layer, op)
        if not registry.register_creator(one, DOMAIN):
            raise BackendError(f"TensorRT refuses the creator of layer {op}")
        made.append(one)
    return made


def _some_dtype(layer: Layer, name: str) -> str:
    allowed = layer.types.get(name, layer.dtypes)
    return allowed if isinstance(allowed, str) else allowed[0]


def _items(dims: Any) -> list[Any]:
    return [dims[at] for at in range(len(dims))]


def _from_expression(expression: Any) -> Any:
    if expression.is_constant():
        return int(expression.get_constant_value())
    return Dim("expression", (expression,))


def _expression(trt: Any, builder: Any, dim: Any) -> Any:
    if not isinstance(dim, Dim):
        return builder.constant(int(dim))
    if dim.kind == "expression":
        return dim.parts[0]
    first, second = (_expression(trt, builder, part) for part in dim.parts)
    return builder.operation(getattr(trt.DimensionOperation, dim.kind), first, second)
