"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt import __version__
from graphopt.backends.protocol import NetworkInfo
from graphopt.rewrite.worklist import Fired

from . import units
from .environment import environment
from .picture import MOST_NODES, costs_of, picture
from .precision import kept_reasons, precision_head
from .result import Report
from .style import CSS
from .text import build_line, compared, layers_note, operator_rows, profile_lines, verdict, warnings
from .times import SCRIPT, layer_times

Cell = str | int | tuple[str, str]
"""Text, a number, or (text, CSS class)."""


def page(
    report: Report, source: str, *, graph: gs.Graph | None = None, profile: Mapping[str, Any] | None = None
) -> str:
    """A whole HTML document. graph: the result, for its picture. profile: what `graphopt profile -o` wrote."""
    name = Path(source).name
    sections = [
        _header(report, name),
        _cards(report),
        *(_note(text) for text in warnings(report)),
        _verification(report),
        _precision(report),
        _engine(report),
        _times(profile),
        _picture(graph, profile),
        _refused(report),
        _operators(report),
        _layers(report),
        _passes(report.fired()),
        _files(report),
        _environment(),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(name)}: graphopt report</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + f"\n<footer>graphopt {__version__}, {units.duration(report.seconds)}</footer>\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _header(report: Report, name: str) -> str:
    ports = "".join(
        f"<li><span>{kind}</span> <code>{escape(port)}</code> {escape(words)}</li>"
        for kind, some in (("in", report.source.inputs), ("out", report.source.outputs))
        for port, words in some.items()
    )
    status = f'<span class="status {report.status}">{report.status}</span>'
    return (
        f"<header><h1>{escape(name)} {status}</h1>\n<ul class=ports>{ports}"
        f"<li><span>opset</span> {report.source.opset}</li></ul></header>"
    )


def _cards(report: Report) -> str:
    before, after = report.source, report.result
    cards = [
        _card("Nodes", f"{before.node_count:,}", f"{after.node_count:,}", before.node_count, after.node_count),
        _card(
            "Weights",
            units.size(before.weights_bytes),
            units.size(after.weights_bytes),
            before.weights_bytes,
            after.weights_bytes,
        ),
    ]
    old, new = report.layers_before, report.layers_after
    if isinstance(old, NetworkInfo) and isinstance(new, NetworkInfo):
        cards.append(_card("TensorRT layers", f"{old.layers:,}", f"{new.layers:,}", old.layers, new.layers))
    return f"<section class=cards>{''.join(cards)}</section>{_remark(layers_note(report))}"


def _card(title: str, old: str, new: str, before: int, after: int) -> str:
    width = min(100.0, 100 * after / before) if before else 100.0
    mood = _mood(before, after)
    return (
        f"<div class=card><h2>{title}</h2><p><del>{old}</del> <b>{new}</b> "
        f'<span class="{mood}">{units.change(before, after)}</span></p>'
        f'<div class=bar><i style="width:{width:.1f}%"></i></div></div>'
    )


def _verification(report: Report) -> str:
    check = report.verification
    if check is None:
        return _section("Verification", "<p class=bad>Not compared with the source (--verify none).</p>")
    rows: list[Sequence[Cell]] = []
    for one in check.outputs:
        off, allowed, word = compared(one)
        mark = (word, "good" if word == "ok" else "bad")
        dims = f"{one.dtype} {units.dims(one.shape)}"
        rows.append(((one.name, "code"), dims, (off, "number"), (allowed, "number"), mark))
    table = _table(("output", "shape", "relative L2", "allowed", ""), rows) if rows else ""
    notes = "".join(_remark(note) for note in check.notes)
    mood = "good" if check.passed else "bad"
    return _section("Verification", f"<p class={mood}>{escape(verdict(check))}</p>{table}{notes}")


def _precision(report: Report) -> str:
    """What was kept high and why, and error against share of low precision, of every plan that was tried."""
    found = report.precision
    if found is None:
        return ""
    worst = max(found["error"].values(), key=lambda error: error or 0.0, default=None)
    said = f"off by {units.error(worst or 0.0)} ({found['metric']}), {units.error(found['max_error'])} allowed"
    head = (
        f"<p>{escape(precision_head(found))} {escape(said) if found['judged'] else 'Its error was not evaluated.'}</p>"
    )
    kept = [(why, ", ".join(names[:6])) for why, names in kept_reasons(found).items()]
    tried = sorted((one["share_low"], one["error"]) for one in found["trials"] if one["error"] is not None)
    curve = [(f"{share:.1%}", units.error(error)) for share, error in tried] if len(tried) > 1 else []
    body = (_table(("kept back because", "tensors"), kept) if kept else "") + "".join(map(_note, found["notes"]))
    return _section("Precision", head + body + (_table(("low", "error"), curve) if curve else ""))


def _engine(report: Report) -> str:
    if report.build is None:
        return ""
    size = units.size(report.build["bytes"])
    lines = [escape(f"{size}, {build_line(report.build)}"), *(escape(line) for line in profile_lines(report.build))]
    log = "\n".join(report.build["log"])
    details = f"<details><summary>Builder's log</summary><pre>{escape(log)}</pre></details>" if log else ""
    body = "".join(f"<p>{line}</p>" for line in lines)
    return _section("Engine", f"<p><code>{escape(report.build['engine'])}</code></p>{body}{details}")


def _times(profile: Mapping[str, Any] | None) -> str:
    return _section("Where the time goes", layer_times(profile)) if profile is not None else ""


def _picture(graph: gs.Graph | None, profile: Mapping[str, Any] | None) -> str:
    if graph is None:
        return ""
    costs = costs_of(profile) if profile is not None else {}
    drawing = picture(graph, costs)
    if not drawing:
        remark = _remark(f"Graphs of more than {MOST_NODES:,} nodes are not drawn.")
        return _section("Graph", remark) if len(graph.nodes) > MOST_NODES else ""
    legend = (
        "<span class=key>cost <i class=heat></i></span>" if profile is not None else
        "<span class=key><i class=made></i> made by a rule</span>"
    )  # fmt: skip
    tools = (
        f'<p class="tools remark">{legend}<label>size <input type=range min=15 max=150 value=100 '
        'data-zoom="#picture"></label></p>'
    )
    shown = sum(costs.get(node.name, 0.0) for node in graph.nodes)
    if costs and shown < _MATCH:
        tools += _note(f"{shown:.0%} of the profile's time belongs to nodes of this graph: was it built from it?")
    return _section("Graph", f"{tools}<div id=picture class=picture tabindex=0>{drawing}</div>")


def _environment() -> str:
    rows: list[Sequence[Cell]] = [((name, "code"), value) for name, value in sorted(environment().items())]
    return _section("Environment", f"<details><summary>Versions</summary>{_table(('', 'version'), rows)}</details>")


def _refused(report: Report) -> str:
    rows: list[Sequence[Cell]] = [
        ((one["pass"], "code"), one["plugin"], (one["node"] or "(whole graph)", "code"), one["why"])
        for one in report.refused
    ]
    return _section("Taken back", _table(("pass", "plugin", "node", "because"), rows)) if rows else ""


def _operators(report: Report) -> str:
    rows = operator_rows(report.source.nodes, report.result.nodes)
    if not rows:
        return _section("Nodes by operator", "<p>No operator appears more or less often than before.</p>")
    return _section("Nodes by operator", _counts("operator", rows))


def _layers(report: Report) -> str:
    old, new = report.layers_before, report.layers_after
    if not (isinstance(old, NetworkInfo) and isinstance(new, NetworkInfo)):
        return ""
    rows = operator_rows(old.layer_types, new.layer_types)
    return _section("TensorRT layers by type", _counts("type", rows)) if rows else ""


def _counts(what: str, rows: Iterable[tuple[str, int, int]]) -> str:
    cells: list[Sequence[Cell]] = [
        (op, old, new, (units.difference(old, new), f"number {_mood(old, new)}")) for op, old, new in rows
    ]
    return _table((what, "before", "after", "change"), cells)


def _passes(passes: Sequence[Fired]) -> str:
    def row(one: Fired) -> Sequence[Cell]:
        return ((one.name, "code"), one.plugin, one.changes, (units.duration(one.seconds), "number"), one.doc)

    head = ("pass", "plugin", "changes", "time", "equation")
    busy = [row(one) for one in passes if one.changes]
    vetoes: list[Sequence[Cell]] = [
        ((one.name, "code"), (node, "code"), reason)
        for one in passes
        for node, reason in list(one.vetoes.items())[:_MOST_VETOES]
    ]
    where: list[Sequence[Cell]] = [((one.name, "code"), (_some(one.nodes), "code")) for one in passes if one.changes]
    idle = [row(one) for one in passes if not one.changes]
    rest = units.several(len(idle), "other pass", "other passes")
    more = f"<details><summary>{rest} found nothing to do</summary>{_table(head, idle)}</details>" if idle else ""
    if where:
        more = f"<details><summary>Where they changed it</summary>{_table(('pass', 'nodes'), where)}</details>{more}"
    if vetoes:
        kept = units.several(len(vetoes), "place")
        table = _table(("pass", "node", "because"), vetoes)
        more += f"<details><summary>Why passes left {kept} alone that they match</summary>{table}</details>"
    return _section("Passes", (_table(head, busy) if busy else "<p>No pass changed anything.</p>") + more)


def _some(nodes: Sequence[str]) -> str:
    rest = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    return ", ".join(nodes[:_MOST_NODES]) + rest


_MATCH = 0.8
_MOST_VETOES, _MOST_NODES = 20, 12


def _files(report: Report) -> str:
    rows: list[Sequence[Cell]] = [
        (kind, (path, "code"), (units.size(Path(path).stat().st_size), "number"))
        for kind, paths in report.outputs.items()
        for path in paths
        if Path(path).exists()
    ]
    return _section("Files written", _table(("", "file", "size"), rows)) if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _note(text: str) -> str:
    return f"<p class=warning>{escape(text)}</p>"


def _remark(text: str) -> str:
    return f"<p class=remark>{escape(text)}</p>" if text else ""


def _mood(before: int, after: int) -> str:
    return "good" if after < before else "more" if after > before else "same"


def _table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    names = "".join(f"<th{' class=number' if name in _NUMBERS else ''}>{escape(name)}</th>" for name in head)
    return f"<div class=scroll><table><thead><tr>{names}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


_NUMBERS = frozenset({"before", "after", "change", "changes", "time", "relative L2", "allowed", "size"})


def _cell(cell: Cell) -> str:
    if isinstance(cell, int):
        return f"<td class=number>{cell:,}</td>"
    text, kind = (cell, "") if isinstance(cell, str) else cell
    if kind == "code":
        return f"<td><code>{escape(text)}</code></td>"
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"
