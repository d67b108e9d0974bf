"""The agents of the settings, `[agents.NAME]`: what is set for those that we know, and new ones.

Everything is looked at when the server starts: a template that cannot work is refused there, not in mid-work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcp_server.agents.coding import KNOWN, CodingAgent, Known
from mcp_server.drivers.command import PLACEHOLDERS, names_in
from mcp_server.errors import FieldIssue, InvalidError
from mcp_server.settings import AgentSettings, Settings

ARGUMENT_LIMIT_BYTES = 100_000
"""Of a prompt that goes into an argument: Linux takes 128 KiB in one."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[^.=\s]+(\.[^.=\s]+)*")
_PATH_AND_VALUE = re.compile(r"[^.=\s]+(\.[^.=\s]+)*(=.+)?")
_OF_COMMANDS = ("continue_args", "output", "fields")


def coding_agents(
    settings: Settings, workspaces: Callable[[], Iterable[Path]], taken: Iterable[str]
) -> list[CodingAgent]:
    """The coding agents that we know, then those that the settings declare. `taken` are names of other agents.

    Raises:
        InvalidError: the settings of an agent cannot be used; every trouble with its field and what would help.
    """
    known = {each.name: each for each in KNOWN}
    issues: list[FieldIssue] = []
    for name, own in settings.agents.items():
        found = _Issues(f"agents.{name}")
        _check_name(name, own, found, known, frozenset(taken))
        _check_values(own, found)
        if not found.issues and name not in known:
            known[name] = _declared(name, own, found)
        elif name in known:
            _check_held(known[name], own, found)
        issues += found.issues
    if issues:
        named = "; ".join(f"{issue.field}: {issue.message}" for issue in issues)
        raise InvalidError(f"The settings cannot be used: {named}", issues=issues)
    return [CodingAgent(each, settings, workspaces) for each in known.values()]


class _Issues:
    """What is wrong with one agent's settings."""

    def __init__(self, prefix: str) -> None:
        self.issues: list[FieldIssue] = []
        self._prefix = prefix

    def add(self, name: str, message: str, fix: str) -> None:
        self.issues.append(FieldIssue(f"{self._prefix}.{name}" if name else self._prefix, message, fix))


def _check_name(name: str, own: AgentSettings, found: _Issues, known: dict[str, Known], taken: frozenset[str]) -> None:
    if name in taken:
        found.add("", f"There is nothing to set for {name}.", f"Take out [agents.{name}].")
    elif name in known:
        if own.kind is not None:
            found.add("kind", f"{name} is built in, so its kind is known.", "Take kind out, or choose another name.")
    elif not _NAME.fullmatch(name):
        found.add("", f"An agent cannot be named {name[:100]!r}.", "Use a-z, 0-9, _ and -, at most 64, a letter first.")
    elif own.kind is None:
        kinds = 'Write kind = "acp" for one that speaks the Agent Client Protocol, else kind = "command".'
        found.add("kind", f"{name} is not built in, so its kind is needed.", kinds)
    elif own.program is None:
        found.add("program", f"What is the program of {name}?", 'Write program = "its-name-on-PATH", or its full path.')


def _check_values(own: AgentSettings, found: _Issues) -> None:
    if own.program is not None and ("/" in own.program and not os.path.isabs(os.path.expanduser(own.program))):
        found.add("program", f"{own.program} would depend on a folder.", "Give the full path, or its name on PATH.")
    for field, names in (("env", own.env), ("pass_env", own.pass_env)):
        for name in names:
            if not _VARIABLE.fullmatch(name) or name.startswith("OFFHAND_"):
                found.add(field, f"{name[:100]!r} cannot be passed on.", "Use the name of a variable, not one of ours.")
    if own.kind != "command":
        for field in _OF_COMMANDS:
            if getattr(own, field) != AgentSettings.model_fields[field].get_default():
                found.add(field, f"{field} is for agents of kind command.", f"Take {field} out.")


def _check_held(known: Known, own: AgentSettings, found: _Issues) -> None:
    for field in known.unheld:
        if getattr(own, field) is not None:
            found.add(field, f"{known.title} cannot be held to {field}.", f"Take {field} out.")


def _declared(name: str, own: AgentSettings, found: _Issues) -> Known:
    known = Known(name, own.title or name, own.kind or "", own.program or "", version=())
    if own.kind == "acp":
        return known
    in_args = _check_template("args", own.args, own, found)
    in_both = in_args | _check_template("continue_args", own.continue_args or (), own, found)
    for field, path in _fields(own).items():
        shape = _PATH_AND_VALUE if field == "success" else _PATH
        if not shape.fullmatch(path):
            fix = 'Join keys with dots, such as "result.text".'
            found.add(f"fields.{field}", f"{path!r} is no place in JSON.", fix)
    if own.output == "text" and _fields(own):
        found.add("fields", "Text has no fields.", 'Write output = "json" or "jsonl", or take fields out.')
    known = replace(
        known,
        unheld=("max_turns", "max_cost_usd", *(() if "model" in in_both else ("model",))),
        continues=own.continue_args is not None,
        prompt_limit_bytes=ARGUMENT_LIMIT_BYTES if "prompt" in in_both else None,
        options={
            "args": list(own.args),
            "continue_args": None if own.continue_args is None else list(own.continue_args),
            "output": own.output,
            "fields": _fields(own),
        },
    )
    _check_held(known, own, found)
    return known


def _check_template(field: str, template: tuple[str, ...], own: AgentSettings, found: _Issues) -> set[str]:
    """The placeholders in it; what is wrong with them is added to `found`."""
    names: set[str] = set()
    for at, argument in enumerate(template):
        place = f"{field}[{at}]"
        try:
            inside = names_in(argument)
        except ValueError as error:
            found.add(place, f"In {argument!r}, {error}.", "Write {{ and }} for braces that are meant.")
            continue
        names |= set(inside)
        for name in inside:
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                found.add(place, f"There is no placeholder {{{name}}}.", f"Known are: {known}.")
        if "\0" in argument:
            found.add(place, "An argument cannot hold U+0000.", "Take it out.")
    if "model" in names and own.model is None:
        fix = 'Write model = "NAME", for tasks that name none.'
        found.add("model", f"{field} names {{model}}, and no model is set.", fix)
    if "conversation" in names and field == "args":
        found.add(field, "A new conversation has no name yet.", "Use {conversation} in continue_args.")
    if "conversation" in names and own.fields.conversation is None:
        fix = 'Say where its name stands in the output: fields.conversation = "session_id", with output = "json".'
        found.add("fields.conversation", f"{field} names {{conversation}}, and nobody says where it comes from.", fix)
    return names


def _fields(own: AgentSettings) -> dict[str, Any]:
    return {name: path for name, path in own.fields.model_dump().items() if path is not None}
