"""What Codex does, item by item: `exec` tells it in snake_case, the app-server in camelCase."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mcp_server.drivers.permissions import ToolRequest, plain_command

SHELLS = ("bash", "sh", "zsh", "dash")
OUTPUT_CHARACTERS = 20_000
"""Of what a command printed: more is not looked at."""

FILES_NAMED = 3
VOLATILE = frozenset(
    {
        "approvalId",
        "availableDecisions",
        "commandActions",
        "environmentId",
        "itemId",
        "proposedExecpolicyAmendment",
        "proposedNetworkPolicyAmendments",
        "reason",
        "startedAtMs",
        "threadId",
        "turnId",
    }
)
"""Of a request for approval: what differs when the same thing is asked again."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one file. `diff` of a new or a deleted file is its content. `moved_to`: where it is afterwards."""

    path: str
    kind: str
    diff: str
    moved_to: str | None = None

    @property
    def shown(self) -> str:
        """As a diff is shown to people."""
        if self.kind == "update":
            return f"--- {self.path}\n+++ {self.moved_to or self.path}\n{self.diff}"
        sign, old, new = ("-", self.path, "/dev/null") if self.kind == "delete" else ("+", "/dev/null", self.path)
        return "\n".join([f"--- {old}", f"+++ {new}", *(f"{sign}{line}" for line in self.diff.splitlines())])


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that Codex does or says. `exit_code` is None while it runs."""

    kind: str
    id: str
    status: str
    text: str
    command: str
    output: str
    exit_code: int | None
    changes: tuple[Change, ...]
    query: str

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Item:
        """Of either protocol; what is missing is empty."""
        code = told.get("exit_code", told.get("exitCode"))
        return cls(
            kind=re.sub(r"(?<=[a-z])[A-Z]", lambda found: f"_{found.group()}", str(told.get("type", ""))).lower(),
            id=str(told.get("id", "")),
            status=str(told.get("status", "")),
            text=str(told.get("text") or ""),
            command=command_line(str(told.get("command") or "")),
            output=str(told.get("aggregated_output") or told.get("aggregatedOutput") or "")[-OUTPUT_CHARACTERS:],
            exit_code=code if isinstance(code, int) else None,
            changes=tuple(_change(change) for change in told.get("changes") or ()),
            query=str(told.get("query") or told.get("tool") or ""),
        )

    @property
    def uses_a_tool(self) -> bool:
        """Rather than to think or to speak."""
        return self.kind in ("command_execution", "file_change", "mcp_tool_call", "web_search", "dynamic_tool_call")

    @property
    def works(self) -> bool:
        """Whether a tool is at work, by what is told of it last."""
        return self.uses_a_tool and self.status in ("in_progress", "inProgress")

    def telling(self, place: Path) -> str:
        """A few words of progress; empty where there is nothing to tell."""
        match self.kind:
            case _ if self.status == "declined":
                return ""
            case "command_execution" if self.exit_code is None:
                return f"running {self.command}"
            case "command_execution":
                failures = re.search(r"\d+ (failed|failures?|errors?)\b", self.output)
                result = f", {failures.group()}" if failures else ", which failed"
                return f"ran {self.command}{result if self.exit_code else ''}"
            case "file_change":
                return f"editing {named(self.changes, place)}"
            case "web_search":
                return f"searching the web for {self.query}"
            case "mcp_tool_call":
                return f"using {self.query}"
            case _:
                return ""


def command_line(command: str) -> str:
    """What a shell is told, of `/bin/bash -lc '…'`; any other command as it is."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    wrapped = len(words) == 3 and Path(words[0]).name in SHELLS and words[1] in ("-c", "-lc")
    return words[2] if wrapped else command


def named(changes: tuple[Change, ...], place: Path) -> str:
    """The first few files, relative to `place` where they lie in it."""
    paths = [Path(change.path) for change in changes]
    names = [str(path.relative_to(place)) if path.is_relative_to(place) else str(path) for path in paths]
    more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
    return ", ".join(names[:FILES_NAMED]) + more


def command_request(asked: Mapping[str, Any], place: Path) -> ToolRequest:
    """What a request to run a command is about. One that is about more than a command is no plain command."""
    cwd = str(asked.get("cwd") or place)
    command = asked.get("command")
    special = {name: asked[name] for name in asked if name not in VOLATILE | {"command", "cwd", "kind"}}
    special = {name: value for name, value in special.items() if value is not None}
    if not isinstance(command, str) or special or asked.get("kind", "command") != "command":
        kind = asked.get("kind", "command")
        return ToolRequest("command", "other", {"kind": kind, "command": command, **special}, cwd)
    line = command_line(command)
    return ToolRequest("command", "command", {"command": line}, cwd, argv=plain_command(line))


def change_request(item: Item, place: Path) -> ToolRequest:
    """What a request to change files is about. Of what is written, the digest alone is in the input."""
    touched = [path for change in item.changes for path in (change.path, change.moved_to) if path]
    paths = tuple(os.path.realpath(place / path) for path in touched)
    files = {change.path: f"{change.kind} {change.moved_to or ''} {_digest(change.diff)}" for change in item.changes}
    # Without paths it could change anything.
    return ToolRequest("edit", "edit" if paths else "other", {"files": files}, str(place), paths)


def _change(told: Mapping[str, Any]) -> Change:
    kind: Any = told.get("kind")
    moved: Any = None
    if isinstance(kind, dict):
        kind, moved = cast(dict[str, Any], kind).get("type"), cast(dict[str, Any], kind).get("move_path")
    return Change(str(told.get("path", "")), str(kind), str(told.get("diff") or ""), moved)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
