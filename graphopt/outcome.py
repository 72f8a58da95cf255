"""What a run has to say: on the terminal, as JSON, as a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import print_json, stdout, warn
from .errors import UsageError

if TYPE_CHECKING:
    from .pipeline import Result
    from .report.result import Report


def tell(
    result: Result, source: str, report: str | None, as_json: bool, quiet: bool, verbose: bool, times: str | None = None
) -> None:
    """Print and write what a run has to say. times: a file of `graphopt profile -o`, for the HTML report."""
    from .report.text import render, warnings

    found: Report = result.report
    for text in warnings(found):
        warn(text)
    if report is not None:
        _write_report(result, source, Path(report), times)
    if as_json:
        print_json(result.to_json())
    elif not quiet:
        stdout().print(render(found, source, verbose=verbose))


def _write_report(result: Result, source: str, path: Path, times: str | None) -> None:
    found: Report = result.report
    if path.suffix == ".html":
        from .report.html import page

        text = page(found, source, graph=result.graph, profile=_profile(times))
    else:
        text = json.dumps(found.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _profile(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"layers", "launch_ms"} <= found.keys():
            return found
    except (OSError, ValueError) as error:
        raise UsageError(f"it cannot be read: {error}", where=f"--layer-times {path}") from error
    raise UsageError(
        "it is no profile", where=f"--layer-times {path}", hint="graphopt profile MODEL -o FILE writes one"
    )
