"""What sets two models apart: the data behind `graphopt diff`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir import dtypes, shapes
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.graph import flatten, peek, scopes
from graphopt.ir.weights import digest, nbytes

from .contents import constants
from .result import Description, describe


@dataclass(frozen=True)
class NodeChange:
    """A node that only one of the models has; for one that came, the source nodes it stands for, by which rules."""

    name: str
    op: str
    origin: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    became: list[str] = field(default_factory=list)
    """For a node that went: the nodes that stand for it now."""


@dataclass(frozen=True)
class WeightChange:
    """A weight that one model has and the other has not, by content."""

    name: str
    dtype: str
    shape: list[int]
    bytes: int


@dataclass(frozen=True)
class ModelDiff:
    """Two models side by side. Weights are compared by content, nodes by name."""

    same: bool
    before: Description
    after: Description
    interface: list[str]
    """Inputs and outputs that differ, one sentence each."""
    weights_kept: int
    weights_changed: list[WeightChange]
    weights_added: list[WeightChange]
    weights_removed: list[WeightChange]
    nodes_kept: int
    nodes_changed: list[NodeChange]
    """Of the same name and another operator."""
    nodes_gone: list[NodeChange]
    nodes_new: list[NodeChange]

    def to_json(self) -> dict[str, Any]:
        """The object that `diff --json` prints; docs/cli.md describes its keys."""
        before, after = self.before, self.after
        return {
            "same": self.same,
            "nodes": {
                "before": before.node_count,
                "after": after.node_count,
                "by_op_before": dict(sorted(before.nodes.items())),
                "by_op_after": dict(sorted(after.nodes.items())),
                "kept": self.nodes_kept,
                "changed": [asdict(one) for one in self.nodes_changed],
                "gone": [asdict(one) for one in self.nodes_gone],
                "new": [asdict(one) for one in self.nodes_new],
            },
            "interface": self.interface,
            "weights": {
                "bytes_before": before.weights_bytes,
                "bytes_after": after.weights_bytes,
                "kept": self.weights_kept,
                "changed": [asdict(one) for one in self.weights_changed],
                "added": [asdict(one) for one in self.weights_added],
                "removed": [asdict(one) for one in self.weights_removed],
            },
        }


def compare(before: gs.Graph, after: gs.Graph) -> ModelDiff:
    """Lay two models side by side; each weight is read once, to hash it."""
    old, new = _weights(before), _weights(after)
    kept = old.keys() & new.keys()
    gone = {one.name: one for content, one in old.items() if content not in kept}
    come = {one.name: one for content, one in new.items() if content not in kept}
    a, b = _nodes(before), _nodes(after)
    stands = _stand_ins(b)
    return ModelDiff(
        same=fingerprint(before) == fingerprint(after),
        before=describe(before),
        after=describe(after),
        interface=[
            *_ports("input", before.inputs, after.inputs),
            *_ports("output", before.outputs, after.outputs),
            *([f"opset {before.opset} became {after.opset}"] if before.opset != after.opset else []),
        ],
        weights_kept=len(kept),
        weights_changed=[_weight(one) for name, one in come.items() if name in gone],
        weights_added=[_weight(one) for name, one in come.items() if name not in gone],
        weights_removed=[_weight(one) for name, one in gone.items() if name not in come],
        nodes_kept=sum(1 for name, node in a.items() if name in b and b[name].op == node.op),
        nodes_changed=[_node(node) for name, node in b.items() if name in a and a[name].op != node.op],
        nodes_gone=[
            NodeChange(name, node.op, became=stands.get(name, [])) for name, node in a.items() if name not in b
        ],
        nodes_new=[_node(node) for name, node in b.items() if name not in a],
    )


def _weights(graph: gs.Graph) -> dict[bytes, gs.Constant]:
    found: dict[bytes, gs.Constant] = {}
    for one in constants(graph):
        found.setdefault(digest(one), one)
    return found


def _weight(one: gs.Constant) -> WeightChange:
    values = one._values
    return WeightChange(one.name, dtypes.name(values.dtype), list(values.shape), nbytes(one))


def _nodes(graph: gs.Graph) -> dict[str, gs.Node]:
    return {node.name: node for scope in scopes(graph) for node in scope.nodes if node.op != "Constant"}


def _node(node: gs.Node) -> NodeChange:
    known = peek(node)
    if known is None:
        return NodeChange(node.name, node.op)
    return NodeChange(node.name, node.op, flatten(known.origin), flatten(known.rules))


def _stand_ins(nodes: dict[str, gs.Node]) -> dict[str, list[str]]:
    """Source node -> the nodes that stand for it."""
    found: dict[str, list[str]] = {}
    for node in nodes.values():
        known = peek(node)
        for name in flatten(known.origin) if known is not None else ():
            found.setdefault(name, []).append(node.name)
    return found


def _ports(kind: str, before: list[gs.Tensor], after: list[gs.Tensor]) -> list[str]:
    def words(tensor: gs.Tensor) -> str:
        return f"{dtypes.name(dtypes.of(tensor))} {shapes.text(shapes.of(tensor))}"

    old, new = ({one.name: words(one) for one in tensors} for tensors in (before, after))
    changed = [
        f"{kind} {name!r}: {old[name]} became {new[name]}" for name in old if name in new and old[name] != new[name]
    ]
    gone = [f"{kind} {name!r} ({text}) is gone" for name, text in old.items() if name not in new]
    come = [f"{kind} {name!r} ({text}) is new" for name, text in new.items() if name not in old]
    return [*changed, *gone, *come]
