"""A model cut at calls of custom layers: engine parts and kernel parts, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import scopes, subgraphs
from graphopt.ir.order import reads, toposort
from graphopt.layers.facts import bind
from graphopt.layers.layer import DOMAIN, Layer

SHAPE_ARITHMETIC = frozenset(
    "Shape Size Constant Gather Slice Concat Unsqueeze Squeeze Reshape Split Identity Cast Add Sub Mul Div Mod Neg "
    "Min Max Floor Ceil Round Equal Less Greater And Or Not Where ReduceProd ReduceSum Range".split()
)
"""What shapes are computed with. Where its results are vectors it is repeated in each part that reads them: a size
that crossed from one engine to the next would have to travel through the host."""

Refuses = Callable[[gs.Node, Layer], "str | None"]
"""None if a call is to run as a kernel, or why its body stays in the engine."""


@dataclass(frozen=True)
class EnginePart:
    """Nodes that one engine computes; a model of its own."""

    graph: gs.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class KernelPart:
    """A call of a layer that runs as its kernel."""

    layer: Layer
    node: gs.Node
    given: dict[str, gs.Tensor]
    """The layer's input -> what the call gives it: a variable or a constant."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.given.values() if not isinstance(tensor, gs.Constant))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.node.outputs)


Part = EnginePart | KernelPart


@dataclass
class Partition:
    """Parts in order. tensors: every value that crosses a border, by name; their dtypes are known, and their ranks."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: list[Part] = field(default_factory=list)
    tensors: dict[str, gs.Variable] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Call that stays in an engine -> why."""

    @property
    def kernels(self) -> list[KernelPart]:
        return [part for part in self.parts if isinstance(part, KernelPart)]

    @property
    def engines(self) -> list[EnginePart]:
        return [part for part in self.parts if isinstance(part, EnginePart)]


def partition(graph: gs.Graph, layers: Mapping[str, type[Layer]], refuses: Refuses) -> Partition:
    """model = its parts, run one after the other.

    Engine 0 holds what no kernel comes before; then come the kernels that need only it, engine 1, and so on: a node is
    in the engine whose number is the largest number of kernels in a row, engine work between them, that lead to it.
    The nodes are shared with `graph`, whose types must have been inferred; weights are not copied.

    Raises:
        GraphoptError: dtype or rank of a value on a border is unknown, or an output is an input or a constant.
    """
    order = toposort(list(graph.nodes), graph.name or "")
    found = Partition(tuple(t.name for t in graph.inputs), tuple(t.name for t in graph.outputs))
    chosen: dict[int, KernelPart] = {}
    for node in order:
        cls = layers.get(node.op.partition("_")[0]) if node.domain == DOMAIN else None
        if cls is None:
            continue
        layer, given = bind(cls, node)
        reason = refuses(node, layer)
        if reason is None:
            chosen[id(node)] = KernelPart(layer, node, given)
        else:
            found.reasons[node.name] = reason
    if not chosen:
        return found
    cut = _Cut(graph, order, chosen)
    found.parts = cut.parts()
    produced = {id(tensor) for node in order for tensor in node.outputs}
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant) or id(tensor) not in produced:
            raise GraphoptError(
                "it is an input or a constant: no part computes it", where=f"output {tensor.name!r}",
                hint="leave it out, or build without segments: --segments never",
            )  # fmt: skip
    border = {id(tensor): tensor for tensor in (*graph.inputs, *graph.outputs)}
    for part in found.parts:
        ends = (
            (*part.graph.inputs, *part.graph.outputs)
            if isinstance(part, EnginePart)
            else (*(one for one in part.given.values() if not isinstance(one, gs.Constant)), *part.node.outputs)
        )
        border.update({id(tensor): tensor for tensor in ends})
    for tensor in border.values():
        if dtypes.of(tensor) is None or shapes.of(tensor) is None:
            raise GraphoptError(
                "its dtype or rank is not known, so that no part can begin or end there",
                where=f"value {tensor.name!r}",
                hint="build without segments: --segments never",
            )
        found.tensors[tensor.name] = tensor
    return found


class _Cut:
    """Which node runs when."""

    def __init__(self, graph: gs.Graph, order: list[gs.Node], chosen: Mapping[int, KernelPart]) -> None:
        self.graph, self.order, self.chosen = graph, order, chosen
        self.producer = {id(tensor): node for node in order for tensor in node.outputs}
        self.cheap: set[int] = set()
        self.stage: dict[int, int] = {}
        before_engine: dict[int, int] = {}
        before_kernel: dict[int, int] = {}
        for node in order:
            ready = before_kernel if id(node) in chosen else before_engine
            at = self.stage[id(node)] = max((ready.get(id(tensor), 0) for tensor in _read(node)), default=0)
            for tensor in node.outputs:
                before_kernel[id(tensor)] = at
                before_engine[id(tensor)] = at + (id(node) in chosen)
            if self._is_cheap(node):
                self.cheap.add(id(node))

    def _is_cheap(self, node: gs.Node) -> bool:
        if node.op not in SHAPE_ARITHMETIC or node.domain not in (None, "", "ai.onnx"):
            return False
        if any((shape := shapes.of(tensor)) is None or len(shape) > 1 for tensor in node.outputs):
            return False
        if node.op in ("Shape", "Size", "Constant"):
            return True
        producers = [self.producer.get(id(tensor)) for tensor in _read(node)]
        return bool(producers) and all(one is not None and id(one) in self.cheap for one in producers)

    def parts(self) -> list[Part]:
        last = max(self.stage.values(), default=0)
        owned: list[list[gs.Node]] = [[] for _ in range(last + 1)]
        kernels: list[list[KernelPart]] = [[] for _ in range(last + 1)]
        demanded = {id(tensor) for tensor in self.graph.outputs}
        for part in self.chosen.values():
            demanded |= {id(tensor) for tensor in part.given.values()}
        for node in self.order:
            at = self.stage[id(node)]
            if id(node) in self.chosen:
                kernels[at].append(self.chosen[id(node)])
            elif id(node) not in self.cheap or any(id(tensor) in demanded for tensor in node.outputs):
                owned[at].append(node)
        place = {id(node): index for index, node in enumerate(self.order)}
        nodes = [sorted(self._with_cheap(some), key=lambda node: place[id(node)]) for some in owned]
        inputs = [_inputs(some) for some in nodes]
        for some in inputs:
            demanded |= {id(tensor) for tensor in some}
        made: list[Part] = []
        for at, some in enumerate(nodes):
            outputs = [tensor for node in owned[at] for tensor in node.outputs if id(tensor) in demanded]
            if outputs:
                names = tuple(t.name for t in inputs[at]), tuple(t.name for t in outputs)
                made.append(EnginePart(self._graph(at, some, inputs[at], outputs), *names))
            made += kernels[at]
        return made

    def _with_cheap(self, nodes: Iterable[gs.Node]) -> list[gs.Node]:
        """The nodes, and the shape arithmetic that they read."""
        found = {id(node): node for node in nodes}
        pending = list(found.values())
        while pending:
            for tensor in _read(pending.pop()):
                producer = self.producer.get(id(tensor))
                if producer is not None and id(producer) in self.cheap and id(producer) not in found:
                    found[id(producer)] = producer
                    pending.append(producer)
        return list(found.values())

    def _graph(self, at: int, nodes: list[gs.Node], inputs: list[gs.Tensor], outputs: list[gs.Tensor]) -> gs.Graph:
        source = self.graph
        made = gs.Graph(
            nodes=nodes, inputs=inputs, outputs=outputs, name=f"{source.name or 'graph'}_{at}", opset=source.opset,
            import_domains=source.import_domains, functions=_called(source, nodes),
        )  # fmt: skip
        made.ir_version = source.ir_version
        return made


def _read(node: gs.Node) -> list[gs.Tensor]:
    return [tensor for tensor in reads(node) if tensor.name and not isinstance(tensor, gs.Constant)]


def _inputs(nodes: list[gs.Node]) -> list[gs.Tensor]:
    """What the nodes read and none of them (nor a body of theirs) makes."""
    made = {id(tensor) for node in nodes for tensor in node.outputs}
    found: dict[int, gs.Tensor] = {}
    for node in nodes:
        inner = _inside(node)
        for tensor in _read(node):
            if id(tensor) not in made and id(tensor) not in inner:
                found[id(tensor)] = tensor
    return list(found.values())


def _inside(node: gs.Node) -> set[int]:
    """The values that bodies of control flow make or take themselves."""
    found: set[int] = set()
    pending = list(subgraphs(node)) if node.attrs else []
    while pending:
        body = pending.pop()
        found |= {id(tensor) for tensor in body.inputs}
        for inner in body.nodes:
            found |= {id(tensor) for tensor in inner.outputs}
            pending += list(subgraphs(inner))
    return found


def _called(graph: gs.Graph, nodes: Iterable[gs.Node]) -> list[gs.Function]:
    """The model-local functions that the nodes call, and those that these call."""
    known = {(function.domain or "", function.name): function for function in graph.functions}
    wanted: dict[tuple[str, str], None] = {}
    holder = gs.Graph(nodes=list(nodes), opset=graph.opset)
    pending = [holder]
    while pending:
        for scope in scopes(pending.pop(), functions=False):
            for node in scope.nodes:
                key = (node.domain or "", node.op)
                if key in known and key not in wanted:
                    wanted[key] = None
                    pending.append(known[key])
    return [function for key, function in known.items() if key in wanted]
