"""The pure table: webhook command → tool name and arguments. No I/O here, and nothing that depends on time.

To add a command, add a line to `_LIST`. Kinds and required fields are the tool's own (`tools.py`).
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from relay_adapter.errors import FieldIssue, InvalidError
from relay_adapter.fields import Field, missing, read_field, unknown
from relay_adapter.tools import TOOLS, Tool

SUGGESTION_LIMIT_CHARACTERS = 500
DERIVED_ID_DIGITS = 24

_ALIASES: dict[str, tuple[str, ...]] = {"agent": ("agent", "agent_name")}
_DELEGATE_ALIASES = _ALIASES | {"description": ("description", "task", "prompt")}
_NO_CALLBACK = {
    "callback_url": (
        "A callback address is not called yet.",
        "Leave callback_url out, and poll the status_url of the answer.",
    )
}
_LIFTED = ("working_dir", "workspace")
"""Fields in the field's payloads stand beside `command` in `params`; the tool takes them at the top."""


@dataclass(frozen=True, slots=True)
class Command:
    """`fixed`: arguments that the command itself gives. `only`: the tool's arguments that it takes (None: all)."""

    name: str
    tool: str
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    only: tuple[str, ...] | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _ALIASES)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    @property
    def fields(self) -> tuple[Field, ...]:
        """The tool's fields that a caller may give, required ones too."""
        return tuple(
            each
            for each in TOOLS[self.tool].fields
            if each.name not in self.fixed and (self.only is None or each.name in self.only)
        )

    def names(self) -> dict[str, str]:
        """Every name that a caller may write → the argument that it stands for."""
        return {name: each.name for each in self.fields for name in self.aliases.get(each.name, (each.name,))}

    @property
    def starts_work(self) -> bool:
        """Whether it answers 202 while the work goes on."""
        return self.tool in ("delegate_task", "continue_task") or self.fixed.get("action") == "retry"


def _session_status(name: str, status: str) -> Command:
    return Command(name, "update_session", fixed={"status": status}, only=("session_id",))


_DELEGATE = Command("delegate_task", "delegate_task", aliases=_DELEGATE_ALIASES, refused=_NO_CALLBACK)
_LIST: tuple[Command, ...] = (
    Command("conversation_chunk", "add_conversation"),
    _session_status("pause_session", "paused"),
    _session_status("resume_session", "active"),
    _session_status("complete_session", "completed"),
    _session_status("archive_session", "archived"),
    Command("get_session_summary", "get_session"),
    Command("cancel_task", "update_task", fixed={"action": "cancel"}, only=("task_id", "wait")),
    Command("retry_task", "update_task", fixed={"action": "retry"}, only=("task_id", "priority", "lane", "wait")),
    _DELEGATE,
    *(Command(name, name) for name in TOOLS if name != "delegate_task"),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _LIST}

TASK_COMMAND = replace(_DELEGATE, name="task_command", aliases=_DELEGATE_ALIASES | {"agent": ("action_type",)})
"""`{"type": "task_command"}`: the same as `delegate_task`, with `action_type` for the agent."""


def text_command(default_agent: str) -> Command:
    """`{"text": …}`: what was dictated goes to the default agent."""
    return Command(
        "text",
        "delegate_task",
        fixed={"agent": default_agent},
        only=("description", "workspace", "session_id", "wait"),
        aliases={"description": ("text",)},
    )


@dataclass(frozen=True, slots=True)
class Session:
    """The `session_id` beside `data`. `own` is False where a command inherited it from its batch."""

    value: str
    path: str
    own: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call to make. `sources`: argument → the path in the body where it was written, for errors that come back."""

    command: str
    tool: Tool
    arguments: dict[str, Any]
    sources: dict[str, str]
    starts_work: bool = False

    def with_derived_id(self, key_id: str, delivery_id: str, index: int) -> ToolCall:
        """The same call with an id for what it makes, so that the same delivery makes it once however often it comes.

        A memory with a key needs none: the same content under the same key makes no new version.
        """
        creates = self.tool.creates
        if creates is None or creates in self.arguments or (creates == "memory_id" and "key" in self.arguments):
            return self
        return replace(self, arguments=self.arguments | {creates: derived_id(key_id, delivery_id, index)})


def derived_id(key_id: str, delivery_id: str, index: int) -> str:
    """The id of what command number `index` of a delivery makes."""
    seed = json.dumps([key_id, delivery_id, index])
    return "d-" + hashlib.sha256(seed.encode("utf-8")).hexdigest()[:DERIVED_ID_DIGITS]


def translate(command: Command, data: Mapping[str, Any], session: Session | None = None, at: str = "data.") -> ToolCall:
    """The tool call that `command` with `data` stands for. `at`: the path of `data` in the body, with its dot.

    A null is the same as a field left out.

    Raises:
        InvalidError: with every field that is wrong, unknown or missing.
    """
    fields = {each.name: each for each in command.fields}
    issues: list[FieldIssue] = []
    arguments: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for argument, name, value in _given(command, data, at, issues):
        path = f"{at}{name}"
        try:
            read = read_field(replace(fields[argument], name=name), value, path)
        except InvalidError as error:
            issues.extend(error.issues)
            read = value
        if argument in arguments and not _same(arguments[argument], read):
            issues.append(_disagreement(path, sources[argument]))
        arguments.setdefault(argument, read)
        sources.setdefault(argument, path)
    _lift_params(arguments, sources, issues)
    _hand_session(command, arguments, sources, session, issues)
    for each in fields.values():
        if each.required and each.name not in arguments:
            issues.extend(missing(each, f"{at}{command.aliases.get(each.name, (each.name,))[0]}").issues)
    if issues:
        raise InvalidError(issues)
    arguments |= command.fixed
    starts_work = command.starts_work or (command.tool == "update_task" and arguments.get("action") == "retry")
    return ToolCall(command.name, TOOLS[command.tool], arguments, sources, starts_work)


def _given(
    command: Command, data: Mapping[str, Any], at: str, issues: list[FieldIssue]
) -> Iterator[tuple[str, str, Any]]:
    """Each (argument, name, value) that was given; what is refused or unknown goes to `issues`."""
    names = command.names()
    for name, value in data.items():
        if name in names:
            if value is not None:
                yield names[name], name, value
        elif name in command.refused:
            if value is not None:
                issues.append(FieldIssue(f"{at}{name}", *command.refused[name]))
        else:
            fix = 'Put it inside "params": {"params": {"command": ["git", "status"]}}.'
            issues.append(unknown(name, names, at, fix if name == "command" and "params" in names else None))


def _disagreement(path: str, other: str) -> FieldIssue:
    return FieldIssue(path, f"It says something else than {other}.", "Give one of the two.")


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _lift_params(arguments: dict[str, Any], sources: dict[str, str], issues: list[FieldIssue]) -> None:
    params = arguments.get("params")
    if not isinstance(params, dict):
        return
    rest = dict(cast("dict[str, Any]", params))
    at = sources["params"]
    for name in _LIFTED:
        value = rest.pop(name, None)
        if value is None:
            continue
        path = f"{at}.{name}"
        try:
            read_field(Field(name, "text"), value, path)
        except InvalidError as error:
            issues.extend(error.issues)
        if name in arguments and not _same(arguments[name], value):
            issues.append(_disagreement(path, sources[name]))
        arguments.setdefault(name, value)
        sources.setdefault(name, path)
    if "command" in rest:
        issues.extend(_command_issues(rest["command"], f"{at}.command"))
    if rest:
        arguments["params"] = rest
    else:
        del arguments["params"]


def _command_issues(command: Any, path: str) -> Iterator[FieldIssue]:
    example = 'Write it as ["git", "status"].'
    if isinstance(command, str):
        yield FieldIssue(path, "The command must be a list of words, not one text.", _suggestion(command) or example)
    elif not isinstance(command, list):
        yield FieldIssue(path, "The command must be a list of words.", example)
    elif not command:
        yield FieldIssue(path, "The command is empty.", example)
    else:
        words = cast("list[Any]", command)
        odd = next((index for index, word in enumerate(words) if not isinstance(word, str)), None)
        if odd is not None:
            yield FieldIssue(f"{path}[{odd}]", "Each word of the command must be a text.", example)


def _suggestion(command: str) -> str:
    if len(command) > SUGGESTION_LIMIT_CHARACTERS:
        return ""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return f"Write it as {json.dumps(words, ensure_ascii=False)}." if words else ""


def _hand_session(
    command: Command,
    arguments: dict[str, Any],
    sources: dict[str, str],
    session: Session | None,
    issues: list[FieldIssue],
) -> None:
    if session is None or all(each.name != "session_id" for each in command.fields):
        return
    if "session_id" in arguments:
        if session.own and not _same(arguments["session_id"], session.value):
            issues.append(_disagreement(sources["session_id"], session.path))
        return
    # A session that is only the surroundings of a command must never become what is deleted.
    if command.tool == "delete" and (not session.own or arguments):
        return
    arguments["session_id"] = session.value
    sources["session_id"] = session.path
