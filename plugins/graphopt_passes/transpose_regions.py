"""Transposes around a region of operators that don't care about the order of axes, as exports from NHWC have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import Editor, inherit
from graphopt.ir.graph import new_variable, scopes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

from .layouts import Perm, compose, data_slots, free_rank, inverse, is_identity, rearrange, rearranged_constant

_MOST_READERS = 1000


@graphopt.pass_("simplify", after=["compose-transposes"], ops=["Transpose"])
def cancel_transposes(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(Transpose(x, p)) = Transpose(f'(x), p) over a whole region of such f, where fewer transposes remain."""
    changes = 0
    for scope in scopes(graph):
        if sum(node.op == "Transpose" for node in scope.nodes) < 2:
            continue
        for region in _regions(list(scope.nodes), model):
            perm = region.best()
            if perm is not None:
                region.turn(perm)
                changes += 1
    return changes


def _regions(nodes: list[gs.Node], model: Model) -> Iterator[_Region]:
    """The maximal connected sets of free nodes that touch a Transpose."""
    if not nodes:
        return
    opset = model.opset(nodes[0])
    rank = {id(node): free for node in nodes if (free := free_rank(node, opset)) is not None}
    parent = {key: key for key in rank}

    def find(key: int) -> int:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for node in nodes:
        if id(node) not in rank:
            continue
        for slot in data_slots(node):
            maker = node.inputs[slot].inputs[0] if node.inputs[slot].inputs else None
            if maker is not None and rank.get(id(maker)) == rank[id(node)]:
                parent[find(id(maker))] = find(id(node))
    groups: dict[int, list[gs.Node]] = {}
    for node in nodes:
        if id(node) in rank:
            groups.setdefault(find(id(node)), []).append(node)
    for group in groups.values():  # each is looked at when its turn comes: the one before may have moved its transposes
        region = _Region(group, rank[id(group[0])], opset, model.editor)
        if region.perms:
            yield region


def _perm(node: gs.Node | None) -> list[int] | None:
    if node is None or node.op != "Transpose" or not is_standard(node) or not node.attrs.get("perm"):
        return None
    return list(node.attrs["perm"])


class _Region:
    """Connected free nodes of one rank."""

    def __init__(self, nodes: list[gs.Node], rank: int, opset: int, edit: Editor) -> None:
        self.nodes, self.rank, self.opset, self.edit = nodes, rank, opset, edit
        inside = {id(node) for node in nodes}
        self.inside = inside
        self.inputs: dict[int, gs.Tensor] = {}
        """Full-rank values from outside."""
        self.perms: Counter[tuple[int, ...]] = Counter()
        """Orders of axes in which some Transpose would vanish."""
        for node in nodes:
            for slot in data_slots(node):
                tensor = node.inputs[slot]
                if isinstance(tensor, gs.Constant) or (tensor.inputs and id(tensor.inputs[0]) in inside):
                    continue
                shape = shapes.of(tensor)
                if shape is not None and any(dim != 1 for dim in shape):
                    self.inputs[id(tensor)] = tensor
        for tensor in self.inputs.values():
            perm = _perm(tensor.inputs[0] if tensor.inputs else None)
            if perm is not None and len(perm) == rank:
                self.perms[tuple(perm)] += 1
        for node in nodes:
            for tensor in node.outputs:
                if len(tensor.outputs) > _MOST_READERS:
                    continue
                for user in tensor.outputs:
                    perm = _perm(user)
                    if perm is not None and len(perm) == rank:
                        self.perms[tuple(inverse(perm))] += 1

    def best(self) -> list[int] | None:
        """The order that saves most transposes; None if none does."""
        choices = [(self._cost(list(perm)), perm) for perm, _ in self.perms.most_common(3)]
        cost, perm = min(choices)
        return list(perm) if cost < 0 else None

    def _cost(self, perm: Perm) -> int:
        cost = 0
        back = inverse(perm)
        for tensor in self.inputs.values():
            maker = tensor.inputs[0] if tensor.inputs else None
            known = _perm(maker)
            cost += known is None or not is_identity(compose(known, back))
            if known is not None and not self.edit.is_result(tensor):
                cost -= all(id(user) in self.inside for user in tensor.outputs)
        for node in self.nodes:
            for tensor in node.outputs:
                stays = self.edit.is_result(tensor)
                for user in tensor.outputs:
                    if id(user) in self.inside:
                        continue
                    known = _perm(user)
                    if known is None:
                        stays = True
                    else:
                        cost -= is_identity(compose(perm, known))
                cost += stays
        return cost

    def turn(self, perm: Perm) -> None:
        """Compute everything inside in the order of axes from which Transpose(_, perm) makes the old one."""
        edit, back = self.edit, inverse(perm)
        turned: dict[int, gs.Tensor] = {}
        sources: list[gs.Node] = []
        for tensor in self.inputs.values():
            maker = tensor.inputs[0] if tensor.inputs else None
            known = _perm(maker)
            source = tensor
            order = back
            if maker is not None and known is not None:
                source, order = maker.inputs[0], compose(known, back)
                sources.append(maker)
            if is_identity(order):
                turned[id(tensor)] = source
                continue
            at = next(user for user in self.nodes if any(operand is tensor for operand in user.inputs))
            made = edit.insert("Transpose", [source], {"perm": order}, at=at)
            self._describe(made.outputs[0], tensor, back)
            inherit(made, [maker if known is not None and maker is not None else at], "cancel-transposes")
            turned[id(tensor)] = made.outputs[0]
        olds = []
        for node in self.nodes:
            for slot, tensor in enumerate(node.outputs):
                if not tensor.name:
                    continue
                olds.append((node, tensor))
                new = new_variable(edit.fresh(tensor.name))
                self._describe(new, tensor, back)
                node.outputs[slot] = new
                turned[id(tensor)] = new
        for node in self.nodes:
            self._feed(node, turned, back)
            rearrange(node, perm, self.opset, edit)
            edit.edited(node)
        for node, tensor in olds:
            self._hand_out(node, tensor, turned[id(tensor)], perm)
        edit.prune(sources)

    def _describe(self, new: gs.Tensor, old: gs.Tensor, order: Perm) -> None:
        new.dtype = old.dtype
        shape = shapes.of(old)
        new.shape = None if shape is None else tuple(shape[axis] for axis in order)

    def _feed(self, node: gs.Node, turned: dict[int, gs.Tensor], order: Perm) -> None:
        for slot in data_slots(node):
            tensor = node.inputs[slot]
            if id(tensor) in turned:
                node.inputs[slot] = turned[id(tensor)]
            elif isinstance(tensor, gs.Constant):
                array = rearranged_constant(tensor, order)
                if array is not None:
                    turned[id(tensor)] = node.inputs[slot] = self.edit.constant(array, tensor.name)

    def _hand_out(self, node: gs.Node, old: gs.Tensor, new: gs.Tensor, perm: Perm) -> None:
        edit = self.edit
        for user in list(old.outputs):
            known = _perm(user)
            if known is None or not any(operand is old for operand in user.inputs):
                continue
            order = compose(perm, known)
            if is_identity(order):
                new = edit.replace(user.outputs[0], new, at=user)
                user.inputs[0] = new
                edit.prune([user])
            else:
                user.inputs[0] = new
                user.attrs["perm"] = order
        if edit.is_used(old):
            made = edit.insert("Transpose", [new], {"perm": list(perm)}, at=node, outputs=[old])
            inherit(made, [node], "cancel-transposes")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [cancel_transposes]
