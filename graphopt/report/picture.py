"""The graph as a picture: nodes in layers from inputs to outputs, coloured by what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import onnx_graphsurgeon as gs

from graphopt.ir.graph import flatten, peek
from graphopt.ir.order import reads

MOST_NODES = 1500
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 132, 30, 14, 26
_SWEEPS = 4


@dataclass
class _Place:
    """Where something stands: a node, or the bend of an edge that crosses a row."""

    row: int
    node: gs.Node | None = None
    column: float = 0.0
    before: list[_Place] = field(default_factory=list)
    after: list[_Place] = field(default_factory=list)


def picture(graph: gs.Graph, costs: Mapping[str, float] | None = None) -> str:
    """An SVG of the main graph, '' where it is too large to look at. costs: node name -> share of the time, 0 to 1."""
    nodes = [node for node in graph.nodes if node.op != "Constant"]
    if not nodes or len(nodes) > MOST_NODES:
        return ""
    rows = _rows(nodes)
    _order(rows)
    width = max(map(_right, rows))
    size = (width + 2 * _GAP_X, len(rows) * (_HEIGHT + _GAP_Y) + _GAP_Y)
    edges = [_edge(start, end) for row in rows for start in row if start.node is not None for end in _ends(start)]
    top = max(costs.values(), default=0.0) if costs else 0.0
    boxes = [_box(one, costs or {}, top) for row in rows for one in row if one.node is not None]
    return (
        f'<svg class=graph viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" width="{size[0]:.0f}" height="{size[1]:.0f}" '
        f'role="img" aria-label="The optimized graph"><g class=edges>{"".join(edges)}</g>{"".join(boxes)}</svg>'
    )


def _rows(nodes: list[gs.Node]) -> list[list[_Place]]:
    """Every node one row below the lowest of those it reads; long edges get a bend in each row that they cross."""
    places: dict[int, _Place] = {}
    links: list[tuple[_Place, _Place]] = []
    for node in nodes:
        makers = {
            id(maker): places[id(maker)] for tensor in reads(node) for maker in tensor.inputs if id(maker) in places
        }
        place = _Place(1 + max((one.row for one in makers.values()), default=-1), node)
        places[id(node)] = place
        links += [(maker, place) for maker in makers.values()]
    rows: list[list[_Place]] = [[] for _ in range(1 + max(one.row for one in places.values()))]
    for place in places.values():
        rows[place.row].append(place)
    for start, end in links:
        last = start
        for row in range(start.row + 1, end.row):
            bend = _Place(row)
            rows[row].append(bend)
            last.after.append(bend)
            bend.before.append(last)
            last = bend
        last.after.append(end)
        end.before.append(last)
    return rows


def _order(rows: list[list[_Place]]) -> None:
    """Places of a row stand in the order of the mean of their neighbours, a few times down and up."""
    for row in rows:
        _spread(row)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            for one in row:
                near = one.before if down else one.after
                if near:
                    one.column = sum(other.column for other in near) / len(near)
            row.sort(key=lambda one: one.column)
            _spread(row)
    least = min(one.column - _size(one) / 2 for row in rows for one in row)
    for row in rows:
        for one in row:
            one.column += _GAP_X - least


def _spread(row: list[_Place]) -> None:
    """Push what overlaps apart, and keep the row's middle where it was."""
    wanted = [one.column for one in row]
    for first, second in pairwise(row):
        least = first.column + (_size(first) + _size(second)) / 2 + _GAP_X
        second.column = max(second.column, least)
    shift = sum(one.column - was for one, was in zip(row, wanted, strict=True)) / max(len(row), 1)
    for one in row:
        one.column -= shift


def _size(place: _Place) -> float:
    return _WIDTH if place.node is not None else 4


def _right(row: list[_Place]) -> float:
    return max((one.column + _size(one) / 2 for one in row), default=0.0)


def _ends(start: _Place) -> list[list[_Place]]:
    """Each edge that leaves a node, as the places it passes."""
    found = []
    for one in start.after:
        path = [start, one]
        while path[-1].node is None:
            path.append(path[-1].after[0])
        found.append(path)
    return found


def _edge(start: _Place, path: list[_Place]) -> str:
    x, y = start.column, _top(start) + _HEIGHT
    words = [f"M{x:.0f} {y:.0f}"]
    for one in path[1:]:
        end_x, end_y = one.column, _top(one)
        middle = (y + end_y) / 2
        words.append(f"C{x:.0f} {middle:.0f} {end_x:.0f} {middle:.0f} {end_x:.0f} {end_y:.0f}")
        if one.node is None:
            words.append(f"V{end_y + _HEIGHT:.0f}")
        x, y = end_x, end_y + _HEIGHT
    return f'<path d="{"".join(words)}"/>'


def _top(place: _Place) -> float:
    return _GAP_Y / 2 + place.row * (_HEIGHT + _GAP_Y)


def _box(place: _Place, costs: Mapping[str, float], top: float) -> str:
    node = place.node
    assert node is not None
    share = costs.get(node.name, 0.0)
    heat = f' style="--heat:{share / top:.3f}"' if top and share else ""
    known = peek(node)
    rules = flatten(known.rules) if known is not None else []
    sources = flatten(known.origin) if known is not None and known.origin else []
    shape = next((list(tensor.shape) for tensor in node.outputs if tensor.shape is not None), None)
    lines = [node.name or "(no name)", node.op, f"makes {shape}" if shape is not None else ""]
    lines += [f"{share:.1%} of the time" if share else "", f"made by {', '.join(rules[-4:])}" if rules else ""]
    lines += [f"from {', '.join(sources[:4])}" if rules and sources else ""]
    title = escape("\n".join(filter(None, lines)))
    kind = "node hot" if heat else "node made" if rules else "node"
    text = node.op if len(node.op) < 18 else f"{node.op[:16]}…"
    if share >= 0.001:
        text = f"{text[:12]} {share:.1%}"
    x = place.column - _WIDTH / 2
    return (
        f'<g class="{kind}"{heat}><title>{title}</title><rect x="{x:.0f}" y="{_top(place):.0f}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" rx="6"/><text x="{place.column:.0f}" y="{_top(place) + 20:.0f}">{escape(text)}</text></g>'
    )


def costs_of(profile: Mapping[str, object]) -> dict[str, float]:
    """Node -> its share of the time: a layer's time is split evenly among the nodes that it computes."""
    layers = profile.get("layers", [])
    assert isinstance(layers, list)
    total = sum(layer["ms"] for layer in layers) or 1.0
    found: dict[str, float] = defaultdict(float)
    for layer in layers:
        for name in layer["nodes"]:
            found[name] += layer["ms"] / total / len(layer["nodes"])
    return dict(found)
