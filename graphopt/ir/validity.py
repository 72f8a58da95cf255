"""What a node must have before a pass may look at it: operands, attribute types and bodies as its operator says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from graphopt.errors import ModelError

from .graph import extras, peek, scopes, subgraphs


class Form(NamedTuple):
    """An operator at one opset."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needs: tuple[bool, ...]
    """For each formal input whether it must be given."""
    kinds: dict[str, int]
    required: tuple[str, ...]

    def check(self, proto: onnx.NodeProto, inputs: list[gs.Tensor], outputs: int, whole: bool, where: str) -> None:
        """Raises ModelError where operands do not fit; `whole`: none of the inputs is left out."""
        wrong = ""
        if not self.inputs[0] <= len(inputs) <= self.inputs[1]:
            wrong = f"it has {len(inputs)} inputs, its operator takes {_range(self.inputs)}"
        elif not self.outputs[0] <= outputs <= self.outputs[1]:
            wrong = f"it has {outputs} outputs, its operator gives {_range(self.outputs)}"
        elif not whole and any(n and not t.name for n, t in zip(self.needs, inputs, strict=False)):
            wrong = "an input that its operator needs is left out"
        if wrong:
            raise ModelError(wrong, where=f"{where}, node {label(proto)}")

    def check_required(self, proto: onnx.NodeProto, given: Mapping[str, Any], where: str) -> None:
        """Raises ModelError where an attribute is missing."""
        for name in self.required:
            if name not in given:
                raise ModelError(f"it lacks the attribute {name!r}", where=f"{where}, node {label(proto)}")


class Forms:
    """The operators that one list of opset imports gives; unknown ones (custom, or newer than onnx) are not checked."""

    def __init__(self, imports: Iterable[Any]) -> None:
        self._versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}
        self._known: dict[tuple[str, str], Form | None] = {}

    def find(self, op: str, domain: str, proto: onnx.NodeProto, where: str) -> Form | None:
        """What the operator of a node asks for. Raises ModelError if it is ONNX's and no opset of ONNX is imported."""
        key = op, domain
        if key not in self._known:
            check_text(key, where)
            if domain in ("", "ai.onnx") and "" not in self._versions and onnx.defs.has(op):
                raise ModelError(
                    "its operator is ONNX's, whose opset is not imported", where=f"{where}, node {label(proto)}"
                )
            domain = "" if domain == "ai.onnx" else domain
            self._known[key] = _form(op, self._versions.get(domain, 0), domain)
        return self._known[key]


@lru_cache(1 << 12)
def _form(op: str, version: int, domain: str) -> Form | None:
    if not 0 < version < 1 << 31 or not onnx.defs.has(op, version, domain):
        return None
    schema = onnx.defs.get_schema(op, version, domain)
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return Form(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(formal.option == single for formal in schema.inputs),
        {name: int(attribute.type.value) for name, attribute in schema.attributes.items()},  # type: ignore[attr-defined]
        tuple(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def wrong_kind(name: str, kind: int, expected: int) -> str:
    """What to say of an attribute of another type than its operator's."""
    kinds = AttributeProto.AttributeType
    known = kinds.Name(kind) if kind in kinds.values() else str(kind)
    return f"attribute {name!r} is {known}, it must be {kinds.Name(expected)}"


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return str(low) if low == high else f"{low} to {high}" if high < 1 << 30 else f"{low} or more"


def label(proto: onnx.NodeProto) -> str:
    """A node in a message: its name, if it has one, and its operator."""
    return f"{proto.name!r} ({proto.op_type})" if proto.name else f"({proto.op_type})"


def check_bodies(node: gs.Node, where: str) -> None:
    """Raises ModelError where a body's inputs and outputs do not fit the control-flow node that holds it."""
    if node.domain not in (None, "", "ai.onnx") or node.op not in ("If", "Loop"):
        return
    turns = node.op == "Loop"
    for body in subgraphs(node):
        inputs = len(node.inputs) if turns else 0
        outputs = len(node.outputs) + turns
        if len(body.inputs) != inputs or len(body.outputs) < outputs or (not turns and len(body.outputs) != outputs):
            raise ModelError(
                f"its body has {len(body.inputs)} inputs and {len(body.outputs)} outputs, not {inputs} and {outputs}",
                where=where,
            )


def check_text(names: Collection[Any], where: str) -> None:
    """Raises ModelError for names that are no UTF-8: protobuf gives them as bytes."""
    if bytes not in set(map(type, names)):
        return
    for name in names:
        if type(name) is bytes:
            raise ModelError(f"the name {name!r} is no valid text", where=where)


def check_imports(imports: Iterable[Any], where: str) -> None:
    """Raises ModelError for opset imports that name no domain or no version."""
    versions: dict[str, int] = {}
    for entry in imports:
        check_text((entry.domain,), where)
        if not 0 <= entry.version < 1 << 31:
            raise ModelError(f"domain {entry.domain!r} has version {entry.version}", where=where)
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            what = f"domain {entry.domain!r} has two versions, {versions[domain]} and {entry.version}"
            raise ModelError(what, where=where)


def check_arity(graph: gs.Graph, functions: list[gs.Function]) -> None:
    """Raises ModelError where a call gives or takes more values than its function."""
    known = {(function.domain or "", function.name, extras(function).overload): function for function in functions}
    for scope in scopes(graph):
        for node in scope.nodes:
            entry = peek(node)
            called = known.get((node.domain or "", node.op, entry.overload if entry is not None else ""))
            if called is None:
                continue
            given, formal = (len(node.inputs), len(node.outputs)), (len(called.inputs), len(called.outputs))
            if given[0] > formal[0] or given[1] > formal[1]:
                raise ModelError(
                    f"it has {given[0]} inputs and {given[1]} outputs, its function {formal[0]} and {formal[1]}",
                    where=f"node {node.name!r} ({node.op})",
                )


def check_calls(functions: list[gs.Function]) -> None:
    """Raises ModelError where two functions have one name, or functions call each other in a circle."""
    known = [(function.domain or "", function.name, extras(function).overload) for function in functions]
    if len(set(known)) != len(known):
        raise ModelError(f"function {next(one for one in known if known.count(one) > 1)[1]!r} is defined twice")
    names = set(known)
    edges = []
    for caller, function in zip(known, functions, strict=True):
        for scope in scopes(function, functions=False):
            for node in scope.nodes:
                entry = peek(node)
                called = (node.domain or "", node.op, entry.overload if entry is not None else "")
                if called in names:
                    edges.append((caller, called))
    if not edges:
        return
    import networkx as nx  # half of a run's import time

    calls = nx.DiGraph(edges)
    if not nx.is_directed_acyclic_graph(calls):
        cycle = nx.find_cycle(calls)
        raise ModelError(f"functions call each other in a circle: {' -> '.join(edge[0][1] for edge in cycle)}")
