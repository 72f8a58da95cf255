"""The report of a run for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.backends.protocol import NetworkInfo
from graphopt.numerics.difference import Difference
from graphopt.numerics.verify import RANDOM_NOTE, Verification

from . import units
from .precision import precision_section
from .result import Report

_MOST_OPERATORS = 24
_MOST_INPUTS = 4


def render(report: Report, source: str, *, verbose: bool = False) -> RenderableType:
    """The tables before/after, passes, verification, engine; and what was written."""
    parts: list[RenderableType] = [headline(report, source), Text(), _sizes(report)]
    if report.imported is not None:
        from .imports import import_text

        parts += [Text(), import_text(report.imported)]
    sections = (
        _opset(report),
        _operators(report, verbose),
        _passes(report, verbose),
        _refused(report),
        _verification(report),
        precision_section(report.precision),
    )
    for section in sections:
        if section is not None:
            parts += [Text(), section]
    parts += [Text(), *_written(report)]
    return Group(*parts)


def plain_table(*columns: str, right: tuple[str, ...] = (), stretch: str = "") -> Table:
    """A table of words with a rule under its heading; `right` are the columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    for name in columns:
        number = name in right
        table.add_column(
            name,
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            ratio=1 if name == stretch else None,
        )
    return table


def warnings(report: Report) -> list[str]:
    """What a user should not overlook, one line each."""
    found = list(report.warnings)
    if report.imported is not None and report.imported["status"] == "unverified":
        found.append(f"the imported model could not be compared: {report.imported['reason']}")
    check = report.verification
    if check is None:
        return found
    if check.status == "unverified":
        reasons = [*check.notes, *(one.reason for one in check.shapes_dropped[:1])]
        found.append(f"the result could not be compared with its source: {'; '.join(reasons) or 'no reason given'}")
    elif check.shapes_dropped:
        first = check.shapes_dropped[0]
        found.append(
            f"the source itself does not run at {units.several(len(check.shapes_dropped), 'shape')}, left out of the "
            f"comparison: {shapes_text(first.shapes)}: {' '.join(first.reason.split())[:200]}"
        )
    if report.refused:
        found.append(f"{units.several(len(report.refused), 'change')} broke the numbers and was taken back")
    return found


def headline(report: Report, source: str) -> Text:
    text = Text(Path(source).name, style="bold")
    text.append(f"  opset {report.source.opset}", style="not bold dim")
    ports = list(report.source.inputs.items())
    for name, kind in ports[:_MOST_INPUTS]:
        text.append(f"\n{name}: {kind}", style="not bold dim")
    if len(ports) > _MOST_INPUTS:
        text.append(f"\nand {len(ports) - _MOST_INPUTS} more inputs", style="not bold dim")
    return text


def _sizes(report: Report) -> Table:
    table = plain_table("", "before", "after", "change", right=("before", "after", "change"))
    before, after = report.source, report.result
    table.add_row(
        "nodes", f"{before.node_count:,}", f"{after.node_count:,}", _colored(before.node_count, after.node_count)
    )
    table.add_row(
        "weights",
        units.size(before.weights_bytes),
        units.size(after.weights_bytes),
        _colored(before.weights_bytes, after.weights_bytes),
    )
    old, new = report.layers_before, report.layers_after
    if isinstance(old, NetworkInfo) and isinstance(new, NetworkInfo):
        table.add_row("TensorRT layers", f"{old.layers:,}", f"{new.layers:,}", _colored(old.layers, new.layers))
    elif isinstance(old, NetworkInfo) or isinstance(new, NetworkInfo):
        table.add_row(
            "TensorRT layers", *(f"{one.layers:,}" if isinstance(one, NetworkInfo) else "?" for one in (old, new)), ""
        )
    return table


def layers_note(report: Report) -> str:
    """Why the layers are not known, or ''."""
    for one, what in ((report.layers_after, "the result"), (report.layers_before, "the source")):
        if isinstance(one, str):
            which = (
                f" of {what}" if isinstance(report.layers_before, str) != isinstance(report.layers_after, str) else ""
            )
            return f"TensorRT layers{which} are not known: {' '.join(one.split())}"
    return ""


def _colored(before: int, after: int) -> Text:
    style = "green" if after < before else "yellow" if after > before else "dim"
    return Text(units.change(before, after), style=style)


def operator_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(operator, before, after) where they differ, the largest difference first."""
    rows = [(op, before.get(op, 0), after.get(op, 0)) for op in {*before, *after}]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: (-abs(row[2] - row[1]), row[0]))


def operators_table(before: Mapping[str, int], after: Mapping[str, int], most: int | None = None) -> Table | None:
    rows = operator_rows(before, after)
    if not rows:
        return None
    table = plain_table("nodes by operator", "before", "after", "change", right=("before", "after", "change"))
    for op, old, new in rows[:most]:
        style = "green" if new < old else "yellow"
        table.add_row(op, f"{old:,}", f"{new:,}", Text(units.difference(old, new), style=style))
    if most is not None and len(rows) > most:
        table.add_row(Text(f"and {len(rows) - most} more", style="dim"))
    return table


def _opset(report: Report) -> RenderableType | None:
    if report.opset is None:
        return None
    respelled = sum(report.opset["respelled"].values())
    spelled = units.several(respelled, "node") + " respelled" if respelled else "no node respelled"
    return Text(f"opset {report.opset['before']} -> {report.opset['after']}, {spelled}")


def _operators(report: Report, verbose: bool) -> RenderableType | None:
    table = operators_table(report.source.nodes, report.result.nodes, None if verbose else _MOST_OPERATORS)
    return table if table is not None else Text("No operator appears more or less often than before.", style="dim")


def _passes(report: Report, verbose: bool) -> RenderableType:
    passes = report.fired()
    shown = [one for one in passes if one.changes or verbose]
    idle = [one for one in passes if not one.changes]
    rest = Text(style="dim")
    if idle and not verbose:
        spent = units.duration(sum(one.seconds for one in idle))
        rest.append(f"{units.several(len(idle), 'other pass', 'other passes')} found nothing to do ({spent})")
    if not shown:
        return rest if idle else Text("No pass ran.", style="dim")
    table = plain_table("pass", "plugin", "changes", "time", right=("changes", "time"))
    for one in shown:
        style = "" if one.changes else "dim"
        table.add_row(
            one.name, Text(one.plugin, style="dim"), f"{one.changes:,}", units.duration(one.seconds), style=style
        )
    return Group(table, rest) if rest.plain else table


def _refused(report: Report) -> RenderableType | None:
    if not report.refused:
        return None
    return culprits_table(report.refused)


def culprits_table(refused: list[dict[str, Any]]) -> RenderableType:
    """What was taken back, why, and where to see it again."""
    table = plain_table("taken back", "plugin", "at node", "because", stretch="because")
    for one in refused:
        where = Text(one["node"] or "(whole graph)")
        table.add_row(Text(one["pass"], style="yellow"), one["plugin"], where, Text(one["why"]))
    folders = [Text(f"graphopt bisect --replay {shlex.quote(one['repro'])}") for one in refused if one.get("repro")]
    return Group(table, Text(), Text("To see it again:", style="dim"), *folders) if folders else table


def _verification(report: Report) -> RenderableType:
    check = report.verification
    if check is None:
        return Text("Not compared with the source (--verify none).", style="yellow")
    parts: list[RenderableType] = [Text(verdict(check), style="green" if check.passed else "yellow")]
    if check.outputs:
        table = plain_table("output", "shape", "relative L2", "allowed", "", right=("relative L2", "allowed"))
        for one in check.outputs:
            off, allowed, word = compared(one)
            mood = {"ok": "green", "differs": "red"}.get(word, "yellow")
            table.add_row(
                one.name,
                Text(f"{one.dtype} {units.dims(one.shape)}", style="dim"),
                off,
                allowed,
                Text(word, style=mood),
            )
        parts.append(table)
    for note in check.notes:
        parts.append(Text(f"Note: {note}", style="dim"))
    return Group(*parts)


def compared(one: Difference) -> tuple[str, str, str]:
    """How far an output is off, how far it may be, and a word; of random numbers nothing but the shape is compared."""
    if one.ok and one.reason == RANDOM_NOTE:
        return "\u2013", "shape", "random"
    allowed = units.error(one.tolerance) if one.tolerance else "exact"
    return units.error(one.relative_l2), allowed, "ok" if one.ok else "differs"


def verdict(check: Verification) -> str:
    """One sentence about the comparison."""
    if check.status == "unverified":
        return "Unverified: the result could not be compared with its source."
    shapes = {shapes_text(one) for one in check.shapes_used}
    inputs = units.several(len(check.shapes_used), "input")
    where = f" of {len(shapes)} shapes" if len(shapes) > 1 else ""
    says = "Computes what its source computes" if check.passed else "Differs from its source"
    return f"{says}: {inputs}{where}, {units.duration(check.seconds)}."


def shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}={units.dims(dims)}" for name, dims in shapes.items())


def profile_lines(build: Mapping[str, Any]) -> list[str]:
    """'x: 1x3x48x320' of each input that has a profile; least, typical and largest where they differ."""
    lines = []
    for name, (low, typical, high) in build["profile"].items():
        same = low == typical == high
        text = units.dims(typical) if same else " \u2264 ".join(map(units.dims, (low, typical, high)))
        lines.append(f"{name}: {text}")
    return lines


def build_line(build: Mapping[str, Any]) -> str:
    kept = ", taken from the engine cache" if build.get("cache", {}).get("hit") else ""
    kinds = [one["kind"] for one in build.get("segments", ())]
    parts = f"{units.several(kinds.count('engine'), 'engine')} and {units.several(kinds.count('kernel'), 'kernel')}, "
    return (
        f"{parts if kinds else ''}{units.several(build['layers'], 'layer')}, "
        f"built in {units.duration(build['seconds'])} by {build['backend']} {build['version']}{kept}"
    )


def _written(report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = []
    note = layers_note(report)
    if note:
        parts.append(Text(note, style="dim"))
    for path in report.outputs.get("model", []):
        parts.append(_file(path, units.size(Path(path).stat().st_size)))
    if report.build is not None:
        parts.append(_file(report.build["engine"], units.size(report.build["bytes"])))
        parts += [
            Text(f"      {line}", style="dim") for line in (build_line(report.build), *profile_lines(report.build))
        ]
    parts.append(Text(f"Done in {units.duration(report.seconds)}.", style="dim"))
    return parts


def _file(path: str, about: str) -> Text:
    text = Text("Wrote ", style="bold green")
    text.append(path, style="bold default")
    text.append(f"  {about}", style="not bold dim default")
    return text
