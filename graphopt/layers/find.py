"""Patterns of a layer: its spellings, in the form that a graph has after the rewrite passes have run over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.ir import dtypes
from graphopt.ir import shapes as dims_of
from graphopt.ir.load import load
from graphopt.rewrite.build import Skip
from graphopt.rewrite.pattern import Const, Either, Literal, NodePattern, Operand, Output, PatternOps, Var
from graphopt.rewrite.spelling import IGNORED, attribute_operand, is_standard, moved
from graphopt.rewrite.value import Value, constant_of

from .emit import body_model
from .layer import Layer
from .trace import Body, Symbol, absences, spellings, symbols_in, trace

Simplify = Callable[[onnx.ModelProto], gs.Graph]
"""Runs the passes before lowering over a model."""
LEADING = (1, 2, 3, 0)
"""How many axes `...` may stand for while patterns are made."""


@dataclass
class Found:
    """One pattern: what it looks like, and what its variables mean."""

    layer: Layer
    spelling: str
    present: tuple[str, ...]
    fixed: dict[str, Any]
    outputs: tuple[Operand, ...]
    size: int
    """Number of nodes."""
    templates: dict[str, Any] = field(default_factory=dict)
    """Variable -> the value with Symbols in it that it holds."""
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Variable -> the constant that it must be."""

    def captured(self, bound: Mapping[str, Any]) -> dict[str, Any] | None:
        """The attributes' values in a match; None if its constants are not those of the spelling."""
        values = {**self.layer.values, **self.fixed}
        seen: dict[str, Any] = {}
        for name, template in self.templates.items():
            value = bound[name]
            value = value.const if isinstance(value, Value) else value
            for symbol, part in _solve(template, value):
                got = None if symbol is None else _cast(part, symbol.default)
                if symbol is None:
                    if not part:
                        return None
                elif got is None or seen.setdefault(symbol.name, got) != got:
                    return None
        for name, array in self.arrays.items():
            value = bound[name]
            got = value.const if isinstance(value, Value) else None
            if got is None or got.shape != array.shape or not np.array_equal(got, array):
                return None
        return {**values, **seen}


def find(layer: Layer, opset: int, present_dtypes: set[Any], simplify: Simplify | None) -> Iterator[Found]:
    """The patterns of a layer for a model of this opset that holds these dtypes; nothing twice.

    Raises Skip where the body cannot be said at this opset (other spellings that cannot are left out).
    """
    everywhere = next(assignments(layer, layer.inputs))
    body_model(trace(layer, opset, layer.inputs, dict(layer.variants[0])), opset, everywhere, layer.values)
    seen: set[str] = set()
    for fixed, present, spelling in product(layer.variants, absences(layer), spellings(layer)):
        try:
            body = trace(layer, opset, present, fixed, spelling)
        except Skip:
            continue
        for kinds in assignments(layer, present, present_dtypes):
            low = any(dtypes.is_float(kind) and kind.itemsize < 4 for kind in kinds.values())
            for narrow, leading in product((False, True) if low else (False,), _leading(layer)):
                for run in (None, simplify) if simplify is not None else (None,):
                    found = _pattern(body, opset, kinds, narrow, leading, run)
                    mark = "" if found is None else _mark(found)
                    if found is not None and mark not in seen:
                        seen.add(mark)
                        yield found


def assignments(layer: Layer, present: Sequence[str], among: set[Any] | None = None) -> Iterator[dict[str, Any]]:
    """Every choice of dtypes for the inputs, as far as they are `among` those given."""
    typed = [name for name in present if name in layer.types]
    choices = [_listed(layer.types[name]) for name in typed]
    for kind in [np.dtype(name) for name in layer.dtypes]:
        if among is not None and kind not in among and any(name not in layer.types for name in present):
            continue
        for picked in product(*choices):
            if among is None or all(np.dtype(name) in among for name in picked):
                by_name = {name: np.dtype(one) for name, one in zip(typed, picked, strict=True)}
                yield {name: by_name.get(name, kind) for name in present}


def possible_dtypes(layer: Layer) -> set[Any]:
    """Every dtype that an input of the layer may have."""
    return {np.dtype(name) for names in (layer.dtypes, *layer.types.values()) for name in _listed(names)}


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names


def _leading(layer: Layer) -> Sequence[int]:
    return LEADING if any("..." in text for text in layer.shapes.values()) else (0,)


def symbolic_dims(layer: Layer, leading: int) -> dict[str, list[Any]]:
    """A shape of symbols for every input whose shape the layer declares."""
    found = {}
    for name, text in layer.shapes.items():
        dims: list[Any] = []
        for token in text.split():
            dims += [f"b{axis}" for axis in range(leading)] if token == "..." else [_number(token)]
        found[name] = dims
    return found


def _number(token: str) -> Any:
    return int(token) if token.isdecimal() else token


def _pattern(
    body: Body, opset: int, kinds: Mapping[str, Any], narrow: bool, leading: int, run: Simplify | None
) -> Found | None:
    values, marks = _sentinels(body)
    dims = symbolic_dims(body.layer, leading)
    try:
        model, emitter = body_model(body, opset, kinds, values, dims, narrow=narrow)
    except Skip:
        return None
    graph = run(model) if run is not None else _inferred(model)
    reader = _GraphReader(body, opset, emitter.templates, marks)
    try:
        outputs = tuple(reader.operand(tensor) for tensor in graph.outputs)
    except Skip:
        return None
    if not all(isinstance(output, (NodePattern, Output, Either)) for output in outputs):
        return None
    known = {symbol.name for template in reader.templates.values() for symbol in symbols_in(template)}
    if any(name not in known for name in _used(body) if name in marks.values()):
        return None  # a pass worked the stand-in of an attribute into another constant
    if reader.named != set(body.present):
        return None
    return Found(
        body.layer, body.spelling, body.present, dict(body.fixed), outputs, len(reader.nodes), reader.templates,
        reader.arrays,
    )  # fmt: skip


def _inferred(model: onnx.ModelProto) -> gs.Graph:
    return load(model)


def _used(body: Body) -> set[str]:
    return {
        symbol.name
        for made in body.nodes
        for value in (*made.operands, *made.attrs.values())
        for symbol in symbols_in(value)
    }


def _sentinels(body: Body) -> tuple[dict[str, Any], dict[float, str]]:
    """Values to trace a model with: for floats numbers that nothing else has, exact in every dtype."""
    values: dict[str, Any] = {}
    marks: dict[float, str] = {}
    for index, (name, symbol) in enumerate(body.symbols.items()):
        if isinstance(symbol.default, float):
            values[name] = 2.0**-7 * (1 + (2 * index + 21) / 64)
            marks[values[name]] = name
        else:
            values[name] = symbol.default
    return {**values, **body.fixed}, marks


class _GraphReader:
    def __init__(self, body: Body, opset: int, sources: Mapping[Any, Any], marks: Mapping[float, str]) -> None:
        self.body, self.opset, self.sources, self.marks = body, opset, sources, marks
        self.templates: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.named: set[str] = set()
        self.nodes: dict[int, NodePattern] = {}
        self._inputs: dict[str, Var] = {}
        self._same: dict[int, Either] = {}
        self._op = PatternOps()

    def operand(self, tensor: gs.Tensor) -> Operand:
        if not tensor.name:
            return _absent(self._op)
        constant = constant_of(tensor)
        if constant is not None:
            values = Value(constant).const
            assert values is not None
            return self._constant(tensor.name, values)
        if not tensor.inputs:
            self.named.add(tensor.name)
            return self._inputs.setdefault(tensor.name, Var(tensor.name))
        node = tensor.inputs[0]
        made = self.nodes.get(id(node))
        if made is None:
            made = self.nodes[id(node)] = self._node(node)
        index = next(i for i, out in enumerate(node.outputs) if out is tensor)
        if len(node.outputs) > 1:
            return Output(made, index)
        same = self._same.setdefault(id(node), _spellings(made))
        return same if len(same.options) > 1 else made

    def _node(self, node: gs.Node) -> NodePattern:
        skipped = IGNORED.get(node.op, frozenset())
        operands = [self.operand(tensor) for tensor in node.inputs]
        entries = {entry.attribute: entry for entry in moved(node.op, self.opset)} if is_standard(node) else {}
        attrs: dict[str, Any] = {}
        for key, value in node.attrs.items():
            if key in skipped:
                continue
            template = self.sources.get((node.name, key))
            if key in entries:
                slot = entries[key].slot
                operands += [_absent(self._op)] * (slot + 1 - len(operands))
                if template is not None:
                    operands[slot] = self._template(template)
                else:
                    array = attribute_operand(node, entries[key])
                    assert array is not None
                    operands[slot] = self._axes(node, key, array)
            elif isinstance(value, (gs.Tensor, gs.Graph, list)) and not _is_plain(value):
                raise Skip(f"attribute {key} of {node.op} is no plain value")
            else:
                attrs[key] = self._attribute(node, key, value, template)
        for slot, tensor in enumerate(node.inputs):
            if slot == 1 and _takes_axes(node) and isinstance(operands[1], Literal):
                constant = Value(tensor).const
                if constant is not None:
                    operands[1] = self._axes(node, "axes", constant)
        return NodePattern(node.op, tuple(operands), attrs, None, node.domain or "", len(node.outputs))

    def _attribute(self, node: gs.Node, key: str, value: Any, template: Any) -> Any:
        if isinstance(template, Symbol):
            return self._variable(template)
        if template is not None:
            raise Skip("a list of attributes in an attribute")
        if isinstance(value, float) and value in self.marks:
            return self._variable(self.body.symbols[self.marks[value]])
        rank = dims_of.of(node.inputs[0]) if node.inputs else None
        if key == "axis" and rank is not None and isinstance(value, int):
            same = {value % len(rank), value % len(rank) - len(rank)} if rank else {value}
            return lambda got: got in same
        return value

    def _axes(self, node: gs.Node, key: str, array: np.ndarray[Any, Any]) -> Operand:
        """Axes, counted from the front or from the back."""
        plain = self._constant("", array)
        shape = dims_of.of(node.outputs[0] if node.op == "Unsqueeze" else node.inputs[0])
        if key != "axes" or shape is None or not isinstance(plain, Literal) or array.ndim != 1:
            return plain
        rank = len(shape)
        forms = [[int(a) % rank for a in array], [int(a) % rank - rank for a in array]]
        return Either(tuple(Literal(form) for form in forms))

    def _constant(self, name: str, values: np.ndarray[Any, Any]) -> Operand:
        if name in self.sources:
            return self._template(self.sources[name])
        if values.dtype.kind in "OSU":
            raise Skip("a constant of text")
        if values.size == 1 and dtypes.is_float(values.dtype) and float(values.ravel()[0]) in self.marks:
            return self._template(self.body.symbols[self.marks[float(values.ravel()[0])]])
        if values.size == 1 and (values.ndim == 0 or dtypes.is_float(values.dtype)):
            return Literal(float(values.ravel()[0]) if dtypes.is_float(values.dtype) else int(values))
        if values.ndim == 1 and values.dtype.kind in "iu" and values.size <= 16:
            return Literal(values.tolist())
        variable = f"#{len(self.arrays)}"
        self.arrays[variable] = values
        return Const(Var(variable))

    def _variable(self, symbol: Symbol) -> Var:
        variable = f"@{symbol.name}.{len(self.templates)}"
        self.templates[variable] = symbol
        return Var(variable)

    def _template(self, template: Any) -> Operand:
        variable = f"@{len(self.templates)}"
        self.templates[variable] = template
        return Const(Var(variable))


def _spellings(made: NodePattern) -> Either:
    """Mul(x, x) = Pow(x, 2); Div(a, b) = Mul(a, Reciprocal(b)); Div(1, b) = Reciprocal(b)."""
    options: list[Operand] = [made]
    if len(made.inputs) == 2 and not made.domain:
        first, second = made.inputs
        if made.op == "Mul" and first is second:
            options.append(NodePattern("Pow", (first, Literal(2.0))))
        elif made.op == "Pow" and isinstance(second, Literal) and second.value == 2:
            options.append(NodePattern("Mul", (first, first)))
        elif made.op == "Div":
            options.append(NodePattern("Mul", (first, NodePattern("Reciprocal", (second,)))))
            if isinstance(first, Literal) and first.value == 1:
                options.append(NodePattern("Reciprocal", (second,)))
    return Either(tuple(options))


def _absent(op: PatternOps) -> Operand:
    return op.Identity(None).inputs[0]


def _takes_axes(node: gs.Node) -> bool:
    return node.op.startswith("Reduce") or node.op in ("Squeeze", "Unsqueeze")


def _is_plain(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, (gs.Tensor, gs.Graph)) for item in value)


def _solve(template: Any, value: Any) -> Iterator[tuple[Symbol | None, Any]]:
    """(symbol, its value) pairs; (None, whether it fits) for the plain numbers of a list."""
    if isinstance(template, Symbol):
        yield template, value
        return
    items = np.asarray(value).ravel().tolist() if value is not None else []
    if len(items) != len(template):
        yield None, False
        return
    for part, item in zip(template, items, strict=True):
        if isinstance(part, Symbol):
            yield part, item
        else:
            yield None, part == item


def _cast(value: Any, default: Any) -> Any:
    """A captured value in the type of the declaration; None if it is none."""
    if value is None:
        return None
    if isinstance(default, str):
        return value if isinstance(value, str) else None
    array = np.asarray(value)
    numbers = (array if array.dtype.kind in "iub" else array.astype(np.float64)).ravel().tolist()
    kind = type(default)
    if isinstance(default, tuple):
        kind = float if any(isinstance(item, float) for item in default) else int
    elif len(numbers) != 1:
        return None
    if not numbers or (kind is not float and not all(float(number).is_integer() for number in numbers)):
        return None
    cast = tuple(kind(number) for number in numbers)
    return cast if isinstance(default, tuple) else cast[0]


def _mark(found: Found) -> str:
    """Equal for equal patterns."""
    numbers: dict[int, int] = {}

    def text(item: Any) -> str:
        if isinstance(item, NodePattern):
            if id(item) in numbers:
                return f"${numbers[id(item)]}"
            inner = ",".join(text(child) for child in item.inputs)
            attrs = ",".join(f"{key}={text(value)}" for key, value in sorted(item.attrs.items()))
            numbers[id(item)] = len(numbers)
            return f"{item.op}({inner};{attrs})"
        if isinstance(item, Output):
            return f"{text(item.node)}[{item.index}]"
        if isinstance(item, Var):
            return item.name.split(".")[0]
        if isinstance(item, Const):
            return f"const {text(item.inner)}"
        if isinstance(item, Either):
            return "|".join(text(option) for option in item.options)
        if isinstance(item, Literal):
            return repr(item.value)
        if callable(item) and getattr(item, "__closure__", None):
            return repr(sorted(item.__closure__[0].cell_contents))
        return repr(item)

    fixed = sorted(found.fixed.items())
    arrays = [array.tobytes().hex()[:64] for array in found.arrays.values()]
    return repr((found.present, fixed, arrays, [text(output) for output in found.outputs]))
