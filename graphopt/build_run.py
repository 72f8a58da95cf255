"""What `graphopt build` does: a request that was answered before, or the pipeline with the engine cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import print_json, stdout, warn
from .engines.digest import file_digest
from .engines.key import NoKey, data_files, request_key
from .engines.store import Store
from .errors import ModelError
from .ir.staging import staging
from .layers.measured import measured_files
from .manifest import write_manifest

if TYPE_CHECKING:
    from .pipeline import Result

Progress = Callable[[str, int, int], None]
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
        use_cache: bool = True, times: str | None = None, foreign: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        self.engine = engine
        self.words = {name: value for name, value in words.items() if name not in _NOT_PART}
        self.words["timing_cache"] = bool(words.get("timing_cache"))
        self.command = command
        self.report = report
        self.times = times
        self.foreign = foreign
        """Whether the model may be another framework's: its importer says which files it has read."""
        self.store = Store() if use_cache else None
        self.result: Result | None = None
        self.answer: dict[str, Any] = {}
        self._files: dict[str, str] = {}
        self._key = ""

    def answered(self, progress: Progress) -> bool:
        """Whether this request was answered before, and its engine is now in place."""
        began = time.perf_counter()
        progress("looking into the engine cache", 0, 0)
        self._files = self._files_read()
        self._key = self._request() if self.store is not None and Path(self.model).exists() else ""
        if not self._key or self.store is None or self.report is not None or self.words.get("save_onnx"):
            return False
        found = self.store.request(self._key)
        return found is not None and self._is_as_it_was(found["data"]) and self._take(found, began)

    def _is_as_it_was(self, data: dict[str, str]) -> bool:
        """Whether the files that belong to the model are those of the answer."""
        try:
            return all(file_digest(Path(self.model).parent / name) == digest for name, digest in data.items())
        except ModelError:
            return False

    def _read_by_importer(self, began: float) -> dict[str, str] | None:
        """The files of another framework's model, each with its digest; None where they are not all known.

        A file that has changed since the build began may not be what was built.
        """
        assert self.result is not None
        about = self.result.report.imported or {}
        if about.get("files") is None or about["status"] == "unverified":
            return None
        try:
            if any(os.stat(name).st_mtime >= began for name in about["files"]):
                return None
            home = Path(self.model).parent
            return {os.path.relpath(name, home): file_digest(Path(name)) for name in about["files"]}
        except (OSError, ModelError):
            return None

    def run(self, progress: Progress, **options: Any) -> None:
        """The engine, in place. Raises GraphoptError."""
        from .pipeline import optimize

        began = time.time()
        data: dict[str, str] | None = {}
        try:
            data = data_files(Path(self.model)) if self._key and not self.foreign else {}
        except Exception:  # what is wrong with the model is said by who reads it
            self._key = ""
        self.result = optimize(
            self.model, engine=self.engine, store=self.store, progress=progress, count_layers=True,
            made_by={"command": self.command, "files": self._files}, **options,
        )  # fmt: skip
        self.answer = self.result.to_json()
        made = self.answer["build"]["cache"]["key"]
        data = self._read_by_importer(began) if self.foreign else data
        if (
            self._key
            and made
            and data is not None
            and self.store is not None
            and self.answer["status"] in ("ok", "unchecked")
        ):
            self.store.answer(self._key, {"engine": made, "data": data, "report": self.answer})

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
        self.answer = {**report, "build": build, "outputs": outputs, "seconds": seconds}
        return True

    def _describe(self, entry: dict[str, Any], report: dict[str, Any]) -> None:
        made_by = {**entry["manifest"]["made_by"], "command": self.command, "files": self._files}
        if report.get("imported"):
            made_by["imported"] = report["imported"]
        write_manifest(self.engine, {**entry["manifest"], "source": self.model, "made_by": made_by})

    def _request(self) -> str:
        """The key of this request; '' where code of the user's own decides what comes out."""
        if any(":" in str(self.words.get(name) or "") for name in ("calib", "metric")):
            return ""
        try:
            files = self._files | {str(path): file_digest(path) for path in measured_files()}
            plugins, without = self.words.get("plugin") or (), self.words.get("no_plugin") or ()
            return request_key(self.words, files, plugins, without)
        except NoKey:
            return ""

    def _files_read(self) -> dict[str, str]:
        """The files that decide what comes out, each with its digest."""
        named = [self.model, *(self.words.get(name) for name in ("inputs", "calib", "plan"))]
        named += [word.partition("=@")[2] for word in self.words.get("bind") or ()]
        paths = [Path(word) for word in named if isinstance(word, str) and word]
        found = [inner for path in paths[1:] for inner in (sorted(path.glob("*.npz")) if path.is_dir() else [path])]
        found += sorted(paths[0].iterdir()) if paths[0].is_dir() else [paths[0]]  # a model may be a folder
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
