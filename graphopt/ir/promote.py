"""The model's interface in dtypes that an engine can have, on request: by value nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.config import Target

from . import dtypes
from .graph import extras, new_node, new_variable, peek

CARRIER: dict[str, str] = {
    "int16": "int32",
    "uint16": "int32",
    "int8": "int32",
    "uint8": "int32",
    "int4": "int32",
    "uint4": "int32",
    "int2": "int32",
    "uint2": "int32",
    "uint32": "int64",
    "uint64": "int64",
    "float8e4m3fn": "float32",
    "float8e4m3fnuz": "float32",
    "float8e5m2": "float32",
    "float8e5m2fnuz": "float32",
    "float8e8m0": "float32",
    "float4e2m1": "float32",
}
"""uint64 is carried below 2**63: int64 holds no more, and neither does an engine's interface."""
NEVER_TAKEN = frozenset(CARRIER) - {"int8", "uint8", "int4", "float8e4m3fn", "float4e2m1"}
"""Dtypes for which TensorRT has no tensors at all."""
_MARK = "graphopt.pack"
NEVER_PORTS = NEVER_TAKEN | {"int4", "float8e4m3fn", "float4e2m1"}
"""Dtypes that no input or output of an engine has."""


def carrier(dtype: Any) -> np.dtype[Any] | None:
    """The dtype in which values of a dtype are carried, None for one that needs no carrier."""
    found = CARRIER.get(dtypes.name(dtype))
    return None if found is None else np.dtype(found)


def is_pack(node: gs.Node | None) -> bool:
    """Whether a node is a Cast to a dtype that holds the value anyway."""
    known = peek(node) if node is not None else None
    return known is not None and _MARK in known.metadata


def mark(node: gs.Node) -> None:
    """Note of a Cast that its operand holds a value of the dtype that it casts to."""
    extras(node).metadata[_MARK] = "1"


def promote_interface(graph: gs.Graph, target: Target) -> dict[str, str]:
    """Inputs and outputs of dtypes that no engine has, in the dtype that carries them; name -> 'uint16 as int32'.

    An input x of dtype D becomes one of the carrier's dtype, followed by Cast to D; an output is cast to the carrier.
    Values of uint64 must be below 2**63.
    """
    if target.backend not in ("tensorrt", "tensorrt_rtx"):
        return {}
    told: dict[str, str] = {}
    for number, tensor in enumerate(list(graph.inputs)):
        name = dtypes.name(dtypes.of(tensor))
        if getattr(tensor, "type", "tensor_type") != "tensor_type" or name not in NEVER_PORTS:
            continue
        narrow, wide = dtypes.of(tensor), carrier(dtypes.of(tensor))
        port = new_variable(tensor.name, wide, tensor.shape)
        tensor.name = f"{tensor.name}_{name}"
        graph.inputs[number] = port
        cast = new_node("Cast", [port], [tensor], {"to": dtypes.to_onnx(narrow)}, name=f"{tensor.name}_pack")
        if name == "float8e8m0":  # to which nothing rounds
            mark(cast)
        graph.nodes.insert(0, cast)
        told[port.name] = f"{name} as {CARRIER[name]}"
    for number, tensor in enumerate(list(graph.outputs)):
        name = dtypes.name(dtypes.of(tensor)) if isinstance(tensor, gs.Variable) else "?"
        if name not in NEVER_PORTS or tensor.type != "tensor_type":
            continue
        port = new_variable(tensor.name, carrier(dtypes.of(tensor)), tensor.shape)
        tensor.name = f"{tensor.name}_{name}"
        extras(tensor)
        graph.outputs[number] = port
        cast = new_node("Cast", [tensor], [port], {"to": dtypes.to_onnx(port.dtype)}, name=f"{port.name}_unpack")
        graph.nodes.append(cast)
        told[port.name] = f"{name} as {CARRIER[name]}"
    return told
