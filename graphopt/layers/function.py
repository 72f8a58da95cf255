"""The ONNX model-local function that stands for a layer in a model, and the calls of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from graphopt.errors import PluginError
from graphopt.ir import dtypes
from graphopt.ir.external import Files
from graphopt.ir.reader import Reader
from graphopt.rewrite.build import Skip

from .emit import CAST_LIKE, Emitter
from .layer import DOMAIN, Layer
from .trace import trace

PREFIX = "Fused"
NAMESPACE = "plugin_namespace"
"""The attribute by which TensorRT 10.15 and later take the plugin in place of the function."""
PRESENT = "layer_inputs"
"""The attribute of a call that says which inputs are there, where some may be absent."""


@dataclass(frozen=True)
class Call:
    """One way to call a layer: the function's name, and what specializes it."""

    name: str
    layer: str
    present: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...]


def check_name(layer: Layer) -> None:
    """Raise PluginError where the name could be taken for an operator of ONNX or TensorRT."""
    name = layer.name
    if not name.startswith(PREFIX) or name == PREFIX:
        raise PluginError(
            f"a layer's name begins with {PREFIX!r}: TensorRT's parser would take {name!r} for an operator of its own",
            where=f"layer {name}",
            hint=f"rename it to {PREFIX}{name.removeprefix(PREFIX)}",
        )


def function_of(
    layer: Layer,
    opset: int,
    present: tuple[str, ...],
    fixed: Mapping[str, Any],
    kinds: Mapping[str, Any],
    values: Mapping[str, Any],
) -> onnx.FunctionProto:
    """The function for a call with these inputs, this variant, these dtypes and attribute values.

    It is shared by all calls that differ only in what it can refer to: dtypes (opset 15 and later) and attributes used
    as values. What it cannot is in its name: FusedX_<hash>.

    Raises Skip where the body cannot be said at this opset.
    """
    check_name(layer)
    body = trace(layer, opset, present, fixed)
    open_kinds = {name: None if name not in layer.types else kinds[name] for name in present}
    baked: dict[str, Any] = dict(fixed)
    typed: dict[str, str] = {}
    special: dict[str, Any] = {}
    if opset < CAST_LIKE:
        open_kinds = dict(kinds)
        typed = {name: dtypes.name(kinds[name]) for name in present}
    probe = _emit(body, opset, "_", open_kinds, baked)
    if probe.baked:
        baked.update({name: values[name] for name in probe.baked})
    for name in present:
        if name in layer.types and not isinstance(layer.types[name], str):
            typed[name] = dtypes.name(kinds[name])
    if present != layer.inputs:
        special["present"] = list(present)
    if baked:
        special["baked"] = {name: list(v) if isinstance(v, tuple) else v for name, v in sorted(baked.items())}
    if typed:
        special["dtypes"] = typed
    mark = hashlib.sha256(json.dumps(special, sort_keys=True).encode()).hexdigest()[:8] if special else ""
    name = f"{layer.name}_{mark}" if mark else layer.name
    emitter = Emitter(body, opset, f"{name}__", open_kinds, baked)
    outputs = emitter.run()
    proto = helper.make_function(
        DOMAIN,
        name,
        [f"{name}__{one}" for one in present],
        outputs,
        emitter.nodes,
        [helper.make_opsetid("", opset)],
        attributes=[*layer.attributes, *([PRESENT] if layer.optional else []), NAMESPACE],
    )
    proto.doc_string = (type(layer).__doc__ or "").strip().splitlines()[0] if type(layer).__doc__ else ""
    return proto


def _emit(body: Any, opset: int, prefix: str, kinds: Mapping[str, Any], values: Mapping[str, Any]) -> Emitter:
    emitter = Emitter(body, opset, prefix, kinds, values)
    emitter.run()
    return emitter


def call_attributes(layer: Layer, present: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a call: the layer's, which inputs there are, and whose creator TensorRT is to ask."""
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if layer.optional:
        found[PRESENT] = ",".join(present)
    return {**found, NAMESPACE: DOMAIN}


def add_function(graph: gs.Graph, proto: onnx.FunctionProto) -> gs.Function:
    """The function as one of the model's; the one of that name if there is one already.

    Raises Skip where the model has another function of this name.
    """
    for known in graph.functions:
        if known.name == proto.name:
            if (known.domain or "") != DOMAIN:
                raise Skip(f"the model has a function {proto.name} of domain {known.domain!r}")
            return known
    holder = onnx.ModelProto(ir_version=10)
    holder.opset_import.extend(proto.opset_import)
    holder.functions.append(proto)
    holder.graph.name = "holder"
    made = Reader(holder, Files(None)).read().functions[0]
    graph.functions.append(made)
    if all(entry.domain != DOMAIN for entry in graph.import_domains or ()):
        imports = list(graph.import_domains or [helper.make_opsetid("", graph.opset)])
        graph.import_domains = [*imports, helper.make_opsetid(DOMAIN, 1)]
    return made


def layer_values(layer: Layer, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a layer from those of a call, in the types of the declaration."""
    found = {}
    for name, default in layer.attributes.items():
        value = attrs.get(name, default)
        if isinstance(default, tuple):
            kind = float if any(isinstance(item, float) for item in default) else int
            found[name] = tuple(kind(item) for item in np.asarray(value).ravel().tolist())
        else:
            found[name] = type(default)(value)
    return found
