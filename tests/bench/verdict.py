"""Who did better on a model, from the records of one source and several tools. No measurement happens here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
OURS = "graphopt"
BARS = ("onnxsim", "onnxslim", "onnxscript")
"""Tools whose time is a bar for ours; the others' is printed beside."""
TOLERANCE, COARSE = 1e-3, 3e-2
"""Relative L2 of a right result; coarse for networks that compute in 16 bits or integers, where a rounding may flip."""
BYTES, NOISE = 1.05, 1.05


def tolerance(source: Record) -> float:
    """What an output may differ by; ten times as far as the source's own moves when its inputs are nudged, at least."""
    return max(COARSE if source.get("coarse") else TOLERANCE, min(1.0, 10 * source.get("sensitivity", 0.0)))


def fault(record: Record | None, source: Record) -> str:
    """What disqualifies a tool's result: '', 'not run', 'crashed: ...', 'wrong: ...' or 'foreign: ...'."""
    if record is None:
        return "not run"
    if record.get("error"):
        return str(record["error"]) if record.get("late") else f"failed: {record['error']}"
    if record.get("compare_error"):
        return f"wrong: does not run: {record['compare_error']}"
    apart = record.get("difference")
    if apart is not None and not apart <= tolerance(source):
        return "wrong: other structure" if apart >= 1e29 else f"wrong: {apart:.2g}"
    strange = sorted(set(record.get("foreign", ())) - set(source.get("foreign", ())))
    return f"foreign: {', '.join(strange)}" if strange else ""


def seconds(record: Record) -> float:
    """CPU seconds of the best of its calls."""
    return float(min(record["cpu_seconds"]))


def best(metric: str, records: Mapping[str, Record], source: Record, among: tuple[str, ...] = ()) -> tuple[float, str]:
    """(least value, tool) among peers whose result is right; the source counts as a peer that does nothing.

    Where TensorRT's parser takes ours, a result that it does not take is no rival in size: what makes it one is nodes.
    """
    taken = metric != "seconds" and built(records.get(OURS))
    rival = metric != "seconds" and source.get(metric) is not None and not (taken and not built(source))
    found = [(float(source[metric]), "source")] if rival else []
    for tool, record in records.items():
        if tool == OURS or (among and tool not in among) or fault(record, source) or (taken and not built(record)):
            continue
        value = seconds(record) if metric == "seconds" else record.get(metric)
        if value is not None:
            found.append((float(value), tool))
    return min(found, default=(float("inf"), ""), key=lambda one: one[0])


def built(record: Record | None) -> bool:
    return record is not None and record.get("layers") is not None


def losses(source: Record, records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """(metric, how) for everything in which ours is not the best; empty is a win."""
    ours = records.get(OURS)
    broken = fault(ours, source)
    if ours is None or broken:
        return [("WRONG" if broken.startswith("wrong") else "FAILED", broken)]
    found = []
    for metric, slack in (("nodes", 1.0), ("layers", 1.0), ("bytes", BYTES), ("engine_bytes", BYTES)):
        least, tool = best(metric, records, source)
        value = ours.get(metric)
        if value is not None and value > least * slack:
            found.append((metric, f"{value} against {least:.0f} of {tool}"))
    if not built(ours):
        others = [tool for tool, record in {"source": source, **records}.items() if built(record) and tool != OURS]
        if [tool for tool in others if tool == "source" or not fault(records[tool], source)]:
            found.append(("NOT BUILT", f"{', '.join(others)} can be parsed: {ours.get('layers_error', '')[:200]}"))
    least, tool = best("seconds", records, source, BARS)
    if seconds(ours) > least * NOISE:
        found.append(("seconds", f"{seconds(ours):.3f} against {least:.3f} of {tool}"))
    return found


def excess(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    """'+2 Cast, -1 Mul': what ours has more and less of."""
    gap = Counter(ours)
    gap.subtract(theirs)
    return ", ".join(f"{n:+d} {op}" for op, n in sorted(gap.items(), key=lambda one: -one[1]) if n)


def verdict(source: Record, records: Mapping[str, Record]) -> str:
    """'best', or what is lost, in words."""
    return "; ".join(f"{metric}: {how}" for metric, how in losses(source, records)) or "best"
