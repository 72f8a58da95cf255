"""What `graphopt build` does: a request that was answered before, or the pipeline with the engine cache."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .console import print_json, stdout, warn
from .engines.key import NoKey, file_digest, gpu, request_key
from .engines.store import Store
from .ir.staging import staging
from .job import Progress
from .layers.measured import measured_files
from .manifest import write_manifest
from .pipeline import Result, optimize
from .registry import Registry

_NOT_PART = frozenset(
    (
        "model",
        "output",
        "as_json",
        "quiet",
        "verbose",
        "no_cache",
        "report",
        "time_limit",
        "memory_limit",
        "timing_cache",
    )
)


class Build:
    """One call of `graphopt build`.

    words: every option by name, as the command line and the configuration file say. command: what repeats the call.
    """

    def __init__(
        self, model: str, engine: Path, words: dict[str, Any], command: list[str], *, report: str | None = None,
        use_cache: bool = True, times: str | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.engine = engine
        self.words = {name: value for name, value in words.items() if name not in _NOT_PART}
        self.words["timing_cache"] = bool(words.get("timing_cache"))
        self.command = command
        self.report = report
        self.times = times
        self.store = Store() if use_cache else None
        self.result: Result | None = None
        self.answer: dict[str, Any] = {}

    def run(self, progress: Progress, **options: Any) -> None:
        """The engine, in place. Raises GraphoptError."""
        began = time.perf_counter()
        progress("looking into the engine cache", 0, 0)
        key = self._key(options) if Path(self.model).is_file() else ""
        if key and self.store is not None and self.report is None and options["output"] is None:
            found = self.store.request(key)
            if found is not None and self._take(found, began):
                return
        self.result = optimize(
            self.model, engine=self.engine, store=self.store, progress=progress, count_layers=True,
            made_by={"command": self.command, "files": self._files(options)}, **options,
        )  # fmt: skip
        self.answer = self.result.to_json()
        made = self.answer["build"]["cache"]["key"]
        if key and made and self.store is not None and self.answer["status"] in ("ok", "unchecked"):
            self.store.answer(key, {"engine": made, "report": self.answer})

    def _take(self, found: dict[str, Any], began: float) -> bool:
        """Whether the engine of an earlier answer is there, and now in place."""
        assert self.store is not None
        with staging(self.engine.parent) as folder:
            path = folder / self.engine.name
            entry = self.store.get(str(found["engine"]), path)
            if entry is None:
                return False
            made_by = {**entry["manifest"]["made_by"], "command": self.command}
            write_manifest(self.engine, {**entry["manifest"], "source": self.model, "made_by": made_by})
            os.replace(path, self.engine)
        report = found["report"]
        build = {**report["build"], "engine": str(self.engine), "cache": {**report["build"]["cache"], "hit": True}}
        outputs = {**report["outputs"], "engine": [str(self.engine)]}
        seconds = round(time.perf_counter() - began, 3)
        self.answer = {**report, "build": build, "outputs": outputs, "seconds": seconds}
        return True

    def _key(self, options: dict[str, Any]) -> str:
        """The key of this request; '' where code of the user's own decides what comes out."""
        registry = Registry(options["plugins"], options["no_plugins"])
        request = options["precision"]
        foreign = [word for word in (request.calib, request.metric) if isinstance(word, str) and ":" in word]
        if foreign or registry.has("graphopt_inputs"):
            return ""
        try:
            files = [Path(name) for name in self._files(options)] + measured_files()
            return request_key(Path(self.model), {**self.words, "gpu": gpu()}, files, registry)
        except NoKey:
            return ""

    def _files(self, options: dict[str, Any]) -> dict[str, str]:
        """The files that decide what comes out, each with its digest."""
        request = options["precision"]
        named = [self.model, options["inputs"], request.calib, request.plan]
        named += [word.partition("=@")[2] for word in self.words.get("bind") or ()]
        paths = [Path(word) for word in named if isinstance(word, str) and word]
        found = [inner for path in paths for inner in (sorted(path.glob("*.npz")) if path.is_dir() else [path])]
        return {str(path): file_digest(path) for path in found if path.is_file()}

    def tell(self, as_json: bool, quiet: bool, verbose: bool) -> None:
        """Print what happened, and write the report."""
        if self.result is not None:
            from .outcome import tell

            tell(self.result, self.model, self.report, as_json, quiet, verbose, self.times)
            return
        for text in self.answer["warnings"]:
            warn(text)
        if as_json:
            print_json(self.answer)
        elif not quiet:
            build, nodes = self.answer["build"], self.answer["nodes"]
            stdout().print(
                f"{self.model}: {nodes['before']:,} nodes, now {nodes['after']:,}; {self.answer['status']}\n"
                f"{self.engine}: from the engine cache, as it was built with {build['backend']} {build['version']} "
                f"in {build['seconds']:.1f} s; {self.answer['seconds']:.2f} s",
                markup=False,
            )
