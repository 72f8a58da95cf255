"""Edits that keep a graph consistent: constant time each, whatever the number of consumers.

An `Editor` is made over a whole model (all scopes) in linear time, and used until `flush`, which puts
`scope.nodes` in order again. Code that edits graphsurgeon's objects directly makes a new Editor afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from . import dtypes, shapes
from .census import Census
from .graph import adopt, new_constant, new_node, new_variable, of_one_type, put, scopes, slots_of, subgraphs
from .graph import inherit as inherit
from .order import is_sorted, toposort

_FEW = 4
"""A tensor that lost a reader and has more left than this is none that a rule waits for."""


class Editor:
    """All edits of one model: replace, insert, remove, with graph outputs, captures and names kept right."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.changes = 0
        """Number of edits so far."""
        self.log: list[gs.Node] = []
        """Nodes that were added, or whose inputs, attributes or readers changed, in order; some may be gone by now."""
        self.retyped: list[gs.Node] = []
        """Nodes whose outputs may have another type than was worked out: new ones, and those with other inputs."""
        self.census = Census(graph)
        self._scope: dict[int, gs.Graph] = {}
        self.places: dict[int, tuple[int, int]] = {}
        """id(node) -> a key that orders nodes of one scope as they run."""
        self.alive: dict[int, gs.Node] = {}
        """id(node) -> each node of the model. Held, so that no other node can come to have its id."""
        self._results: dict[int, list[gs.Graph]] = {}
        self._fed: set[int] = set()
        self._names: set[str] = set()
        self._stems: dict[str, str] = {}
        """Name made by `fresh` -> what it was made from, so that numbers do not pile up."""
        self._added: dict[int, tuple[gs.Graph, list[gs.Node]]] = {}
        self._touched: dict[int, gs.Graph] = {}
        self._count = self._place_from = 0
        for scope in scopes(graph):
            self.enter(scope)

    def enter(self, scope: gs.Graph) -> None:
        """Take a scope under the editor's care (called for all scopes that exist when it is made)."""
        self.census.forget_scopes()
        for tensor in scope.inputs:
            self._fed.add(id(tensor))
            self._names.add(tensor.name)
        for tensor in scope.outputs:
            self._results.setdefault(id(tensor), []).append(scope)
            self._names.add(tensor.name)
        for node in scope.nodes:
            adopt(node)
            self._know(node, scope, (self._place_from, 0))
            self._place_from += 1
            for tensor in node.inputs:
                self._names.add(tensor.name)

    def _know(self, node: gs.Node, scope: gs.Graph, place: tuple[int, int]) -> None:
        self._scope[id(node)] = scope
        self.places[id(node)] = place
        self.alive[id(node)] = node
        self.census.add(node)
        self._names.add(node.name)
        for tensor in node.outputs:
            self._names.add(tensor.name)

    # -- questions ---------------------------------------------------------------------------------------------

    def nodes(self) -> list[gs.Node]:
        """Every node of every scope, in order; not those of functions that came while passes ran."""
        every = [node for scope in self.census.scopes() for node in scope.nodes]
        return every if not self._touched and len(every) == len(self.alive) else self.living(every)

    def living(self, nodes: Iterable[gs.Node]) -> list[gs.Node]:
        """Those of `nodes` that are still part of the model."""
        alive = self.alive
        return [node for node in nodes if id(node) in alive]

    def of(self, *operators: str) -> list[gs.Node]:
        """The nodes of these operators in all scopes, in order."""
        return sorted(self.census.of(operators), key=self.place)

    @property
    def size(self) -> int:
        """Number of nodes in all scopes."""
        return len(self.alive)

    def has(self, node: gs.Node) -> bool:
        """Whether the node is still part of the model."""
        return id(node) in self.alive

    def scope(self, node: gs.Node) -> gs.Graph:
        """The graph, body or function that holds the node."""
        return self._scope[id(node)]

    def place(self, node: gs.Node) -> tuple[int, int]:
        """A key that orders nodes of one scope as they run."""
        return self.places[id(node)]

    def is_result(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is an output of the model, of a body or of a function."""
        return id(tensor) in self._results

    def is_input(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is an input of the model, of a body or of a function."""
        return id(tensor) in self._fed

    def is_used(self, tensor: gs.Tensor) -> bool:
        """Whether anything reads the tensor."""
        return bool(tensor.outputs) or id(tensor) in self._results

    def use_count(self, tensor: gs.Tensor) -> int:
        """Number of slots and graph outputs that read the tensor."""
        return len(tensor.outputs) + len(self._results.get(id(tensor), ()))

    # -- names and constants -----------------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name that nothing in the model has, close to `stem`."""
        stem = self._stems.get(stem, stem)
        name, number = stem or "value", 0
        while name in self._names:
            number = max(number + 1, self._count)
            name = f"{stem}_{number}"
        if number:
            self._count = number + 1
            self._stems[name] = stem
        self._names.add(name)
        return name

    def constant(self, values: Any, name: str = "constant") -> gs.Constant:
        """A new constant of these values, under a fresh name."""
        array = np.asarray(values).view()
        array.flags.writeable = False  # so that its hash need not be worked out again
        return new_constant(self.fresh(name), array)

    # -- edits -------------------------------------------------------------------------------------------------

    def insert(
        self,
        op: str,
        inputs: list[gs.Tensor],
        attrs: dict[str, Any] | None = None,
        *,
        at: gs.Node,
        domain: str = "",
        outputs: int | list[gs.Tensor] = 1,
        name: str = "",
    ) -> gs.Node:
        """A new node in the scope of `at`, ordered just before it unless its inputs come later."""
        stem = name or op
        if isinstance(outputs, int):
            outputs = [new_variable(self.fresh(f"{stem}_out")) for _ in range(outputs)]
        node = new_node(op, inputs, outputs, attrs, name=self.fresh(stem), domain=domain)
        self.attach(node, at)
        return node

    def attach(self, node: gs.Node, at: gs.Node) -> None:
        """Put a finished node into the scope of `at`, just before it."""
        scope = self._scope[id(at)]
        self._count += 1
        self._know(node, scope, (self.places[id(at)][0], self._count))
        self._added.setdefault(id(scope), (scope, []))[1].append(node)
        self._touch(scope)
        self.log.append(node)
        self.retyped.append(node)
        for body in subgraphs(node):
            for inner in scopes(body, functions=False):
                if not all(id(n) in self.alive for n in inner.nodes):
                    self.enter(inner)

    def move(self, node: gs.Node, at: gs.Node) -> None:
        """Put a node that was taken out of a body's node list into the scope of `at`, just before it."""
        scope = self._scope[id(at)]
        self._count += 1
        self._scope[id(node)] = scope
        self.places[id(node)] = (self.places[id(at)][0], self._count)
        self._added.setdefault(id(scope), (scope, []))[1].append(node)
        self._touch(scope)
        self.log.append(node)
        self.retyped.append(node)
        self.census.forget_scopes()

    def _touch(self, scope: gs.Graph) -> None:
        self._touched[id(scope)] = scope
        self.changes += 1

    def edited(self, node: gs.Node) -> None:
        """Take notice that operator, inputs or attributes of a node were set directly."""
        self._touch(self._scope[id(node)])
        self.log.append(node)
        self.retyped.append(node)
        self.census.add(node)
        if subgraphs(node):
            self.census.forget_scopes()

    def replace_uses(self, old: gs.Tensor, new: gs.Tensor) -> int:
        """Every node that reads `old` reads `new`; graph outputs are left. Returns the number of slots."""
        count = len(old.outputs)
        alike = of_one_type(old, new)
        self.log.extend(old.inputs)
        for node in {id(user): user for user in old.outputs}.values():
            for slot in slots_of(node, old):
                node.inputs[slot] = new
            scope = self._scope.get(id(node))
            if scope is not None:
                self._touch(scope)
                self.log.append(node)
                if not alike:
                    self.retyped.append(node)
        return count

    def replace(self, old: gs.Tensor, new: gs.Tensor, *, at: gs.Node | None = None) -> gs.Tensor:
        """Whatever read `old`, graph outputs included, now gets the value of `new`; output names stay.

        Returns the tensor that has the value now: a graph output takes the place of `new`.

        `at`: the node before which an Identity may be put; by default the producer of `old`.
        """
        if new is old:
            return new
        self._share_facts(old, new)
        self.log.extend(new.inputs)
        producer = old.inputs[0] if old.inputs else None
        results = self._results.get(id(old), ())
        if not results:
            self.replace_uses(old, new)
            return new
        maker = new.inputs[0] if new.inputs else None
        can_take = (
            maker is not None
            and not self.is_result(new)
            and not self.is_input(new)
            and all(self._scope.get(id(maker)) is scope for scope in results)
        )
        if maker is not None and can_take:
            if producer is not None:
                self._release(producer, old)
            slot = next(i for i, tensor in enumerate(maker.outputs) if tensor is new)
            maker.outputs[slot] = old
            self.replace_uses(new, old)
            self.retyped.append(maker)
            self._touch(self._scope[id(maker)])
            return old
        anchor = at if at is not None else producer
        self.replace_uses(old, new)
        if anchor is None:
            return new
        if producer is not None and producer.op == "Identity" and not producer.domain:
            if producer.inputs[0] is not new:
                producer.inputs[0] = new
                self._touch(self._scope[id(producer)])
            return new
        if producer is not None:
            self._release(producer, old)
        self.insert("Identity", [new], at=anchor, outputs=[old], name=f"{old.name}_identity")
        return new

    def replace_all(self, pairs: Iterable[tuple[gs.Tensor, gs.Tensor]], *, at: gs.Node | None = None) -> None:
        """`replace` for each (old, new); one new value may stand for several old ones, graph outputs among them."""
        now: dict[int, tuple[gs.Tensor, gs.Tensor]] = {}
        for old, new in pairs:
            now[id(new)] = new, self.replace(old, now.get(id(new), (new, new))[1], at=at)

    def _release(self, producer: gs.Node, tensor: gs.Tensor) -> None:
        """`producer` no longer makes `tensor`; it makes an unused one in its place."""
        slot = next(i for i, made in enumerate(producer.outputs) if made is tensor)
        spare = new_variable(self.fresh(f"{tensor.name}_unused"), tensor.dtype, tensor.shape)
        producer.outputs[slot] = spare
        self._touch(self._scope[id(producer)])

    def _share_facts(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Both hold one value, so what is known of the type of one is known of the other."""
        shape = shapes.merge(shapes.of(old), shapes.of(new))
        dtype = dtypes.of(old) if dtypes.of(old) is not None else dtypes.of(new)
        for tensor in (old, new):
            if isinstance(tensor, gs.Variable) and tensor.type == "tensor_type":
                if tensor.shape != shape and not self.is_input(tensor) and not self.is_result(tensor):
                    self.reshaped(tensor, shape)
                if tensor.dtype is None:
                    tensor.dtype = dtype

    def reshaped(self, tensor: gs.Tensor, shape: shapes.Shape) -> None:
        """Set what became known of a tensor's shape, and take notice of its readers."""
        put(tensor, "shape", shape)
        self.log.extend(tensor.outputs)
        self.retyped.extend(tensor.outputs)

    def remove(self, node: gs.Node) -> None:
        """Take a node and its bodies out of the model; its outputs must be unused by then."""
        if id(node) not in self.alive:
            return
        scope = self._scope[id(node)]
        self._forget(node)
        for body in subgraphs(node) if node.attrs else ():
            self.census.forget_scopes()
            for inner in scopes(body, functions=False):
                for tensor in inner.outputs:
                    holders = self._results.get(id(tensor), [])
                    holders[:] = [holder for holder in holders if holder is not inner]
                    if not holders:
                        self._results.pop(id(tensor), None)
                for part in list(inner.nodes):
                    self._forget(part)
        self._touch(scope)

    def _forget(self, node: gs.Node) -> None:
        self.alive.pop(id(node), None)
        self.census.drop(node)
        node.inputs.clear()
        node.outputs.clear()

    def prune(self, nodes: Iterable[gs.Node]) -> list[gs.Tensor]:
        """Remove those of `nodes` that nothing needs, then what only they needed.

        Returns the tensors that lost a reader and live on.
        """
        pending = list(nodes)
        loosened: dict[int, gs.Tensor] = {}
        alive, results = self.alive, self._results
        while pending:
            node = pending.pop()
            if id(node) not in alive:
                continue
            for tensor in node.outputs:
                if tensor.outputs or id(tensor) in results:
                    break
            else:
                self._take_out(node, pending, loosened)
        for tensor in loosened.values():
            self.log.extend(tensor.inputs)
            if len(tensor.outputs) <= _FEW:
                self.log.extend(tensor.outputs)
        return list(loosened.values())

    def _take_out(self, node: gs.Node, pending: list[gs.Node], loosened: dict[int, gs.Tensor]) -> None:
        """Remove a node; note who may follow, and what lost a reader."""
        read = list(node.inputs)
        for body in subgraphs(node) if node.attrs else ():
            for inner in scopes(body, functions=False):
                read.extend(inner.outputs)
                read.extend(tensor for part in inner.nodes for tensor in part.inputs)
        self.remove(node)
        for tensor in read:
            if tensor.outputs or id(tensor) in self._results:
                loosened[id(tensor)] = tensor
            elif tensor.inputs:
                pending.append(tensor.inputs[0])

    def sweep(self, nodes: Iterable[gs.Node] | None = None) -> int:
        """Remove those of `nodes`, by default of all, that nothing needs, and what only they needed; how many went."""
        before = len(self.alive)
        self.prune(reversed(self.nodes()) if nodes is None else nodes)
        self.flush()
        return before - len(self.alive)

    def set_output(self, scope: gs.Graph, index: int, tensor: gs.Tensor) -> None:
        """Make `tensor` the output number `index` of a body or function (names of bodies' outputs are free)."""
        old = scope.outputs[index]
        scope.outputs[index] = tensor
        holders = self._results.get(id(old), [])
        if not any(other is old for other in scope.outputs):
            holders[:] = [holder for holder in holders if holder is not scope]
            if not holders:
                self._results.pop(id(old), None)
        if not any(holder is scope for holder in self._results.setdefault(id(tensor), [])):
            self._results[id(tensor)].append(scope)
        self._touch(scope)
        self.log.extend((*old.inputs, *tensor.inputs))
        self.retyped.extend((*old.inputs, *tensor.inputs))

    def flush(self) -> None:
        """Put the nodes of every edited scope in order; cheap where nothing changed."""
        for scope in self._touched.values():
            added = self._added.get(id(scope), (scope, []))[1]
            nodes = self.living(scope.nodes)
            if added:
                known = {id(node) for node in nodes}
                nodes += [node for node in added if id(node) in self.alive and id(node) not in known]
                places = self.places
                nodes.sort(key=lambda node: places[id(node)])
                if not is_sorted(nodes):
                    nodes = toposort(nodes, scope.name or "")
                    for node in nodes:
                        self.places[id(node)] = (self._place_from, 0)
                        self._place_from += 1
            scope.nodes[:] = nodes
        self._touched.clear()
        self._added.clear()
