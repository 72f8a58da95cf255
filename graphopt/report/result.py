"""What happened in a run, as data: `Result`, mirrored by the JSON that --json prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from graphopt.backends.protocol import NetworkInfo
from graphopt.ir.graph import scopes
from graphopt.ir.save import to_proto, write
from graphopt.ir.weights import nbytes
from graphopt.layers.lower import SPELLING, STAGE
from graphopt.numerics.each import Findings
from graphopt.numerics.verify import Verification
from graphopt.rewrite.worklist import Fired

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Description:
    """A model in numbers: nodes by operator (bodies and functions included, Constant nodes not), weights in bytes."""

    nodes: dict[str, int] = field(default_factory=dict)
    weights_bytes: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    opset: int = 0

    @property
    def node_count(self) -> int:
        return sum(self.nodes.values())


def describe(graph: gs.Graph) -> Description:
    """Count a model; each weight once, however many nodes share it."""
    from graphopt.ir import dtypes, shapes

    weights: dict[int, gs.Constant] = {}
    counts: dict[str, int] = {}
    for scope in scopes(graph):
        for node in scope.nodes:
            if node.op != "Constant":
                counts[node.op] = counts.get(node.op, 0) + 1
            for tensor in node.inputs:
                if type(tensor) is gs.Constant:
                    weights[id(tensor)] = tensor
            if node.attrs:
                for value in node.attrs.values():
                    if type(value) is gs.Constant:
                        weights[id(value)] = value

    def ports(tensors: list[gs.Tensor]) -> dict[str, str]:
        return {t.name: f"{dtypes.name(dtypes.of(t))} {shapes.text(shapes.of(t))}" for t in tensors}

    total = sum(map(nbytes, weights.values()))
    return Description(counts, total, ports(graph.inputs), ports(graph.outputs), int(graph.opset))


@dataclass
class Report:
    """Everything that a run has to say."""

    imported: dict[str, Any] | None = None
    """How a model of another framework was taken in: importer, source, packages, notes, compared."""
    source: Description = field(default_factory=Description)
    result: Description = field(default_factory=Description)
    layers_before: NetworkInfo | str = "not counted"
    layers_after: NetworkInfo | str = "not counted"
    """What the backend's parser makes of the model, or why that is not known."""
    opset: dict[str, Any] | None = None
    """What --opset did: `before`, `after`, and `respelled`, how many nodes by operator."""
    passes: list[Fired] = field(default_factory=list)
    verification: Verification | None = None
    each: Findings | None = None
    """What `--verify each` compared, change by change."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Changes that were taken back: pass, node, plugin, why, sample, source_nodes, repro."""
    precision: dict[str, Any] | None = None
    """What --precision did: tensors by dtype, casts, error, and which were kept in float32, why."""
    build: dict[str, Any] | None = None
    outputs: dict[str, list[str]] = field(default_factory=dict)
    """'model' -> the model file and its data file; 'engine' -> the engine file."""
    not_lowered: dict[str, str] = field(default_factory=dict)
    """Layer -> why no call of it was looked for."""
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    """What a user should not overlook beside the status: plugins that could not be loaded."""

    def refuse(
        self, name: str, node: str, plugin: str, why: str, *, sample: str = "", source_nodes: Sequence[str] = (),
        repro: str = "",
    ) -> None:  # fmt: skip
        """Note a change that was taken back; node: '' for that of a whole function pass."""
        self.refused.append(
            {
                "pass": name, "node": node, "plugin": plugin, "why": why, "sample": sample,
                "source_nodes": list(source_nodes), "repro": repro,
            }
        )  # fmt: skip

    @property
    def status(self) -> str:
        """'ok', 'refused' (some changes were taken back), 'unverified' (nothing could be compared), 'unchecked'."""
        if self.refused:
            return "refused"
        if self.verification is None:
            return "unchecked"
        return "ok" if self.verification.status == "passed" else self.verification.status

    def fired(self) -> list[Fired]:
        """What the passes did, a custom layer's spellings as one."""
        return joined(self.passes)

    def to_json(self) -> dict[str, Any]:
        """The object that --json prints; docs/cli.md describes its keys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "imported": self.imported,
            "nodes": {
                "before": self.source.node_count,
                "after": self.result.node_count,
                "by_op_before": dict(sorted(self.source.nodes.items())),
                "by_op_after": dict(sorted(self.result.nodes.items())),
            },
            "weights_bytes": {"before": self.source.weights_bytes, "after": self.result.weights_bytes},
            "layers": {"before": _layers(self.layers_before), "after": _layers(self.layers_after)},
            "opset": self.opset,
            "passes": [_fired(one) for one in self.fired()],
            "verification": self.verification.to_json() if self.verification else None,
            "each": self.each.to_json() if self.each else None,
            "refused": self.refused,
            "not_lowered": self.not_lowered,
            "precision": self.precision,
            "build": self.build,
            "outputs": self.outputs,
            "seconds": round(self.seconds, 3),
            "warnings": self.warnings,
        }


def _layers(found: NetworkInfo | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"count": None, "by_type": {}, "reason": found}
    return {"count": found.layers, "by_type": dict(sorted(found.layer_types.items())), "reason": ""}


def _fired(one: Fired) -> dict[str, Any]:
    return {
        "name": one.name,
        "stage": one.stage,
        "plugin": one.plugin,
        "changes": one.changes,
        "seconds": round(one.seconds, 6),
        "nodes": one.nodes[:50],
        "vetoes": dict(list(one.vetoes.items())[:50]),
    }


def joined(passes: Sequence[Fired]) -> list[Fired]:
    """The passes, those for the spellings of one custom layer (fused-x, fused-x-2, ...) as one."""
    found: dict[tuple[str, str], Fired] = {}
    for one in passes:
        stem = SPELLING.sub("", one.name) if one.stage == STAGE else ""
        key = (one.plugin, stem if (one.plugin, stem) in found else one.name)
        known = found.get(key)
        if known is None:
            found[key] = replace(one, nodes=list(one.nodes), vetoes=dict(one.vetoes))
        else:
            known.changes, known.seconds = known.changes + one.changes, known.seconds + one.seconds
            known.nodes += one.nodes
            known.vetoes.update(one.vetoes)
    return list(found.values())


class Result:
    """An optimized model and the report of how it came about."""

    def __init__(self, graph: gs.Graph, report: Report, held: object = None) -> None:
        """held: what must live as long as the graph, whose weights may lie in its files."""
        self.graph = graph
        self._held = held
        self.report = report
        self._model: onnx.ModelProto | None = None

    @property
    def model(self) -> onnx.ModelProto:
        """The optimized model, weights included. Raises ModelError beyond protobuf's 2 GB: use save()."""
        if self._model is None:
            self._model = to_proto(self.graph)
        return self._model

    @property
    def status(self) -> str:
        return self.report.status

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the model (and its data file, beyond 2 GB) atomically; the files written."""
        return write(self.graph, path)

    def to_json(self) -> dict[str, Any]:
        return self.report.to_json()
