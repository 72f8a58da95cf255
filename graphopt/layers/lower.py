"""The lower stage: where a spelling of a layer stands in the model, a call of the layer is put, if that pays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import onnx_graphsurgeon as gs

from graphopt.errors import PluginError
from graphopt.ir import dtypes
from graphopt.ir.graph import scopes
from graphopt.rewrite.build import Ops, Skip
from graphopt.rewrite.pattern import Traced, _depth
from graphopt.rewrite.rule import Entry, Rule, kebab
from graphopt.rewrite.value import Value

from .facts import fit, known, outputs_of, shape_of, wrong_dtype
from .find import Found, Simplify, find, possible_dtypes
from .function import add_function, call_attributes, check_name, function_of
from .layer import DOMAIN, Layer
from .tensor import Tensor
from .trace import spellings, trace

STAGE = "lower"
Pays = Callable[[Layer, Sequence[Tensor]], str | None]
"""None if a call is worth it, or why it is not."""


class _Pattern(Traced):
    """A pattern of a layer; check and rewrite get the bindings as they are."""

    def call(self, function: Callable[..., Any], op: Any, bound: dict[str, Any]) -> Any:
        return function(op, bound)


class Lower(Rule):
    """One spelling of a layer becomes a call of the layer."""

    stage = STAGE

    def __init__(self, found: Found, name: str, after: Sequence[str], turn: int, pays: Pays) -> None:
        self.found = found
        self.pays = pays
        self.__dict__["name"] = name
        self.__dict__["after"] = tuple(after)
        self.__dict__["turn"] = turn

    def check(self, op: Any, /, *args: Any, **kwargs: Any) -> str | None:
        bound: Mapping[str, Any] = args[0]
        editor = op._editor
        if editor.scope(op._at) is not editor.graph:
            return "inside a function or a body of control flow the operators stay as they are"
        layer = self._layer(bound)
        if layer is None:
            return "its constants are not those of the layer"
        tensors = {name: known(bound.get(name)) for name in self.found.present}
        for name, tensor in tensors.items():
            if tensor is None:
                return f"dtype or rank of {name} is unknown"
        most = max(tensor.rank for tensor in tensors.values() if tensor is not None)
        for name in self.found.templates:
            constant = bound[name].const if isinstance(bound[name], Value) else None
            if constant is not None and constant.ndim > most:
                return f"a constant of {constant.ndim} axes makes the result larger than its inputs"
        reason = wrong_dtype(layer, tensors) or fit(layer, tensors)
        if reason is None:
            reason = layer.check(*(tensors.get(name) for name in layer.inputs))
        if reason is None:
            outputs_of(layer, tensors)
            reason = self.pays(layer, [tensor for tensor in tensors.values() if tensor is not None])
        return reason

    def rewrite(self, op: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound: Mapping[str, Any] = args[0]
        assert isinstance(op, Ops)
        layer, found = self._layer(bound), self.found
        assert layer is not None
        tensors = {name: known(bound[name]) for name in found.present}
        kinds = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
        proto = function_of(layer, op.opset, found.present, found.fixed, kinds, layer.values)
        add_function(op._editor.graph, proto)
        operands = [bound[name] for name in found.present]
        attributes = call_attributes(layer, found.present, layer.values)
        outputs = outputs_of(layer, tensors)
        count = len(found.outputs)
        if len(outputs) != count:
            raise PluginError(f"infer() returned {len(outputs)} outputs, the body {count}", where=f"layer {layer.name}")
        made = op.domain(DOMAIN)._node(proto.name, *operands, outputs=count, **attributes)
        for value, kind in zip(made if count > 1 else (made,), outputs, strict=True):
            value.tensor.dtype, value.tensor.shape = kind.dtype, shape_of(kind)
        return made

    def _layer(self, bound: Mapping[str, Any]) -> Layer | None:
        values = self.found.captured(bound)
        return None if values is None else type(self.found.layer)(**values)


_RULES: dict[type, type[Lower]] = {}


def _rule_class(layer: type[Layer]) -> type[Lower]:
    """The class of the rules of one layer: its docstring is the layer's."""
    found = _RULES.get(layer)
    if found is None:
        found = _RULES[layer] = type(layer.__name__, (Lower,), {"__doc__": layer.__doc__})
    return found


def _missing(layer: Layer, opset: int, operators: Collection[str]) -> str:
    """The operators of which the model must hold one and holds none; '' where it may hold the layer."""
    known = _SINGLE.setdefault(type(layer), {})
    if opset not in known:
        ops = (layer.ops,) if isinstance(layer.ops, str) else tuple(layer.ops)
        known[opset] = ops or _single(layer, opset)
    return "" if any(op in operators for op in known[opset]) else " or ".join(known[opset])


_SINGLE: WeakKeyDictionary[type[Layer], dict[int, tuple[str, ...]]] = WeakKeyDictionary()


_ASIDE = frozenset(("Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"))


def _single(layer: Layer, opset: int) -> tuple[str, ...]:
    """The operators that the spellings of a layer are, if each is a single one, what only reshapes or casts aside."""
    found = []
    for spelling in spellings(layer):
        try:
            nodes = trace(layer, opset, layer.inputs, dict(layer.variants[0]), spelling).nodes
        except Skip:
            continue
        operators = [node.op for node in nodes if node.op not in _ASIDE]
        if len(operators) != 1:
            return ()
        found.append(operators[0])
    return tuple(dict.fromkeys(found))


def _patterns(layer: Layer, opset: int, present: set[Any], simplify: Simplify | None, by: Any) -> list[_Spelled]:
    """The patterns of a layer; worked out once for each opset, set of dtypes, and passes that simplify them (`by`)."""
    known = _FOUND.setdefault(type(layer), {})
    key = opset, frozenset(present & possible_dtypes(layer)), by
    if key not in known or by is None:
        if len(known) > _MOST:
            known.clear()
        known[key] = [
            (found, _Pattern(found.outputs, (), "", max(_depth(output) for output in found.outputs)))
            for found in find(layer, opset, present, simplify)
        ]
    return known[key]


def _dtypes(graph: gs.Graph) -> set[Any]:
    """The dtypes of all values, None among them where one is unknown."""
    found = {dtypes.of(tensor) for tensor in graph.inputs}
    for scope in scopes(graph):
        for node in scope.nodes:
            found.update(map(dtypes.of, node.inputs), map(dtypes.of, node.outputs))
    return found


_Spelled = tuple[Found, _Pattern]
_FOUND: WeakKeyDictionary[type[Layer], dict[Any, list[_Spelled]]] = WeakKeyDictionary()
_MOST = 16


def lowerings(
    graph: gs.Graph,
    layers: Iterable[tuple[str, type[Layer]]],
    simplify: Simplify | None,
    pays: Pays,
    preferred: Collection[str] = (),
    by: Any = None,
) -> tuple[list[Entry], dict[str, str]]:
    """The rules that lower to these (plugin, layer) in this model; and why a layer has none.

    by: what `simplify` does; what it made of a layer is remembered under it. None: nothing is remembered.

    Where several fit, those of preferred plugins go first, and then larger patterns, which may hold smaller ones.
    """
    present: set[Any] = set()
    operators = {node.op for scope in scopes(graph) for node in scope.nodes}
    reasons: dict[str, str] = {}
    patterns: list[tuple[str, _Spelled]] = []
    for plugin, cls in layers:
        layer = cls()
        check_name(layer)
        try:
            if missing := _missing(layer, graph.opset, operators):
                reasons[layer.name] = f"the model holds no {missing}"
                continue
            present = present or _dtypes(graph)
            some = _patterns(layer, graph.opset, present - {None}, simplify, by)
        except Skip as skip:
            reasons[layer.name] = f"it cannot be said at opset {graph.opset}: {skip}"
            continue
        if not some:
            reasons[layer.name] = f"the model holds no {', '.join(layer.dtypes)}"
        patterns += [(plugin, spelled) for spelled in some]
    patterns.sort(key=lambda pair: (pair[0] not in preferred, -pair[1][0].size, pair[1][0].layer.name))
    entries: list[Entry] = []
    counts: dict[str, int] = {}
    before: list[str] = []
    for number, (plugin, (found, traced)) in enumerate(patterns):
        stem = kebab(found.layer.name)
        counts[stem] = counts.get(stem, 0) + 1
        name = stem if counts[stem] == 1 else f"{stem}-{counts[stem]}"
        rule = _rule_class(type(found.layer))(found, name, before[-1:], number - len(patterns), pays)
        entries.append(Entry(rule, plugin, traced))
        before.append(name)
    return entries, reasons
