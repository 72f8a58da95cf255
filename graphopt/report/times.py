"""The profile of an engine in a report: a chart of its layers that can be sorted and searched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

from . import units

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
      const number = !isNaN(parseFloat(key(body.rows[0])));
      const order = [...body.rows].sort((a, b) => number ? key(a) - key(b) : key(a).localeCompare(key(b)));
      body.append(...(up ? order : order.reverse()));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
for (const field of document.querySelectorAll("input[data-table]")) {
  const table = document.getElementById(field.dataset.table), told = document.getElementById(field.dataset.told);
  field.addEventListener("input", () => {
    const word = field.value.toLowerCase();
    let count = 0, ms = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(word);
      if (!row.hidden) { count += 1; ms += parseFloat(row.cells[0].dataset.value); }
    }
    told.textContent = word ? `${count} layers, ${ms.toFixed(4)} ms` : "";
  });
}
for (const field of document.querySelectorAll("input[data-zoom]")) {
  const drawing = document.querySelector(field.dataset.zoom + " svg");
  const [, , width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
  const fit = Math.min(1, drawing.parentElement.clientWidth / width);
  const set = value => {
    drawing.setAttribute("width", width * value);
    drawing.setAttribute("height", height * value);
  };
  field.addEventListener("input", () => set(field.value / 100));
  field.value = Math.max(100 * fit, 40); set(field.value / 100);
}
"""


def layer_times(profile: Mapping[str, Any]) -> str:
    """The costliest sources in one sentence, and every layer with a bar as long as its share."""
    layers = sorted(profile["layers"], key=lambda one: -one["ms"])
    total = sum(one["ms"] for one in layers) or 1.0
    most = max((one["ms"] for one in layers), default=0.0) or 1.0
    launch = profile["launch_ms"]
    head = (
        f"<p>One launch takes <b>{launch['median']:.3f} ms</b> (p10 {launch['p10']:.3f}, p90 {launch['p90']:.3f}) on "
        f"{escape(str(profile.get('gpu', '')))}; its {units.several(len(layers), 'layer')} add up to {total:.3f} ms, "
        f"{profile.get('named', 0):.0%} of it with known source nodes.</p>"
    )
    rows = "".join(_row(one, total, most) for one in layers)
    names = ("ms", "share", "layer", "source nodes", "rules", "GB/s")
    heads = "".join(f"<th{_WIDE.get(name, '')}>{name}</th>" for name in names)
    return (
        f"{head}{_costly(layers, total)}<p class=search><input type=search data-table=layers data-told=told "
        'placeholder="Search layers, nodes, rules" aria-label="Search layers"> <span id=told class=remark></span></p>'
        f"<div class=scroll><table id=layers class=sortable><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        "<p class=remark>GB/s: bytes of inputs, weights and outputs by the layer's time.</p>"
    )


_WIDE = {"ms": " class=number", "GB/s": " class=number"}


def _costly(layers: list[dict[str, Any]], total: float) -> str:
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for one in layers:
        if one["sources"]:
            sums[tuple(one["sources"])] += one["ms"]
    top = sorted(sums.items(), key=lambda item: -item[1])[:3]
    if not top:
        return ""
    names = [name for several, _ in top for name in several]
    share = sum(ms for _, ms in top) / total
    shown = ", ".join(f"<code>{escape(name)}</code>" for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"<p>{units.several(len(names), 'source node')} cost {share:.0%} of the time: {shown}{more}</p>"


def _row(one: Mapping[str, Any], total: float, most: float) -> str:
    sources = ", ".join(one["sources"][:3]) + (
        f" and {len(one['sources']) - 3} more" if len(one["sources"]) > 3 else ""
    )
    speed = one["nbytes"] / one["ms"] / 1e6 if one["ms"] else 0.0
    bar = f'<div class=bar><i style="width:{100 * one["ms"] / most:.1f}%"></i></div>'
    return (
        f'<tr><td class=number data-value="{one["ms"]}">{one["ms"]:.4f}</td>'
        f'<td class=share data-value="{one["ms"]}">{bar}{one["ms"] / total:.1%}</td>'
        f'<td title="{escape(one["name"], quote=True)}"><code>{escape(_short(one["name"]))}</code> '
        f"<span class=remark>{escape(one['kind'])}</span></td>"
        f'<td title="{escape(", ".join(one["sources"]), quote=True)}"><code>{escape(sources)}</code></td>'
        f"<td>{escape(', '.join(one['rules'][:3]))}</td>"
        f'<td class=number data-value="{speed:.3f}">{speed:,.0f}</td></tr>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:30]}…{name[-16:]}"
