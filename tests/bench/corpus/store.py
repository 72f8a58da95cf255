"""What a corpus folder holds: NAME.onnx, its seeded inputs NAME.npz, what it is NAME.json, and INDEX.md over all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = dict[str, Array]
Writer = Callable[[Path], Feeds]
"""Writes a model to the path and returns inputs that mean something to it."""


@dataclass(frozen=True)
class Entry:
    """A model that can be made."""

    name: str
    family: str
    exporter: str
    write: Writer


ENTRIES: dict[str, Entry] = {}


def entry(name: str, family: str, exporter: str) -> Callable[[Writer], Writer]:
    """Register what writes the model NAME."""

    def take(write: Writer) -> Writer:
        add(name, family, exporter, write)
        return write

    return take


def add(name: str, family: str, exporter: str, write: Writer) -> None:
    if name in ENTRIES:
        raise ValueError(f"two corpus entries are called {name}")
    ENTRIES[name] = Entry(name, family, exporter, write)


def make(one: Entry, folder: Path) -> dict[str, Any]:
    """Write the model and what belongs to it; nothing is left behind of one that fails."""
    import onnx

    path = folder / f"{one.name}.onnx"
    part = folder / f".{one.name}.onnx"
    try:
        feeds = one.write(part)
        model = onnx.load(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    np.savez(path.with_suffix(".npz"), **feeds)  # type: ignore[arg-type]
    about = {
        "family": one.family,
        "exporter": one.exporter,
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "nodes": len(model.graph.node),
        "bytes": path.stat().st_size,
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    index(folder)
    return about


def index(folder: Path) -> None:
    """INDEX.md: a line for each model that is there."""
    lines = ["| model | family | exporter | opset | nodes of the main graph | MB |", "|---|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.onnx")):
        if path.with_suffix(".json").exists():
            about = json.loads(path.with_suffix(".json").read_text())
            said = [about[key] for key in ("family", "exporter", "opset", "nodes")]
            lines.append("| " + " | ".join(map(str, [path.stem, *said, f"{about['bytes'] / 1e6:.1f}"])) + " |")
    (folder / "INDEX.md").write_text("\n".join(lines) + "\n")


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tokens(*shape: int, vocabulary: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(3, vocabulary, shape)


def image(*shape: int, seed: int = 0) -> Array:
    """A picture of smooth fields and rectangles, (..., height, width), about zero mean and unit variance."""
    random = np.random.default_rng(seed)
    *_, height, width = shape
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    plane = np.stack([np.sin(7 * rows + k) + np.cos(5 * columns * (k + 1)) for k in range(shape[-3])])
    for _ in range(12):
        top, left = int(random.integers(0, max(1, height - 4))), int(random.integers(0, max(1, width - 4)))
        plane[:, top : top + height // 4, left : left + width // 4] += random.normal(0, 1, (shape[-3], 1, 1))
    plane = (plane - plane.mean()) / plane.std() + 0.1 * random.standard_normal(plane.shape)
    return np.broadcast_to(plane, shape).astype(np.float32).copy()
