"""Types and shapes of values, node by node: the operator's own inference, with symbols carried along.

ONNX's inference function of each schema is the authority. Results are remembered by (operator, attributes, input
types), so that the thousandth equal block of a network costs a dictionary look-up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper, shape_inference

from . import dtypes, shapes
from .edits import Editor
from .graph import peek, put, scopes, subgraphs
from .operator_shapes import Type, known
from .weights import read, size

Custom = Callable[[gs.Node], "list[Type] | None"]
SAME = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Erf Exp Log Sqrt Reciprocal Abs Neg Sign "
    "Floor Ceil Round Clip Softmax LogSoftmax Gelu Mish Softplus Softsign Sin Cos Tan Identity Not LRN".split()
)
"""Operators whose first output has the type of their first input."""
BROADCAST = frozenset("Add Sub Mul Div Pow And Or Xor BitShift Mod".split())
COMPARE = frozenset("Equal Less Greater LessOrEqual GreaterOrEqual".split())
_BOOL = np.dtype(np.bool_)
_DATA_ELEMENTS = 256


class Inference:
    """Inference over one model; remembers what it has worked out."""

    def __init__(self, graph: gs.Graph, custom: Custom | None = None) -> None:
        self.graph = graph
        self.custom = custom
        """The types of the outputs of nodes that are no standard operators; asked first."""
        self._memo: dict[Any, list[Type] | None] = {}
        self._types: dict[Any, onnx.TypeProto] = {}
        self._opsets: dict[int, tuple[Sequence[Any], int]] = {}
        self._imports = {id(scope): _opsets(scope) for scope in (graph, *graph.functions)}
        self._main = self._imports[id(graph)]
        self._ran = False
        self._local: set[tuple[str, str]] = set()
        self.news: list[gs.Tensor] = []
        """Values of which more became known since the list was last emptied."""
        self._ir_version = max(graph.ir_version or 8, 8)

    def _forget_placeholders(self) -> None:
        """Of inner values: what is not known can be found out, a name that stands for nothing cannot."""
        for scope in scopes(self.graph):
            kept = {id(tensor) for tensor in scope.outputs}
            for node in scope.nodes:
                for tensor in node.outputs:
                    shape = tensor.shape
                    if shape and id(tensor) not in kept and any(map(shapes.is_placeholder, shape)):
                        tensor.shape = tuple(None if shapes.is_placeholder(dim) else dim for dim in shape)

    def run(self) -> None:
        """Fill in types and shapes of every value of every scope, in order; what was declared is refined."""
        if not self._ran:
            self._forget_placeholders()
        self._local = {(function.domain or "", function.name) for function in self.graph.functions}
        for root in (self.graph, *self.graph.functions):
            imports = self._imports[id(root)] = _opsets(root)  # functions come while passes run
            self._scope(root, imports)
        self._ran = True

    def update(self, edited: Iterable[gs.Node], editor: Editor) -> None:
        """What `run` would find after edits to these nodes; the work is that of the nodes whose types change."""
        heap: list[tuple[tuple[int, int], int, gs.Node]] = []
        queued: set[int] = set()
        pending = list(edited)
        while pending or heap:
            for node in pending:
                if id(node) not in queued and editor.has(node):
                    if id(editor.scope(node)) not in self._imports or subgraphs(node):
                        self.run()
                        return
                    queued.add(id(node))
                    heapq.heappush(heap, (editor.place(node), id(node), node))
            pending = []
            if not heap:
                return
            node = heapq.heappop(heap)[2]
            queued.discard(id(node))
            called = (node.domain or "", node.op) in self._local
            if (called and self.custom is None) or _is_settled(node):
                continue
            known = len(self.news)
            self.node(node, self._imports[id(editor.scope(node))])
            for tensor in self.news[known:]:
                pending.extend(tensor.outputs)

    def _scope(self, root: gs.Graph, imports: Sequence[Any]) -> None:
        pending: list[tuple[list[gs.Node], int, gs.Node | None]] = [(list(root.nodes), 0, None)]
        while pending:
            nodes, index, _ = pending.pop()
            while index < len(nodes):
                node = nodes[index]
                bodies = subgraphs(node) if node.attrs else ()
                if bodies and not getattr(node, "_inferred", False):
                    put(node, "_inferred", True)
                    pending.append((nodes, index, node))
                    for body in bodies:
                        pending.append((list(body.nodes), 0, None))
                    break
                if bodies:
                    del node._inferred
                    self._control(node, bodies)
                elif self._local and (node.domain or "", node.op) in self._local:
                    if self.custom is not None:
                        self.node(node, imports)
                elif not (self._ran and _is_settled(node)):
                    self.node(node, imports)
                index += 1

    def _control(self, node: gs.Node, bodies: Sequence[gs.Graph]) -> None:
        """If: what both branches agree on. Loop, Scan: dtypes only (their shapes may change from turn to turn)."""
        for slot, tensor in enumerate(node.outputs):
            results = [body.outputs[slot] for body in bodies if slot < len(body.outputs)]
            if node.op != "If":
                results = [body.outputs[slot + (node.op == "Loop")] for body in bodies
                           if slot + (node.op == "Loop") < len(body.outputs)]  # fmt: skip
            if not results or any(getattr(result, "type", "tensor_type") != "tensor_type" for result in results):
                continue
            kinds = {dtypes.of(result) for result in results}
            shape: shapes.Shape = None
            if node.op == "If":
                known = [shapes.of(result) for result in results]
                if known[0] is not None and all(s is not None and len(s) == len(known[0]) for s in known):
                    columns = zip(*[s for s in known if s is not None], strict=True)
                    shape = tuple(column[0] if len(set(column)) == 1 else None for column in columns)
            self._set(tensor, (kinds.pop() if len(kinds) == 1 else None, shape))

    def node(self, node: gs.Node, imports: Sequence[Any] | None = None) -> None:
        """Set the types of one node's outputs from its inputs, as far as its operator tells."""
        outputs = node.outputs
        for tensor in outputs:
            if tensor.name:
                break
        else:
            return
        found = self.outputs(node, imports if imports is not None else self._main)
        if found:
            for tensor, kind in zip(outputs, found, strict=False):
                if kind[0] is not tensor.dtype or kind[1] != tensor.shape:
                    self._set(tensor, kind)

    def _set(self, tensor: gs.Tensor, kind: Type) -> None:
        if type(tensor) is gs.Constant or tensor.type != "tensor_type":
            return
        dtype, shape = kind
        known = tensor.shape
        if shape != known:
            shape = shapes.merge(shape, shapes.of(tensor))
            if shape != known:
                put(tensor, "shape", shape)
                self.news.append(tensor)
        if dtype is not None and (tensor.dtype is None or dtype != tensor.dtype):  # float64 == None, says NumPy
            put(tensor, "dtype", dtype)
            self.news.append(tensor)

    def outputs(self, node: gs.Node, imports: Sequence[Any]) -> list[Type] | None:
        """(dtype, shape) of each output; None where the operator is unknown or its inputs are no tensors."""
        op, inputs = node.op, node.inputs
        if node.domain and self.custom is not None and (told := self.custom(node)) is not None:
            return told
        if node.domain in (None, "", "ai.onnx"):
            if inputs:
                if op in SAME:
                    return [_type(inputs[0])]
                if op in BROADCAST or op in COMPARE:
                    shape = shapes.broadcast(*[shapes.of(tensor) for tensor in inputs])
                    return [(_BOOL if op in COMPARE else dtypes.of(inputs[0]), shape)]
                if op == "Cast":
                    return [(dtypes.from_onnx(_number(node.attrs.get("to"))), shapes.of(inputs[0]))]
            plain = known(node, self._opset(imports))
            if plain is not None:
                return plain
        try:
            key = self._key(node)
        except TypeError:
            key = None
        if key is not None and key in self._memo:
            return self._memo[key]
        result = self._ask_schema(node, imports)
        if key is not None:
            self._memo[key] = result
        return result

    def _opset(self, imports: Sequence[Any]) -> int:
        """The opset of ONNX's own operators; 0 where it is not imported."""
        found = self._opsets.get(id(imports))
        if found is None or found[0] is not imports:
            version = next((int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx")), 0)
            found = self._opsets[id(imports)] = imports, version
        return found[1]

    def _key(self, node: gs.Node) -> Any:
        if any(isinstance(t, gs.Variable) and t.type != "tensor_type" for t in node.inputs):
            raise TypeError("the types of sequences are not part of the key")
        attrs = tuple((k, tuple(v) if type(v) is list else _attr_key(v)) for k, v in sorted(node.attrs.items()))
        inputs = tuple((*_type(tensor), _data_key(tensor)) if tensor.name else None for tensor in node.inputs)
        return node.op, node.domain or "", attrs, inputs, len(node.outputs)

    def _ask_schema(self, node: gs.Node, imports: Sequence[Any]) -> list[Type] | None:
        domain = "" if node.domain in (None, "ai.onnx") else node.domain
        version = next((entry.version for entry in imports if entry.domain in (domain, domain or "ai.onnx")), None)
        if version is None or not onnx.defs.has(node.op, version, domain):
            return None
        names, types, data = [], {}, {}
        for i, tensor in enumerate(node.inputs):
            if not tensor.name:
                names.append("")
                continue
            proto = self._type_proto(tensor)
            names.append(f"i{i}")
            if proto is None:
                return None
            types[f"i{i}"] = proto
            if isinstance(tensor, gs.Constant) and size(tensor) <= _DATA_ELEMENTS:
                data[f"i{i}"] = numpy_helper.from_array(read(tensor))
        try:
            attrs = {name: _attr_value(value) for name, value in node.attrs.items()}
            if node.op == "STFT":
                attrs.setdefault("onesided", 1)  # absent, onnx's inference takes it for 0
            proto_node = helper.make_node(node.op, names, [f"o{i}" for i in range(len(node.outputs))], domain=domain)
            proto_node.attribute.extend(helper.make_attribute(name, value) for name, value in attrs.items())
            schema = onnx.defs.get_schema(node.op, version, domain)
            found = shape_inference.infer_node_outputs(
                schema, proto_node, types, input_data=data, opset_imports=list(imports), ir_version=self._ir_version
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, TypeError, RuntimeError):
            return None
        return [_from_proto(found.get(f"o{i}")) for i in range(len(node.outputs))]

    def _type_proto(self, tensor: gs.Tensor) -> onnx.TypeProto | None:
        known = peek(tensor)
        if known is not None and known.type_proto is not None:
            return known.type_proto
        dtype, shape = _type(tensor)
        if dtype is None:
            return None
        key = (dtype, shape)
        if key not in self._types:
            self._types[key] = helper.make_tensor_type_proto(dtypes.to_onnx(dtype), shape)
        return self._types[key]


def infer(graph: gs.Graph) -> Inference:
    """Fill in the types and shapes of a model; the Inference goes on to serve new nodes."""
    inference = Inference(graph)
    inference.run()
    return inference


def forget(graph: gs.Graph) -> None:
    """Drop every inner shape (not those of inputs), so that a changed input shape can spread."""
    for scope in scopes(graph, functions=False):
        fed = {id(tensor) for tensor in scope.inputs}
        for node in scope.nodes:
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and id(tensor) not in fed:
                    tensor.shape = None


def _opsets(scope: gs.Graph) -> list[Any]:
    return list(scope.import_domains or [helper.make_opsetid("", scope.opset)])


def _is_settled(node: gs.Node) -> bool:
    """Whether nothing more can be learnt of the outputs: after a first run, static is final."""
    for tensor in node.outputs:
        if tensor.name and (tensor.dtype is None or not shapes.is_static(tensor.shape)):
            return False
    return True


def _type(tensor: gs.Tensor) -> Type:
    return dtypes.of(tensor), shapes.of(tensor)


def _number(value: Any) -> int:
    if value is None or isinstance(value, gs.Node.AttributeRef):
        return 0
    return value if isinstance(value, int) else dtypes.to_onnx(value)


def _data_key(tensor: gs.Tensor) -> Any:
    if isinstance(tensor, gs.Constant) and size(tensor) <= _DATA_ELEMENTS:
        values = read(tensor)
        return values.tobytes() if values.dtype.kind != "O" else tuple(values.ravel().tolist())
    return None


def _attr_key(value: Any) -> Any:
    if isinstance(value, (gs.Tensor, gs.Graph)):
        raise TypeError("not a plain attribute")
    hash(value)
    return value


_PLAIN: dict[type, Callable[[Any], Any]] = {gs.Constant: lambda value: numpy_helper.from_array(read(value))}


def _attr_value(value: Any) -> Any:
    if isinstance(value, gs.Node.AttributeRef):
        raise TypeError("an attribute of the enclosing function")
    convert = _PLAIN.get(type(value))
    return convert(value) if convert else value


def _from_proto(proto: onnx.TypeProto | None) -> Type:
    if proto is None or not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return dtypes.from_onnx(tensor.elem_type), None
    dims: list[shapes.Dim] = []
    for dim in tensor.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(dim.dim_value if kind == "dim_value" else dim.dim_param or None if kind else None)
    return dtypes.from_onnx(tensor.elem_type), tuple(dims)
