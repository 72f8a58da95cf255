"""What is there twice: equal weights, equal computations."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir.edits import inherit
from graphopt.ir.graph import new_constant, scopes, subgraphs
from graphopt.ir.weights import SAMPLE, digest, nbytes, read, sample
from graphopt.rewrite.spelling import RANDOM, is_standard
from graphopt.rewrite.worklist import Model


@graphopt.pass_("simplify")
def merge_equal_weights(graph: gs.Graph, target: Target, model: Model) -> int:
    """Constants of equal dtype, shape and bytes are one, across subgraphs; each weight is read once.

    Not across functions, whose bodies see nothing outside.
    """
    known: _Known = model.memory.setdefault("merge-equal-weights", _Known({}, {}))
    changed: dict[Any, _References] = {}
    for node in model.fresh("merge-equal-weights"):
        for tensor in node.inputs:
            if not isinstance(tensor, gs.Constant):
                continue
            seen = known.constants.get(id(tensor))
            if seen is None or seen() is not tensor:
                known.constants[id(tensor)] = reference = weakref.ref(tensor)
                home = id(model.home(node)) if graph.functions else 0
                values = tensor._values
                key = (home, values.dtype, tuple(values.shape), nbytes(tensor))
                changed[key] = known.alike.setdefault(key, [])
                changed[key].append(reference)
    changes = 0
    for references in changed.values():
        group = [tensor for reference in references if (tensor := reference()) is not None and tensor.outputs]
        references[:] = map(weakref.ref, group)
        for likely in _by(sample, [tensor for tensor in group if not model.editor.is_result(tensor)]):
            for equal in [likely] if nbytes(likely[0]) <= SAMPLE else _by(digest, likely):
                for tensor in equal[1:]:
                    model.editor.replace_uses(tensor, equal[0])
                    changes += 1
    return changes


_References = list["weakref.ref[gs.Constant]"]


class _Known(NamedTuple):
    """The constants that an earlier run has seen; they may be gone, and their addresses used again."""

    constants: dict[int, weakref.ref[gs.Constant]]
    alike: dict[Any, _References]
    """(home, dtype, shape, bytes) -> constants."""


def _by(mark: Callable[[gs.Constant], bytes], group: list[gs.Constant]) -> list[list[gs.Constant]]:
    """The parts of a group whose marks are equal, where there are two or more."""
    parts: dict[bytes, list[gs.Constant]] = {}
    for tensor in group if len(group) > 1 else ():
        parts.setdefault(mark(tensor), []).append(tensor)
    return [part for part in parts.values() if len(part) > 1]


@graphopt.pass_("simplify", after=["merge-equal-weights"], ops=["Gemm"])
def share_transposed_weights(graph: gs.Graph, target: Target, model: Model) -> int:
    """Gemm(x, transpose(w), transB=t) = Gemm(x, w, transB=1-t), where w is in the model anyway.

    Only for weights whose every reader is the second operand of a Gemm: elsewhere a Transpose would have to be added.
    """
    if not any(_is_twin(tensor) for node in model.fresh("share-transposed-weights") for tensor in node.inputs):
        return 0
    changes = 0
    for home in (graph, *graph.functions):
        alike: dict[Any, dict[int, gs.Constant]] = {}
        for scope in scopes(home, functions=False):
            for node in scope.nodes:
                for tensor in node.inputs:
                    if _is_twin(tensor):
                        alike.setdefault((tensor.dtype, *sorted(tensor.shape)), {})[id(tensor)] = tensor
        for group in alike.values():
            changes += _share(list(group.values()), model) if len(group) > 1 else 0
    return changes


TWIN_LEAST = 1 << 12
"""Bytes from which a transposed twin is looked for."""


def _is_twin(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and len(tensor.shape) == 2 and nbytes(tensor) >= TWIN_LEAST


def _share(group: list[gs.Constant], model: Model) -> int:
    edit = model.editor
    free = [t for t in group if not edit.is_result(t) and all(_is_right_factor(user, t) for user in t.outputs)]
    if not free:
        return 0
    known: dict[bytes, list[gs.Constant]] = {}
    for tensor in group:
        known.setdefault(_corner(read(tensor)), []).append(tensor)
    gone: set[int] = set()
    changes = 0
    for tensor in free:
        values = read(tensor).T
        likely = known.get(_corner(values))
        if likely is None:
            continue
        turned = digest(new_constant("", np.asarray(values, order="C")))
        twin = next((other for other in likely if digest(other) == turned), None)
        if twin is None or twin is tensor or id(twin) in gone or turned == digest(tensor):
            continue
        for node in list(tensor.outputs):
            node.attrs["transB"] = 1 - int(node.attrs.get("transB", 0))
            edit.edited(node)
        edit.replace_uses(tensor, twin)
        gone.add(id(tensor))
        changes += 1
    return changes


def _corner(matrix: np.ndarray[Any, Any]) -> bytes:
    """A few of its elements and its shape: most matrices that are not equal differ there."""
    return repr(matrix.shape).encode() + matrix[:8, :8].tobytes() + matrix[-8:, -8:].tobytes()


def _is_right_factor(node: gs.Node, tensor: gs.Constant) -> bool:
    if node.op != "Gemm" or not is_standard(node) or isinstance(node.attrs.get("transB"), gs.Node.AttributeRef):
        return False
    return [slot for slot, other in enumerate(node.inputs) if other is tensor] == [1]


@graphopt.pass_("simplify", after=["merge-equal-weights", "share-transposed-weights"])
def merge_equal_nodes(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x) = f(x): nodes of equal operator, attributes and inputs in one scope are one.

    Never random operators, control flow, calls of functions or operators of other domains (which may have state).
    """
    edit = model.editor
    seen: dict[Any, gs.Node] = model.memory.setdefault("merge-equal-nodes", {})
    changes = 0
    for node in sorted(model.fresh("merge-equal-nodes"), key=edit.place):
        if not edit.has(node) or not _is_pure(node):
            continue
        key = _key(node)
        if key is None:
            continue
        key = (id(edit.scope(node)), *key)
        kept = seen.setdefault(key, node)
        if kept is not node and (
            not edit.has(kept) or edit.scope(kept) is not edit.scope(node) or _key(kept) != key[1:]
        ):
            kept = seen[key] = node  # what an earlier run has seen is gone, or another by now
        if kept is node:
            continue
        if edit.place(node) < edit.place(kept):
            seen[key], kept, node = node, node, kept
        pairs = list(zip(kept.outputs, node.outputs, strict=False))
        if any(bool(a.name) != bool(b.name) or edit.is_result(b) for a, b in pairs):
            continue
        for a, b in pairs:
            if b.name:
                edit.replace(b, a)
        inherit(kept, [kept, node], "merge-equal-nodes")
        edit.prune([node])
        changes += 1
    return changes


def _is_pure(node: gs.Node) -> bool:
    if node.op in RANDOM or not is_standard(node) or node.op.startswith(("Sequence", "Optional")):
        return False
    return not (node.op == "Dropout" and len(node.inputs) > 2) and not subgraphs(node)


def _key(node: gs.Node) -> Any:
    attrs = []
    for name, value in sorted(node.attrs.items()):
        if isinstance(value, gs.Constant):
            value = (str(value.dtype), tuple(value.shape), digest(value))
        elif isinstance(value, gs.Node.AttributeRef):
            value = ("reference", value.name)
        elif isinstance(value, list):
            value = tuple(value)
        try:
            hash(value)
        except TypeError:
            return None
        attrs.append((name, type(value), value if not isinstance(value, float) else value.hex()))
    inputs = tuple(id(tensor) if tensor.name else 0 for tensor in node.inputs)
    return node.op, tuple(attrs), inputs, len(node.outputs)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [merge_equal_weights, share_transposed_weights, merge_equal_nodes]
