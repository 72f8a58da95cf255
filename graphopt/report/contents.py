"""What is in a model: the data behind `graphopt inspect`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.graph import node_count, scopes
from graphopt.ir.weights import nbytes
from graphopt.rewrite.value import lifted

LARGEST = 10


@dataclass(frozen=True)
class Port:
    """An input or output of the model."""

    name: str
    dtype: str
    shape: list[int | str | None] | None
    """None for an unknown rank; a dimension is a number, a symbol, or None."""

    def __str__(self) -> str:
        return f"{self.dtype} {shapes.text(None if self.shape is None else tuple(self.shape))}"


@dataclass(frozen=True)
class Weight:
    """A constant of the model."""

    name: str
    dtype: str
    shape: list[int]
    bytes: int


@dataclass(frozen=True)
class Function:
    """A model-local function."""

    domain: str
    name: str
    nodes: int
    calls: int


@dataclass(frozen=True)
class Contents:
    """A model at a glance; `nodes` counts bodies and functions, Constant nodes are counted apart."""

    model: str
    opset: int
    domains: dict[str, int]
    producer: str
    inputs: list[Port]
    outputs: list[Port]
    dynamic: dict[str, list[str]]
    """Symbol, or 'NAME[AXIS]' for an unnamed dimension -> the inputs that have it."""
    nodes: dict[str, int]
    constant_nodes: int
    subgraphs: int
    weights_count: int
    weights_bytes: int
    weights_by_dtype: dict[str, int]
    """dtype -> bytes."""
    largest: list[Weight] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)

    @property
    def node_count(self) -> int:
        return sum(self.nodes.values())

    def to_json(self) -> dict[str, Any]:
        """The object that `inspect --json` prints; docs/cli.md describes its keys."""
        return {
            "model": self.model,
            "opset": self.opset,
            "domains": self.domains,
            "producer": self.producer,
            "inputs": [asdict(one) for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "dynamic": self.dynamic,
            "nodes": {"count": self.node_count, "by_op": self.nodes, "constants": self.constant_nodes},
            "subgraphs": self.subgraphs,
            "weights": {
                "count": self.weights_count,
                "bytes": self.weights_bytes,
                "bytes_by_dtype": self.weights_by_dtype,
                "largest": [asdict(one) for one in self.largest],
            },
            "functions": [asdict(one) for one in self.functions],
        }


def contents(graph: gs.Graph, name: str) -> Contents:
    """Look through a model; no weight is read."""
    weights = list(constants(graph))
    by_dtype: Counter[str] = Counter()
    for one in weights:
        by_dtype[dtypes.name(one._values.dtype)] += nbytes(one)
    everything = [node for scope in scopes(graph) for node in scope.nodes]
    heaviest = sorted(weights, key=lambda one: (-nbytes(one), one.name))[:LARGEST]
    producer = " ".join(filter(None, (graph.producer_name or "", graph.producer_version or "")))
    nodes = node_count(graph)
    return Contents(
        model=name,
        opset=int(graph.opset),
        domains={one.domain or "ai.onnx": int(one.version) for one in graph.import_domains or []},
        producer=producer,
        inputs=[_port(one) for one in graph.inputs],
        outputs=[_port(one) for one in graph.outputs],
        dynamic=_dynamic(graph),
        nodes=dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        constant_nodes=len(everything) - sum(nodes.values()),
        subgraphs=sum(1 for _ in scopes(graph)) - 1 - len(graph.functions),
        weights_count=len(weights),
        weights_bytes=sum(map(nbytes, weights)),
        weights_by_dtype=dict(sorted(by_dtype.items())),
        largest=[
            Weight(one.name, dtypes.name(one._values.dtype), list(one._values.shape), nbytes(one)) for one in heaviest
        ],
        functions=_functions(graph, everything),
    )


def constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every distinct constant: initializers, and the values of Constant nodes under the name of their output."""
    seen: set[int] = set()
    for scope in scopes(graph):
        for node in scope.nodes:
            held = lifted(node) if node.op == "Constant" else None
            if held is not None:
                held.name = held.name or node.outputs[0].name
            for one in (*node.inputs, *([held] if held is not None else [])):
                if isinstance(one, gs.Constant) and id(one) not in seen:
                    seen.add(id(one))
                    yield one
        for one in scope.outputs:
            if isinstance(one, gs.Constant) and id(one) not in seen:
                seen.add(id(one))
                yield one


def _port(tensor: gs.Tensor) -> Port:
    shape = shapes.of(tensor)
    return Port(tensor.name, dtypes.name(dtypes.of(tensor)), None if shape is None else list(shape))


def _dynamic(graph: gs.Graph) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for tensor in graph.inputs:
        for axis, dim in enumerate(shapes.of(tensor) or ()):
            if not isinstance(dim, int):
                label = dim if isinstance(dim, str) and shapes.same_dim(dim, dim) else f"{tensor.name}[{axis}]"
                names = found.setdefault(label, [])
                if tensor.name not in names:
                    names.append(tensor.name)
    return found


def _functions(graph: gs.Graph, everything: list[gs.Node]) -> list[Function]:
    calls = Counter((node.domain or "", node.op) for node in everything)
    return [
        Function(
            one.domain,
            one.name,
            sum(len(scope.nodes) for scope in scopes(one, functions=False)),
            calls[one.domain, one.name],
        )
        for one in graph.functions
    ]


def elements(weight: Weight) -> int:
    """How many numbers it holds."""
    return math.prod(weight.shape)
