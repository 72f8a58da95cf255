"""The precision plan: tensor -> dtype, scale, axis, and why; a text file to read, edit, replay and compare."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import UsageError, nearest
from graphopt.ir import dtypes
from graphopt.ir.graph import subgraphs

VERSION = 1
COMPUTE = ("float32", "float16", "bfloat16")
"""Dtypes in which a tensor may be computed."""
QUANTIZED = ("int8", "float8e4m3fn", "int4")
"""Dtypes to which a tensor may be quantized on its way to its readers."""
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "int8": 127.0, "float8e4m3fn": 448.0, "int4": 7.0}
"""The largest magnitude that is used of a dtype."""
LOW = {"fp16": "float16", "bf16": "bfloat16", "fp8": "float16", "int8": "float16", "int4": "float16",
       "auto": "float16"}  # fmt: skip
"""Precision -> the dtype in which everything is computed that nothing keeps in float32."""
_KEYS = ("dtype", "quantized", "scale", "axis", "block", "readers", "why")


@dataclass(frozen=True)
class Entry:
    """One tensor.

    dtype: in which it is computed. quantized: what its readers get instead, through QuantizeLinear and
    DequantizeLinear: value = scale * q. scale: a number; None for a weight, whose scales come from its values, one
    per index of `axis`, or per `block` elements along it. readers: names of the nodes that get the quantized value;
    empty means all. why: for people.
    """

    dtype: str = "float32"
    quantized: str = ""
    scale: float | None = None
    axis: int | None = None
    block: int | None = None
    readers: tuple[str, ...] = ()
    why: str = ""


@dataclass
class Plan:
    """The dtype of every float tensor of a model. What it does not name is computed in float32."""

    precision: str = "fp16"
    io: str = "keep"
    """keep: inputs and outputs of the model stay as they are. change: they become what is computed next to them."""
    tensors: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    max_error: float | None = None
    """The budget that it was made for, in relative L2 if nothing else is said."""

    def set(self, name: str, **changes: Any) -> None:
        """Change some fields of a tensor's entry."""
        self.tensors[name] = replace(self.tensors.get(name, Entry()), **changes)

    def counts(self) -> dict[str, int]:
        """How many tensors are in each dtype; quantized ones count as such."""
        found: dict[str, int] = {}
        for entry in self.tensors.values():
            name = entry.quantized or entry.dtype
            found[name] = found.get(name, 0) + 1
        return found

    @property
    def share_low(self) -> float:
        """The share of tensors that are quantized or not computed in float32."""
        low = sum(bool(entry.quantized) or entry.dtype != "float32" for entry in self.tensors.values())
        return low / max(len(self.tensors), 1)

    def to_text(self) -> str:
        """One JSON object, a tensor a line."""
        head = {"graphopt_precision_plan": VERSION, "precision": self.precision, "io": self.io, "notes": self.notes,
                "max_error": self.max_error}  # fmt: skip
        lines = [json.dumps(head)[:-1] + ', "tensors": {']
        rows = [f"{json.dumps(name)}: {json.dumps(_compact(entry))}" for name, entry in self.tensors.items()]
        return "\n".join([*lines, ",\n".join(rows), "}}", ""])

    @classmethod
    def from_text(cls, text: str, where: str = "plan") -> Plan:
        """The plan in a text. Raises UsageError, which names the line or the tensor."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise UsageError(f"it is no plan: {error}", where=where) from error
        if not isinstance(data, dict) or data.get("graphopt_precision_plan") != VERSION:
            raise UsageError(f"it is no precision plan of version {VERSION}", where=where)
        plan = cls(str(data.get("precision", "fp16")), str(data.get("io", "keep")), notes=list(data.get("notes", [])))
        plan.max_error = data.get("max_error")
        if plan.io not in ("keep", "change"):
            raise UsageError(f"io is {plan.io!r}: choose keep or change", where=where)
        for name, given in dict(data.get("tensors", {})).items():
            plan.tensors[name] = _entry(name, given, where)
        return plan

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan in a file. Raises UsageError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError("there is no such plan", where=str(path), hint="--save-plan FILE writes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the plan cannot be read: {error}", where=str(path)) from error
        return cls.from_text(text, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan; the file appears whole or not at all."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            temporary.write_text(self.to_text(), encoding="utf-8")
            temporary.replace(target)
        except OSError as error:
            raise UsageError(f"the plan cannot be written: {error.strerror}", where=str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)


def diff(before: Plan, after: Plan) -> list[tuple[str, Entry | None, Entry | None]]:
    """(tensor, entry before, entry after) where two plans differ in more than the reason given."""
    found: list[tuple[str, Entry | None, Entry | None]] = []
    for name in dict.fromkeys([*before.tensors, *after.tensors]):
        old, new = before.tensors.get(name), after.tensors.get(name)
        if old is None or new is None or replace(old, why="") != replace(new, why=""):
            found.append((name, old, new))
    return found


def _compact(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value not in (None, "", ()) or key == "dtype"}


def _entry(name: str, given: Any, where: str) -> Entry:
    at = f"{where}: tensor {name!r}"
    if not isinstance(given, Mapping):
        raise UsageError('its entry is no object, like {"dtype": "float16"}', where=at)
    for key in given:
        if key not in _KEYS:
            raise UsageError(f"{key!r} is not known", where=at, hint=nearest(key, _KEYS, f"known: {', '.join(_KEYS)}"))
    entry = Entry(**{**given, "readers": tuple(given.get("readers", ()))})
    if entry.dtype not in COMPUTE:
        raise UsageError(f"dtype {entry.dtype!r} cannot be computed in", where=at, hint=", ".join(COMPUTE))
    if entry.quantized and entry.quantized not in QUANTIZED:
        raise UsageError(f"nothing is quantized to {entry.quantized!r}", where=at, hint=", ".join(QUANTIZED))
    if entry.scale is not None and not (isinstance(entry.scale, (int, float)) and 0 < entry.scale < np.inf):
        raise UsageError(f"its scale is {entry.scale}: it must be a positive number", where=at)
    return entry


def named(graph: gs.Graph) -> Iterator[tuple[str, gs.Graph, gs.Node | None, gs.Tensor]]:
    """(stable name, scope, node, tensor) of every float32, float16 or bfloat16 value, in order; functions left out.

    node: its producer, None for an input of the graph or of a body. A value of the main graph goes by its own name,
    one of a body by 'NODE.ATTRIBUTE/NAME'.
    """
    pending: list[tuple[str, gs.Graph]] = [("", graph)]
    while pending:
        prefix, scope = pending.pop()
        for tensor in scope.inputs:
            if is_low_or_single(tensor):
                yield prefix + tensor.name, scope, None, tensor
        inner: list[tuple[str, gs.Graph]] = []
        for node in scope.nodes:
            for tensor in node.outputs:
                if tensor.name and is_low_or_single(tensor):
                    yield prefix + tensor.name, scope, node, tensor
            for number, body in enumerate(subgraphs(node)):
                inner.append((f"{prefix}{node.name or node.outputs[0].name}.{body.name or number}/", body))
        pending.extend(reversed(inner))


def is_low_or_single(tensor: gs.Tensor) -> bool:
    """Whether it is a plain tensor of one of the dtypes that are computed in."""
    return getattr(tensor, "type", "tensor_type") == "tensor_type" and dtypes.name(dtypes.of(tensor)) in COMPUTE
