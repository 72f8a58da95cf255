"""What `graphopt build` does: a request that was answered before, or the pipeline with the engine cache."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engines import sources
from .engines.digest import file_digest
from .engines.key import data_files
from .engines.request import NoKey, call_key
from .engines.store import Store
from .errors import ModelError
from .lookup import Lookup
from .project import Typed

if TYPE_CHECKING:
    from .lookup import Progress
    from .pipeline import Result

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


class Build(Lookup):
    """One call of `graphopt build`.

    words: every option by name, as the command line and the configuration file say. command: what repeats the call.
    """

    def __init__(
        self, model: str, engine: Path, words: dict[str, Any], command: list[str], *, report: str | None = None,
        use_cache: bool = True, times: str | None = None, foreign: bool = False,
    ) -> None:  # fmt: skip
        part = {name: value for name, value in words.items() if name not in _NOT_PART}
        part["timing_cache"] = bool(words.get("timing_cache"))
        super().__init__(model, engine, part, command, Store() if use_cache else None)
        self.printed = {name: bool(words.get(name)) for name in ("as_json", "quiet")}
        self.report = report
        self.times = times
        self.foreign = foreign
        """Whether the model may be another framework's: its importer says which files it has read."""
        self.result: Result | None = None
        self.asks_more = self.asks_more or report is not None

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
        from .report.text import warnings

        began = time.time()
        before = self._data()
        self.result = optimize(
            self.model, engine=self.engine, store=self.store, progress=progress, count_layers=True,
            made_by={"command": self.command, "files": self.files}, **options,
        )  # fmt: skip
        self.answer = self.result.to_json()
        cache = self.answer["build"]["cache"]
        made = "" if cache["off"] else cache["key"]
        data = self._read_by_importer(began) if self.foreign else before
        if made and data is not None and self.answer["status"] in ("ok", "unchecked") and self._is_unchanged(before):
            assert self.store is not None
            said = warnings(self.result.report)
            self.store.answer(self.key, {"engine": made, "data": data, "report": self.answer, "warnings": said})
            self.is_kept = True

    def _data(self) -> dict[str, str] | None:
        """The data files of an ONNX model, with digests; None where this request is not kept."""
        try:
            return ({} if self.foreign else data_files(Path(self.model))) if self.key else None
        except Exception:  # what is wrong with the model is said by who reads it
            return None

    def _is_unchanged(self, data: dict[str, str] | None) -> bool:
        """Whether what was looked at before the build, files and code alike, was the same after it."""
        sources.forget()
        self.files = self.files_read()
        return data is not None and self.request() == self.key and self._data() == data

    def remember(self, typed: Typed) -> None:
        """Write down what this command line means, so that it need not be parsed when it is typed again."""
        if self.store is None or not self.is_kept or self.asks_more or not typed.may_be_known:
            return
        call = {"model": self.model, "engine": str(self.engine), "words": self.words, "command": self.command}
        build, weights = self.answer["build"], self.answer["weights_bytes"]["before"]
        known = {"engine": build["cache"]["key"], "bytes": build["bytes"] + weights, "call": {**call, **self.printed}}
        with suppress(NoKey, ModelError, OSError):
            self.store.answer(call_key(typed), known)

    def tell_all(self, verbose: bool) -> None:
        """Print what happened, and write the report."""
        if self.result is None:
            self.tell(**self.printed)
            return
        from .outcome import tell

        tell(self.result, self.model, self.report, **self.printed, verbose=verbose, times=self.times)
