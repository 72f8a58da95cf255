"""A copy of a low-precision model that rounds after every operator, as hardware that computes in that type does.

onnxruntime's CPU provider runs a chain of float16 operators in float32 and rounds at its end: what overflows on the
way stays finite there. The copy computes each operator in a wide type and passes each result through a pair of casts,
wide -> declared -> wide. Sums inside one operator (MatMul, Conv, Reduce, normalizations) stay wide, as TensorRT's do.
Round to nearest, ties to even; subnormals are kept; beyond the largest value comes infinity, or NaN where the format
(float8 E4M3) has no infinity.
"""

from __future__ import annotations

import copy
import tempfile
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from graphopt.errors import GraphoptError

from .difference import Value
from .execute import Execution, Model, as_file, execute
from .ranges import subgraphs

ROUNDING_LIMIT_BYTES = 512 << 20
_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
LOW = frozenset(
    {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2}
    | {TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ}
)
_FLOAT8 = LOW - {TensorProto.FLOAT16, TensorProto.BFLOAT16}

_EXACT = frozenset(
    "Abs Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Expand Flatten Gather GatherElements "
    "GatherND Identity If Loop Max MaxPool Min Neg OneHot Optional OptionalGetElement ReduceMax ReduceMin Relu "
    "Reshape ReverseSequence Scan Scatter ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceMap Sign Slice SpaceToDepth Split SplitToSequence Squeeze "
    "Tile TopK Transpose Trilu Unique Unsqueeze Where".split()
)
"""Operators that give representable values for representable ones (reductions of Scatter: see _rounds)."""
_AS_DECLARED = frozenset({"BitCast", "Cast", "CastLike"})
"""Operators whose result depends on the declared type itself, so that they keep it between casts."""
_TYPE_ATTRIBUTES = frozenset({"dtype", "output_datatype", "softmax_precision", "output_dtype", "precision"})
_DEFAULT_FLOAT = frozenset({"RandomNormal", "RandomUniform", "SequenceEmpty", "EyeLike", "MelWeightMatrix"})
_WIDE, _RAW, _DECLARED = "__graphopt_wide", "__graphopt_raw", "__graphopt_declared"


class NoRounding(GraphoptError):
    """A copy that rounds after every operator cannot be made."""


def low_types(source: str | Path | ModelProto) -> set[str]:
    """'float16', 'bfloat16', 'float8_e4m3fn', ...: those stored, exchanged or made by a cast anywhere in the model."""
    model = source if isinstance(source, ModelProto) else onnx.load(str(source), load_external_data=False)
    found: set[int] = set()
    parts: list[GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        if isinstance(part, GraphProto):
            found |= {_element(value.type) for value in (*part.input, *part.output, *part.value_info)}
            found |= {tensor.data_type for tensor in part.initializer}
        for node in part.node:
            for attribute in node.attribute:
                if attribute.name in _TYPE_ATTRIBUTES or attribute.name == "to":
                    found.add(attribute.i)
                if attribute.HasField("t"):
                    found.add(attribute.t.data_type)
            parts += subgraphs(node)
    return {str(helper.tensor_dtype_to_np_dtype(kind).name) for kind in found & LOW}


def rounded_copy(path: str | Path, *, compute: str = "float32") -> bytes:
    """y = round(op(x)) after every operator, for any model of standard operators; same inputs and outputs as the model.

    compute: 'float32' rounds float16, bfloat16 and float8; 'float64' rounds float32 too. Functions are inlined.
    Run it without optimizations, which could remove the casts. Raises NoRounding: too large, or unknown operators.
    """
    size = Path(path).stat().st_size
    model = onnx.load(str(path), load_external_data=False)
    size += sum(np.prod(t.dims, dtype=float) * 2 for t in model.graph.initializer if t.external_data)
    if size > ROUNDING_LIMIT_BYTES:
        raise NoRounding(f"no rounding copy of a model over {ROUNDING_LIMIT_BYTES >> 20} MiB")
    try:
        return bytes(rounded(onnx.load(str(path)), compute=compute).SerializeToString())
    except NoRounding:
        raise
    except Exception as error:
        raise NoRounding(f"no rounding copy: {' '.join(str(error).split())}") from error


def execute_rounded(
    model: Model, feeds: Sequence[Mapping[str, Value]], *, compute: str = "float32", seconds: float = 3600.0
) -> Execution:
    """outputs[i] = model(feeds[i]) with every operator's result rounded to its declared type; see rounded_copy.

    model: a file (external data beside it) or its bytes. Raises ExecutionError and NoRounding.
    """
    with as_file(model) as path, tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        copied = Path(folder, path.name)
        copied.write_bytes(rounded_copy(path, compute=compute))
        return execute(copied, feeds, seconds=seconds)


def rounded(model: onnx.ModelProto, *, compute: str = "float32") -> onnx.ModelProto:
    """rounded_copy of a model in memory. Raises NoRounding, and what onnx raises for a model that is none."""
    if compute not in ("float32", "float64"):
        raise ValueError(f"compute={compute!r}: choose float32 or float64")
    wide: dict[int, int] = (
        dict.fromkeys(LOW, _FLOAT) if compute == "float32" else dict.fromkeys({*LOW, _FLOAT}, _DOUBLE)
    )
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    versions = {entry.domain: entry.version for entry in inferred.opset_import}
    _Rounder(versions, wide).whole(inferred.graph)
    return inferred


def _element(type_: TypeProto) -> int:
    """The element type of a tensor, or of the tensors in a sequence or optional."""
    if type_.HasField("optional_type"):
        return _element(type_.optional_type.elem_type)
    if type_.HasField("sequence_type"):
        return _element(type_.sequence_type.elem_type)
    return int(type_.tensor_type.elem_type)


class _Rounder:
    def __init__(self, versions: Mapping[str, int], wide: Mapping[int, int]) -> None:
        self._versions = versions
        self._wide = wide
        self._kinds: ChainMap[str, int] = ChainMap()
        self._count = 0

    def whole(self, graph: GraphProto) -> None:
        """The main graph: its inputs and outputs keep their types and names."""
        given = {value.name for value in graph.input}
        ports = {value.name: value.type for value in (*graph.input, *graph.output) if self._is(_element(value.type))}
        for name, type_ in ports.items():
            if not type_.HasField("tensor_type"):
                raise NoRounding(f"{name!r} is no tensor, so that it cannot be cast at the border of the model")
        kept = {t.name: copy.deepcopy(t) for t in graph.initializer if t.name in ports and t.name in given}
        self._graph(graph, border=True)
        for tensor in graph.initializer:
            if tensor.name in kept:
                tensor.CopyFrom(kept[tensor.name])
        _rename(graph, {name: name + _WIDE for name in ports}, given)
        before, after = [], []
        for name, type_ in ports.items():
            kind = int(type_.tensor_type.elem_type)
            if name in given:
                before.append(helper.make_node("Cast", [name], [name + _WIDE], to=self._wide[kind]))
            else:
                after.append(helper.make_node("Cast", [name + _WIDE], [name], to=kind))
        nodes = [*before, *graph.node, *after]
        del graph.node[:]
        graph.node.extend(nodes)

    def _is(self, kind: int) -> bool:
        return kind in self._wide

    def _graph(self, graph: GraphProto, *, border: bool = False) -> None:
        for entry in graph.sparse_initializer:
            if self._is(entry.values.data_type):
                raise NoRounding("no rounding copy of sparse weights")
        self._kinds.update({t.name: t.data_type for t in graph.initializer})
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.WhichOneof("value"):
                self._kinds[value.name] = _element(value.type)
        for tensor in graph.initializer:
            self._widen(tensor)
        del graph.value_info[:]
        if not border:
            for value in (*graph.input, *graph.output):
                self._widen_type(value.type)
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes += self._node(node)
        del graph.node[:]
        graph.node.extend(nodes)

    def _body(self, graph: GraphProto) -> None:
        """A subgraph: names of its own."""
        self._kinds = self._kinds.new_child()
        self._graph(graph)
        self._kinds = self._kinds.parents

    def _node(self, node: NodeProto) -> list[NodeProto]:
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError as error:
            raise NoRounding(f"no rounding copy: {node.op_type} of domain {node.domain!r} is unknown") from error
        inputs = [self._kinds.get(name, 0) for name in node.input]
        for index, name in enumerate(node.output):
            if name and not self._kinds.get(name):
                self._kinds[name] = self._told(node, schema, index, inputs)
        for inner in subgraphs(node):
            self._body(inner)
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        keeps = node.op_type in _AS_DECLARED and node.domain == ""
        first = self._kinds.get(node.output[0], 0) if node.output else 0
        declared = self._is(first) and self._narrow(schema.outputs[0].type_str, allowed, first)
        before, after = [], []
        for index, name in enumerate(node.input):
            kind = self._kinds.get(name, 0)
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            if self._is(kind) and (keeps or self._narrow(formal.type_str, allowed, kind)):
                node.input[index] = self._name(name)
                before.append(_cast(name, node.input[index], kind))
        for index, name in enumerate(node.output):
            kind = self._kinds.get(name, 0)
            if not name or not self._is(kind):
                continue
            formal = schema.outputs[min(index, len(schema.outputs) - 1)]
            if keeps or self._narrow(formal.type_str, allowed, kind):
                node.output[index] = self._name(name)
                after.append(_cast(node.output[index], name, self._wide[kind]))
            elif _rounds(node):
                node.output[index], declared = name + _RAW, name + _DECLARED
                after += [_cast(node.output[index], declared, kind), _cast(declared, name, self._wide[kind])]
        self._widen_attributes(node, keeps=keeps or declared)
        return [*before, node, *after]

    def _told(self, node: NodeProto, schema: onnx.defs.OpSchema, index: int, inputs: list[int]) -> int:
        """The type of an output where inference is silent: that of the input with the same type variable."""
        if node.domain == "" and node.op_type in ("If", "Loop", "Scan"):
            bodies = list(subgraphs(node))
            skipped = 1 if node.op_type == "Loop" else 0
            return _element(bodies[0].output[index + skipped].type) if bodies else 0
        wanted = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
        for slot, kind in enumerate(inputs):
            if kind and schema.inputs[min(slot, len(schema.inputs) - 1)].type_str == wanted:
                return kind
        words = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(wanted, [wanted])
        if any("float" in word for word in words) and any(map(self._is, inputs)):
            raise NoRounding(f"no rounding copy: the type of {node.output[index]!r} ({node.op_type}) is unknown")
        return 0

    def _narrow(self, type_str: str, allowed: Mapping[str, set[str]], kind: int) -> bool:
        """Whether a formal parameter does not take the wide type."""
        kinds = allowed.get(type_str, {type_str})
        word = "tensor(double)" if self._wide[kind] == _DOUBLE else "tensor(float)"
        return not any(word in one for one in kinds)

    def _name(self, name: str) -> str:
        self._count += 1
        return f"{name}{_DECLARED}_{self._count}"

    def _widen(self, tensor: TensorProto) -> None:
        if self._is(tensor.data_type):
            dtype = helper.tensor_dtype_to_np_dtype(self._wide[tensor.data_type])
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))

    def _widen_type(self, type_: TypeProto) -> None:
        if type_.HasField("optional_type"):
            self._widen_type(type_.optional_type.elem_type)
        elif type_.HasField("sequence_type"):
            self._widen_type(type_.sequence_type.elem_type)
        elif self._is(type_.tensor_type.elem_type):
            type_.tensor_type.elem_type = self._wide[type_.tensor_type.elem_type]

    def _widen_attributes(self, node: NodeProto, *, keeps: bool) -> None:
        names = {attribute.name: attribute for attribute in node.attribute}
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and not keeps:
                attribute.i = self._wide.get(attribute.i, attribute.i)
            if attribute.HasField("t"):
                self._widen(attribute.t)
            for tensor in attribute.tensors:
                self._widen(tensor)
            if attribute.HasField("sparse_tensor") and self._is(attribute.sparse_tensor.values.data_type):
                raise NoRounding("no rounding copy of sparse constants")
            if attribute.HasField("tp"):
                self._widen_type(attribute.tp)
        if not self._is(_FLOAT):
            return
        if node.op_type == "Constant" and (found := names.get("value_float") or names.get("value_floats")):
            value = np.array(found.floats if found.name == "value_floats" else found.f, dtype=np.float64)
            found.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
        elif node.op_type == "ConstantOfShape" and "value" not in names:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        elif node.op_type in _DEFAULT_FLOAT and not names.keys() & _TYPE_ATTRIBUTES:
            word = "output_datatype" if node.op_type == "MelWeightMatrix" else "dtype"
            if self._is(self._kinds.get(node.output[0], 0)):
                node.attribute.append(helper.make_attribute(word, _DOUBLE))


def _rounds(node: NodeProto) -> bool:
    """Whether an output may hold values that its declared type has not."""
    if node.domain != "" or node.op_type not in _EXACT:
        return True
    return node.op_type.startswith("Scatter") and any(
        a.name == "reduction" and a.s not in (b"none", b"max", b"min") for a in node.attribute
    )


def _cast(source: str, result: str, kind: int) -> NodeProto:
    """Beyond the range comes infinity or NaN, not the largest value."""
    node = helper.make_node("Cast", [source], [result], to=kind)
    if kind in _FLOAT8:
        node.attribute.append(helper.make_attribute("saturate", 0))
    return node


def _rename(graph: GraphProto, names: Mapping[str, str], given: set[str]) -> None:
    """Every use of the names, in the graph and its subgraphs; the ports themselves and defaults keep theirs."""
    for tensor in graph.initializer:
        if tensor.name not in given:
            tensor.name = names.get(tensor.name, tensor.name)
    for node in _nodes(graph):
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
        for inner in subgraphs(node):
            for value in (*inner.input, *inner.output, *inner.initializer):
                value.name = names.get(value.name, value.name)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)
