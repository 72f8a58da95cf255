"""What goes into and comes out of a model, read without its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.errors import ModelError

Dim = int | str | None
"""A fixed size, a symbol shared by all dimensions of that name, or unknown."""

_KEPT_BYTES = 4096
_ANONYMOUS = re.compile(r"\??|unk__\d+|None|-1")


@dataclass(frozen=True)
class Port:
    """An input or output: elem_type is onnx's number; dims is None where not even the rank is known.

    kind: 'tensor', 'sequence', 'optional' (of a tensor), or 'unsupported'. required: False for an input with a default.
    """

    name: str
    elem_type: int
    dims: tuple[Dim, ...] | None
    kind: str = "tensor"
    required: bool = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy (ml_dtypes) dtype; object for strings."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.elem_type))

    @property
    def dtype_name(self) -> str:
        return "string" if self.elem_type == onnx.TensorProto.STRING else str(self.dtype.name)


def read_outline(model: str | Path | bytes) -> onnx.ModelProto:
    """The model with its graph, and of its weights only names, dtypes and dims (small ones keep their values).

    Raises ModelError.
    """
    where = "model" if isinstance(model, bytes) else str(model)
    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load(str(model), load_external_data=False)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from error
    except Exception as error:  # protobuf's own, whose type its implementations do not share
        raise ModelError("is no ONNX model", where=where, hint=str(error)) from error
    if not proto.HasField("graph"):
        raise ModelError("is no ONNX model: it has no graph", where=where)
    for tensor in proto.graph.initializer:
        _strip(tensor)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _strip(attribute.t)
    return proto


def _strip(tensor: onnx.TensorProto) -> None:
    if tensor.ByteSize() <= _KEPT_BYTES:
        return
    bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    tensor.CopyFrom(bare)


def input_ports(model: onnx.ModelProto) -> list[Port]:
    """The graph's inputs in order; those with an initializer of the same name are not required."""
    defaults = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [_port(value, value.name not in defaults) for value in model.graph.input]


def output_ports(model: onnx.ModelProto) -> list[Port]:
    """The graph's outputs in order."""
    return _ports(model.graph.output)


def _ports(values: Iterable[onnx.ValueInfoProto]) -> list[Port]:
    return [_port(value, True) for value in values]


def _port(value: onnx.ValueInfoProto, required: bool) -> Port:
    kind, type_ = "tensor", value.type
    if type_.HasField("optional_type"):
        kind, type_ = "optional", type_.optional_type.elem_type
    if type_.HasField("sequence_type"):
        kind = "sequence" if kind == "tensor" else "unsupported"
        type_ = type_.sequence_type.elem_type
    if not type_.HasField("tensor_type"):
        return Port(value.name, 0, None, "unsupported", required)
    tensor = type_.tensor_type
    dims = dims_of(tensor.shape) if tensor.HasField("shape") else None
    return Port(value.name, tensor.elem_type, dims, kind, required)


def dims_of(shape: onnx.TensorShapeProto) -> tuple[Dim, ...]:
    """The dims of a TensorShapeProto; negative sizes and placeholder names ('?', 'unk__7') are unknown."""
    found: list[Dim] = []
    for dim in shape.dim:
        if dim.HasField("dim_value"):
            found.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            found.append(None if _ANONYMOUS.fullmatch(dim.dim_param) else dim.dim_param)
    return tuple(found)
