"""What the precision stage did, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import units

_MOST_KEPT = 12


def kept_reasons(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Why -> the tensors that are computed higher than was asked for because of it."""
    reasons: dict[str, list[str]] = {}
    for name, why in found["kept"].items():
        reasons.setdefault(why, []).append(name)
    return reasons


def precision_head(found: Mapping[str, Any]) -> str:
    """'Precision fp16: 88 float16, 2 float32; 2 casts.'"""
    counts = ", ".join(f"{count:,} {dtype}" for dtype, count in sorted(found["tensors"].items()))
    head = f"Precision {found['precision']}: {counts}; {units.several(found['casts'], 'cast')}"
    if found["quantize_nodes"]:
        head += f", {units.several(found['quantize_nodes'], 'Q/DQ node')}"
    return head + "."


def precision_section(found: Mapping[str, Any] | None) -> RenderableType | None:
    """Tensors by dtype, casts, error against what is allowed, what was kept high and why."""
    if found is None:
        return None
    parts: list[RenderableType] = [Text(precision_head(found))]
    if found["judged"]:
        worst = max(found["error"].values(), key=lambda value: value or 0.0, default=0.0)
        text = f"Rounded after every operator, it is off by {units.error(worst or 0.0)} ({found['metric']})"
        parts.append(Text(f"{text}; {units.error(found['max_error'])} are allowed.", style="green"))
    else:
        parts.append(Text("Its error was not evaluated.", style="yellow"))
    sparse = found["sparse"]
    if sparse.get("sparse"):
        text = f"{sparse['sparse']} of {sparse['of']} weights of large products are 2:4 sparse"
        parts.append(Text(f"{text} ({units.size(sparse['bytes'])})."))
    reasons = kept_reasons(found)
    if reasons:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
        table.add_column("kept back because")
        table.add_column("tensors", overflow="fold")
        for why, names in list(reasons.items())[:_MOST_KEPT]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            table.add_row(Text(why), Text(", ".join(names[:3]) + more, style="dim"))
        parts += [Text(), table]
        if len(reasons) > _MOST_KEPT:
            parts.append(Text(f"and {len(reasons) - _MOST_KEPT} other reasons", style="dim"))
    parts += [Text(f"Note: {note}", style="dim") for note in found["notes"]]
    return Group(*parts)
