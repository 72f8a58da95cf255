"""How coarsely the values round that an output stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx.inliner
from onnx import NodeProto

from .double import element_types
from .randomness import RANDOM_OPS
from .ranges import subgraphs
from .rounding import LOW, low_types
from .tolerance import TABLE


def computed_in(model: onnx.ModelProto) -> dict[str, str]:
    """output -> the coarsest of float16, bfloat16 and float8 to which what depends on inputs is rounded on its way.

    Where two rewrites of one formula round differently by a unit of that dtype, a float32 output behind it differs by
    as much. Outputs that nothing of the kind leads to are not named: weights that are stored in a low dtype and read in
    a higher one round nothing. Weights need no values here.
    """
    if not low_types(model):
        return {}
    try:
        plain = onnx.inliner.inline_local_functions(model) if model.functions else model
        plain = onnx.shape_inference.infer_shapes(plain)
    except Exception:  # what cannot be inferred is held to its own dtype
        return {}
    stored = {tensor.name for tensor in plain.graph.initializer}
    varying = {value.name for value in plain.graph.input if value.name not in stored}
    marks: dict[str, int] = {}
    _spread(plain.graph.node, element_types(plain.graph, {}), varying, marks)
    return {output.name: _name(marks[output.name]) for output in plain.graph.output if output.name in marks}


def _spread(nodes: Iterable[NodeProto], kinds: Mapping[str, int], varying: set[str], marks: dict[str, int]) -> None:
    """varying: what depends on inputs; marks: the coarsest dtype on the way to each; both grow as the nodes run."""
    for node in nodes:
        bodies, read = list(subgraphs(node)), _reads(node)
        if node.op_type not in RANDOM_OPS and varying.isdisjoint(read):
            continue
        found = {marks[name] for name in read if name in marks}
        for body in bodies:
            varying.update(value.name for value in body.input)
            _spread(body.node, kinds, varying, marks)
            found |= {marks[output.name] for output in body.output if output.name in marks}
        found |= {kinds[name] for name in node.output if kinds.get(name) in LOW}
        varying.update(name for name in node.output if name)
        if found:
            marks.update(dict.fromkeys(filter(None, node.output), max(found, key=_row)))


def _reads(node: NodeProto) -> list[str]:
    """What a node reads, its bodies included."""
    read = list(node.input)
    for body in subgraphs(node):
        read += [output.name for output in body.output]
        for inner in body.node:
            read += _reads(inner)
    return read


def _row(kind: int) -> float:
    row = TABLE.get(_name(kind))
    return row.relative_l2 if row is not None else 0.0


def _name(kind: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name)
