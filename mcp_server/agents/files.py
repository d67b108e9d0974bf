"""The agent that reads, lists, searches and writes files of a workspace, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder, task_environment
from mcp_server.agents.params import refuse_unknown
from mcp_server.agents.shell import place_of
from mcp_server.errors import InvalidError
from mcp_server.spoken import spoken
from mcp_server.values import CONTENT_LIMIT_BYTES

PROGRAM = Path(__file__).with_name("files_program.py")
READ_BYTES = 64 * 1024
READ_LIMIT_BYTES = 1024 * 1024
OFFSET_LIMIT = 2**53
DEPTH_LIMIT = 10
PATH_CHARACTERS = 4096
QUERY_CHARACTERS = 1000

TAKES: Mapping[str, tuple[str, ...]] = {
    "list": ("path", "depth"),
    "read": ("path", "offset", "limit"),
    "search": ("path", "query", "ignore_case"),
    "write": ("path", "content", "if_exists"),
}
"""The parameters of each action, beside `action`."""

IF_EXISTS = ("refuse", "replace", "append")


class FilesAgent:
    """One action on files. Links are not followed, and nothing in `.git` is written."""

    name = "files"
    title = "Files"
    description = (
        'Reads, lists, searches and writes files of a workspace. params: {"action": "list", "path"?, "depth"?} | '
        '{"action": "read", "path", "offset"?, "limit"?} | {"action": "search", "query", "path"?, "ignore_case"?} | '
        '{"action": "write", "path", "content", "if_exists"?: "refuse" | "replace" | "append"}.'
    )
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = True
    continues = False

    def availability(self) -> Availability:
        return Availability(installed=True)

    def look(self) -> None:
        """There is nothing to look for."""

    def check(self, order: WorkOrder) -> Checked:
        place_of(order)
        asked = read_asked(order.params)
        return Checked((self.name, asked["action"], "/".join(asked["path"]) or "."), asked["action"] != "write")

    def invocation(self, order: WorkOrder) -> Invocation:
        cwd = place_of(order)
        root = order.workspace or cwd
        told = read_asked(order.params) | {"root": str(root), "folder": cwd.relative_to(root).parts}
        return Invocation(
            argv=(sys.executable, "-I", "-S", str(PROGRAM)),
            cwd=Path("/"),
            env=task_environment(),
            stdin=json.dumps(told),
        )

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        said = ended.stderr.strip()
        if ended.how != "exited" or ended.returncode != 0:
            text = said or f"It ended with {ended.returncode}."
            reason = "signal" if ended.how == "signaled" else "exit_code"
            return Outcome(False, text, spoken(text), reason=reason)
        asked = read_asked(order.params)
        text = ended.stdout if asked["action"] == "read" else ended.stdout.strip()
        return Outcome(True, text, spoken(f"{_summary(asked, ended)} {said}"))


def _summary(asked: Mapping[str, Any], ended: Exit) -> str:
    lines = ended.stdout.splitlines()
    match asked["action"]:
        case "write":
            return ended.stdout
        case "read":
            first = next((line.strip() for line in lines if line.strip()), "")
            return f"{_count(len(lines), 'line')}. It begins: {spoken(first, 20)}" if first else "It is empty."
        case "search":
            return f"{_count(len(lines), 'line')} found." if lines else "Nothing was found."
        case _:
            return f"{_count(len(lines), 'entry', 'entries')}." if lines else "The folder is empty."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def read_asked(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, checked, with their defaults; `path` as a list of names.

    Raises:
        InvalidError: one is missing, unknown or cannot be used.
    """
    given = {name: value for name, value in params.items() if value is not None}
    action = given.pop("action", None)
    if not isinstance(action, str) or action not in TAKES:
        message = "An action is needed." if action is None else f"There is no action {str(action)[:100]!r}."
        raise _refused("action", message, f"Give one of: {', '.join(TAKES)}.")
    refuse_unknown(given, TAKES[action])
    asked: dict[str, Any] = {"action": action, "path": _path(given.get("path", "."))}
    if action in ("read", "write") and not asked["path"]:
        raise _refused("path", "The path of a file is needed.", 'Give one in the workspace, such as "docs/notes.md".')
    match action:
        case "list":
            asked["depth"] = _whole(given, "depth", 1, 1, DEPTH_LIMIT)
        case "read":
            asked["offset"] = _whole(given, "offset", 0, 0, OFFSET_LIMIT)
            asked["limit"] = _whole(given, "limit", READ_BYTES, 1, READ_LIMIT_BYTES)
        case "search":
            asked |= {"query": _query(given.get("query")), "ignore_case": _flag(given, "ignore_case")}
        case _:
            asked |= {"content": _content(given.get("content")), "if_exists": _if_exists(given)}
            if any(part.casefold() == ".git" for part in asked["path"]):
                raise _refused("path", "Nothing is written in .git.", "Use the agent git.")
    return asked


def _path(value: object) -> list[str]:
    if not isinstance(value, str) or len(value) > PATH_CHARACTERS or "\0" in value:
        raise _refused("path", "That is no path.", f"Give a text of at most {PATH_CHARACTERS} characters.")
    if value.startswith(("/", "~")):
        raise _refused("path", "The path does not begin in the workspace.", "Leave out the folder of the workspace.")
    names = [name for name in value.split("/") if name not in ("", ".")]
    if ".." in names:
        raise _refused("path", "The path goes up.", "Write it without '..'; working_dir names another folder.")
    return names


def _query(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= QUERY_CHARACTERS or "\n" in value:
        fix = f"Give one line of at most {QUERY_CHARACTERS} characters; it is looked for as it stands."
        raise _refused("query", "What to look for is needed.", fix)
    return value


def _content(value: object) -> str:
    if not isinstance(value, str):
        raise _refused("content", "The content is needed.", "Give a text, which may be empty.")
    if len(value.encode(errors="replace")) > CONTENT_LIMIT_BYTES:
        raise _refused("content", f"The content has more than {CONTENT_LIMIT_BYTES:,} bytes.", "Write it in parts.")
    return value


def _if_exists(given: Mapping[str, Any]) -> str:
    value = given.get("if_exists", "refuse")
    if value not in IF_EXISTS:
        raise _refused(
            "if_exists", f"if_exists cannot be {str(value)[:100]!r}.", f"Give one of: {', '.join(IF_EXISTS)}."
        )
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise _refused(name, f"{name} is neither true nor false.", "Give true or false.")
    return value


def _whole(given: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refused(name, f"{name} cannot be {str(value)[:100]!r}.", f"Give a whole number from {low} to {high:,}.")
    return value


def _refused(name: str, message: str, fix: str) -> InvalidError:
    return InvalidError(message, field=f"params.{name}", fix=fix)
