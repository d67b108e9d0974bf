"""What an agent does with a tool, as the Agent Client Protocol tells it piece by piece."""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from acp import schema

from mcp_server.drivers.permissions import ToolRequest, plain_command

EDITING = frozenset({"edit", "delete", "move"})
KINDS = {"read": "read", "search": "read", "think": "read", "execute": "command"} | dict.fromkeys(EDITING, "edit")
"""The protocol's kinds of tools, as `permissions` has them."""

OUTPUT_CHARACTERS = 20_000
"""Of what a tool printed: more is not looked at."""


class Call:
    """What is known so far of one use of a tool."""

    def __init__(self) -> None:
        self.kind = "other"
        self.title = ""
        self.told = ""
        """The last progress of it."""
        self.allowed = False
        self._raw: Mapping[str, Any] = {}
        self._paths: list[str] = []
        self._diffs: list[schema.FileEditToolCallContent] = []
        self._output = ""
        self._status = ""

    def take(self, update: Any) -> None:
        """What is told anew replaces what was told before."""
        self.kind = update.kind or self.kind
        self.title = update.title or self.title
        self._status = update.status or self._status
        raw: Any = update.raw_input
        if isinstance(raw, dict):
            self._raw = cast(dict[str, Any], raw)
        if update.locations:
            self._paths = [location.path for location in update.locations]
        for content in update.content or ():
            match content:
                case schema.FileEditToolCallContent():
                    self._diffs.append(content)
                case schema.ContentToolCallContent(content=schema.TextContentBlock(text=text)):
                    self._output = text[-OUTPUT_CHARACTERS:]
                case _:
                    pass

    @property
    def works(self) -> bool:
        """Whether it is being done: agents say so of what they need not ask for, of the rest not all of them do."""
        return self._status == "in_progress" or (self.allowed and self._status not in ("completed", "failed"))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it is about."""
        return tuple(dict.fromkeys([*self._paths, *(diff.path for diff in self._diffs)]))

    @property
    def command(self) -> str | None:
        """The command line, for a tool that runs one. Agents that give no raw input have it as the title."""
        if self.kind != "execute":
            return None
        raw: Any = self._raw.get("command")
        if isinstance(raw, list):
            return shlex.join(str(word) for word in cast(list[Any], raw))
        return raw if isinstance(raw, str) else self.title

    @property
    def wish(self) -> str:
        """What it wants, to follow "wants to"."""
        if (command := self.command) is not None:
            return f"run {command[:500]}"
        named = ", ".join(Path(path).name for path in self.paths[:3])
        return f"{'edit' if self.kind in EDITING else 'use'} {named or self.title or 'a tool'}"

    @property
    def telling(self) -> str:
        """A few words of progress."""
        if (command := self.command) is not None:
            failures = re.search(r"\d+ (failed|failures?|errors?)\b", self._output) if self._status else None
            done = self._status in ("completed", "failed")
            result = f", {failures.group()}" if failures else ", which failed" if self._status == "failed" else ""
            return f"{'ran' if done else 'running'} {command}{result}"
        named = ", ".join(Path(path).name for path in self.paths[:3])
        verb = {"read": "reading", "edit": "editing", "delete": "deleting", "move": "moving", "search": "searching"}
        return f"{verb.get(self.kind, '')} {named or self.title}".strip()

    @property
    def diff(self) -> str | None:
        """What a change of files would do."""
        if not self._diffs:
            return None
        return "\n".join(_unified(diff.path, diff.old_text or "", diff.new_text) for diff in self._diffs)

    def request(self, place: Path) -> ToolRequest:
        """As `permissions` judges it. Of texts that would be written, only their digest is in the input."""
        kind = KINDS.get(self.kind, "other")
        command = self.command
        asked: dict[str, Any]
        if command is not None:
            asked = {"command": command}
        elif self._diffs:
            asked = {"files": {diff.path: _digest(diff.new_text) for diff in self._diffs}}
        else:
            asked = {"title": self.title, "paths": list(self.paths), **self._raw}
        # A tool that edits and does not say what could edit anything.
        known = kind if kind not in ("read", "edit") or self.paths else "other"
        argv = plain_command(command) if command is not None else None
        return ToolRequest(self.kind, known, asked, str(place), self.paths, argv)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _unified(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="")
    return "\n".join(lines)
