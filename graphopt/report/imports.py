"""What is said of a model that was taken in from another framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from .text import plain_table


def import_text(report: Mapping[str, Any]) -> RenderableType:
    """The importer, its notes, and how far each output is from the framework's."""
    versions = ", ".join(f"{name} {version}" for name, version in report["packages"].items() if version)
    head = Text(f"Imported by {report['importer']}", style="bold")
    head.append(f"{f' ({versions})' if versions else ''}, in {report['seconds']:.1f} s", style="not bold dim")
    parts: list[RenderableType] = [head, *(Text(f"  {note}", style="dim") for note in report["notes"])]
    if report["status"] == "ok":
        count = report["samples"]
        at = f" at {count} sizes" if count > 1 else ""
        parts.append(Text(f"  its outputs in onnxruntime are those of {report['importer']}{at}:", style="green"))
        parts += [Text(f"    {one['name']}: {_how_far(one)}", style="dim") for one in report["compared"]]
    elif report["status"] == "unverified":
        parts.append(Text(f"  not compared: {report['reason']}", style="yellow"))
    return Group(*parts)


def _how_far(one: Mapping[str, Any]) -> str:
    if not one["relative_l2"]:
        return "equal"
    steps = f"at most {one['max_abs']:g} off, " if "int" in one["dtype"] else ""
    return f"{steps}relative L2 difference {one['relative_l2']:.1e}"


def importers_table(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line an importer; below, what --import-option takes of each."""
    table = plain_table("importer", "takes", "installed", "pip install", stretch="takes")
    options = plain_table("importer", "--import-option", "", stretch="")
    for one in found:
        missing = [name for name, version in one["packages"].items() if not version]
        state = Text("yes", style="green") if one["installed"] else Text(f"no: {', '.join(missing)}", style="yellow")
        table.add_row(one["name"], ", ".join([*one["suffixes"], *one["also"]]), state, Text(one["extra"]))
        for name, text in one["options"].items():
            options.add_row(one["name"], Text(name), Text(text))
    if not found:
        return Text("no plugin has an importer")
    return Group(table, Text(), options) if options.row_count else table
