"""Which values an input may hold, read from what consumes it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner

from .ports import Dim, Port, dims_of, input_ports


@dataclass(frozen=True)
class Values:
    """What an input may hold.

    kind: 'any'; 'span', in [low, high) for ints and [low, high] for floats; 'index', in [0, high); 'mask', rows of
    ones and then zeros; 'fixed', all low; 'axes', 0, 1, 2, ...; 'reshape', ones and then -1.
    high: a number, or the symbol of a dimension whose size is the bound.
    """

    kind: str = "any"
    low: float = 0.0
    high: float | str = 0.0


@dataclass(frozen=True)
class Input(Port):
    """An input of a model and the values that it may hold."""

    values: Values = Values()


_STRENGTH = {"reshape": 6, "axes": 5, "fixed": 4, "index": 3, "mask": 2, "span": 1, "any": 0}

_FIRST_INPUT_PASSES = frozenset(
    {"Cast", "CastLike", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Transpose", "Flatten", "Slice", "Split"}
    | {"Expand", "Tile", "Gather", "Pad"}
)
_ALL_INPUTS_PASS = frozenset({"Concat"})
_SHIFTS = frozenset({"Add", "Sub", "Mul"})

_ONE, _ZERO = Values("fixed", 1), Values("fixed", 0)
_ROLES: Mapping[tuple[str, int], Values] = {
    ("Reshape", 1): Values("reshape"),
    ("Expand", 1): _ONE,
    ("Tile", 1): Values("span", 1, 3),
    ("TopK", 1): _ONE,
    ("Slice", 1): _ZERO,
    ("Slice", 2): Values("span", 1, 4),
    ("Slice", 3): Values("axes"),
    ("Slice", 4): _ONE,
    ("Range", 0): _ZERO,
    ("Range", 1): Values("span", 1, 8),
    ("Range", 2): _ONE,
    ("ConstantOfShape", 0): Values("span", 1, 4),
    ("OneHot", 0): Values("index", 0, 4),
    ("OneHot", 1): Values("span", 4, 9),
    ("Pad", 1): Values("span", 0, 3),
    ("Pad", 3): Values("axes"),
    ("Unsqueeze", 1): Values("axes"),
    ("Squeeze", 1): Values("axes"),
    ("CumSum", 1): _ZERO,
    ("Trilu", 1): Values("span", -1, 2),
    ("Loop", 0): Values("span", 1, 4),
    ("NonMaxSuppression", 2): Values("span", 1, 8),
    ("NonMaxSuppression", 3): Values("span", 0, 1),
    ("NonMaxSuppression", 4): Values("span", 0, 1),
    ("Resize", 2): _ONE,
    ("Upsample", 1): _ONE,
    ("RNN", 4): _ONE,
    ("GRU", 4): _ONE,
    ("LSTM", 4): _ONE,
    ("Log", 0): Values("span", 0.1, 2),
    ("Sqrt", 0): Values("span", 0.0, 2),
    ("Pow", 0): Values("span", 0.1, 2),
    ("Div", 1): Values("span", 0.5, 2),
    ("Mod", 1): Values("span", 1, 8),
    ("Acos", 0): Values("span", -1, 1),
    ("Asin", 0): Values("span", -1, 1),
    ("Atanh", 0): Values("span", -0.9, 0.9),
    ("Acosh", 0): Values("span", 1, 3),
    ("Bernoulli", 0): Values("span", 0, 1),
    ("BatchNormalization", 4): Values("span", 0.1, 2),
    ("QuantizeLinear", 1): Values("span", 0.01, 0.1),
    ("DequantizeLinear", 1): Values("span", 0.01, 0.1),
}

_NAMES = (
    (re.compile(r"mask"), Values("mask")),
    (re.compile(r"token_type|segment"), Values("index", 0, 2)),
    (re.compile(r"len(gth)?s?$|seqlen"), _ONE),
)


def read_inputs(model: onnx.ModelProto) -> list[Input]:
    """The model's inputs with the values that their consumers can take.

    model: weights may be missing, only dims of initializers are read. Model-local functions are looked into.
    """
    graph = _inlined(model).graph
    consumers = _consumers(graph)
    shapes = _shapes(model)
    found = []
    for port in input_ports(model):
        values = _combined(_roles(port.name, consumers, shapes))
        if values.kind in ("any", "span") and port.kind == "tensor":
            values = next((v for pattern, v in _NAMES if _named(pattern, v, port)), values)
        found.append(Input(port.name, port.elem_type, port.dims, port.kind, port.required, values))
    return found


def _named(pattern: re.Pattern[str], values: Values, port: Port) -> bool:
    if not pattern.search(port.name.lower()):
        return False
    # A float mask may be additive: ones and zeros are in range for both readings.
    return values.kind == "mask" or port.dtype.kind in "iu"


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:  # an analysis that fails means default values, not a failed verification
        return model


def _consumers(graph: onnx.GraphProto) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    found: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    stack = [graph]
    while stack:
        for node in stack.pop().node:
            for index, name in enumerate(node.input):
                if name:
                    found[name].append((node, index))
            stack.extend(subgraphs(node))
    return found


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """Dims by tensor name, as far as onnx infers them."""
    try:
        graph = onnx.shape_inference.infer_shapes(_inlined(model)).graph
    except Exception:
        graph = model.graph
    found: dict[str, tuple[Dim, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            found.setdefault(value.name, dims_of(value.type.tensor_type.shape))
    return found


def _roles(
    name: str,
    consumers: Mapping[str, list[tuple[onnx.NodeProto, int]]],
    shapes: Mapping[str, tuple[Dim, ...]],
) -> list[Values]:
    found: list[Values] = []
    seen = {name}
    queue = [(name, 1)]
    while queue:
        tensor, share = queue.pop()
        for node, index in consumers.get(tensor, ()):
            values = _role(node, index, shapes)
            # Shape arithmetic inverts nothing: a function of an input says little about its sign or size.
            if values and (tensor == name or values.kind in ("index", "reshape", "axes", "fixed")):
                found.append(_shared(values, share))
            passes = (node.op_type in _FIRST_INPUT_PASSES and index == 0) or node.op_type in _ALL_INPUTS_PASS
            if passes or node.op_type in _SHIFTS:
                for output in node.output:
                    if output and output not in seen:
                        seen.add(output)
                        queue.append((output, share * 2 if node.op_type in _SHIFTS else share))
    return found


def _shared(values: Values, share: int) -> Values:
    if values.kind != "index" or isinstance(values.high, str):
        return values
    return Values("index", 0, max(1, values.high // share))


def _role(node: onnx.NodeProto, index: int, shapes: Mapping[str, tuple[Dim, ...]]) -> Values | None:
    if (fixed := _ROLES.get((node.op_type, index))) is not None:
        return fixed
    if node.op_type.startswith("Reduce") and index == 1:
        return Values("axes")
    if index != 1 or node.op_type not in ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"):
        return None
    dims = shapes.get(node.input[0])
    if not dims:
        return Values("index", 0, 1)
    if node.op_type in ("GatherND", "ScatterND"):
        sizes = [dim for dim in dims if isinstance(dim, int)]
        return Values("index", 0, min(sizes) if len(sizes) == len(dims) else 1)
    axis = _int_attribute(node, "axis", 0)
    dim = dims[axis] if -len(dims) <= axis < len(dims) else 1
    return Values("index", 0, 1 if dim is None else dim)


def _int_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    found: Any = next((a.i for a in node.attribute if a.name == name), default)
    return int(found)


def _combined(found: list[Values]) -> Values:
    """The strongest demand; of several indices or spans the narrowest."""
    if not found:
        return Values()
    kind = max((v.kind for v in found), key=lambda k: _STRENGTH[k])
    same = [v for v in found if v.kind == kind]
    if kind == "index":
        numbers = [v for v in same if not isinstance(v.high, str)]
        return min(numbers, key=lambda v: float(v.high)) if numbers else same[0]
    if kind == "span":
        low = max(v.low for v in same)
        high = min(float(v.high) for v in same)
        return Values("span", low, high) if low < high else same[0]
    return same[0]
