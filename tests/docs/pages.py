"""Reads the code blocks of a documentation page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block; `file` is the name in a line "`name`:" right above it."""

    language: str
    text: str
    file: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(r"(?:^`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(one[2], one[3], one[1] or "", text[: one.start(3)].count("\n") + 1) for one in found]


def commands(block: Block) -> list[tuple[str, int]]:
    """(command, expected exit code) of the `$ ` lines of a console block."""
    found = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            code = re.search(r"# exits (\d+)", line)
            found.append((line[2:], int(code[1]) if code else 0))
    return found
