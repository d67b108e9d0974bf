"""The named statements. Each `.sql` file holds blocks that begin with `-- name: what it is for`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_HEAD = re.compile(r"^-- ([a-z_]+): .+$", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """Every statement by its name. A name that stands twice raises."""
    found: dict[str, str] = {}
    for file in sorted(files("mcp_server.store").joinpath("sql").iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        _, *blocks = _HEAD.split(file.read_text("utf-8"))
        for name, text in zip(blocks[::2], blocks[1::2], strict=True):
            if name in found:
                raise ValueError(f"The statement {name} stands twice.")
            found[name] = text.strip().rstrip(";")
    return found
