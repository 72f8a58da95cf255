"""Why a model cannot be exported: which operator or which line, and what to do."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import ModelError

from .calls import Calls
from .sources import Read, _line

_OPERATOR = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+::?[\w.]+|[\w.]+)', overload='(\w+)'\)>"),
    re.compile(r"[Ee]xporting the operator '([\w:.]+)' to ONNX opset version \d+ is not supported"),
    re.compile(r"No decompositions? registered for .*?op='([\w.:]+)'"),
)
_BY_VALUE = re.compile(r"data-dependent|GuardOnDataDependent|unbacked symint|Dynamic control flow", re.IGNORECASE)
_CLASS = re.compile(r"Found <class '([\w.]+)'> in output, which is not a known type")
_FIXED = re.compile(r"specialized (?:it )?to (?:be )?a constant \((\d+)\)|inferred to be a constant \((\d+)\)")


def explain(failures: Mapping[str, BaseException], found: Read, calls: Calls, source: str) -> ModelError:
    """One error for what all exporters said."""
    for error in failures.values():
        text = "\n".join(str(one) for one in _chain(error))
        if operator := _operator(text):
            if operator == "prim::DictConstruct":
                return ModelError(
                    "it returns a dictionary, which the torchscript exporter does not take",
                    where=source,
                    hint="have it return a tensor or a tuple; or take it in as a module (net.py:make) or a .pt2 file",
                )
            operator, at = _origin(found, calls, operator)
            return ModelError(
                f"operator {operator} has no counterpart in ONNX{f', at {at}' if at else ''}",
                where=source,
                hint=f"say it in other operators, or give it a meaning: a custom layer with torch_op = {operator!r} "
                "(docs/importers.md)",
            )
    lines = []
    for name, error in failures.items():
        text = "\n".join(str(one) for one in _chain(error))
        at = _users_line(error)
        if _BY_VALUE.search(text):
            why = "the values of a tensor decide what is computed, which a graph cannot say"
            hint = "torch.where or torch.cond instead of if; or make the value an argument that is no tensor"
        elif fixed := _FIXED.search(text):
            size = fixed[1] or fixed[2]
            why = f"a dimension that is to be dynamic is fixed to {size} by the code"
            hint = f"give the number instead of a name in --shapes, or write the code without the fixed {size}"
        elif unknown := _CLASS.search(text):
            why = f"it returns an object of class {unknown[1].rpartition('.')[2]}"
            hint = "a module whose forward returns its tensors (or a tuple or dictionary of them) can be exported"
        else:
            inner = list(_chain(error))[-1]
            kind = "" if type(inner).__name__ == "Untrue" else f"{type(inner).__name__}: "
            why, hint = f"{kind}{_line(inner)}", ""
        lines.append((name, f"{why}{f', at {at}' if at else ''}", hint))
    first = lines[0]
    others = [f"{name}: {why}" for name, why, _ in lines[1:]]
    hints = [first[2], *others, "--import-option exporter=dynamo or =torchscript asks one alone" if others else ""]
    return ModelError(f"{first[0]} cannot export it: {first[1]}", where=source, hint="\n".join(filter(None, hints)))


def _operator(text: str) -> str:
    for pattern in _OPERATOR:
        if one := pattern.search(text):
            name = one[1] if "::" in one[1] else one[1].replace(".", "::", 1)
            return name if len(one.groups()) < 2 or one[2] == "default" else f"{name}.{one[2]}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from, down to the first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _users_line(error: BaseException) -> str:
    """The last line of code, outside of libraries, that any of the errors passed through."""
    inside = (sysconfig.get_paths()["stdlib"], str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[2]))
    for one in reversed(list(_chain(error))):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if not frame.filename.startswith((*inside, "<")) and "/graphopt/" not in frame.filename:
                return f"{frame.filename}, line {frame.lineno}: {frame.line}"
    return ""


def _origin(found: Read, calls: Calls, operator: str) -> tuple[str, str]:
    """The operator as the model's own code calls it, before it was decomposed, and where."""
    try:
        program: Any = found.thing
        if not found.is_program:
            program = torch.export.export(found.thing, calls.args, calls.kwargs, strict=False)
        nodes = [*program.graph.nodes, *program.run_decompositions(dict(torch._decomp.decomposition_table)).graph.nodes]
    except Exception:
        return operator, ""
    for node in nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "")
        if node.op == "call_function" and name == operator.partition(".")[0]:
            origin = getattr(getattr(node.meta.get("original_aten"), "_schema", None), "name", name)
            places = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', node.meta.get("stack_trace") or "")
            if places:
                file, line, code = places[-1]
                return origin, f"{file}, line {line}: {code.strip()}"
            return origin, ""
    return operator, ""
