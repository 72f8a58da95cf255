"""What inspect, diff, passes, plugins and explain print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graphopt.registry import Plugin
from graphopt.rewrite.explain import Explanation
from graphopt.rewrite.rule import Entry, FunctionPass

from . import units
from .contents import Contents, Port
from .diff import ModelDiff, NodeChange, WeightChange
from .text import operators_table, plain_table

_MOST = 12


def passes_json(stages: Mapping[str, Sequence[Entry]], pipeline: str, known: Iterable[str]) -> dict[str, Any]:
    """The object that `passes --json` prints; docs/cli.md describes its keys."""
    return {
        "pipeline": pipeline,
        "pipelines": sorted(known),
        "passes": [
            {
                "name": one.name,
                "stage": stage,
                "plugin": one.plugin,
                "kind": "function" if isinstance(one.run, FunctionPass) else "rule",
                "equation": one.doc,
                "after": list(one.run.after),
                "before": list(one.run.before),
            }
            for stage, entries in stages.items()
            for one in entries
        ],
    }


def holding(word: str, stages: Mapping[str, Sequence[Entry]]) -> dict[str, list[Entry]]:
    """The passes in whose name, plugin or equation the word stands."""
    word = word.lower()
    return {
        stage: [one for one in entries if any(word in text.lower() for text in (one.name, one.plugin, one.doc))]
        for stage, entries in stages.items()
    }


def passes_table(stages: Mapping[str, Sequence[Entry]], pipeline: str, known: Iterable[str]) -> RenderableType:
    parts: list[RenderableType] = []
    for stage, entries in stages.items():
        if not entries:
            continue
        heading = Text(stage, style="bold")
        heading.append(f"  {units.several(len(entries), 'pass', 'passes')}", style="not bold dim")
        parts.append(heading)
        for one in entries:
            name = Text(one.name, style="cyan")
            name.append(f"  {one.plugin}", style="dim")
            parts.append(Padding(name, (0, 0, 0, 2), expand=False))
            parts.append(Padding(Text(one.doc or "(it does not say what it does)"), (0, 0, 0, 6), expand=False))
        parts.append(Text())
    if not parts:
        parts.append(Text("This pipeline has no such passes.", style="yellow"))
    others = [name for name in sorted(known) if name != pipeline]
    more = f"; others, for --pipeline: {', '.join(others)}" if others else ""
    parts.append(Text(f"Pipeline {pipeline}{more}. Each stage runs until nothing changes any more.", style="dim"))
    return Group(*parts)


def plugins_table(plugins: Sequence[Plugin]) -> RenderableType:
    if not plugins:
        return Text("No plugins were found.", style="yellow")
    table = plain_table("plugin", "from", "hooks", stretch="hooks")
    for one in plugins:
        hooks = Text(", ".join(hook.removeprefix("graphopt_") for hook in one.hooks))
        if one.reason:
            hooks = Text(one.reason, style="yellow")
        table.add_row(Text(one.name, style="dim" if one.reason else "cyan"), Text(one.source, style="dim"), hooks)
    return table


def contents_text(found: Contents) -> RenderableType:
    head = Text(Path(found.model).name, style="bold")
    domains = ", ".join(f"{name} {version}" for name, version in found.domains.items())
    head.append(f"  opset {domains}", style="not bold dim")
    if found.producer:
        head.append(f"  made by {found.producer}", style="not bold dim")
    ports = Table.grid(padding=(0, 2))
    for kind, some in (("input", found.inputs), ("output", found.outputs)):
        for one in some:
            ports.add_row(Text(kind, style="dim"), Text(one.name, style="cyan"), _port(one))
    parts: list[RenderableType] = [head, Text(), ports, Text()]
    if found.dynamic:
        words = ", ".join(f"{name} ({', '.join(inputs)})" for name, inputs in found.dynamic.items())
        parts += [Text(f"Known only at run time: {words}", style="yellow"), Text()]
    operators = plain_table("operator", "nodes", right=("nodes",))
    for op, count in found.nodes.items():
        operators.add_row(op, f"{count:,}")
    operators.add_section()
    inside = f" in {units.several(found.subgraphs, 'body', 'bodies')} too" if found.subgraphs else ""
    operators.add_row(Text(f"all{inside}", style="bold"), Text(f"{found.node_count:,}", style="bold"))
    parts.append(operators)
    if found.constant_nodes:
        parts.append(Text(f"and {units.several(found.constant_nodes, 'Constant node')}", style="dim"))
    if found.functions:
        functions = plain_table("function", "domain", "nodes", "calls", right=("nodes", "calls"))
        for called in found.functions:
            functions.add_row(called.name, called.domain, f"{called.nodes:,}", f"{called.calls:,}")
        parts += [Text(), functions]
    return Group(*parts, Text(), *_weights(found))


def _port(one: Port) -> Text:
    shape = "?" if one.shape is None else " x ".join("?" if dim is None else str(dim) for dim in one.shape) or "scalar"
    return Text(f"{one.dtype}  {shape}")


def _weights(found: Contents) -> list[RenderableType]:
    if not found.weights_count:
        return [Text("No weights.", style="dim")]
    kinds = ", ".join(f"{name} {units.size(count)}" for name, count in found.weights_by_dtype.items())
    line = f"{units.several(found.weights_count, 'weight')}, {units.size(found.weights_bytes)} ({kinds})"
    table = plain_table("largest weights", "dtype", "shape", "size", right=("size",))
    for one in found.largest:
        table.add_row(one.name, one.dtype, units.dims(one.shape), units.size(one.bytes))
    return [table, Text(line, style="dim")]


def diff_text(found: ModelDiff, before: str, after: str) -> RenderableType:
    head = Text(before, style="bold")
    head.append(" against ", style="not bold")
    head.append(after)
    if found.same:
        return Group(head, Text("The same model, up to names of inner values.", style="green"))
    a, b = found.before, found.after
    sizes = plain_table("", "A", "B", "change", right=("A", "B", "change"))
    sizes.add_row("nodes", f"{a.node_count:,}", f"{b.node_count:,}", units.change(a.node_count, b.node_count))
    sizes.add_row(
        "weights",
        units.size(a.weights_bytes),
        units.size(b.weights_bytes),
        units.change(a.weights_bytes, b.weights_bytes),
    )
    parts: list[RenderableType] = [head, Text(), sizes, Text()]
    operators = operators_table(a.nodes, b.nodes)
    parts += [operators, Text()] if operators is not None else []
    parts += [Text(line, style="yellow") for line in found.interface] or [
        Text("The same inputs and outputs.", style="dim")
    ]
    parts += [Text(), *_node_changes(found), Text(), *_weight_changes(found)]
    return Group(*parts)


def _node_changes(found: ModelDiff) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(
            f"Nodes by name: {found.nodes_kept:,} kept, {len(found.nodes_changed):,} of another operator, "
            f"{len(found.nodes_gone):,} gone, {len(found.nodes_new):,} new.",
            style="bold",
        )
    ]
    for sign, style, nodes in (
        ("~", "yellow", found.nodes_changed),
        ("-", "red", found.nodes_gone),
        ("+", "green", found.nodes_new),
    ):
        parts += [_node_line(sign, style, one) for one in nodes[:_MOST]]
        if len(nodes) > _MOST:
            parts.append(Text(f"  {sign} and {len(nodes) - _MOST:,} more (--json lists them)", style="dim"))
    return parts


def _node_line(sign: str, style: str, one: NodeChange) -> Text:
    line = Text(f"  {sign} ", style=style)
    line.append(f"{one.name}", style="default")
    line.append(f" {one.op}", style="dim")
    if one.rules:
        line.append(f"  by {', '.join(one.rules)}", style="dim")
    if one.origin:
        line.append(f"  from {_some(one.origin)}", style="dim")
    if one.became:
        line.append(f"  now {_some(one.became)}", style="dim")
    return line


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _weight_changes(found: ModelDiff) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(
            f"Weights by content: {found.weights_kept:,} kept, {len(found.weights_changed):,} changed, "
            f"{len(found.weights_removed):,} removed, {len(found.weights_added):,} added.",
            style="bold",
        )
    ]
    groups: tuple[tuple[str, str, list[WeightChange]], ...] = (
        ("~", "yellow", found.weights_changed),
        ("-", "red", found.weights_removed),
        ("+", "green", found.weights_added),
    )
    for sign, style, weights in groups:
        heaviest = sorted(weights, key=lambda one: -one.bytes)
        for one in heaviest[:_MOST]:
            line = Text(f"  {sign} ", style=style)
            line.append(one.name, style="default")
            line.append(f" {one.dtype} {units.dims(one.shape)}, {units.size(one.bytes)}", style="dim")
            parts.append(line)
        if len(weights) > _MOST:
            parts.append(Text(f"  {sign} and {len(weights) - _MOST:,} more (--json lists them)", style="dim"))
    return parts


_VERDICTS = {
    "fires": ("It fires here", "bold green"),
    "vetoed": ("The pattern holds here, but it is vetoed", "bold yellow"),
    "no match": ("It does not match here", "bold yellow"),
    "gone": ("The node is gone by then", "bold yellow"),
    "function": ("It cannot be told for one node", "bold"),
}


def explanation_text(found: Explanation) -> RenderableType:
    head = Text(found.pass_name, style="bold cyan")
    head.append(f"  stage {found.stage}, plugin {found.plugin}", style="not bold dim default")
    words, style = _VERDICTS[found.verdict]
    verdict = Text(words, style=style)
    verdict.append(f": {found.reason}." if found.reason else ".", style="not bold default")
    parts: list[RenderableType] = [
        head,
        Padding(Text(found.equation, style="italic"), (0, 0, 0, 2), expand=False),
        Text(),
    ]
    node = Text("At node ", style="default")
    node.append(found.node, style="bold")
    node.append(f" ({found.op}):")
    parts += [node, Padding(verdict, (0, 0, 0, 2), expand=False)]
    if found.covers:
        parts.append(Padding(Text(f"The match covers {_some(found.covers)}.", style="dim"), (0, 0, 0, 2), expand=False))
    changed = f"changes something {units.several(found.changes, 'time')}" if found.changes else "changes nothing"
    if found.changes and found.verdict != "function":
        changed += ", once at this node" if found.fired_here else ", not at this node"
    end = "The node is still there in the end."
    if found.taken_by:
        end = f"In the end the node is gone: {found.taken_by} took it"
        end += f"; {_some(found.heirs)} stands for it." if found.heirs else "."
    parts += [Text(), Text(f"In the whole run the pass {changed}. {end}", style="dim")]
    return Group(*parts)
