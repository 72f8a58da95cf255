"""Sequences of known structure, as the tensors that they hold: TensorRT has no sequences.

    SequenceAt([x0, x1, ...], i) = xi
    SequenceLength([x0, ..., xn]) = n + 1
    ConcatFromSequence([x0, x1, ...], axis) = Concat(x0, x1, ..., axis)

The structure is followed through SequenceConstruct, Empty, Insert, Erase, SplitToSequence and Identity with constant
positions. Not where a sequence is an input or a result of the model, or comes out of a body.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite

_MOST = 256


def elements(site: Site, sequence: Value) -> list[Value]:
    """The tensors of a sequence. Raises Skip where its structure is not known."""
    node = sequence.producer
    if node is None or node.op not in _KNOWN:
        raise Skip(f"the sequence {sequence.name!r} has no known structure")
    given = [Value(tensor, ops=site.op) if tensor.name else None for tensor in node.inputs]

    def position(slot: int, size: int, otherwise: int) -> int:
        value = given[slot] if slot < len(given) else None
        if value is None:
            return otherwise
        if value.const is None:
            raise Skip(f"the position {value.name!r} is computed at run time; bind it with --bind")
        place = int(value.const.reshape(()))
        return place + size if place < 0 else place

    if node.op == "SequenceEmpty":
        return []
    if node.op == "SequenceConstruct":
        return [value for value in given if value is not None]
    first = given[0]
    assert first is not None
    if node.op == "Identity":
        return elements(site, first)
    if node.op == "SplitToSequence":
        return _split(site, node, first, given[1] if len(given) > 1 else None)
    found = elements(site, first)
    if node.op == "SequenceInsert":
        new = given[1]
        assert new is not None
        found.insert(position(2, len(found), len(found)), new)
    else:
        del found[position(1, len(found), len(found) - 1)]
    return found


_KNOWN = frozenset("SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SplitToSequence Identity".split())


def _split(site: Site, node: gs.Node, x: Value, split: Value | None) -> list[Value]:
    op, rank = site.op, x.rank
    if rank is None:
        raise Skip("the rank of what is split is unknown")
    axis = shapes.axis(int(node.attrs.get("axis", 0)), rank)
    size = (x.shape or ())[axis]
    if not isinstance(size, int):
        raise Skip("the dimension that is split is dynamic")
    if split is None:
        parts = [1] * size
    elif split.const is None:
        raise Skip("the sizes of the parts are computed at run time; bind them with --bind")
    elif split.const.ndim == 0:
        step = int(split.const)
        parts = [min(step, size - start) for start in range(0, size, step)]
    else:
        parts = split.const.astype(int).tolist()
    if len(parts) > _MOST:
        raise Skip(f"a sequence of more than {_MOST} tensors")
    found, start = [], 0
    for part in parts:
        piece = op.Slice(x, [start], [start + part], [axis])
        found.append(op.Squeeze(piece, [axis]) if split is None and not node.attrs.get("keepdims", 1) else piece)
        start += part
    return found


def at(site: Site) -> Value:
    found = elements(site, site[0])
    place = int(site.const(1).reshape(()))
    if not -len(found) <= place < len(found):
        raise Skip(f"position {place} of a sequence of {len(found)}")
    return site.op.Identity(found[place])  # type: ignore[no-any-return]


def length(site: Site) -> Value:
    return site.op.const(np.asarray(len(elements(site, site[0])), np.int64))


def concat(site: Site) -> Value:
    found, axis = elements(site, site[0]), int(site.attr("axis"))
    if not found:
        raise Skip("an empty sequence")
    if site.attr("new_axis", 0):
        found = [site.op.Unsqueeze(one, [axis]) for one in found]
    return site.op.Concat(*found, axis=axis)  # type: ignore[no-any-return]


HANDLERS: dict[str, Any] = {"SequenceAt": at, "SequenceLength": length, "ConcatFromSequence": concat}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def resolve_sequences(graph: gs.Graph, target: Target, model: Model) -> int:
    """SequenceAt([x0, x1, ...], i) = xi, and so for SequenceLength and ConcatFromSequence, for TensorRT only.

    Accuracy: exact.
    """
    return rewrite(model, target, HANDLERS, "resolve-sequences")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [resolve_sequences]
