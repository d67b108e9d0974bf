"""How a process of Claude Code begins: its arguments, its environment, and what it is told first."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_server.drivers import claude_tools
from mcp_server.drivers.claude_events import object_of, text_of
from mcp_server.drivers.job import Job
from mcp_server.drivers.prompts import further, opening

OPTIONS = (
    *("--print", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--permission-prompt-tool", "stdio", "--permission-mode", "manual"),
    *("--setting-sources", "user", "--strict-mcp-config"),
)
"""The repository's own settings, hooks and MCP servers are not read: they would run without being asked about."""

ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "DISABLE_AUTOUPDATER": "1",
}
"""Nothing outlives the answer; `@file` in a prompt is text: it would be read without a question."""

NO_DEFERRED = {"CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME": "1"}
"""A call that was never approved is not put again when the conversation goes on."""

_SYSTEM = (
    "You work for a user who is away: nobody can answer questions. You are in a folder made for this task; what you "
    "change in it is committed and handed over when you end, so do not commit, push or switch branches yourself. "
    "A tool that is refused stays refused. End with a short plain answer that can be read aloud."
)
_SYSTEM_IN_PLACE = (
    "You work for a user who is away: nobody can answer questions. You are in the user's own folder; do not commit, "
    "push or switch branches unless you were told to. A tool that is refused stays refused. End with a short plain "
    "answer that can be read aloud."
)
NOTES = ("CLAUDE.md", "AGENTS.md")
_NOTES = "The project has notes for those who work on it: read {names} first."
GO_ON = "You were interrupted. Go on with the task where you were; look first at what is done already."


@dataclass(frozen=True, slots=True)
class Start:
    """How the process begins. `prompt` None: it goes on by itself, with the call that was approved."""

    session: str
    resumes: bool
    prompt: str | None


def start_of(job: Job) -> Start:
    """Where the conversation stands, and what comes next in it."""
    session = text_of(job.state.get("session"))
    if not session:
        return afresh(job)
    if job.state.get("task") != job.task_id:  # a follow-up; or its prompt has never come to be known there
        return Start(session, True, job.prompt)
    asked = object_of(job.state.get("asked"))
    if asked.get("hash") not in job.granted:
        return Start(session, True, GO_ON)
    if asked.get("deferred"):
        return Start(session, True, None)
    return Start(session, True, further(job))


def afresh(job: Job) -> Start:
    """A new conversation, with what was said in an earlier one."""
    return Start(str(uuid.uuid4()), False, opening(job))


def _system(job: Job, place: Path) -> str:
    """What it is told about its situation. The repository's notes for agents it does not read by itself then."""
    system = _SYSTEM if job.clone else _SYSTEM_IN_PLACE
    notes = [name for name in NOTES if (place / name).is_file()]
    return f"{system} {_NOTES.format(names=' and '.join(notes))}" if notes else system


def arguments(job: Job, place: Path, start: Start) -> list[str]:
    """The whole argument vector. The prompt is not in it."""
    refused = (*claude_tools.UNATTENDED, *(claude_tools.EDITS if job.profile == "review" else ()))
    argv = [*job.program, *OPTIONS, f"--disallowedTools={','.join(refused)}"]
    argv += ["--append-system-prompt", _system(job, place)]
    argv += ["--resume" if start.resumes else "--session-id", start.session]
    if job.model is not None:
        argv += ["--model", job.model]
    if job.max_turns is not None:
        argv += ["--max-turns", str(job.max_turns)]
    if job.max_cost_usd is not None:
        argv += ["--max-budget-usd", str(job.max_cost_usd)]
    return [*argv, *job.arguments]


def environment(job: Job, start: Start) -> dict[str, str]:
    """The whole environment."""
    return {**job.env, **ENVIRONMENT, **({} if start.prompt is None else NO_DEFERRED)}


def make_state_folder(env: Mapping[str, str]) -> None:
    """A sandbox keeps what the agent writes only in what was there before, and its conversations are to last."""
    own = env.get("CLAUDE_CONFIG_DIR") or os.path.join(env.get("HOME") or Path.home(), ".claude")
    os.makedirs(own, mode=0o700, exist_ok=True)
