"""What the model does: steps, written into the prompt, of which it takes one per turn.

The script is the last line with steps of the newest user message that has any. Its steps, in order:

    [[sh: CMD]]            call the agent's shell tool
    [[tool: NAME JSON]]    call this tool with this input; several of them with [[and]] between are called in one turn
    [[say: TEXT]]          the final text
    [[big: N]]             a final text of N characters in one line
    [[hang]]               half of a reply, and then nothing any more
    [[fail: CODE]]         answer with this HTTP status, each time; `[[fail: CODE 2]]` only the first two times
    [[limit: SECONDS]]     429, with the time in SECONDS from now at which the quota is there again, once

The step is chosen by how many turns of tool results came after the script. Where it has ended: "stub reply".
A request without tools is a side call of the agent's own, such as for a title: it gets "stub reply" too.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

DEFAULT_TEXT = "stub reply"
SHELL_TOOLS = ("Bash", "exec_command", "shell_command", "shell", "local_shell", "run_shell_command")
_STEP = re.compile(r"\[\[(sh|tool|say|big|hang|fail|limit|and)(?::\s*(.*?))?\]\](?!\])", re.DOTALL)
ERROR_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}

Hang = bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `turns` are (role, text), role `user`, `assistant` or `tool`, oldest first."""

    model: str
    tools: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model calls."""

    tool: str
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answers: calls of tools, else text; or an error with its text."""

    text: str = DEFAULT_TEXT
    calls: tuple[Call, ...] = ()
    hang: Hang = False
    status: int = 200
    error_type: str = "api_error"
    resets_at: int | None = None
    """Of a limit: when the quota is there again, in seconds since 1970."""
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Replies(Protocol):
    """How a wire sends."""

    def json(self, content: Any) -> None:
        """The whole answer at once."""
        ...

    def event(self, data: Any, name: str | None = None) -> None:
        """One server-sent event."""
        ...

    def hang(self, hang: Hang) -> None:
        """If so: wait until the model is closed."""
        ...


class Scripts:
    """Chooses replies, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.named: list[int] = []
        self.closing = threading.Event()
        self._failed = Counter[str]()

    def reply(self, asked: Asked) -> Reply:
        """The next step for what is asked."""
        if not asked.tools:
            return Reply()
        self.asked.append(asked)
        script, position = _position(asked.turns)
        steps = _steps(script)
        while position < len(steps):
            kind, said = steps[position][0]
            if kind not in ("fail", "limit"):
                return _reply(steps[position], asked.tools)
            code, _, times = said.partition(" ")
            self._failed[script] += 1
            if kind == "fail" and (not times or self._failed[script] <= int(times)):
                return Reply(f"scripted failure {code}", status=int(code), error_type=_error_type(int(code)))
            if kind == "limit" and self._failed[script] == 1:
                limit = _limit(float(code))
                self.named += [limit.resets_at] if limit.resets_at is not None else []
                return limit
            steps = [*steps[:position], *steps[position + 1 :]]
        return Reply()


def flat(content: Any) -> str:
    """All text in a nested content value."""
    match content:
        case str():
            return content
        case list():
            return "\n".join(flat(item) for item in content)
        case dict():
            return flat(content.get("text") or content.get("content") or content.get("parts"))
        case _:
            return ""


def shell_input(tool: str, command: str) -> dict[str, Any]:
    """The input of an agent's shell tool."""
    match tool:
        case "exec_command":
            return {"cmd": command}
        case "shell" | "local_shell":
            return {"command": ["bash", "-lc", command]}
        case _:
            return {"command": command, "description": "a scripted command"}


def halves(text: str) -> tuple[str, str]:
    """For sending a text in two parts."""
    return text[: len(text) // 2], text[len(text) // 2 :]


def _position(turns: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """The script, and how many turns of tool results came after it."""
    script, position, before = "", 0, ""
    for role, text in turns:
        if role == "user" and (lines := [line for line in text.splitlines() if _STEP.search(line)]):
            script, position = lines[-1], 0
        elif role == "tool" and before != "tool":
            position += 1
        before = role
    return script, position


def _steps(script: str) -> list[list[tuple[str, str]]]:
    """One item per turn, each a list of (kind, what it says), more than one only for calls with [[and]] between."""
    steps: list[list[tuple[str, str]]] = []
    joined = False
    for kind, said in _STEP.findall(script):
        if kind == "and":
            joined = True
        elif joined:
            steps[-1].append((kind, said))
            joined = False
        else:
            steps.append([(kind, said)])
    return steps


def _reply(step: Sequence[tuple[str, str]], tools: Sequence[str]) -> Reply:
    kind, said = step[0]
    match kind:
        case "say":
            return Reply(said)
        case "big":
            return Reply("x" * int(said))
        case "hang":
            return Reply(hang=True)
        case _:
            return Reply(calls=tuple(_call(kind, said, tools) for kind, said in step))


def _call(kind: str, said: str, tools: Sequence[str]) -> Call:
    if kind == "sh":
        tool = next(tool for tool in SHELL_TOOLS if tool in tools)
        return Call(tool, shell_input(tool, said))
    name, _, text = said.partition(" ")
    return Call(name, json.loads(text or "{}"))


def _error_type(status: int) -> str:
    return ERROR_TYPES.get(status, "api_error")


def _limit(seconds: float) -> Reply:
    reset = int(time.time() + seconds)
    headers = {
        "retry-after": str(int(seconds)),
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": str(reset),
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
        "x-codex-primary-used-percent": "100",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": str(reset),
    }
    text = f"scripted limit. Please retry in {seconds:g}s."
    return Reply(text, status=429, error_type=_error_type(429), resets_at=reset, headers=headers)
