"""What TensorRT refuses, as far as it is known without asking its builder: nodes, ports, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from .backends.operators import CONSTANT_SLOTS, DTYPES, plain, table
from .config import Target
from .ir import dtypes
from .ir.graph import flatten, peek, scopes, subgraphs
from .ir.promote import NEVER_PORTS, NEVER_TAKEN, carrier
from .rewrite.value import constant_of

RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
CONTROL = frozenset(("If", "Loop", "Scan"))
_PLAIN_MOVES = frozenset("Identity Concat Reshape Transpose Squeeze Unsqueeze Flatten Constant".split())


@dataclass(frozen=True)
class Blocker:
    """A node that TensorRT refuses."""

    node: str
    op: str
    source: tuple[str, ...]
    """The nodes of the model as exported that it stands for."""
    reason: str
    """In plain words."""
    message: str
    """In the parser's."""
    remedy: str
    """What is done about it, or what the user may do, or that nothing can be done."""


def source_of(node: gs.Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    known = peek(node)
    return tuple(flatten(known.origin)) if known is not None and known.origin else (node.name,)


def touches(node: gs.Node | None, names: set[str]) -> bool:
    return node is not None and any(tensor.name in names for tensor in (*node.inputs, *node.outputs))


def by_table(graph: gs.Graph, target: Target) -> list[Blocker]:
    """What the table of the target refuses; ports too."""
    refused = table(target.backend, target.version).refused
    found = []
    for scope in scopes(graph):
        for node in scope.nodes:
            reason = ""
            if node.op in refused or (node.domain not in (None, "", "ai.onnx") and not _is_function(node, graph)):
                reason = "TensorRT has no such operator"
            elif any(
                slot < len(node.inputs) and node.inputs[slot].name and not isinstance(node.inputs[slot], gs.Constant)
                and any(node.inputs[slot] is port for port in graph.inputs)
                for slot in CONSTANT_SLOTS.get(node.op, ())
            ):  # fmt: skip
                reason = "an operand must be a constant"
            else:
                names = [dtypes.name(dtypes.of(t)) for t in (*node.inputs, *node.outputs) if t.name]
                lacking = sorted({name for name in names if name != "?"} - DTYPES)
                reason = f"TensorRT has no {lacking[0]}" if lacking else ""
            if reason:
                found.append(Blocker(node.name, node.op, source_of(node), reason, "", ""))
    return found


def _is_function(node: gs.Node, graph: gs.Graph) -> bool:
    return any(function.name == node.op for function in graph.functions)


def ports(graph: gs.Graph) -> list[Blocker]:
    """Inputs and outputs that no engine has."""
    found = []
    for side, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            kind = getattr(tensor, "type", "tensor_type").removesuffix("_type").replace("_", " ")
            name = dtypes.name(dtypes.of(tensor))
            remedy = ""
            if kind != "tensor":
                what = f"{kind}s"
                remedy = "none, but tensors of their own in its place"
            elif name == "string":
                what, remedy = "strings", "none: do this part outside of the model"
            elif name in NEVER_TAKEN or (name in NEVER_PORTS and _handled(tensor, side, name)):
                what, remedy = name, f"--promote-io gives it {dtypes.name(carrier(dtypes.of(tensor)))}"
            else:
                continue
            reason = f"no engine has an {side} of {what}"
            found.append(Blocker(tensor.name, side, (), reason, "", remedy))
    return found


def _handled(tensor: gs.Tensor, side: str, name: str) -> bool:
    """Whether anything but quantization and movement makes or reads a port of float8, float4 or int4."""
    nodes = tensor.outputs if side == "input" else tensor.inputs
    return any(
        node.op not in _PLAIN_MOVES | {"DequantizeLinear" if side == "input" else "QuantizeLinear"} for node in nodes
    )


def never_built(graph: gs.Graph, target: Target) -> list[Blocker]:
    """What is parsed and then not built."""
    found = ports(graph)
    for scope in scopes(graph):
        for node in scope.nodes:
            quantizes = node.op in ("QuantizeLinear", "DequantizeLinear")
            if quantizes and len(node.inputs) > 2 and node.inputs[2].name and constant_of(node.inputs[2]) is None:
                why = "its zero point must be a constant"
                found.append(Blocker(node.name, node.op, source_of(node), why, "", ""))
    unbuildable = table(target.backend, target.version).unbuildable
    if unbuildable:
        why = "TensorRT-RTX parses it and then has no kernel for it"
        nodes = [node for scope in scopes(graph) for node in scope.nodes if node.op in unbuildable]
        found += [Blocker(node.name, node.op, source_of(node), why, "", "") for node in nodes]
        found += _states_within_if(graph)
    return found


def _states_within_if(graph: gs.Graph) -> list[Blocker]:
    """Recurrent operators within an If, of which the last state is read: Y alone is built, Y_h and Y_c are not."""
    found = []
    for choice in graph.nodes:
        for body in subgraphs(choice) if choice.op == "If" else ():
            for scope in scopes(body, functions=False):
                ends = {id(tensor) for tensor in scope.outputs}
                for node in scope.nodes:
                    if node.op in RECURRENT and any(t.outputs or id(t) in ends for t in node.outputs[1:]):
                        why = "TensorRT-RTX builds no recurrent operator within an If whose last state is read"
                        found.append(Blocker(node.name, node.op, source_of(node), why, "", decided_by(choice, graph)))
    return found


def decided_by(node: gs.Node, graph: gs.Graph) -> str:
    """The --bind that decides an If, or unrolls a Loop, where inputs of one element alone do."""
    slots = {"If": (0,), "Loop": (0, 1)}.get(node.op, ())
    inputs = {id(tensor) for tensor in graph.inputs}
    names: dict[str, None] = {}
    pending = [node.inputs[slot] for slot in slots if slot < len(node.inputs)]
    seen = set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in inputs:
            if tensor.shape is None or any(dim != 1 for dim in tensor.shape):
                return ""
            names[tensor.name] = None
        for maker in tensor.inputs if isinstance(tensor, gs.Variable) else ():
            pending += maker.inputs
    return "decide it: " + " ".join(f"--bind {name}=VALUE" for name in sorted(names)) if names else ""


def located(graph: gs.Graph, message: str) -> list[Blocker]:
    """The nodes that a builder's message is about: those that it names, else, of its scopes, the control flow."""
    reason = plain(message)
    nodes = [node for scope in scopes(graph) for node in scope.nodes]
    if "graphScope" in message:
        found = [node for node in nodes if node.op in CONTROL]
    else:
        words = set(re.findall(r"[^\s,;:()\[\]{}'\"]+", message))
        words |= {word.rsplit("_", 1)[0] for word in words} | {word.removeprefix("node_of_") for word in words}
        found = [n for n in nodes if n.name in words or any(t.name and t.name in words for t in n.outputs)]
    return [
        Blocker(node.name, node.op, source_of(node), reason, message, decided_by(node, graph)) for node in found[:8]
    ] or [Blocker("", "", (), reason, message, "")]
