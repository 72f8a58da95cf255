"""A call of `graphopt build` that was answered before: its engine comes from the cache, and nothing else is done.

It loads fast, and so does what it imports: the standard library's slow modules are left alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .console import print_json, warn
from .engines.digest import file_digest
from .engines.request import NoKey, call_key, request_key
from .engines.store import Store
from .errors import GraphoptError, ModelError
from .ir.staging import staging
from .manifest import write_manifest
from .project import Typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Progress = Callable[[str, int, int], None]

_WRITTEN = ("save_onnx", "save_plan")
_SHOWN_BYTES = 2_000_000_000
"""More than this is read with a progress bar on terminals."""


def recall(words: list[str]) -> bool:
    """Whether this command line was typed before, and what it asks for is there; then it is in place, and told.

    What the words mean was written down when they were parsed. Whatever is in doubt is left to who parses them.
    """
    typed = Typed(words)
    if not typed.may_be_known:
        return False
    try:
        store = Store()
        known = store.request(call_key(typed))
        if known is None or (known["bytes"] > _SHOWN_BYTES and sys.stderr.isatty()):
            return False
        call = known["call"]
        job = Lookup(call["model"], Path(call["engine"]), call["words"], call["command"], store)
        if not job.answered():
            return False
        job.tell(call["as_json"], call["quiet"])
    except (GraphoptError, NoKey, OSError, ValueError, KeyError, TypeError):
        return False
    return True


class Lookup:
    """One request, and what was answered to it before.

    words: the options that decide what comes out, by name. command: what repeats the call.
    """

    def __init__(
        self, model: str, engine: Path, words: dict[str, Any], command: list[str], store: Store | None
    ) -> None:
        self.model = model
        self.engine = engine
        self.words = words
        self.asks_more = any(words.get(name) for name in _WRITTEN)
        """Whether files are asked for beside the engine: they are not in the cache."""
        self.command = command
        self.store = store
        self.answer: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.files: dict[str, str] = {}
        self.key = ""
        self.is_kept = False
        """Whether the answer is in the cache."""

    def answered(self) -> bool:
        """Whether this request was answered before, and its engine is now in place."""
        began = time.perf_counter()
        self.files = self.files_read()
        self.key = self.request() if self.store is not None and Path(self.model).exists() else ""
        found = self.store.request(self.key) if self.store is not None and self.key and not self.asks_more else None
        self.is_kept = found is not None and self._is_as_it_was(found["data"]) and self._take(found, began)
        return self.is_kept

    def request(self) -> str:
        """The key of this request; '' where code of the user's own decides what comes out.

        An ONNX model is known by its bytes wherever it is; another framework's may be by its name.
        """
        is_onnx = self.model.endswith(".onnx") and not self.words.get("from_importer")
        files = {"" if is_onnx and name == self.model else name: digest for name, digest in self.files.items()}
        try:
            return request_key(self.words, files)
        except NoKey:
            return ""

    def files_read(self) -> dict[str, str]:
        """The files that decide what comes out, each with its digest."""
        named = [self.model, *(self.words.get(name) for name in ("inputs", "calib", "plan", "layer_times"))]
        named += [word.partition("=@")[2] for word in self.words.get("bind") or ()]
        paths = [Path(word) for word in named if isinstance(word, str) and word]
        found = [inner for path in paths[1:] for inner in (sorted(path.glob("*.npz")) if path.is_dir() else [path])]
        found += sorted(paths[0].iterdir()) if paths[0].is_dir() else [paths[0]]  # a model may be a folder
        return {str(path): file_digest(path) for path in found if path.is_file()}

    def _is_as_it_was(self, data: dict[str, str]) -> bool:
        """Whether the files that belong to the model are those of the answer."""
        try:
            return all(file_digest(Path(self.model).parent / name) == digest for name, digest in data.items())
        except ModelError:
            return False

    def _take(self, found: dict[str, Any], began: float) -> bool:
        """Whether the engine of an earlier answer is there, and now in place."""
        assert self.store is not None
        key = str(found["engine"])
        entry = self.store.same(key, self.engine)
        if entry is not None:
            self._describe(entry, found["report"])
        else:
            with staging(self.engine.parent) as folder:
                path = folder / self.engine.name
                entry = self.store.get(key, path)
                if entry is None:
                    return False
                self._describe(entry, found["report"])
                os.replace(path, self.engine)
        report = found["report"]
        build = {**report["build"], "engine": str(self.engine), "cache": {**report["build"]["cache"], "hit": True}}
        outputs = {**report["outputs"], "engine": [str(self.engine)]}
        seconds = round(time.perf_counter() - began, 3)
        self.warnings = found["warnings"]
        self.answer = {**report, "build": build, "outputs": outputs, "seconds": seconds}
        return True

    def _describe(self, entry: dict[str, Any], report: dict[str, Any]) -> None:
        made_by = {**entry["manifest"]["made_by"], "command": self.command, "files": self.files}
        if report.get("imported"):
            made_by["imported"] = report["imported"]
        write_manifest(self.engine, {**entry["manifest"], "source": self.model, "made_by": made_by})

    def tell(self, as_json: bool, quiet: bool) -> None:
        """Print what happened."""
        for text in self.warnings:
            warn(text)
        if as_json:
            print_json(self.answer)
        elif not quiet:
            build, nodes = self.answer["build"], self.answer["nodes"]
            sys.stdout.write(
                f"{self.model}: {nodes['before']:,} nodes, now {nodes['after']:,}; {self.answer['status']}\n"
                f"{self.engine}: from the engine cache, as it was built with {build['backend']} {build['version']} "
                f"in {build['seconds']:.1f} s; {self.answer['seconds']:.2f} s\n"
            )
        sys.stdout.flush()
