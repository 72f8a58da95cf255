"""How large the inner values of a model are on samples, and which of them are therefore kept in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes
from graphopt.ir.graph import new_constant, scopes
from graphopt.ir.weights import read
from graphopt.numerics.difference import Array
from graphopt.numerics.execute import Runner

from .constants import PASSES as MASKS
from .constants import SENTINEL, ends_in_softmax, fit, largest_for, rounded_to
from .flow import Flow, is_single
from .observe import Feeds
from .peaks import peaks
from .plan import LARGEST

HEADROOM = 2.0
"""Samples are samples: what comes within this factor of the largest value counts as beyond it."""
_EXACT_INTEGERS = {"float16": 2048.0, "bfloat16": 256.0}
_ANGLE = 8.0


@dataclass
class Range:
    """Of the finite values of a tensor over all samples: the largest magnitude, and how many samples had any."""

    largest: float = 0.0
    count: int = 0

    def add(self, values: Array) -> None:
        if values.size == 0:
            return
        with np.errstate(all="ignore"):
            peak = float(np.abs(values).max())
            if not np.isfinite(peak):
                finite = values[np.isfinite(values)]
                peak = float(np.abs(finite).max()) if finite.size else 0.0
        self.largest = max(self.largest, peak)
        self.count += 1


def measured(flow: Flow, samples: Sequence[Feeds], runner: Runner) -> dict[int, Range]:
    """found[id(tensor)] of each float32 value of the main graph, masking constants already as they will be."""
    tensors = {
        t.name: t for node in flow.graph.nodes for t in node.outputs if t.name and is_single(t)
    } | {t.name: t for t in flow.graph.inputs if is_single(t)}  # fmt: skip
    found = {id(tensor): Range() for tensor in tensors.values()}
    inner = [tensor for tensor in tensors.values() if tensor.inputs]
    fed = {tensor.name for tensor in tensors.values() if not tensor.inputs}
    for feeds in samples:
        for name in fed & feeds.keys():
            found[id(tensors[name])].add(np.asarray(feeds[name]))
    with _clamped(flow):
        for _, values in peaks(flow.graph, inner, samples, runner):
            for name, value in values.items():
                found[id(tensors[name])].add(value)
    return found


def pin_by_range(flow: Flow, ranges: dict[int, Range]) -> None:
    """Keep what low precision cannot hold: values beyond it; large integers; large angles."""
    top = LARGEST[flow.low] / HEADROOM
    for key, value in flow.values.items():
        known = ranges.get(key)
        if known is None or not known.count:
            continue
        maker = value.tensor.inputs[0] if value.tensor.inputs else None
        masks = maker is not None and maker.op in MASKS and known.largest > SENTINEL / 2 and ends_in_softmax(maker)
        if known.largest > (top * HEADROOM if masks else top):
            flow.pin_tensor(value.tensor, f"reaches {known.largest:.3g}, beyond {flow.low} with headroom {HEADROOM:g}")
        if maker is not None and maker.op == "Cast" and not is_single(maker.inputs[0]):
            whole = dtypes.of(maker.inputs[0])
            if whole is not None and whole.kind in "iu" and known.largest > _EXACT_INTEGERS[flow.low]:
                flow.pin_tensor(value.tensor, f"integers up to {known.largest:.0f}, not exact in {flow.low}")
        for user in value.tensor.outputs:
            if user.op in ("Sin", "Cos", "Tan") and not user.domain and known.largest > _ANGLE:
                _pin_cone(flow, user, f"angles up to {known.largest:.3g}")


_MOVES = frozenset(
    "Add Sub Mul Div Neg Floor Ceil Round Sqrt Pow Mod Clip Min Max Abs Concat Reshape Unsqueeze Squeeze Expand "
    "Transpose Slice Gather Identity Tile Reciprocal Exp Where Cast Split".split()
)
_OUTER = _MOVES | {"MatMul", "Einsum"}


def pin_by_meaning(flow: Flow) -> None:
    """Keep index arithmetic: what ends in integers or shapes is computed in float32."""
    for scope in scopes(flow.graph, functions=False):
        for node in scope.nodes:
            if node.domain not in (None, ""):
                continue
            if node.op == "Cast" and is_single(node.inputs[0]) and _is_integer(node.attrs.get("to")):
                _pin_cone(flow, node, "index arithmetic", _MOVES)
            elif node.op in ("Range", "NonMaxSuppression"):
                for tensor in node.inputs:
                    if is_single(tensor) and tensor.inputs:
                        _pin_cone(flow, tensor.inputs[0], "index arithmetic", _MOVES)


def _pin_cone(flow: Flow, node: gs.Node, why: str, through: Iterable[str] = _OUTER) -> None:
    """Keep a node, and the arithmetic that its input comes of."""
    pending, seen = [node], {id(node)}
    while pending and len(seen) < 256:
        one = pending.pop()
        flow.pin(one, why)
        for tensor in one.inputs:
            maker = tensor.inputs[0] if tensor.inputs else None
            if maker is not None and is_single(tensor) and id(maker) not in seen and maker.op in through:
                seen.add(id(maker))
                pending.append(maker)


def _is_integer(to: Any) -> bool:
    kind = dtypes.from_onnx(to) if isinstance(to, int) else np.dtype(to)
    return kind is not None and kind.kind in "iu"


@contextmanager
def _clamped(flow: Flow) -> Any:
    """While it lasts, masking constants that low precision cannot hold are what they will become."""
    dtype = np.dtype(dtypes.from_onnx(10 if flow.low == "float16" else 16))
    undo: list[tuple[gs.Node, int, gs.Tensor]] = []
    try:
        for scope in scopes(flow.graph, functions=False):
            for node in scope.nodes:
                atom = flow.atoms[flow.of.get(id(node), 0)]
                for slot, tensor in enumerate(node.inputs):
                    if atom.pinned or not isinstance(tensor, gs.Constant) or not is_single(tensor):
                        continue
                    if slot in flow.slots(node).inputs and fit(tensor, dtype).beyond:
                        values = rounded_to(read(tensor), dtype, largest_for(node, dtype)).astype(np.float32)
                        undo.append((node, slot, tensor))
                        node.inputs[slot] = new_constant(f"{tensor.name}_clamped", values)
        yield
    finally:
        for node, slot, tensor in reversed(undo):
            node.inputs[slot] = tensor
