"""The records of a run as Markdown: a table with verdicts, a summary, and the list of what ours lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .verdict import BARS, OURS, best, excess, fault, losses, seconds, verdict

Results = Mapping[str, Mapping[str, Any]]


def _cell(record: Mapping[str, Any] | None, source: Mapping[str, Any], metric: str) -> str:
    broken = fault(record, source)
    if record is None or record.get("error"):
        return "late" if record and record.get("late") else "failed"
    if metric == "seconds":
        return f"{seconds(record):.2f}" if seconds(record) >= 0.1 else f"{seconds(record):.3f}"
    if metric == "difference":
        apart = record.get("difference")
        text = "does not run" if record.get("compare_error") else "?" if apart is None else f"{apart:.1e}"
        return f"**{text}**" if broken.startswith("wrong") else text
    value = record.get(metric)
    text = (
        "-"
        if value is None
        else f"{value / 1e6:.2f}"
        if metric.endswith("bytes") or metric == "peak_rss"
        else str(value)
    )
    return f"~~{text}~~" if broken else text


def table(results: Results, tools: Sequence[str], metric: str) -> str:
    """One metric of all tools: a line for each model. Results that are wrong are struck out."""
    head = ["model", *([] if metric in ("seconds", "peak_rss", "difference") else ["source"]), *tools]
    lines = [" | ".join(["", *head, ""]).strip(), "|---" * len(head) + "|"]
    for name, one in results.items():
        source = one["source"]
        cells = [name]
        if "source" in head:
            cells.append(_cell({**source, "cpu_seconds": [0.0]}, source, metric))
        cells += [_cell(one["tools"].get(tool), source, metric) for tool in tools]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(results: Results) -> str:
    """A line for each model: ours against the best peer in everything."""
    lines = [
        "| model | nodes | best | layers | best | MB | best | s | best | difference | verdict |",
        "|---" * 11 + "|",
    ]
    for name, one in results.items():
        source, tools = one["source"], one["tools"]
        cells = [name]
        for metric in ("nodes", "layers", "bytes", "seconds"):
            least, tool = best(metric, tools, source, BARS if metric == "seconds" else ())
            cells.append(_cell(tools.get(OURS), source, metric))
            shown = (
                ""
                if not tool
                else {"bytes": f"{least / 1e6:.2f}", "seconds": f"{least:.3f}"}.get(metric, f"{least:.0f}")
            )
            cells.append(f"{shown} {tool}" if tool else "-")
        cells += [_cell(tools.get(OURS), source, "difference"), verdict(source, tools)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(results: Results, tools: Sequence[str]) -> str:
    """How many models each tool wins, fails and gets wrong, and the ratio of times."""
    lost: Counter[str] = Counter()
    for one in results.values():
        for metric in {metric for metric, _ in losses(one["source"], one["tools"])}:
            lost[metric] += 1
    lines = [f"{len(results)} models. Ours is behind the best peer in: " + (_listed(lost) or "nothing") + ".", ""]
    lines += [
        "| tool | fewest nodes | fewest layers | failed | wrong | median of ours / its seconds |",
        "|---" * 6 + "|",
    ]
    for tool in tools:
        least: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        ratios = []
        for one in results.values():
            source, record = one["source"], one["tools"].get(tool)
            broken = fault(record, source)
            faults["wrong" if broken.startswith("wrong") else "failed" if broken else ""] += 1
            ours = one["tools"].get(OURS)
            if record and ours and not broken and not ours.get("error"):
                ratios.append(seconds(ours) / seconds(record))
                for metric in ("nodes", "layers"):
                    values = [r.get(metric) for r in one["tools"].values() if not fault(r, source) and r.get(metric)]
                    least[metric] += bool(values) and record.get(metric) == min(values)
        ratio = f"{median(ratios):.2f}" if ratios else "-"
        cells = (tool, least["nodes"], least["layers"], faults["failed"], faults["wrong"], ratio)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{metric} on {n}" for metric, n in sorted(counts.items(), key=lambda one: -one[1]))


def gaps(results: Results) -> str:
    """What ours lacks: by model and metric, with the operators or layers in excess over the best peer."""
    lines = ["| model | metric | how | in excess of the best peer |", "|---" * 4 + "|"]
    for name, one in results.items():
        source, tools = one["source"], one["tools"]
        for metric, how in losses(source, tools):
            more = ""
            if metric in ("nodes", "layers"):
                key = "ops" if metric == "nodes" else "layer_types"
                tool = best(metric, tools, source)[1]
                more = excess(tools[OURS][key], source[key] if tool == "source" else tools[tool][key])
            lines.append(f"| {name} | {metric} | {how} | {more} |".replace("\n", " "))
    return "\n".join(lines)
