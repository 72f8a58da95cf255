"""The IR is `onnx_graphsurgeon.Graph`, unwrapped; this file makes its parts fast and complete.

Two things are added to graphsurgeon's objects, both invisible to code that does not ask for them:
- consumer lists that are edited by identity in constant time (graphsurgeon's search by deep equality);
- `extras(obj)`: what ONNX holds and graphsurgeon has no field for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList

Origin = tuple[Any, ...]
"""Names of source nodes, as a tree of tuples: merging two is one step, whatever their size."""


@dataclass
class Extras:
    """What graphsurgeon has no field for, of one graph, function, node or tensor."""

    doc_string: str = ""
    denotation: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    overload: str = ""
    origin: Origin = ()
    """Nodes: the source nodes that this one stands for; empty while it is one itself."""
    rules: Origin = ()
    """Nodes: the rules that made it."""
    type_proto: onnx.TypeProto | None = None
    """Tensors: the declared type where it is no plain tensor (sequence, optional, map, sparse), or has denotations."""
    proto: Any = None
    """Graphs: fields of the source message to be written back as they are."""
    undeclared: bool = False
    """Graphs: the source declares no types of inner values, and none need be written."""
    default: gs.Constant | None = None
    """Graph inputs: the initializer of the same name, which a caller may override."""


put = object.__setattr__
"""Sets an attribute of a node or tensor without graphsurgeon's `__setattr__`.

Never by way of `__dict__`: once an object of CPython has been asked for that, reading any of its attributes takes five
times as long.
"""


def extras(obj: Any) -> Extras:
    """The side-table entry of a graph, function, node or tensor; made when first asked for."""
    entry = peek(obj)
    if entry is None:
        entry = Extras()
        put(obj, "_extras", entry)
    return entry


def peek(obj: Any) -> Extras | None:
    """The side-table entry if there is one."""
    if isinstance(obj, gs.Graph):  # it takes names that it does not know for operators
        return obj.__dict__.get("_extras")  # type: ignore[no-any-return]
    return getattr(obj, "_extras", None)


class Uses(SynchronizedList):  # type: ignore[misc]
    """Consumers of a tensor, one entry per slot; an entry is dropped by identity in constant time.

    Order is not kept: the last entry takes the place of the dropped one.
    """

    __slots__ = ("_where", "parent_obj")
    field_name = "inputs"

    def __init__(self, parent: gs.Tensor) -> None:
        self.parent_obj = parent
        self._where: dict[int, set[int]] | None = None

    def drop(self, node: gs.Node) -> None:
        """Forget one use by `node`. Raises ValueError if there is none."""
        if len(self) <= 8:
            for i, user in enumerate(self):
                if user is node:
                    self._where = None
                    list.__delitem__(self, i)
                    return
            raise ValueError(f"{self.parent_obj.name} has no use by {node.name}")
        spot = self._take(node)
        if spot is None:
            self._where = None  # plain graphsurgeon code may have changed the list behind the index
            spot = self._take(node)
        if spot is None or self._where is None:
            raise ValueError(f"{self.parent_obj.name} has no use by {node.name}")
        last = len(self) - 1
        moved: gs.Node = list.pop(self)
        if spot != last:
            list.__setitem__(self, spot, moved)
            places = self._where.get(id(moved), set())
            if last in places:
                places.remove(last)
                places.add(spot)
            else:
                self._where = None

    def _take(self, node: gs.Node) -> int | None:
        """Where the node stands, struck from the index; None if the index does not know or is wrong."""
        if self._where is None:
            self._where = {}
            for i, user in enumerate(self):
                self._where.setdefault(id(user), set()).add(i)
        places = self._where.get(id(node))
        spot = places.pop() if places else None
        return spot if spot is not None and spot < len(self) and self[spot] is node else None

    def add(self, node: gs.Node) -> None:
        if self._where is not None:
            self._where.setdefault(id(node), set()).add(len(self))
        list.append(self, node)


class _Producers(SynchronizedList):  # type: ignore[misc]
    """The producer of a tensor; graphsurgeon's list without a `__dict__` in use."""

    __slots__ = ("parent_obj",)
    field_name = "outputs"


def _unlink(tensor: gs.Tensor, side: str, node: gs.Node) -> None:
    _strike(getattr(tensor, side), node, tensor)


def _strike(entries: Any, node: gs.Node, tensor: gs.Tensor) -> None:
    """Drop one entry of a tensor's producers or consumers by identity. Raises ValueError if there is none."""
    if type(entries) is Uses:
        entries.drop(node)
        return
    for i, other in enumerate(entries):
        if other is node:
            list.__delitem__(entries, i)
            return
    raise ValueError(f"{tensor.name} and {node.name} are not linked")


class Links(SynchronizedList):  # type: ignore[misc]
    """Inputs or outputs of a node; graphsurgeon's list, linked by identity instead of equality."""

    __slots__ = ("_length", "_slots", "field_name", "parent_obj")

    def __init__(self, parent: gs.Node, field_name: str) -> None:
        self.parent_obj = parent
        self.field_name = field_name
        self._slots: dict[int, set[int]] | None = None
        self._length = 0

    def _add_to_elem(self, elem: gs.Tensor) -> None:
        entries = getattr(elem, self.field_name)
        if type(entries) is Uses:
            entries.add(self.parent_obj)
        else:
            list.append(entries, self.parent_obj)

    def _remove_from_elem(self, elem: gs.Tensor) -> None:
        _unlink(elem, self.field_name, self.parent_obj)

    def __setitem__(self, index: Any, elem: Any) -> None:
        if isinstance(index, slice):
            gone, fresh = self[index], list(elem)
            list.__setitem__(self, index, fresh)
            for old in gone:
                self._remove_from_elem(old)
            for new in fresh:
                self._add_to_elem(new)
            self._slots = None
            return
        old, node, field = self[index], self.parent_obj, self.field_name
        _strike(getattr(old, field), node, old)
        list.__setitem__(self, index, elem)
        self._add_to_elem(elem)
        if self._slots is None:
            return
        if self._length == len(self) and index in self._slots.get(id(old), ()):
            self._slots[id(old)].remove(index)
            self._slots.setdefault(id(elem), set()).add(index)
        else:
            self._slots = None

    def insert(self, i: Any, x: gs.Tensor) -> None:
        self._slots = None
        super().insert(i, x)

    def pop(self, i: Any = -1) -> gs.Tensor:
        self._slots = None
        return super().pop(i)

    def remove(self, x: gs.Tensor) -> None:
        del self[self.index(x)]

    def clear(self) -> None:
        self._slots = None
        node, field = self.parent_obj, self.field_name
        for tensor in self:
            _strike(getattr(tensor, field), node, tensor)
        list.clear(self)

    def slots(self, tensor: gs.Tensor) -> list[int]:
        """Where the tensor stands in the list; found without a search in a long one."""
        if len(self) <= 16:
            return [slot for slot, other in enumerate(self) if other is tensor]
        if self._slots is not None and self._length == len(self):
            found = self._slots.get(id(tensor), ())
            if all(self[slot] is tensor for slot in found):
                return sorted(found)
        self._slots, self._length = {}, len(self)
        for slot, other in enumerate(self):
            self._slots.setdefault(id(other), set()).add(slot)
        return sorted(self._slots.get(id(tensor), ()))

    def __delitem__(self, index: Any) -> None:
        gone = self[index] if isinstance(index, slice) else [self[index]]
        for old in gone:
            self._remove_from_elem(old)
        self._slots = None
        list.__delitem__(self, index)


def new_node(
    op: str,
    inputs: list[gs.Tensor],
    outputs: list[gs.Tensor],
    attrs: dict[str, Any] | None = None,
    *,
    name: str = "",
    domain: str = "",
) -> gs.Node:
    """A `gs.Node` whose links are edited in constant time."""
    node = _bare(gs.Node)
    ins, outs = Links(node, "outputs"), Links(node, "inputs")
    put(node, "op", op)
    put(node, "name", name)
    put(node, "domain", domain or None)
    put(node, "attrs", attrs if attrs is not None else {})
    put(node, "inputs", ins)
    put(node, "outputs", outs)
    _extend(ins, inputs)
    for tensor in inputs:
        uses = tensor.outputs
        if type(uses) is Uses and uses._where is None:
            _append(uses, node)
        else:
            ins._add_to_elem(tensor)
    _extend(outs, outputs)
    for tensor in outputs:
        _append(tensor.inputs, node)
    return node


_bare = object.__new__
_bare_list = list.__new__
_append = list.append
_extend = list.extend


def _link(tensor: gs.Tensor, name: str) -> None:
    """Give a bare tensor its name and its lists. Constructors would cost a third of loading."""
    producers, uses = _bare_list(_Producers), _bare_list(Uses)
    producers.parent_obj = uses.parent_obj = tensor
    uses._where = None
    put(tensor, "inputs", producers)
    put(tensor, "outputs", uses)
    put(tensor, "name", name)


def new_variable(name: str, dtype: Any = None, shape: Any = None, kind: str = "tensor_type") -> gs.Variable:
    """A `gs.Variable`; `shape` is a tuple of int, str (symbol) and None (unknown), or None for an unknown rank."""
    tensor = _bare(gs.Variable)
    _link(tensor, name)
    put(tensor, "dtype", dtype)
    put(tensor, "shape", shape)
    put(tensor, "type", kind)
    return tensor


def new_constant(name: str, values: Any) -> gs.Constant:
    """A `gs.Constant` over an array or over lazy values."""
    tensor = _bare(gs.Constant)
    _link(tensor, name)
    put(tensor, "_values", values)
    put(tensor, "data_location", None)
    put(tensor, "_export_dtype", None)
    return tensor


def adopt(node: gs.Node) -> None:
    """Give a node (and its tensors) that plain graphsurgeon code made the constant-time lists."""
    for slot, other in (("inputs", "outputs"), ("outputs", "inputs")):
        old = getattr(node, slot)
        if type(old) is not Links:
            links = Links(node, other)
            list.extend(links, old)
            put(node, slot, links)
        for tensor in old:
            if type(tensor.outputs) is not Uses:
                uses = Uses(tensor)
                list.extend(uses, tensor.outputs)
                put(tensor, "outputs", uses)


def slots_of(node: gs.Node, tensor: gs.Tensor) -> list[int]:
    """The inputs of a node that are this tensor."""
    inputs = node.inputs
    if type(inputs) is Links:
        return inputs.slots(tensor)
    return [slot for slot, other in enumerate(inputs) if other is tensor]


def of_one_type(a: gs.Tensor, b: gs.Tensor) -> bool:
    """Whether a reader learns the same from both: two variables of one type, shape and dtype."""
    if type(a) is not gs.Variable or type(b) is not gs.Variable or (a.dtype is None) != (b.dtype is None):
        return False
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.type == b.type)


def subgraphs(node: gs.Node) -> Sequence[gs.Graph]:
    """The control-flow bodies held directly by a node, in attribute order."""
    found: list[gs.Graph] | None = None
    for value in node.attrs.values():
        kind = type(value)
        if kind is gs.Graph or (kind is list and value and type(value[0]) is gs.Graph):
            found = found if found is not None else []
            found.extend(value if kind is list else (value,))
    return found if found is not None else ()


def scopes(graph: gs.Graph, *, functions: bool = True) -> Iterator[gs.Graph]:
    """The graph, every subgraph nested in it, then every model-local function with its subgraphs."""
    pending = [graph]
    if functions:
        pending += list(graph.functions)
    pending.reverse()
    while pending:
        scope = pending.pop()
        yield scope
        inner = []
        for node in scope.nodes:
            for value in node.attrs.values():
                kind = type(value)
                if kind is gs.Graph:
                    inner.append(value)
                elif kind is list and value and type(value[0]) is gs.Graph:
                    inner.extend(value)
        pending.extend(reversed(inner))


def node_count(graph: gs.Graph) -> dict[str, int]:
    """Nodes by operator over all scopes, Constant nodes left out."""
    counts: dict[str, int] = {}
    for scope in scopes(graph):
        for node in scope.nodes:
            if node.op != "Constant":
                counts[node.op] = counts.get(node.op, 0) + 1
    return counts


def flatten(origin: Origin) -> list[str]:
    """The distinct names in an origin tree, in order of first appearance; shared branches are read once."""
    names: dict[str, None] = {}
    seen: set[int] = set()
    pending: list[Any] = [origin]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            names[item] = None
        elif id(item) not in seen:
            seen.add(id(item))
            pending.extend(reversed(item))
    return list(names)


def inherit(new: gs.Node, parents: Iterable[gs.Node], rule: str = "") -> None:
    """Record that `new` stands for the source nodes of `parents`, by `rule`."""
    origin: list[Any] = []
    rules: list[Any] = []
    for parent in parents:
        known = peek(parent)
        origin.append(known.origin if known is not None and known.origin else parent.name)
        if known is not None and known.rules:
            rules.append(known.rules)
    entry = extras(new)
    mine = (*([entry.origin] if entry.origin else []), *origin)
    entry.origin = tuple(mine)
    if rule:
        rules.append(rule)
    entry.rules = (*([entry.rules] if entry.rules else []), *rules)
