"""The option tables of docs/cli.md, made from the command itself: `python -m tests.docs.options` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from graphopt.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
_BLOCK = re.compile(r"(<!-- options: ([\w -]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """Every command by name."""
    found: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for name, one in list(found.items()):
        inner = getattr(one, "commands", {})
        found.update({f"{name} {word}": command for word, command in inner.items()})
    return found


def table(command: Any) -> str:
    """A Markdown table of a command's arguments and options, in the order of its help."""
    lines = ["| option | meaning |", "|---|---|"]
    for one in command.params:
        if one.name == "help":
            continue
        if one.param_type_name == "argument":
            names = f"`{one.metavar}`"
        else:
            names = ", ".join(f"`{name}`" for name in one.opts) + (f" `{one.metavar}`" if one.metavar else "")
        default = f" Default: {one.default}." if one.show_default and one.default not in (None, "", False) else ""
        lines.append(f"| {names} | {one.help}{default} |")
    return "\n".join(lines) + "\n"


def fresh(text: str) -> str:
    """The page with its tables made anew."""
    known = commands()
    return _BLOCK.sub(lambda block: f"{block[1]}{table(known[block[2]])}{block[4]}", text)


if __name__ == "__main__":
    PAGE.write_text(fresh(PAGE.read_text()))
