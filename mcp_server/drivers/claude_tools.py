"""The tools of Claude Code: what each use of one touches, and how it is told in a few words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mcp_server.drivers.commands import plain_command
from mcp_server.drivers.permissions import ToolRequest

HARMLESS = (
    "Agent",
    "ListAgents",
    "ReportFindings",
    "Skill",
    "Task",
    "TaskCreate",
    "TaskGet",
    "TaskList",
    "TaskOutput",
    "TaskStop",
    "TaskUpdate",
    "TodoWrite",
    "ToolSearch",
)
"""They touch nothing themselves: what a sub-agent or a skill then does is judged when it does it."""

READS = {"Read": "file_path", "NotebookRead": "notebook_path", "Glob": "path", "Grep": "path", "LS": "path"}
EDITS = {"Edit": "file_path", "MultiEdit": "file_path", "Write": "file_path", "NotebookEdit": "notebook_path"}
"""By tool: where its input names the path."""

UNATTENDED = (
    "AskUserQuestion",
    "CronCreate",
    "CronDelete",
    "CronList",
    "EnterPlanMode",
    "EnterWorktree",
    "ExitPlanMode",
    "ExitWorktree",
    "Monitor",
    "ScheduleWakeup",
    "SendMessage",
    "Workflow",
)
"""They make no sense where nobody watches and the process ends with the answer; Claude Code is not offered them."""

SHOWN_CHARACTERS = 80
DIFF_LIMIT_CHARACTERS = 20_000
_FAILED = re.compile(r"\b(\d+) (failed|failures?|errors?)\b", re.IGNORECASE)
_PASSED = re.compile(r"\b(\d+) (?:passed|passing)\b", re.IGNORECASE)
_WILD = re.compile(r"[*?\[{]")
_EXIT_CODE = re.compile(r"\AExit code (\d+)")


def tool_request(tool: str, given: Mapping[str, Any], cwd: str, own: Path | None) -> ToolRequest:
    """A use of a tool, as `permissions.decide` wants it. Symbolic links in paths are followed.

    `own` is where Claude Code keeps what was too long for this conversation; reading there touches nothing else.
    """
    if tool in HARMLESS:
        return ToolRequest(tool, "read", given, cwd)
    if tool == "Bash":
        return ToolRequest(tool, "command", given, cwd, argv=plain_command(_text(given, "command")))
    if tool in READS:
        paths = _read_paths(tool, given, cwd)
        kept = own is not None and all(path.is_relative_to(os.path.realpath(own)) for path in paths)
        return ToolRequest(tool, "read", given, cwd, paths=() if kept else tuple(map(str, paths)))
    if tool in EDITS:
        return ToolRequest(tool, "edit", given, cwd, paths=(str(_resolved(_text(given, EDITS[tool]), cwd)),))
    return ToolRequest(tool, "other", given, cwd)


def doing(tool: str, given: Mapping[str, Any], place: Path) -> str:
    """What is going on, in a few words; empty where that is of no interest."""
    if tool in EDITS:
        return f"editing {_shown_path(_text(given, EDITS[tool]), place)}"
    match tool:
        case "Read" | "NotebookRead":
            return f"reading {_shown_path(_text(given, READS[tool]), place)}"
        case "Glob" | "Grep":
            return f"searching for {_short(_text(given, 'pattern'))}"
        case "Bash":
            return f"running {_short(_text(given, 'command'))}"
        case "Agent" | "Task":
            return f"has a helper at work: {_short(_text(given, 'description'))}"
        case "WebFetch":
            return f"reading {_short(_text(given, 'url'))}"
        case "WebSearch":
            return f"searching the web for {_short(_text(given, 'query'))}"
        case "TodoWrite":
            return _current(given)
        case _ if tool in HARMLESS:
            return ""
        case _:
            return f"using {tool}"


def done(tool: str, given: Mapping[str, Any], output: str, failed: bool) -> str:
    """How a command ended, where that can be told in a few words ("ran pytest: 2 failed, 30 passed"); else empty."""
    if tool != "Bash":
        return ""
    command = _short(_text(given, "command"))
    if bad := _FAILED.findall(output):
        good = _PASSED.findall(output)
        return f"ran {command}: {' '.join(bad[-1])}" + (f", {good[-1]} passed" if good else "")
    if good := _PASSED.findall(output):
        return f"ran {command}: {good[-1]} passed"
    if failed:
        code = _EXIT_CODE.match(output)
        return f"ran {command}: " + (f"it failed with exit code {code.group(1)}" if code else "it failed")
    return ""


def wish(tool: str, given: Mapping[str, Any], place: Path) -> str:
    """What the user is asked to allow: to end "Claude Code wants to …"."""
    if tool in EDITS:
        return f"edit {_shown_path(_text(given, EDITS[tool]), place)}"
    if tool in READS:
        return f"read {_shown_path(_text(given, READS[tool]), place)}"
    match tool:
        case "Bash":
            return f"run {_short(_text(given, 'command'))}"
        case "WebFetch":
            return f"read {_short(_text(given, 'url'))}"
        case "WebSearch":
            return f"search the web for {_short(_text(given, 'query'))}"
        case _:
            return f"use its tool {tool}"


def diff(tool: str, given: Mapping[str, Any]) -> str | None:
    """What an edit would change, as far as its input says it; None for anything else."""
    if tool not in EDITS:
        return None
    path = _text(given, EDITS[tool])
    edits: list[Mapping[str, Any]] = _maps(given.get("edits")) or [given]
    text = "".join(_changed(path, edit) for edit in edits)
    if len(text) > DIFF_LIMIT_CHARACTERS:
        text = f"{text[:DIFF_LIMIT_CHARACTERS]}\n[cut: {len(text) - DIFF_LIMIT_CHARACTERS} characters more]\n"
    return text or None


def _changed(path: str, edit: Mapping[str, Any]) -> str:
    before = _text(edit, "old_string")
    after = _text(edit, "new_string") or _text(edit, "content") or _text(edit, "new_source")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _current(given: Mapping[str, Any]) -> str:
    current = (item for item in _maps(given.get("todos")) if item.get("status") == "in_progress")
    return next((_short(_text(item, "activeForm")) for item in current), "")


def _read_paths(tool: str, given: Mapping[str, Any], cwd: str) -> list[Path]:
    path = _text(given, READS[tool])
    if tool != "Glob":
        return [_resolved(path, cwd)]
    fixed = _WILD.split(_text(given, "pattern"))[0]  # a pattern may lead elsewhere by itself
    above = ("..",) if ".." in _text(given, "pattern").split("/") else ()
    return [_resolved(path, cwd), _resolved(os.path.join(path, fixed, *above), cwd)]


def _resolved(path: str, cwd: str) -> Path:
    return Path(os.path.realpath(os.path.join(cwd, os.path.expanduser(path))))


def _shown_path(path: str, place: Path) -> str:
    return _short(os.path.relpath(path, place) if Path(path).is_relative_to(place) else path)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def _maps(value: object) -> list[Mapping[str, Any]]:
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Mapping[str, Any], item) for item in items if isinstance(item, dict)]
