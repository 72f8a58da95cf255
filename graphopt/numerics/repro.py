"""A breach as a folder: the two slices, their inputs, what was expected, what came, and how to see it again."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import __version__
from graphopt.config import Target
from graphopt.errors import UsageError
from graphopt.ir.load import load
from graphopt.ir.save import write
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.rule import Entry

from .difference import Value
from .execute import Runner
from .history import Change
from .ports import input_ports, read_outline
from .slices import Breach, Slice, trial

SCHEMA_VERSION = 1
FILES = ("before.onnx", "after.onnx", "inputs.npz", "expected.npz", "actual.npz", "repro.json", "README.md")


@dataclass(frozen=True)
class Replay:
    """What a repro folder says today.

    persists: whether what the pass makes still differs. how: 'rewritten' (the installed pass was run again),
    'stored' (after.onnx was compared). what: the difference, or why there is none.
    """

    persists: bool
    how: str
    what: str

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, "persists": self.persists, "how": self.how, "what": self.what}


def write_repro(breach: Breach, folder: Path, entry: Entry | None, target: Target) -> Path:
    """Write a breach as a new folder under `folder`; the folder. It appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{breach.change.name}-{breach.change.node}").strip("-")[:100]
    place, number = folder / stem, 1
    while place.exists():
        place, number = folder / f"{stem}-{number}", number + 1
    made = Path(tempfile.mkdtemp(prefix=".graphopt-", dir=folder))
    try:
        _fill(made, place, breach, entry, target)
        made.chmod(0o755)
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return place


def _fill(made: Path, place: Path, breach: Breach, entry: Entry | None, target: Target) -> None:
    change = breach.change
    about: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "pass": change.name,
        "plugin": change.plugin,
        "equation": change.doc,
        "node": change.node,
        "source_nodes": change.origin,
        "sample": breach.sample,
        "what": breach.what,
        "difference": breach.difference.to_json() if breach.difference is not None else None,
        "huge": breach.sample == "ends",
        "fires": False,
        "command": f"graphopt bisect --replay {place.name}",
        "graphopt": __version__,
    }
    if breach.before:
        (made / "before.onnx").write_bytes(breach.before)
        (made / "after.onnx").write_bytes(breach.after)
        for name, values in (("inputs", breach.inputs), ("expected", breach.expected), ("actual", breach.actual)):
            np.savez(made / f"{name}.npz", **{key: _plain(value) for key, value in values.items()})
        about["fires"] = entry is not None and _rewritten(made / "before.onnx", entry, target) is not None
    (made / "repro.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (made / "README.md").write_text(_readme(about, bool(breach.before)), encoding="utf-8")


def _plain(value: Value) -> Any:
    """An array that an .npz file holds without pickling: bfloat16 and float8 as their bits, strings as fixed text."""
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return array.astype(str)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.isbuiltin == 2 else array


def _readme(about: Mapping[str, Any], slices: bool) -> str:
    lines = [
        f"# {about['pass']} at {about['node'] or 'the whole graph'}",
        "",
        f"Pass `{about['pass']}` of plugin `{about['plugin']}` was undone here: {about['what']}",
        "",
        f"- its promise: {about['equation'] or 'none'}",
        f"- source nodes: {', '.join(about['source_nodes']) or 'unknown'}",
    ]
    if slices:
        lines += [
            f"- inputs: sample `{about['sample']}` of the model's own, run up to here (`inputs.npz`)",
            "",
            "`before.onnx` holds the nodes that it replaced, `after.onnx` those that it put there; both have the same",
            "inputs and outputs. `expected.npz` is what the first computes, `actual.npz` what the second does.",
            "",
            "    graphopt bisect --replay .     # in this folder; add --plugin FILE for a plugin that is not installed",
            "",
            "runs the pass over `before.onnx` again, and exits with 1 while the difference persists.",
        ]
    return "\n".join(lines) + "\n"


def _rewritten(path: Path, entry: Entry, target: Target) -> Any:
    """The model after this pass alone; None where the pass leaves it as it is."""
    graph = load(path)
    manager = Manager(graph, [entry], target, most=1)
    try:
        manager.run()
    except Exception:
        return None
    return graph if manager.changes else None


def replay(folder: Path, registry: Registry, target: Target) -> Replay:
    """Run the installed pass over before.onnx again and compare; without the pass, compare after.onnx.

    Raises:
        UsageError: it is no repro folder.
        ExecutionError: before.onnx does not run here.
    """
    try:
        about = json.loads((folder / "repro.json").read_text(encoding="utf-8"))
        fires, name = bool(about["fires"]), str(about["pass"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("it is no repro folder", where=str(folder), hint="graphopt bisect writes one") from error
    before = folder / "before.onnx"
    if not before.is_file():
        return Replay(True, "stored", str(about.get("what", "")))
    inputs = _values(before, folder / "inputs.npz")
    entry = next((one for one in registry.passes() if one.name == name), None)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch, Runner() as runner:
        after, how = folder / "after.onnx", "stored"
        if entry is not None and fires:
            graph = _rewritten(before, entry, target)
            if graph is None:
                return Replay(False, "rewritten", f"pass {name} no longer changes before.onnx")
            after, how = Path(scratch, "after.onnx"), "rewritten"
            write(graph, after, external=False)
        runner.open(before)
        runner.run(inputs)
        change = Change(0, name, str(about.get("plugin", "?")), str(about.get("node", "")))
        found = trial(runner, change, Slice(before, after, {}), inputs, huge=bool(about["huge"]))
    return Replay(found is not None, how, found.what if found is not None else "both compute the same")


def _values(model: Path, path: Path) -> dict[str, Value]:
    ports = {port.name: port for port in input_ports(read_outline(model))}
    found: dict[str, Value] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name, port in ports.items():
            array = archive[name]
            if port.dtype.isbuiltin == 2:
                array = array.view(port.dtype)
            found[name] = array.astype(object) if port.dtype_name == "string" else array
    return found
