"""Layers and the model's inference: what a call's inputs must be, and what its outputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError, PluginError
from graphopt.ir import dtypes, shapes
from graphopt.rewrite.value import Value

from .function import PRESENT, layer_values
from .layer import DOMAIN, Layer
from .tensor import Dim, Size, Tensor

InferCall = Callable[[gs.Node], "list[tuple[Any, shapes.Shape]] | None"]


def known(value: Value | gs.Tensor | None) -> Tensor | None:
    """What the model knows of a value; None where dtype or rank are unknown."""
    if value is None:
        return None
    handle = value if isinstance(value, Value) else Value(value)
    dtype, shape = handle.dtype, handle.shape
    if dtype is None or shape is None:
        return None
    const = handle.const if handle.is_const and (handle.size or 0) <= 4096 else None
    return Tensor(dtype, tuple(_dim(dim) for dim in shape), const)


def _dim(dim: shapes.Dim) -> Any:
    if isinstance(dim, int):
        return dim
    return Dim("symbol", (dim,)) if dim is not None and shapes.same_dim(dim, dim) else Dim("unknown", (object(),))


def shape_of(tensor: Tensor) -> shapes.Shape:
    """A tensor's shape as the model writes it."""
    found: list[Any] = []
    for dim in tensor.shape:
        if isinstance(dim, Dim):
            found.append(dim.parts[0] if dim.kind == "symbol" else None)
        else:
            found.append(None if isinstance(dim, Size) else int(dim))
    return tuple(found)


def fit(layer: Layer, tensors: Mapping[str, Tensor | None], sizes: dict[str, Any] | None = None) -> str | None:
    """None if the inputs have the shapes that the layer declares, else what is wrong; `sizes`: what the names are."""
    sizes = {} if sizes is None else sizes
    for name, text in layer.shapes.items():
        given = tensors.get(name)
        if given is None:
            continue
        tokens = text.split()
        shape = list(given.shape)
        if tokens[:1] == ["..."]:
            tokens = tokens[1:]
            rest = len(shape) - len(tokens)
            if rest < 0:
                return f"{name} has {len(shape)} axes, the layer needs {text!r}"
            lead = tuple(shape[:rest])
            if not _same(sizes.setdefault("...", lead), lead):
                return f"the leading axes of {name} are not proved to be those of the inputs before it"
            shape = shape[rest:]
        if len(tokens) != len(shape):
            return f"{name} has {len(given.shape)} axes, the layer needs {text!r}"
        for token, dim in zip(tokens, shape, strict=True):
            wanted = int(token) if token.isdecimal() else sizes.setdefault(token, dim)
            if not _same((wanted,), (dim,)):
                return f"{name} has shape {text!r}: {token} is {_text(dim)}, not proved to be {_text(wanted)}"
    return None


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(
        isinstance(x, Dim) == isinstance(y, Dim) and x == y for x, y in zip(a, b, strict=True)
    )


def _text(dim: Any) -> str:
    return str(dim.parts[0] if dim.kind == "symbol" else "unknown") if isinstance(dim, Dim) else str(dim)


def wrong_dtype(layer: Layer, tensors: Mapping[str, Tensor | None]) -> str | None:
    """None if the inputs are of dtypes that the layer takes, else what is wrong."""
    first: Any = None
    for name, given in tensors.items():
        if given is None:
            continue
        if name in layer.types:
            allowed = layer.types[name]
            names = (allowed,) if isinstance(allowed, str) else allowed
            if given.dtype.name not in names:
                return f"{name} is {dtypes.name(given.dtype)}, the layer takes {' or '.join(names)}"
            continue
        if given.dtype.name not in layer.dtypes:
            return f"{name} is {dtypes.name(given.dtype)}, the layer takes {', '.join(layer.dtypes)}"
        if first is not None and first != given.dtype:
            return f"{name} is {dtypes.name(given.dtype)}, an input before it {dtypes.name(first)}"
        first = given.dtype
    return None


def outputs_of(layer: Layer, tensors: Mapping[str, Tensor | None]) -> list[Tensor]:
    """What `infer` says. Raises PluginError where it breaks the contract."""
    where = f"layer {layer.name}, infer()"
    try:
        result = layer.infer(*(tensors.get(name) for name in layer.inputs))
    except GraphoptError:
        raise
    except Exception as error:
        raise PluginError(f"it raised {type(error).__name__}: {error}", where=where) from error
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for one in results:
        if not isinstance(one, Tensor):
            raise PluginError(
                f"it returned {one!r}", where=where, hint="return an input, or graphopt.tensor(dtype, shape)"
            )
    return [Tensor(np.dtype(one.dtype), tuple(one.shape)) for one in results]


def bind(layer: type[Layer], node: gs.Node) -> tuple[Layer, dict[str, gs.Tensor]]:
    """The layer with the attributes of a call, and the inputs that are there."""
    made = layer(**layer_values(layer(), node.attrs))
    given = node.attrs.get(PRESENT)
    names = given.split(",") if isinstance(given, str) and given else list(made.inputs)
    return made, dict(zip(names, node.inputs, strict=False))


def inference(layers: Mapping[str, type[Layer]]) -> InferCall:
    """The types of the outputs of layer calls, for `ir.infer`."""

    def infer(node: gs.Node) -> list[tuple[Any, shapes.Shape]] | None:
        found = layers.get(node.op.partition("_")[0]) if node.domain == DOMAIN else None
        if found is None:
            return None
        layer, given = bind(found, node)
        tensors = {name: known(tensor) for name, tensor in given.items()}
        if any(tensor is None for tensor in tensors.values()):
            return None
        return [(one.dtype, shape_of(one)) for one in outputs_of(layer, tensors)]

    return infer
