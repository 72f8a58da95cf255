"""Every tool over every model of a corpus: measured in children, remembered by (model, tool, version)."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .forks import Forks
from .verdict import OURS

HERE = Path(__file__).parent
PEERS = ("onnxsim", "onnxslim", "onnxscript", "onnxoptimizer", "onnxruntime")
JUDGING_SECONDS = 300.0


@dataclass(frozen=True)
class Setup:
    """Where the Pythons and the cache are, and how patient to be."""

    ours: str
    peers: str
    cache: Path
    repeats: int = 3
    patience: float = 4.0
    """Seconds after which a call is not repeated."""
    limit: float = 120.0
    """Seconds after which a tool is ended."""
    engines: bool = False
    layers: bool = True


class Bench:
    """One worker process a tool, and one that judges."""

    def __init__(self, setup: Setup, tools: Sequence[str]) -> None:
        self.setup = setup
        python = {tool: setup.ours if tool == OURS else setup.peers for tool in tools}
        self.workers = {tool: Forks(python[tool], HERE / "tools.py", (tool,)) for tool in tools}
        self.judge = Forks(setup.ours, HERE / "judge.py")
        self.versions: dict[str, str] = {}

    def close(self) -> None:
        for one in (self.judge, *self.workers.values()):
            one.close()

    def version(self, tool: str) -> str:
        if tool not in self.versions:
            self.versions[tool] = self.workers[tool].ask({"what": "version", "tool": tool}, 60).get("version", "?")
        return self.versions[tool]

    def model(self, path: Path) -> dict[str, Any]:
        """{'source': record, 'tools': {tool: record}}; ours is always measured, peers where nothing is remembered."""
        digest = hashlib.sha256(path.read_bytes() + path.with_suffix(".npz").read_bytes()).hexdigest()[:16]
        memory = self.setup.cache / f"{path.stem}-{digest}.json"
        known: dict[str, Any] = json.loads(memory.read_text()) if memory.exists() else {}
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
            outputs = Path(folder) / "outputs.npz"
            common = {"feeds": str(path.with_suffix(".npz")), "outputs": str(outputs)}
            ran = self.judge.ask({"what": "run", "model": str(path), **common}, JUDGING_SECONDS)
            if self._key("source") not in known:
                source = self._worth(path, common, folder)
                source["run_error"] = ran.get("error", "")
                source["coarse"] = _coarse(source)
                known[self._key("source")] = source
            known[self._key("source")]["sensitivity"] = ran.get("sensitivity", 0.0)
            for tool in self.workers:
                key = self._key(f"{tool} {self.version(tool)}")
                if tool == OURS or key not in known:
                    known[key] = self._tool(tool, path, common, folder, compared="error" not in ran)
        self.setup.cache.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(known))
        return {
            "source": known[self._key("source")],
            "tools": {tool: known[self._key(f"{tool} {self.version(tool)}")] for tool in self.workers},
        }

    def _key(self, what: str) -> str:
        return f"{what}{' with engine' if self.setup.engines else ''}"

    def _tool(self, tool: str, path: Path, common: dict[str, str], folder: str, compared: bool) -> dict[str, Any]:
        result = Path(folder) / f"{tool}.onnx"
        asked = {
            "tool": tool, "source": str(path), "result": str(result),
            "repeats": self.setup.repeats, "patience": self.setup.patience,
        }  # fmt: skip
        record = self.workers[tool].ask(asked, self.setup.limit)
        if "error" in record:
            return record
        record |= self._worth(result, common, folder)
        if compared:
            found = self.judge.ask({"what": "compare", "model": str(result), **common}, JUDGING_SECONDS)
            record["difference"], record["compare_error"] = found.get("difference"), found.get("error", "")
        result.unlink(missing_ok=True)
        return record

    def _worth(self, model: Path, common: dict[str, str], folder: str) -> dict[str, Any]:
        found = self.judge.ask({"what": "count", "model": str(model)}, JUDGING_SECONDS)
        found.pop("peak_rss", None)
        if self.setup.layers:
            engine = {"engine": f"{folder}/engine"} if self.setup.engines else {}
            parsed = self.judge.ask({"what": "layers", "model": str(model), **common, **engine}, JUDGING_SECONDS)
            parsed.pop("peak_rss", None)
            parsed["layers_error"] = parsed.pop("error", "")
            found |= parsed
        return found


def _coarse(source: dict[str, Any]) -> bool:
    return source.get("narrow", False) or any("Quantize" in op or "Integer" in op for op in source.get("ops", ()))
