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
from graphopt.ir.graph import new_variable
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.worklist import Model

from .layouts import Perm, compose, data_slots, free_rank, inverse, is_identity, rearrange, rearranged_constant

_MOST_READERS = 1000


@graphopt.pass_("simplify", after=["compose-transposes"], ops=["Transpose"])
def cancel_transposes(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(Transpose(x, p)) = Transpose(f'(x), p) over a whole region of such f, where fewer transposes remain."""
    changes = 0
    for region in _regions(model):
        perm = region.best()
        if perm is not None:
            region.turn(perm)
            changes += 1
    return changes


def _regions(model: Model) -> Iterator[_Region]:
    """The maximal connected sets of free nodes that touch a Transpose, in scopes of two and more."""
    edit = model.editor
    transposes = edit.of("Transpose")
    count = Counter(id(edit.scope(node)) for node in transposes)
    ranks: dict[int, int | None] = {}

    def rank(node: gs.Node) -> int | None:
        if id(node) not in ranks:
            ranks[id(node)] = free_rank(node, model.opset(node))
        return ranks[id(node)]

    seen: set[int] = set()
    groups = []
    for transpose in transposes:
        if count[id(edit.scope(transpose))] < 2:
            continue
        for seed in _around(transpose, edit):
            if id(seed) in seen or rank(seed) is None:
                continue
            seen.add(id(seed))
            group = [seed]
            for node in group:  # grows while it is walked through
                for other in _around(node, edit):
                    if id(other) not in seen and rank(other) == rank(seed):
                        seen.add(id(other))
                        group.append(other)
            groups.append(sorted(group, key=edit.place))
    groups.sort(key=lambda group: edit.place(group[0]))
    for group in groups:  # each is looked at when its turn comes: the one before may have moved its transposes
        region = _Region(group, rank(group[0]) or 0, model.opset(group[0]), edit)
        if region.perms:
            yield region


def _around(node: gs.Node, edit: Editor) -> Iterator[gs.Node]:
    """The nodes of its scope that give it values with axes, or read its values as such."""
    scope = edit.scope(node)
    for slot in data_slots(node):
        for maker in node.inputs[slot].inputs if slot < len(node.inputs) else ():
            if edit.scope(maker) is scope:
                yield maker
    for tensor in node.outputs:
        for user in tensor.outputs:
            if edit.scope(user) is scope and any(user.inputs[slot] is tensor for slot in data_slots(user)):
                yield user


def _perm(node: gs.Node | None) -> list[int] | None:
    if node is None or node.op != "Transpose" or not is_standard(node) or not node.attrs.get("perm"):
        return None
    perm = list(node.attrs["perm"])
    return perm if sorted(perm) == list(range(len(perm))) else None


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
