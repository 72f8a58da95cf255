"""What a run has to say: on the terminal, as JSON, as a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .console import print_json, stdout, warn

if TYPE_CHECKING:
    from .pipeline import Result
    from .report.result import Report


def tell(result: Result, source: str, report: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    from .report.text import render, warnings

    found: Report = result.report
    for text in warnings(found):
        warn(text)
    if report is not None:
        _write_report(found, source, Path(report))
    if as_json:
        print_json(result.to_json())
    elif not quiet:
        stdout().print(render(found, source, verbose=verbose))


def _write_report(found: Report, source: str, path: Path) -> None:
    if path.suffix == ".html":
        from .report.html import page

        text = page(found, source)
    else:
        text = json.dumps(found.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
