"""The pages of the project, and what stands in them: blocks, sections, tables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `str()` is how pytest names it."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def page(name: str) -> str:
    """The text of a page, by its path from the root."""
    return (ROOT / name).read_text("utf-8")


def blocks(*languages: str) -> list[Block]:
    """Every block of these languages, in all pages."""
    return [
        block for path in PAGES for block in blocks_in(path.read_text("utf-8"), path) if block.language in languages
    ]


def blocks_in(text: str, path: Path = ROOT / "page") -> list[Block]:
    """Every block of a text."""
    name = str(path.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _BLOCK.finditer(text)]


def documents(text: str) -> list[Any]:
    """The JSON documents of a block, which may show several one after another."""
    decoder, found, position = json.JSONDecoder(), list[Any](), 0
    while text[position:].strip():
        position += len(text[position:]) - len(text[position:].lstrip())
        document, position = decoder.raw_decode(text, position)
        found.append(document)
    return found


def section(text: str, heading: str) -> str:
    """What stands under a heading, its subsections included."""
    level = len(heading) - len(heading.lstrip("#"))
    (_, found) = re.split(rf"^{re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)
    return re.split(rf"^#{{1,{level}}} ", found, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed `first`."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def names(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def shell_commands(block: Block) -> list[str]:
    """The commands of a shell block, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
