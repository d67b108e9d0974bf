"""Whether an agent may use a tool: by the profile of its task, the user's rules, and what the user approved already.

Commands are judged as an argument vector. What a shell would expand or join is no plain command: it is asked about.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.drivers.job import Decision, Job
from mcp_server.fingerprint import fingerprint

READING_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ls", "*"),
    ("pwd",),
    ("cat", "*"),
    ("head", "*"),
    ("tail", "*"),
    ("wc", "*"),
    ("grep", "*"),
    ("git", "status", "*"),
    ("git", "log", "*"),
    ("git", "show", "*"),
    ("git", "diff", "*"),
)
PROJECT_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("make", "*"),
    ("pytest", "*"),
    ("python", "-m", "pytest", "*"),
    ("npm", "test", "*"),
    ("npm", "run", "*"),
    ("cargo", "*"),
    ("go", "*"),
)
_SHELL_SYNTAX = re.compile(r"[\n\r;&|<>`$(){}*?\[\]~!#\\]")


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool that an agent wants to use.

    `kind`: what the tool does, where its driver knows: `read` and `edit` have `paths`, `command` has `argv` (None: no
    plain command), anything else is `other`. `input` is the agent's own, whole.
    """

    tool: str
    kind: str
    input: Mapping[str, Any]
    cwd: str
    paths: tuple[str, ...] = ()
    argv: tuple[str, ...] | None = None

    def action(self, job: Job) -> dict[str, Any]:
        """What the user approves, or does not."""
        action: dict[str, Any] = {"agent": job.agent, "tool": self.tool, "input": dict(self.input), "cwd": self.cwd}
        return action | ({"argv": list(self.argv)} if self.argv is not None else {})


def plain_command(line: str) -> tuple[str, ...] | None:
    """The argument vector of a command line that a shell would neither expand nor split; else None."""
    if _SHELL_SYNTAX.search(line):
        return None
    try:
        return tuple(shlex.split(line)) or None
    except ValueError:
        return None


def decide(job: Job, request: ToolRequest, place: Path) -> Decision:
    """What holds for this use of a tool in `place`, where the task works."""
    if fingerprint(request.action(job)) in job.granted:
        return "allow"
    if request.argv is not None:
        for rule in job.rules:
            if matches(rule.command, request.argv):
                return rule.decision
    inside = all(Path(path).is_relative_to(place) for path in request.paths)
    if job.profile == "full":
        return "allow"
    if request.kind == "read" and inside:
        return "allow"
    if request.kind == "command" and request.argv is not None and _listed(READING_COMMANDS, request.argv):
        return "allow"
    if job.profile == "review":
        return "deny"
    if request.kind == "edit" and inside:
        return "allow"
    if request.kind == "command" and request.argv is not None and _listed(PROJECT_COMMANDS, request.argv):
        return "allow"
    return "ask"


def matches(pattern: Sequence[str], argv: Sequence[str]) -> bool:
    """A last `*` stands for any rest, also for none; any other `*` for exactly one argument. As in `policy.py`."""
    open_ended = pattern[-1] == "*"
    head = pattern[:-1] if open_ended else pattern
    if len(argv) < len(head) or (not open_ended and len(argv) != len(head)):
        return False
    return all(wanted in ("*", given) for wanted, given in zip(head, argv, strict=False))


def _listed(patterns: Sequence[Sequence[str]], argv: Sequence[str]) -> bool:
    return any(matches(pattern, argv) for pattern in patterns)
