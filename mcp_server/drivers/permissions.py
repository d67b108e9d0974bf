"""Whether an agent may use a tool: by the user's rules, what the user approved already, and the profile of the task.

Commands are judged as an argument vector (`commands.py`). What a shell would expand or join is no plain command: it is
asked about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.drivers.commands import is_inside, is_of_git, is_of_the_project, matches, only_reads
from mcp_server.drivers.commands import plain_command as plain_command
from mcp_server.drivers.job import Decision, Job
from mcp_server.fingerprint import DEPTH_LIMIT, fingerprint, keepable

ACTION_DEPTH = DEPTH_LIMIT - 10
"""An input that is nested deeper is shown as text: its record must not be too deep to be read."""


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
        """What the user approves, or does not, as it can be kept and shown.

        Where that is not all of it, since there are characters that cannot be kept, `exact` is the fingerprint of the
        whole: what is approved is nothing else.
        """
        action: dict[str, Any] = {"agent": job.agent, "tool": self.tool, "input": dict(self.input), "cwd": self.cwd}
        action |= {"argv": list(self.argv)} if self.argv is not None else {}
        try:
            kept = keepable(action, ACTION_DEPTH)
        except ValueError:
            kept = keepable(action | {"input": {"json": json.dumps(action["input"])}})
        return action if kept == action else kept | {"exact": fingerprint(action)}


def decide(job: Job, request: ToolRequest, place: Path) -> Decision:
    """What holds for this use of a tool in `place`, where the task works.

    What the user approved comes first, then the user's rules about commands, the first that matches; then the profile:
    `full` may do all, `review` may read in its place and gets no for everything else, `edit` may also edit there and
    run the project's own commands, and for everything else the user is asked.
    """
    if fingerprint(request.action(job)) in job.granted:
        return "allow"
    if request.argv is not None:
        for rule in job.rules:
            if matches(rule.command, request.argv):
                return rule.decision
    if job.profile == "full" or _reads(job, request, str(place)):
        return "allow"
    if job.profile == "review":
        return "deny"
    return "allow" if _works(job, request, str(place)) else "ask"


def _reads(job: Job, request: ToolRequest, place: str) -> bool:
    if request.kind == "read":
        return all(is_inside(path, request.cwd, place) for path in request.paths)
    if request.kind != "command" or request.argv is None or not is_inside("", request.cwd, place):
        return False
    return only_reads(request.argv, request.cwd, place, own_clone=job.clone is not None)


def _works(job: Job, request: ToolRequest, place: str) -> bool:
    if request.kind == "edit":
        paths = request.paths
        inside = all(is_inside(path, request.cwd, place) for path in paths)
        return bool(paths) and inside and not any(is_of_git(path, request.cwd) for path in paths)
    if request.kind != "command" or request.argv is None or not is_inside("", request.cwd, place):
        return False
    return is_of_the_project(request.argv, request.cwd, place, own_clone=job.clone is not None)
