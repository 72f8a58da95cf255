"""The model's interface in dtypes that an engine can have, on request: by value nothing changes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.ir.graph import extras, new_node, new_variable, scopes

from .carried import CARRIER, NEVER_TAKEN, carrier, mark

_NEVER_PORTS = NEVER_TAKEN | {"int4", "float8e4m3fn", "float4e2m1"}


def promote_interface(graph: gs.Graph, target: Target) -> dict[str, str]:
    """Inputs and outputs of dtypes that no engine has, in the dtype that carries them; name -> 'uint16 as int32'.

    An input x of dtype D becomes one of the carrier's dtype, whose values must be those of D, followed by Cast to D; an
    output is cast to the carrier. Values of uint64 must be below 2**63.
    """
    if target.backend not in ("tensorrt", "tensorrt_rtx"):
        return {}
    told: dict[str, str] = {}
    for number, tensor in enumerate(list(graph.inputs)):
        name = dtypes.name(dtypes.of(tensor))
        if getattr(tensor, "type", "tensor_type") != "tensor_type" or name not in _NEVER_PORTS:
            continue
        narrow, wide = dtypes.of(tensor), carrier(dtypes.of(tensor))
        port = new_variable(tensor.name, wide, tensor.shape)
        tensor.name = f"{tensor.name}_{name}"
        graph.inputs[number] = port
        cast = new_node("Cast", [port], [tensor], {"to": dtypes.to_onnx(narrow)}, name=f"{tensor.name}_pack")
        mark(cast)
        graph.nodes.insert(0, cast)
        told[port.name] = f"{name} as {CARRIER[name]}"
    for number, tensor in enumerate(list(graph.outputs)):
        name = dtypes.name(dtypes.of(tensor)) if isinstance(tensor, gs.Variable) else "?"
        if name not in _NEVER_PORTS or tensor.type != "tensor_type":
            continue
        port = new_variable(tensor.name, carrier(dtypes.of(tensor)), tensor.shape)
        tensor.name = f"{tensor.name}_{name}"
        extras(tensor)
        graph.outputs[number] = port
        cast = new_node("Cast", [tensor], [port], {"to": dtypes.to_onnx(port.dtype)}, name=f"{port.name}_unpack")
        graph.nodes.append(cast)
        told[port.name] = f"{name} as {CARRIER[name]}"
    if told:
        taken = {node.name for scope in scopes(graph) for node in scope.nodes}
        assert len(taken) >= len(told)
    return told
